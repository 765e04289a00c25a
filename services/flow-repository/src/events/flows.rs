//! The engine's answers to start and stop.

use flowmate_bus::dispatch::Refusal;
use flowmate_common::{
    Event, EventType, Failure,
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
    let is_closed = match answer {
        Answer::Started => is_closed(state, id.as_str()).await?,
        _ => false,
    };
    let changed = state.store.change(&Visibility::All, id.as_str(), |record| {
        let now = state.context.clock.now();
        if !domain::answered(record, activation, answer.clone(), is_closed, now) {
            return Ok(Change::Keep);
        }
        // A start that failed, or of a flow that may not run any more, is followed by a stop.
        let stops = record.flow.status == FlowStatus::Stopping;
        let event = stops.then(|| stopping(&state.context, record)).transpose()?;
        Ok(Change::Write(event.into_iter().collect()))
    });
    changed.await?;
    Ok(())
}

/// Whether the flow's tenant is disabled.
async fn is_closed(state: &State, id: &str) -> Result<bool, Failure> {
    match state.store.get(&Visibility::All, id).await? {
        Some(record) => state.tenants.closes(&record.flow).await,
        None => Ok(false),
    }
}
