use actix_web::{
    post,
    web::{Data, Json, Path},
};
use flowmate_common::{
    Failure,
    auth::{Caller, FlowsControl},
    ids::FlowId,
    model::FlowStatus,
};
use flowmate_runtime::owning;
use flowmate_storage::Change;
use flowmate_web::{Allowed, ApiError, Body, Envelope, ErrorOfFlow, Errors, FlowErrors, document_id};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    State, domain,
    store::{FlowRecord, starting, stopping},
};

/// Flows in one request.
const MAX_FLOWS: usize = 1_000;

/// A flow and the status it turned to.
#[derive(Serialize, ToSchema)]
pub(crate) struct FlowAndStatus {
    id: FlowId,
    status: FlowStatus,
}

/// What became of one of many: what a single call would have answered.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum FlowResult {
    /// It turned.
    Turned(Envelope<FlowAndStatus>),
    /// It did not, and why.
    Refused(FlowErrors),
}

async fn start(state: &State, caller: &Caller, id: &str) -> Result<FlowAndStatus, Failure> {
    let see = owning::sees(caller);
    let id = &*document_id(id)?;
    let present = state.store.get(&see, id).await?;
    // What is disabled after this is stopped when the engine answers.
    if let Some(record) = &present
        && state.tenants.closes(&record.flow).await?
    {
        return Err(domain::closed());
    }
    let started = state.store.change(&see, id, |record| {
        domain::start(record, caller, state.context.clock.now())?;
        Ok(Change::Write(vec![starting(&state.context, record)?]))
    });
    turned(started.await?)
}

async fn stop(state: &State, caller: &Caller, id: &str) -> Result<FlowAndStatus, Failure> {
    let see = owning::sees(caller);
    let id = document_id(id)?;
    let stopped = state.store.change(&see, &id, |record| {
        domain::stop(record, state.context.clock.now())?;
        Ok(Change::Write(vec![stopping(&state.context, record)?]))
    });
    turned(stopped.await?)
}

fn turned(record: Option<FlowRecord>) -> Result<FlowAndStatus, Failure> {
    let record = record.ok_or_else(|| Failure::not_found("No flow with this ID found"))?;
    Ok(FlowAndStatus {
        id: record.flow.id,
        status: record.flow.status,
    })
}

/// Starts an inactive flow. It is `active` soon after, or `inactive` again with the reason in `statusReason`.
#[utoipa::path(tag = "Flows", operation_id = "startFlow", security(("bearer" = [])), params(("id" = String, Path, description = "The flow")), responses(
    (status = 200, description = "It is starting", body = Envelope<FlowAndStatus>),
    (status = 400, description = "Invalid id", body = Errors),
    (status = 401, description = "Missing authorization header.", body = Errors),
    (status = 403, description = "MISSING_PERMISSION", body = Errors),
    (status = 404, description = "No flow with this ID found", body = Errors),
    (status = 409, description = "Flow is not inactive. Current status: active", body = Errors)))]
#[post("/flows/{id}/start")]
pub(crate) async fn start_flow(
    state: Data<State>,
    caller: Allowed<FlowsControl>,
    id: Path<String>,
) -> Result<Json<Envelope<FlowAndStatus>>, ApiError> {
    Ok(Json(Envelope::of(start(&state, &caller, &id).await?)))
}

/// Stops an active flow, or one that has been starting for longer than half a minute. It is `inactive` soon after.
#[utoipa::path(tag = "Flows", operation_id = "stopFlow", security(("bearer" = [])), params(("id" = String, Path, description = "The flow")), responses(
    (status = 200, description = "It is stopping", body = Envelope<FlowAndStatus>),
    (status = 400, description = "Invalid id", body = Errors),
    (status = 401, description = "Missing authorization header.", body = Errors),
    (status = 403, description = "MISSING_PERMISSION", body = Errors),
    (status = 404, description = "No flow with this ID found", body = Errors),
    (status = 409, description = "Flow is not active. Current status: inactive", body = Errors)))]
#[post("/flows/{id}/stop")]
pub(crate) async fn stop_flow(
    state: Data<State>,
    caller: Allowed<FlowsControl>,
    id: Path<String>,
) -> Result<Json<Envelope<FlowAndStatus>>, ApiError> {
    Ok(Json(Envelope::of(stop(&state, &caller, &id).await?)))
}

