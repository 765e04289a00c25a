//! Flows that are to start, stop or go.

use std::sync::Arc;

use flowmate_bus::dispatch::Refusal;
use flowmate_common::{
    Event, EventType,
    event::deleted_owner,
    model::{FlowChanged, FlowStarting, FlowStopping, UserChanged},
};

use crate::{State, stopping};

pub(crate) async fn handle(state: &Arc<State>, event: Event) -> Result<(), Refusal> {
    let result = match event.kind {
        EventType::FlowStarting => {
            let body: FlowStarting = event.body().map_err(Refusal::permanent)?;
            state.flows.start(&state.context, &state.registry, body).await
        }
        EventType::FlowStopping => {
            let body: FlowStopping = event.body().map_err(Refusal::permanent)?;
            stopping::stop(state, body.id, body.activation).await
        }
        EventType::FlowDeleted => {
            let body: FlowChanged = event.body().map_err(Refusal::permanent)?;
            state.flows.forget(&body.flow_id).await
        }
        _ => Ok(()),
    };
    result.map_err(Refusal::from)
}

/// A deleted user or tenant owns no components any more, nor does a user who left the tenant. May be called again with the
/// same event.
pub(crate) async fn owner_gone(state: &State, event: Event) -> Result<(), Refusal> {
    if event.kind == EventType::UserModified {
        let user: UserChanged = event.body().map_err(Refusal::permanent)?;
        if state.accounts.roams(&user.id).await? {
            return Ok(());
        }
        return state.components.left(&user).await.map_err(Refusal::from);
    }
    match deleted_owner(&event).map_err(Refusal::permanent)? {
        Some(owner) => state.components.disown(&owner).await.map_err(Refusal::from),
        None => Ok(()),
    }
}
