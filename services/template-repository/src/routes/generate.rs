use actix_web::{
    HttpResponse, post,
    web::{Data, Path},
};
use flowmate_common::{
    Failure,
    auth::FlowsCreate,
    model::{Flow, MutableFlow},
};
use flowmate_web::{Allowed, ApiError, Body, Envelope, Errors, InvalidId, document_id};

use super::one::visible;
use crate::{State, domain};

/// Makes a flow from the template, with the body merged deeply into it. The flow is inactive.
#[utoipa::path(tag = "Templates", operation_id = "generateFlow", security(("bearer" = [])), request_body = Option<MutableFlow>, params(("id" = String, Path, description = "The template")), responses(
    (status = 201, description = "The new flow", body = Envelope<Flow>),
    (status = 400, description = "Invalid id", body = InvalidId),
    (status = 404, description = "Template not found", body = Errors)))]
#[post("/templates/{id}/generate")]
pub(crate) async fn generate_flow(
    state: Data<State>,
    caller: Allowed<FlowsCreate>,
    id: Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let id = document_id(&id).map_err(Failure::bare)?;
    let template = visible(&state, &caller, &id).await?;
    let changes = body.json_or_empty()?;
    if !changes.is_object() {
        return Err(Failure::invalid("The body has to be a JSON object.").into());
    }
    let flow = state
        .flows
        .create(&caller, domain::generate(&template, &changes)?)
        .await?;
    Ok(HttpResponse::Created().json(Envelope::of(flow)))
}