/// Starts many flows. One result for each id, in their order, whatever becomes of the others.
#[utoipa::path(tag = "Flows", operation_id = "startFlows", security(("bearer" = [])),
    request_body(content = Vec<String>, description = "Ids of flows, 1000 at most", example = json!(["62fcb5ee8ed54c19069b0ca5", "xyz"])), responses(
    (status = 200, description = "The results, without an envelope", body = Vec<FlowResult>),
    (status = 400, description = "No flow ids given. Expecting an array of flow ids", body = Errors),
    (status = 401, description = "Missing authorization header.", body = Errors),
    (status = 403, description = "MISSING_PERMISSION", body = Errors),
    (status = 413, description = "At most 1000 flows at a time.", body = Errors)))]
#[post("/flows/multiple/start")]
pub(crate) async fn start_flows(
    state: Data<State>,
    caller: Allowed<FlowsControl>,
    body: Body,
) -> Result<Json<Vec<FlowResult>>, ApiError> {
    let mut results = Vec::new();
    for id in ids(&body)? {
        let started = match id.as_str() {
            Some(id) => start(&state, &caller, id).await,
            None => Err(no_id()),
        };
        results.push(result(&id, started)?);
    }
    Ok(Json(results))
}

/// Stops many flows. One result for each id, in their order, whatever becomes of the others.
#[utoipa::path(tag = "Flows", operation_id = "stopFlows", security(("bearer" = [])),
    request_body(content = Vec<String>, description = "Ids of flows, 1000 at most", example = json!(["62fcb5ee8ed54c19069b0ca5", "xyz"])), responses(
    (status = 200, description = "The results, without an envelope", body = Vec<FlowResult>),
    (status = 400, description = "No flow ids given. Expecting an array of flow ids", body = Errors),
    (status = 401, description = "Missing authorization header.", body = Errors),
    (status = 403, description = "MISSING_PERMISSION", body = Errors),
    (status = 413, description = "At most 1000 flows at a time.", body = Errors)))]
#[post("/flows/multiple/stop")]
pub(crate) async fn stop_flows(
    state: Data<State>,
    caller: Allowed<FlowsControl>,
    body: Body,
) -> Result<Json<Vec<FlowResult>>, ApiError> {
    let mut results = Vec::new();
    for id in ids(&body)? {
        let stopped = match id.as_str() {
            Some(id) => stop(&state, &caller, id).await,
            None => Err(no_id()),
        };
        results.push(result(&id, stopped)?);
    }
    Ok(Json(results))
}

/// Each entry has its own answer, whatever it is.
fn ids(body: &Body) -> Result<Vec<Value>, Failure> {
    let none = || Failure::invalid("No flow ids given. Expecting an array of flow ids");
    let ids: Vec<Value> = body.json().map_err(|_| none())?;
    at_most(ids.len())?;
    Ok(ids)
}

/// The entry is no text.
fn no_id() -> Failure {
    Failure::invalid("Invalid id")
}

/// Characters of an entry that is no text, as the answer repeats it.
const SHOWN: usize = 100;

fn shown(entry: &Value) -> String {
    match entry {
        Value::String(id) => id.clone(),
        other => other.to_string().chars().take(SHOWN).collect(),
    }
}

/// Refuses more flows than one request may be about.
pub(super) fn at_most(count: usize) -> Result<(), Failure> {
    if count > MAX_FLOWS {
        let message = format!("At most {MAX_FLOWS} flows at a time.");
        return Err(Failure::new(flowmate_common::Kind::TooLarge, message));
    }
    Ok(())
}

/// Faults of ours end the whole call; everything else is this flow's own.
fn result(id: &Value, turned: Result<FlowAndStatus, Failure>) -> Result<FlowResult, Failure> {
    match turned {
        Ok(turned) => Ok(FlowResult::Turned(Envelope::of(turned))),
        Err(failure) if failure.is_of_the_request() => Ok(FlowResult::Refused(FlowErrors {
            errors: vec![ErrorOfFlow::of(&failure, shown(id))],
        })),
        Err(failure) => Err(failure),
    }
}
