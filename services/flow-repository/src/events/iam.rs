//! Deleted users and tenants: they own nothing any more, and what nobody else owns is stopped (contract 3.11).

use flowmate_bus::dispatch::Refusal;
use flowmate_common::{Event, Failure, event::deleted_owner};

use crate::{State, domain, store::stopping};

/// May be called again with the same event.
pub(crate) async fn handle(state: &State, event: Event) -> Result<(), Refusal> {
    match deleted_owner(&event).map_err(Refusal::permanent)? {
        Some(owner) => disown(state, &owner).await.map_err(Refusal::from),
        None => Ok(()),
    }
}

async fn disown(state: &State, owner: &str) -> Result<(), Failure> {
    let disowned = state.store.disown(owner, |record| {
        let stops = domain::disown(record, owner, state.context.clock.now());
        let event = stops.then(|| stopping(&state.context, record)).transpose()?;
        Ok(event.into_iter().collect())
    });
    disowned.await
}
