//! Deleted users and tenants: they own no templates any more.

use flowmate_bus::dispatch::Refusal;
use flowmate_common::{Event, event::deleted_owner};

use crate::State;

/// May be called again with the same event.
pub(crate) async fn handle(state: &State, event: Event) -> Result<(), Refusal> {
    match deleted_owner(&event).map_err(Refusal::permanent)? {
        Some(owner) => state.store.disown(&owner).await.map_err(Refusal::from),
        None => Ok(()),
    }
}
