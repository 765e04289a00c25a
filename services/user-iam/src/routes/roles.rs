use actix_web::{
    HttpResponse, delete, get, patch, post,
    web::{Data, Path},
};
use flowmate_common::{
    Failure,
    auth::{
        Authenticated, COMMON, Caller, RESTRICTED, RolesCreate, RolesDelete, RolesRead, RolesUpdate,
        Visibility,
    },
    ids::TenantId,
    model::Role,
};
use flowmate_web::{Allowed, ApiError, Body, ErrorMessage, Params};
use serde::Deserialize;
use utoipa::ToSchema;

use super::answer::{are_permissions, forbidden, input, invalid, is_name, many, not_found, ok, one};
use crate::{State, records::RoleRecord};

/// What a role is created with.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RoleBody {
    /// What people call it.
    #[schema(example = "Integrator", min_length = 1, max_length = 320)]
    name: String,
    /// What it is for.
    #[serde(default)]
    #[schema(example = "May build flows")]
    description: String,
    /// What it allows.
    #[serde(default)]
    #[schema(example = json!(["flows.read", "flows.write"]))]
    permissions: Vec<String>,
    /// System administrators only: whether all tenants have it.
    #[serde(default)]
    is_global: bool,
}

/// What may be changed of a role; what is left out stays.
#[derive(Deserialize, ToSchema)]
pub(crate) struct RoleChange {
    /// What people call it.
    #[schema(example = "Integrator", min_length = 1, max_length = 320)]
    name: Option<String>,
    /// What it is for.
    #[schema(example = "May build flows")]
    description: Option<String>,
    /// What it allows, at once, who has the role.
    #[schema(example = json!(["flows.read"]))]
    permissions: Option<Vec<String>>,
}

/// Whose roles the caller may change: the tenant's, and as a system administrator all.
fn owns(caller: &Caller) -> Visibility {
    if caller.is_admin() {
        return Visibility::All;
    }
    Visibility::OwnedBy(caller.tenant.iter().map(TenantId::to_string).collect())
}

async fn visible(state: &State, caller: &Caller, id: &str) -> Result<Role, Failure> {
    if let Some(own) = state.store.role(&owns(caller), id).await? {
        return Ok(own.role);
    }
    let any = state.store.role(&Visibility::All, id).await?;
    let global = any.filter(|record| record.role.is_global);
    global.map(|record| record.role).ok_or_else(not_found)
}

/// Lists the roles of the caller's tenant and those that all tenants have.
#[utoipa::path(tag = "Roles", operation_id = "getRoles", security(("bearer" = [])), params(
    ("meta" = Option<String>, Query, description = "Any value wraps the list in {data, meta}")), responses(
    (status = 400, description = "Invalid parameter", body = ErrorMessage),
    (status = 200, description = "The roles", body = Vec<Role>)))]
#[get("/roles")]
pub(crate) async fn list(
    state: Data<State>,
    caller: Allowed<RolesRead>,
    params: Params,
) -> Result<HttpResponse, ApiError> {
    params.only(&[])?;
    let records = state.store.list_roles(&owns(&caller)).await?;
    let roles: Vec<Role> = records.into_iter().map(|record| record.role).collect();
    Ok(many(&params, &roles))
}

/// Creates a role in the caller's tenant, or as a system administrator one for all.
#[utoipa::path(tag = "Roles", operation_id = "createRole", security(("bearer" = [])), request_body = RoleBody, params(
    ("meta" = Option<String>, Query, description = "Any value wraps the answer in {data}")), responses(
    (status = 200, description = "The new role", body = Role),
    (status = 400, description = "INPUT_INVALID", body = ErrorMessage),
    (status = 409, description = "DUPLICATE_KEY", body = ErrorMessage)))]
#[post("/roles")]
pub(crate) async fn create(
    state: Data<State>,
    caller: Allowed<RolesCreate>,
    params: Params,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let new: RoleBody = input(&body)?;
    if !is_name(&new.name) || !are_permissions(&new.permissions) {
        return Err(invalid().into());
    }
    if !caller.may_grant(&new.permissions) {
        return Err(forbidden().into());
    }
    let now = state.context.clock.now();
    let role = Role {
        id: state.context.ids.document(now).into(),
        name: new.name,
        description: new.description,
        permissions: new.permissions,
        is_global: new.is_global && caller.is_admin(),
        tenant: caller.tenant.clone(),
        created_at: now,
        updated_at: now,
    };
    let record = RoleRecord::new(role);
    state.store.add_role(&record).await?;
    Ok(one(&params, record.role))
}

