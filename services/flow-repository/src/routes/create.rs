use actix_web::{HttpResponse, post, web::Data};
use flowmate_common::{
    EventType, Failure, Kind,
    auth::{Caller, FlowsBulkCreate, FlowsCreate},
    model::{Flow, MutableFlow},
};
use flowmate_runtime::owning;
use flowmate_web::{Allowed, ApiError, Body, Envelope, Errors};
use serde_json::Value;

use super::{bulk::FlowOrErrors, start_stop::at_most};
use crate::{State, domain, store::changed};

/// Creates a flow. A list of flows is taken as by `POST /flows/bulk`.
#[utoipa::path(tag = "Flows", operation_id = "createFlow", security(("bearer" = [])), request_body = MutableFlow, responses(
    (status = 201, description = "The new flow", body = Envelope<Flow>),
    (status = 400, description = "Everything that is wrong with it", body = Errors)))]
#[post("/flows")]
pub(crate) async fn create_flow(
    state: Data<State>,
    caller: Allowed<FlowsCreate>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    match body.json()? {
        Value::Array(bodies) => create_many(&state, &caller, bodies).await,
        body => Ok(HttpResponse::Created().json(Envelope::of(create(&state, &caller, body).await?))),
    }
}

/// Creates many flows. One result for each entry, in their order, whatever becomes of the others.
#[utoipa::path(tag = "Flows", operation_id = "createFlows", security(("bearer" = [])),
    request_body(content = Vec<MutableFlow>, description = "1000 at most"), responses(
    (status = 201, description = "The results", body = Envelope<Vec<FlowOrErrors>>),
    (status = 400, description = "Expecting an array of flows", body = Errors),
    (status = 403, description = "User is missing permission for bulk operations", body = Errors),
    (status = 413, description = "At most 1000 flows at a time.", body = Errors)))]
#[post("/flows/bulk")]
pub(crate) async fn create_flows(
    state: Data<State>,
    caller: Allowed<FlowsCreate>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let bodies = body
        .json()
        .map_err(|_| Failure::invalid("Expecting an array of flows"))?;
    create_many(&state, &caller, bodies).await
}

/// Creates one flow for the caller.
pub(crate) async fn create(state: &State, caller: &Caller, body: Value) -> Result<Flow, Failure> {
    let now = state.context.clock.now();
    let vouched = owning::vouch(&*state.accounts, caller, &[], body.get("owners")).await?;
    let id = state.context.ids.document(now).into();
    let record = domain::create(id, body, caller, &vouched, now)?;
    let event = changed(&state.context, EventType::FlowCreated, &record, caller)?;
    state.store.add(&record, vec![event]).await?;
    Ok(record.flow)
}

async fn create_many(state: &State, caller: &Caller, bodies: Vec<Value>) -> Result<HttpResponse, ApiError> {
    if !caller.may::<FlowsBulkCreate>() {
        let message = "User is missing permission for bulk operations";
        return Err(Failure::new(Kind::Forbidden, message).into());
    }
    at_most(bodies.len())?;
    let mut results = Vec::with_capacity(bodies.len());
    for body in bodies {
        results.push(FlowOrErrors::of(create(state, caller, body).await)?);
    }
    Ok(HttpResponse::Created().json(Envelope::of(results)))
}
