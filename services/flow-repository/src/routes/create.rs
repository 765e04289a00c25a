use actix_web::{HttpResponse, post, web::Data};
use flowmate_common::{
    EventType, Failure, Kind,
    auth::{Caller, FlowsBulkCreate, FlowsCreate},
    model::{Flow, MutableFlow},
};
use flowmate_web::{Allowed, ApiError, Body, Envelope, Errors};
use serde_json::Value;

use super::{bulk::FlowOrErrors, start_stop::at_most};
use crate::{
    State, domain,
    store::{changed, fault},
};

/// Creates a flow, or many where the body is a list.
#[utoipa::path(tag = "Flows", operation_id = "createFlow", security(("bearer" = [])),
    request_body(content = MutableFlow, description = "The flow, or a list of flows; a list needs `flows.bulk`"), responses(
    (status = 201, description = "The new flow; with a list, `data` is a list with one result for each entry", body = Envelope<Flow>),
    (status = 400, description = "Everything that is wrong with it", body = Errors),
    (status = 401, description = "Missing authorization header.", body = Errors),
    (status = 403, description = "MISSING_PERMISSION", body = Errors),
    (status = 413, description = "The body is too large", body = Errors)))]
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

/// Creates one flow for the caller.
pub(crate) async fn create(state: &State, caller: &Caller, body: Value) -> Result<Flow, Failure> {
    let now = state.context.clock.now();
    let record = domain::create(state.context.ids.document(now).into(), body, caller, now)?;
    let event = changed(&state.context, EventType::FlowCreated, &record, caller).map_err(fault)?;
    state.store.add(&record, event).await?;
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
