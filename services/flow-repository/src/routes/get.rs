use actix_web::{
    get,
    web::{Data, Json, Path},
};
use flowmate_common::{
    Failure,
    auth::{Caller, FlowsRead},
    model::Flow,
};
use flowmate_runtime::owning;
use flowmate_web::{Allowed, ApiError, Envelope, Errors, document_id};

use crate::State;

/// One flow.
#[utoipa::path(tag = "Flows", operation_id = "getFlow", security(("bearer" = [])), params(("id" = String, Path, description = "The flow")), responses(
    (status = 200, description = "The flow", body = Envelope<Flow>),
    (status = 400, description = "Invalid id", body = Errors),
    (status = 404, description = "No flow found", body = Errors)))]
#[get("/flows/{id}")]
pub(crate) async fn get_flow(
    state: Data<State>,
    caller: Allowed<FlowsRead>,
    id: Path<String>,
) -> Result<Json<Envelope<Flow>>, ApiError> {
    Ok(Json(Envelope::of(get(&state, &caller, &id).await?)))
}

/// The flow, if there is one for the caller.
pub(crate) async fn get(state: &State, caller: &Caller, id: &str) -> Result<Flow, Failure> {
    let record = state.store.get(&owning::sees(caller), &document_id(id)?).await?;
    Ok(record.ok_or_else(|| Failure::not_found("No flow found"))?.flow)
}
