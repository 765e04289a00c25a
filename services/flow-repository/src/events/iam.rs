//! Users and tenants that go or may not work. Nothing belongs to who was deleted, and what runs for nobody any more is
//! stopped (contract 3.11); flows of a disabled tenant are stopped.

use flowmate_bus::dispatch::Refusal;
use flowmate_common::{
    Event, EventType, Failure,
    auth::Visibility,
    event::deleted_owner,
    model::{FlowStatus, OwnerKind, TenantChanged, UserChanged},
};
use flowmate_runtime::owning;
use flowmate_storage::{Change, Query};

use crate::{
    State, domain,
    store::{FlowRecord, status_is, stopping},
};

/// Flows of a tenant that are stopped in one go.
const SWEEP: u64 = 200;

/// May be called again with the same event, also where it ended in the middle.
pub(crate) async fn handle(state: &State, event: Event) -> Result<(), Refusal> {
    match event.kind {
        EventType::TenantCreated | EventType::TenantModified => {
            noted(state, &event.body().map_err(Refusal::permanent)?).await?;
        }
        EventType::UserModified => left(state, &event.body().map_err(Refusal::permanent)?).await?,
        _ => {
            if let Some(owner) = deleted_owner(&event).map_err(Refusal::permanent)? {
                disown(state, &owner).await?;
            }
        }
    }
    Ok(())
}

async fn noted(state: &State, said: &TenantChanged) -> Result<(), Failure> {
    if state.tenants.note(said).await? {
        // Known first, then swept: a start that the sweep does not see is refused, or stopped as soon as it is answered.
        close(state, said.id.as_str()).await?;
    }
    Ok(())
}

/// Stops what runs for a disabled tenant.
async fn close(state: &State, tenant: &str) -> Result<(), Failure> {
    let see = Visibility::OwnedBy(vec![tenant.to_owned()]);
    let runs = status_is(&[FlowStatus::Starting, FlowStatus::Active]);
    let mut query = Query::new(runs, SWEEP);
    loop {
        let running = state.store.find(&see, &query).await?;
        if running.is_empty() {
            return Ok(());
        }
        for flow in running {
            let mut stops = false;
            let changed = state.store.change(&see, flow.flow.id.as_str(), |record| {
                let is_its = record.flow.body.owner(OwnerKind::Tenant) == Some(tenant);
                stops = is_its && domain::close(record, state.context.clock.now());
                if !stops {
                    return Ok(Change::Keep);
                }
                Ok(Change::Write(vec![stopping(&state.context, record)?]))
            });
            changed.await?;
            // What belongs to another tenant in the first place is passed over.
            query.skip += u64::from(!stops);
        }
    }
}

/// Who was taken out of a tenant, or moved to another, leaves it what it owns.
async fn left(state: &State, user: &UserChanged) -> Result<(), Failure> {
    if state.accounts.roams(&user.id).await? {
        return Ok(());
    }
    let leaves = |record: &FlowRecord| owning::has_left(&record.flow.body.owners, user);
    let released = state.store.release(user.id.as_str(), leaves, |record| {
        let stops = domain::disown(record, user.id.as_str(), state.context.clock.now());
        let event = stops.then(|| stopping(&state.context, record)).transpose()?;
        Ok(event.into_iter().collect())
    });
    released.await
}

async fn disown(state: &State, owner: &str) -> Result<(), Failure> {
    let disowned = state.store.disown(owner, |record| {
        let stops = domain::disown(record, owner, state.context.clock.now());
        let event = stops.then(|| stopping(&state.context, record)).transpose()?;
        Ok(event.into_iter().collect())
    });
    disowned.await?;
    state.tenants.forget(owner).await
}
