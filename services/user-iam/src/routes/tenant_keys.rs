use actix_web::{
    HttpResponse, delete, get, post,
    web::{Data, Path},
};
use flowmate_common::{
    auth::{KeysCreate, KeysDelete, KeysRead, Visibility},
    ids::TenantId,
};
use flowmate_web::{Allowed, ApiError, Body, ErrorMessage, Params};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answer::{input, invalid, not_found, ok, one};
use crate::State;

/// Characters of a key.
const MAX_KEY: usize = 4096;

/// A key that a tenant brings.
#[derive(Deserialize, ToSchema)]
pub(crate) struct KeyBody {
    /// The key.
    #[schema(example = "bring-your-own-key", min_length = 1, max_length = 4096)]
    value: String,
}

/// A key that a tenant brought.
#[derive(Serialize, ToSchema)]
pub(crate) struct TenantKey {
    /// The tenant.
    tenant: TenantId,
    /// The key.
    #[schema(example = "bring-your-own-key")]
    value: String,
}

/// Stores a tenant's key in place of an earlier one.
#[utoipa::path(tag = "Tenants", operation_id = "createTenantKey", security(("bearer" = [])), request_body = KeyBody, params(
    ("id" = String, Path, description = "The tenant")), responses(
    (status = 200, description = "OK", body = String, content_type = "text/plain"),
    (status = 400, description = "INPUT_INVALID", body = ErrorMessage)))]
#[post("/tenants/{id}/key")]
pub(crate) async fn create(
    state: Data<State>,
    _caller: Allowed<KeysCreate>,
    id: Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    find(&state, &id).await?;
    let KeyBody { value } = input(&body)?;
    if value.is_empty() || value.len() > MAX_KEY {
        return Err(invalid().into());
    }
    let changed = state
        .store
        .change_tenant(&Visibility::All, &id, |record| record.key = Some(value.clone()));
    changed.await?.ok_or_else(not_found)?;
    Ok(ok())
}

/// A tenant's key.
#[utoipa::path(tag = "Tenants", operation_id = "getTenantKey", security(("bearer" = [])), params(
    ("id" = String, Path, description = "The tenant"),
    ("meta" = Option<String>, Query, description = "Any value wraps the answer in {data}")), responses(
    (status = 200, description = "The key", body = TenantKey)))]
#[get("/tenants/{id}/key")]
pub(crate) async fn get(
    state: Data<State>,
    _caller: Allowed<KeysRead>,
    id: Path<String>,
    params: Params,
) -> Result<HttpResponse, ApiError> {
    let record = find(&state, &id).await?;
    let key = TenantKey {
        tenant: record.tenant.id,
        value: record.key.ok_or_else(not_found)?,
    };
    Ok(one(&params, key))
}

/// Forgets a tenant's key.
#[utoipa::path(tag = "Tenants", operation_id = "deleteTenantKey", security(("bearer" = [])), params(
    ("id" = String, Path, description = "The tenant")), responses(
    (status = 200, description = "OK", body = String, content_type = "text/plain")))]
#[delete("/tenants/{id}/key")]
pub(crate) async fn delete(
    state: Data<State>,
    _caller: Allowed<KeysDelete>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let changed = state
        .store
        .change_tenant(&Visibility::All, &id, |record| record.key = None);
    changed.await?.ok_or_else(not_found)?;
    Ok(ok())
}

/// What goes beyond a tenant is for who was given it, and for all tenants.
async fn find(state: &State, id: &str) -> Result<crate::records::TenantRecord, flowmate_common::Failure> {
    state
        .store
        .tenant(&Visibility::All, id)
        .await?
        .ok_or_else(not_found)
}
