//! What this service reacts to: flows that start, stop and go.

use flowmate_bus::dispatch::Refusal;
use flowmate_common::{
    Event, EventType,
    model::{FlowChanged, FlowStarted, FlowStopping},
};

use crate::view::{LiveFlow, View};

pub(crate) async fn handle(view: &View, event: Event) -> Result<(), Refusal> {
    let result = match event.kind {
        EventType::FlowStarted => {
            let body: FlowStarted = event.body().map_err(Refusal::permanent)?;
            // A scheduled flow answers 404, as in the reference's default configuration (contract 3.8).
            let flow = LiveFlow {
                id: body.id,
                activation: body.activation,
                is_live: body.cron.is_none(),
                owners: body.owners,
                settings: body.flow_settings,
            };
            view.set(flow).await
        }
        EventType::FlowStopping => {
            let body: FlowStopping = event.body().map_err(Refusal::permanent)?;
            view.stop(&body.id, body.activation).await
        }
        EventType::FlowDeleted => {
            let body: FlowChanged = event.body().map_err(Refusal::permanent)?;
            view.forget(&body.flow_id).await
        }
        _ => Ok(()),
    };
    result.map_err(Refusal::transient)
}
