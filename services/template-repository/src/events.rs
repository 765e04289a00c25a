//! Deleted users and tenants: they own no templates any more.

use flowmate_bus::dispatch::Refusal;
use flowmate_common::{Event, Failure, event::deleted_owner};

use crate::State;

/// May be called again with the same event.
pub(crate) async fn handle(state: &State, event: Event) -> Result<(), Refusal> {
    match deleted_owner(&event).map_err(Refusal::permanent)? {
        Some(owner) => disown(state, &owner).await.map_err(Refusal::from),
        None => Ok(()),
    }
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
