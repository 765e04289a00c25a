use actix_web::{HttpResponse, post, web::Data};
use flowmate_common::{
    EventType, Failure, Kind,
    auth::{Caller, FlowsCreate},
    model::{Flow, MutableFlow},
};
use flowmate_web::{Allowed, ApiError, Body, Envelope, Errors};
use serde_json::{Value, json};

use crate::{
    State, domain,
    store::{changed, fault},
};

/// Flows in one request.
const MAX_FLOWS: usize = 1_000;

/// Creates a flow, or many where the body is a list.
#[utoipa::path(tag = "Flows", operation_id = "createFlow", security(("bearer" = [])), request_body = MutableFlow, responses(
    (status = 201, description = "The new flow; with a list one result for each entry", body = Envelope<Flow>),
    (status = 400, description = "Everything that is wrong with it", body = Errors),
    (status = 401, description = "Not logged in", body = Errors),
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
    if !caller.may(&["flows.bulk"]) {
        let message = "User is missing permission for bulk operations";
        return Err(Failure::new(Kind::Forbidden, message).into());
    }
    if bodies.len() > MAX_FLOWS {
        return Err(Failure::new(Kind::TooLarge, format!("At most {MAX_FLOWS} flows at a time.")).into());
    }
    let mut results = Vec::with_capacity(bodies.len());
    for body in bodies {
        results.push(match create(state, caller, body).await {
            Ok(flow) => serde_json::to_value(flow).map_err(Failure::internal)?,
            Err(failure) if failure.kind == Kind::Invalid => {
                let entry = |message: &String| json!({ "message": message, "code": 400 });
                json!({ "errors": failure.messages.iter().map(entry).collect::<Vec<_>>() })
            }
            Err(failure) => return Err(failure.into()),
        });
    }
    Ok(HttpResponse::Created().json(Envelope::of(results)))
}
