use actix_web::{
    delete,
    web::{Data, Json, Path},
};
use flowmate_common::{EventType, Failure, auth::FlowsDelete};
use flowmate_runtime::owning;
use flowmate_web::{Allowed, ApiError, Errors, InvalidId, document_id};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{State, domain, store::changed};

/// That something was deleted.
#[derive(Serialize, ToSchema)]
pub(crate) struct Deleted {
    #[schema(example = "Flow was successfully deleted")]
    msg: &'static str,
}

/// Deletes an inactive flow.
#[utoipa::path(tag = "Flows", operation_id = "deleteFlow", security(("bearer" = [])), params(("id" = String, Path, description = "The flow")), responses(
    (status = 200, description = "It is gone", body = Deleted),
    (status = 400, description = "Invalid id", body = InvalidId),
    (status = 404, description = "Flow not found", body = Errors),
    (status = 409, description = "Flow is not inactive", body = Errors)))]
#[delete("/flows/{id}")]
pub(crate) async fn delete_flow(
    state: Data<State>,
    caller: Allowed<FlowsDelete>,
    id: Path<String>,
) -> Result<Json<Deleted>, ApiError> {
    let id = document_id(&id).map_err(Failure::bare)?;
    let see = owning::sees(&caller);
    let deleted = state.store.delete(&see, &id, |record| {
        domain::must_be_inactive(record)?;
        Ok(vec![changed(
            &state.context,
            EventType::FlowDeleted,
            record,
            &caller,
        )?])
    });
    deleted
        .await?
        .ok_or_else(|| Failure::not_found("Flow not found"))?;
    Ok(Json(Deleted {
        msg: "Flow was successfully deleted",
    }))
}
