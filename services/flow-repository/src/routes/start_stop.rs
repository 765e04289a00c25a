use actix_web::{
    post,
    web::{Data, Json, Path},
};
use flowmate_common::{
    EventType, Failure,
    auth::FlowsControl,
    ids::FlowId,
    model::{FlowStarting, FlowStatus, FlowStopping},
};
use flowmate_storage::Change;
use flowmate_web::{Allowed, ApiError, Envelope, Errors, document_id};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{State, domain, store::FlowRecord};

/// A flow and the status it turned to.
#[derive(Serialize, ToSchema)]
pub(crate) struct FlowAndStatus {
    id: FlowId,
    status: FlowStatus,
}

fn answer(record: Option<FlowRecord>) -> Result<Json<Envelope<FlowAndStatus>>, ApiError> {
    let record = record.ok_or_else(|| Failure::not_found("No flow with this ID found"))?;
    Ok(Json(Envelope::of(FlowAndStatus {
        id: record.flow.id,
        status: record.flow.status,
    })))
}

/// Starts an inactive flow. It is `active` soon after, or `inactive` again with the reason in `statusReason`.
#[utoipa::path(tag = "Flows", operation_id = "startFlow", security(("bearer" = [])), params(("id" = String, Path, description = "The flow")), responses(
    (status = 200, description = "It is starting", body = Envelope<FlowAndStatus>),
    (status = 400, description = "Invalid id", body = Errors),
    (status = 401, description = "Not logged in", body = Errors),
    (status = 403, description = "MISSING_PERMISSION", body = Errors),
    (status = 404, description = "No flow with this ID found", body = Errors),
    (status = 409, description = "Flow is not inactive", body = Errors)))]
#[post("/flows/{id}/start")]
pub(crate) async fn start_flow(
    state: Data<State>,
    caller: Allowed<FlowsControl>,
    id: Path<String>,
) -> Result<Json<Envelope<FlowAndStatus>>, ApiError> {
    let see = caller.visibility();
    let started = state.store.change(&see, document_id(&id)?, |record| {
        domain::start(record, &caller, state.context.clock.now())?;
        let body = FlowStarting {
            flow: record.flow.clone(),
            activation: record.activation,
        };
        Ok(Change::Write(vec![state.context.event(
            EventType::FlowStarting,
            id.as_str(),
            &body,
        )?]))
    });
    answer(started.await?)
}

/// Stops an active flow. It is `inactive` soon after.
#[utoipa::path(tag = "Flows", operation_id = "stopFlow", security(("bearer" = [])), params(("id" = String, Path, description = "The flow")), responses(
    (status = 200, description = "It is stopping", body = Envelope<FlowAndStatus>),
    (status = 400, description = "Invalid id", body = Errors),
    (status = 401, description = "Not logged in", body = Errors),
    (status = 403, description = "MISSING_PERMISSION", body = Errors),
    (status = 404, description = "No flow with this ID found", body = Errors),
    (status = 409, description = "Flow is not active", body = Errors)))]
#[post("/flows/{id}/stop")]
pub(crate) async fn stop_flow(
    state: Data<State>,
    caller: Allowed<FlowsControl>,
    id: Path<String>,
) -> Result<Json<Envelope<FlowAndStatus>>, ApiError> {
    let see = caller.visibility();
    let stopped = state.store.change(&see, document_id(&id)?, |record| {
        domain::stop(record, state.context.clock.now())?;
        let body = FlowStopping {
            id: record.flow.id.clone(),
            activation: record.activation,
        };
        Ok(Change::Write(vec![state.context.event(
            EventType::FlowStopping,
            id.as_str(),
            &body,
        )?]))
    });
    answer(stopped.await?)
}