/// One role.
#[utoipa::path(tag = "Roles", operation_id = "getRole", security(("bearer" = [])), params(
    ("id" = String, Path, description = "The role"),
    ("meta" = Option<String>, Query, description = "Any value wraps the answer in {data}")), responses(
    (status = 200, description = "The role", body = Role)))]
#[get("/roles/{id}")]
pub(crate) async fn get(
    state: Data<State>,
    caller: Allowed<RolesRead>,
    id: Path<String>,
    params: Params,
) -> Result<HttpResponse, ApiError> {
    Ok(one(&params, visible(&state, &caller, &id).await?))
}

/// Changes a role of the caller's tenant.
#[utoipa::path(tag = "Roles", operation_id = "updateRole", security(("bearer" = [])), request_body = RoleChange, params(
    ("id" = String, Path, description = "The role"),
    ("meta" = Option<String>, Query, description = "Any value wraps the answer in {data}")), responses(
    (status = 200, description = "The changed role", body = Role),
    (status = 400, description = "INPUT_INVALID", body = ErrorMessage),
    (status = 409, description = "DUPLICATE_KEY", body = ErrorMessage)))]
#[patch("/roles/{id}")]
pub(crate) async fn update(
    state: Data<State>,
    caller: Allowed<RolesUpdate>,
    id: Path<String>,
    params: Params,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    may_change(&state, &caller, &id).await?;
    let change: RoleChange = input(&body)?;
    let allowed = change.permissions.as_deref().unwrap_or_default();
    if !change.name.as_deref().is_none_or(is_name) || !are_permissions(allowed) {
        return Err(invalid().into());
    }
    if !caller.may_grant(allowed) {
        return Err(forbidden().into());
    }
    let see = owns(&caller);
    let changed = state.store.change_role(&see, &id, |record| {
        within(&caller, record)?;
        let role = &mut record.role;
        if let Some(description) = &change.description {
            role.description.clone_from(description);
        }
        if let Some(allowed) = &change.permissions {
            role.permissions.clone_from(allowed);
        }
        if let Some(name) = change.name.as_ref().filter(|name| **name != role.name) {
            role.name.clone_from(name);
            record.rename();
        }
        Ok(())
    });
    let record = changed.await?.ok_or_else(not_found)?;
    Ok(one(&params, record.role))
}

/// Deletes a role of the caller's tenant. Who had it loses it at once.
#[utoipa::path(tag = "Roles", operation_id = "deleteRole", security(("bearer" = [])), params(
    ("id" = String, Path, description = "The role")), responses(
    (status = 200, description = "OK", body = String, content_type = "text/plain")))]
#[delete("/roles/{id}")]
pub(crate) async fn delete(
    state: Data<State>,
    caller: Allowed<RolesDelete>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    may_change(&state, &caller, &id).await?;
    let see = owns(&caller);
    let deleted = state
        .store
        .delete_role(&see, &id, |record| within(&caller, record));
    deleted.await?.ok_or_else(not_found)?;
    Ok(ok())
}

/// A role that all tenants have is seen by all and changed by system administrators.
async fn may_change(state: &State, caller: &Caller, id: &str) -> Result<(), Failure> {
    let role = visible(state, caller, id).await?;
    if role.is_global && !caller.is_admin() {
        return Err(forbidden());
    }
    Ok(())
}

/// Nobody changes what goes beyond the own rights.
fn within(caller: &Caller, record: &RoleRecord) -> Result<(), Failure> {
    if caller.covers(&record.role.permissions) {
        Ok(())
    } else {
        Err(forbidden())
    }
}

/// The permissions that the caller may find in roles: system administrators all, others the common ones.
#[utoipa::path(tag = "Roles", operation_id = "getPermissions", security(("bearer" = [])), extensions(("x-any-caller" = json!(true))), params(
    ("meta" = Option<String>, Query, description = "Any value wraps the list in {data, meta}")), responses(
    (status = 400, description = "Invalid parameter", body = ErrorMessage),
    (status = 200, description = "Their names", body = Vec<String>, example = json!(["flows.read", "flows.write"]))))]
#[get("/permissions")]
pub(crate) async fn permissions(
    caller: Allowed<Authenticated>,
    params: Params,
) -> Result<HttpResponse, ApiError> {
    params.only(&[])?;
    let mut names = COMMON.to_vec();
    if caller.is_admin() {
        names.extend(RESTRICTED);
    }
    Ok(many(&params, &names))
}
