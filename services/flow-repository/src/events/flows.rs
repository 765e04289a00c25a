//! The engine's answers to start and stop.

use flowmate_bus::dispatch::Refusal;
use flowmate_common::{
    Event, EventType,
    auth::Visibility,
    model::{FlowFailed, FlowStarted, FlowStopped, FlowStopping},
};
use flowmate_storage::Change;

use crate::{State, domain, domain::Answer};

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
    let failed = matches!(answer, Answer::Failed(_));
    let changed = state.store.change(&Visibility::All, id.as_str(), |record| {
        if !domain::answered(record, activation, answer.clone(), state.context.clock.now()) {
            return Ok(Change::Keep);
        }
        let mut events = Vec::new();
        if failed {
            let body = FlowStopping {
                id: record.flow.id.clone(),
                activation: record.activation,
            };
            events.push(
                state
                    .context
                    .event(EventType::FlowStopping, record.flow.id.as_str(), &body)?,
            );
        }
        Ok(Change::Write(events))
    });
    changed.await.map_err(Refusal::transient)?;
    Ok(())
}
