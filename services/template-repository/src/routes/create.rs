use actix_web::{HttpResponse, post, web::Data};
use flowmate_common::{
    EventType,
    auth::TemplatesWrite,
    model::{FlowTemplate, MutableFlowTemplate},
};
use flowmate_runtime::owning;
use flowmate_web::{Allowed, ApiError, Body, Envelope, Errors};
use serde_json::Value;

use crate::{
    State, domain,
    store::{TemplateRecord, changed},
};

/// Adds a template.
#[utoipa::path(tag = "Templates", operation_id = "createTemplate", security(("bearer" = [])), request_body = MutableFlowTemplate, responses(
    (status = 201, description = "The new template", body = Envelope<FlowTemplate>),
    (status = 400, description = "Everything that is wrong with it", body = Errors)))]
#[post("/templates")]
pub(crate) async fn create_template(
    state: Data<State>,
    caller: Allowed<TemplatesWrite>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let now = state.context.clock.now();
    let body: Value = body.json()?;
    let vouched = owning::vouch(&*state.accounts, &caller, &[], body.get("owners")).await?;
    let id = state.context.ids.document(now).into();
    let template = domain::create(id, body, &caller, &vouched, now)?;
    let event = changed(&state.context, EventType::TemplateCreated, &template, &caller)?;
    let record = TemplateRecord { template };
    state.store.add(&record, vec![event]).await?;
    Ok(HttpResponse::Created().json(Envelope::of(record.template)))
}
