//! The engine's answers to start and stop.

use flowmate_bus::dispatch::Refusal;
use flowmate_common::{
    Event, EventType,
    auth::Visibility,
    model::{FlowFailed, FlowStarted, FlowStatus, FlowStopped},
};
use flowmate_storage::Change;

use crate::{State, domain, domain::Answer, store::stopping};

pub(crate) async fn handle(state: &State, event: Event) -> Result<(), Refusal> {
    let (id, activation, answer) = match event.kind {
        EventType::FlowStarted => {
            let body: FlowStarted = event.body().map_err(Refusal::permanent)?;
            (body.id, body.activation, Answer::Started)
        }
        EventType::FlowStopped => {
            let body: FlowStopped = event.body().map_err(Refusal::permanent)?;
            (body.id, body.activation, Answer::Stopped)
        }
        EventType::FlowFailed => {
            let body: FlowFailed = event.body().map_err(Refusal::permanent)?;
            (body.id, body.activation, Answer::Failed(body.reason))
        }
        _ => return Ok(()),
    };
    let changed = state.store.change(&Visibility::All, id.as_str(), |record| {
        if !domain::answered(record, activation, answer.clone(), state.context.clock.now()) {
            return Ok(Change::Keep);
        }
        // A start that failed, or of a flow that lost its last owner meanwhile, is followed by a stop.
        let stops = record.flow.status == FlowStatus::Stopping;
        let event = stops.then(|| stopping(&state.context, record)).transpose()?;
        Ok(Change::Write(event.into_iter().collect()))
    });
    changed.await.map_err(Refusal::from)?;
    Ok(())
}
