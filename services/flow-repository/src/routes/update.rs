use actix_web::{
    patch,
    web::{Data, Json, Path},
};
use flowmate_common::{
    EventType, Failure,
    auth::FlowsUpdate,
    model::{Flow, MutableFlow},
};
use flowmate_runtime::owning;
use flowmate_storage::Change;
use flowmate_web::{Allowed, ApiError, Body, Envelope, Errors, InvalidId, document_id};
use serde_json::{Map, Value};

use crate::{State, domain, store::changed};

/// Changes an inactive flow: the attributes that are sent replace those that are stored.
#[utoipa::path(tag = "Flows", operation_id = "updateFlow", security(("bearer" = [])), request_body = MutableFlow, params(("id" = String, Path, description = "The flow")), responses(
    (status = 200, description = "The changed flow", body = Envelope<Flow>),
    (status = 400, description = "Invalid id", body = InvalidId),
    (status = 404, description = "Flow not found", body = Errors),
    (status = 409, description = "Flow is not inactive", body = Errors)))]
#[patch("/flows/{id}")]
pub(crate) async fn update_flow(
    state: Data<State>,
    caller: Allowed<FlowsUpdate>,
    id: Path<String>,
    body: Body,
) -> Result<Json<Envelope<Flow>>, ApiError> {
    let id = document_id(&id).map_err(Failure::bare)?;
    let not_found = || Failure::not_found("Flow not found");
    let see = owning::sees(&caller);
    // The body is looked at after existence and state, as the contract orders the checks.
    let present = state.store.get(&see, &id).await?.ok_or_else(not_found)?;
    domain::must_be_inactive(&present)?;
    let changes: Map<String, Value> = body.json()?;
    let stored = &present.flow.body.owners;
    let vouched = owning::vouch(&*state.accounts, &caller, stored, changes.get("owners")).await?;
    let updated = state.store.change(&see, &id, |record| {
        domain::change(record, &changes, &caller, &vouched, state.context.clock.now())?;
        Ok(Change::Write(vec![changed(
            &state.context,
            EventType::FlowModified,
            record,
            &caller,
        )?]))
    });
    Ok(Json(Envelope::of(updated.await?.ok_or_else(not_found)?.flow)))
}
