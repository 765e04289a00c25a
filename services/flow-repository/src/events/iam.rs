//! Users and tenants that go or may not work. Nothing belongs to who was deleted, and what runs for nobody any more is
//! stopped (contract 3.11); flows of a disabled tenant are stopped.

use flowmate_bus::dispatch::Refusal;
use flowmate_common::{
    Event, EventType, Failure,
    auth::Visibility,
    event::deleted_owner,
    model::{OwnerKind, TenantChanged},
};
use flowmate_storage::Change;

use super::refusal;
use crate::{
    State, domain,
    store::{fault, stopping},
};

/// May be called again with the same event, also where it ended in the middle.
pub(crate) async fn handle(state: &State, event: Event) -> Result<(), Refusal> {
    let done = match event.kind {
        EventType::TenantCreated | EventType::TenantModified => {
            noted(state, &event.body().map_err(Refusal::permanent)?).await
        }
        _ => match deleted_owner(&event).map_err(Refusal::permanent)? {
            Some(owner) => gone(state, &owner).await,
            None => Ok(()),
        },
    };
    done.map_err(refusal)
}

async fn noted(state: &State, said: &TenantChanged) -> Result<(), Failure> {
    if state.tenants.note(said).await.map_err(fault)? {
        // Known first, then swept: a start that the sweep does not see is refused, or stopped as soon as it is answered.
        close(state, said.id.as_str()).await?;
    }
    Ok(())
}

/// Stops what runs for a disabled tenant.
async fn close(state: &State, tenant: &str) -> Result<(), Failure> {
    // What belongs to another tenant in the first place is passed over.
    let mut passed = 0;
    loop {
        let ids = state.store.some_running_of(tenant, passed).await?;
        if ids.is_empty() {
            return Ok(());
        }
        for id in ids {
            let mut stops = false;
            let changed = state.store.change(&Visibility::All, id.as_str(), |record| {
                let is_its = record.flow.body.owner(OwnerKind::Tenant) == Some(tenant);
                stops = is_its && domain::close(record, state.context.clock.now());
                if !stops {
                    return Ok(Change::Keep);
                }
                Ok(Change::Write(vec![stopping(&state.context, record)?]))
            });
            changed.await?;
            passed += u64::from(!stops);
        }
    }
}

async fn gone(state: &State, owner: &str) -> Result<(), Failure> {
    loop {
        let ids = state.store.some_owned_by(owner).await?;
        if ids.is_empty() {
            return state.tenants.forget(owner).await.map_err(fault);
        }
        for id in ids {
            let changed = state.store.change(&Visibility::All, id.as_str(), |record| {
                let stops = domain::disown(record, owner, state.context.clock.now());
                let event = stops.then(|| stopping(&state.context, record)).transpose()?;
                Ok(Change::Write(event.into_iter().collect()))
            });
            changed.await?;
        }
    }
}
