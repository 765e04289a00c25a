//! Users and tenants that were deleted, and users that left their tenant: they own no templates any more.

use flowmate_bus::dispatch::Refusal;
use flowmate_common::{Event, EventType, Failure, event::deleted_owner, model::UserChanged};
use flowmate_runtime::owning;

use crate::{State, store::TemplateRecord};

/// May be called again with the same event.
pub(crate) async fn handle(state: &State, event: Event) -> Result<(), Refusal> {
    if event.kind == EventType::UserModified {
        let user = event.body().map_err(Refusal::permanent)?;
        return left(state, &user).await.map_err(Refusal::from);
    }
    match deleted_owner(&event).map_err(Refusal::permanent)? {
        Some(owner) => disown(state, &owner).await.map_err(Refusal::from),
        None => Ok(()),
    }
}

/// Who was taken out of a tenant leaves it what it owns.
async fn left(state: &State, user: &UserChanged) -> Result<(), Failure> {
    if state.accounts.roams(&user.id).await? {
        return Ok(());
    }
    let leaves = |record: &TemplateRecord| owning::has_left(&record.shared_by(), user);
    let released = state.store.release(user.id.as_str(), leaves, |record| {
        let owners = &mut record.template.body.owners;
        owners.retain(|one| one.id != user.id.as_str());
        Ok(Vec::new())
    });
    released.await
}

async fn disown(state: &State, owner: &str) -> Result<(), Failure> {
    let disowned = state.store.disown(owner, |record| {
        let template = &mut record.template;
        template.body.owners.retain(|one| one.id != owner);
        template.tenant = template.tenant.take().filter(|tenant| tenant != owner);
        Ok(Vec::new())
    });
    disowned.await
}
