use actix_web::{
    delete, get, patch,
    web::{Data, Json, Path},
};
use flowmate_common::{
    EventType, Failure, Kind,
    auth::{Caller, TemplatesRead, TemplatesWrite},
    model::{FlowTemplate, MutableFlowTemplate},
};
use flowmate_runtime::owning;
use flowmate_storage::Change;
use flowmate_web::{Allowed, ApiError, Body, Envelope, Errors, InvalidId, document_id};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{State, domain, store::changed};

fn not_found() -> Failure {
    Failure::not_found("Template not found")
}

/// The template, if there is one for the caller.
pub(super) async fn visible(state: &State, caller: &Caller, id: &str) -> Result<FlowTemplate, Failure> {
    let record = state.store.get(&owning::sees_shared(caller), id).await?;
    Ok(record.ok_or_else(not_found)?.template)
}

/// The template, if the caller may change it: what an end user sees of the tenant's is refused.
async fn own(state: &State, caller: &Caller, id: &str) -> Result<FlowTemplate, Failure> {
    let template = visible(state, caller, id).await?;
    match state.store.get(&owning::sees(caller), id).await? {
        Some(_) => Ok(template),
        None => Err(Failure::coded(Kind::Forbidden, "MISSING_PERMISSION")),
    }
}

/// One template.
#[utoipa::path(tag = "Templates", operation_id = "getTemplate", security(("bearer" = [])), params(("id" = String, Path, description = "The template")), responses(
    (status = 200, description = "The template", body = Envelope<FlowTemplate>),
    (status = 400, description = "Invalid id", body = Errors),
    (status = 404, description = "Template not found", body = Errors)))]
#[get("/templates/{id}")]
pub(crate) async fn get_template(
    state: Data<State>,
    caller: Allowed<TemplatesRead>,
    id: Path<String>,
) -> Result<Json<Envelope<FlowTemplate>>, ApiError> {
    let template = visible(&state, &caller, &document_id(&id)?).await?;
    Ok(Json(Envelope::of(template)))
}

/// Changes a template: the attributes that are sent replace those that are stored. `status` publishes it.
#[utoipa::path(tag = "Templates", operation_id = "updateTemplate", security(("bearer" = [])), request_body = MutableFlowTemplate, params(("id" = String, Path, description = "The template")), responses(
    (status = 200, description = "The changed template", body = Envelope<FlowTemplate>),
    (status = 400, description = "Invalid id", body = InvalidId),
    (status = 404, description = "Template not found", body = Errors)))]
#[patch("/templates/{id}")]
pub(crate) async fn update_template(
    state: Data<State>,
    caller: Allowed<TemplatesWrite>,
    id: Path<String>,
    body: Body,
) -> Result<Json<Envelope<FlowTemplate>>, ApiError> {
    let id = document_id(&id).map_err(Failure::bare)?;
    let present = own(&state, &caller, &id).await?;
    let changes: Map<String, Value> = body.json()?;
    let stored = &present.body.owners;
    let vouched = owning::vouch(&*state.accounts, &caller, stored, changes.get("owners")).await?;
    let (see, context) = (owning::sees(&caller), &state.context);
    let updated = state.store.change(&see, &id, |record| {
        let template = &mut record.template;
        domain::change(template, &changes, &caller, &vouched, context.clock.now())?;
        let event = changed(context, EventType::TemplateModified, template, &caller)?;
        Ok(Change::Write(vec![event]))
    });
    let record = updated.await?.ok_or_else(not_found)?;
    Ok(Json(Envelope::of(record.template)))
}

/// That something was deleted.
#[derive(Serialize, ToSchema)]
#[schema(as = TemplateDeleted)]
pub(crate) struct Deleted {
    #[schema(example = "Template was successfully deleted")]
    msg: &'static str,
}

/// Deletes a template. Flows made from it stay.
#[utoipa::path(tag = "Templates", operation_id = "deleteTemplate", security(("bearer" = [])), params(("id" = String, Path, description = "The template")), responses(
    (status = 200, description = "It is gone", body = Deleted),
    (status = 400, description = "Invalid id", body = InvalidId),
    (status = 404, description = "Template not found", body = Errors)))]
#[delete("/templates/{id}")]
pub(crate) async fn delete_template(
    state: Data<State>,
    caller: Allowed<TemplatesWrite>,
    id: Path<String>,
) -> Result<Json<Deleted>, ApiError> {
    let id = document_id(&id).map_err(Failure::bare)?;
    own(&state, &caller, &id).await?;
    let see = owning::sees(&caller);
    let deleted = state.store.delete(&see, &id, |record| {
        let event = changed(
            &state.context,
            EventType::TemplateDeleted,
            &record.template,
            &caller,
        )?;
        Ok(vec![event])
    });
    deleted.await?.ok_or_else(not_found)?;
    Ok(Json(Deleted {
        msg: "Template was successfully deleted",
    }))
}
