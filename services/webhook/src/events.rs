//! What this service reacts to: flows that start, stop and go.

use flowmate_bus::dispatch::Refusal;
use flowmate_common::{
    Event, EventType, Timestamp,
    ids::FlowId,
    model::{FlowBacklogged, FlowChanged, FlowStarted, FlowStopping},
};

use crate::record::LiveFlow;

/// What an event means for the view.
pub(crate) enum Change {
    /// The flow takes webhooks from now on.
    Live(LiveFlow),
    /// It takes none from this stop on.
    Stopped(FlowId, u64),
    /// It is gone.
    Gone(FlowId),
    /// So much of it waits that it takes none until then.
    Backlogged(FlowId, Timestamp),
}

pub(crate) fn change(event: &Event) -> Result<Option<Change>, Refusal> {
    Ok(Some(match event.kind {
        EventType::FlowStarted => {
            let body: FlowStarted = event.body().map_err(Refusal::permanent)?;
            // A scheduled flow answers 404, as in the reference's default configuration (contract 3.8).
            Change::Live(LiveFlow {
                id: body.id,
                activation: body.activation,
                is_live: body.cron.is_none(),
                owners: body.owners,
                settings: body.flow_settings,
            })
        }
        EventType::FlowStopping => {
            let body: FlowStopping = event.body().map_err(Refusal::permanent)?;
            Change::Stopped(body.id, body.activation)
        }
        EventType::FlowBacklogged => {
            let body: FlowBacklogged = event.body().map_err(Refusal::permanent)?;
            Change::Backlogged(body.id, body.until)
        }
        EventType::FlowDeleted => {
            let body: FlowChanged = event.body().map_err(Refusal::permanent)?;
            Change::Gone(body.flow_id)
        }
        _ => return Ok(None),
    }))
}
