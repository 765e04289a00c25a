use actix_web::{
    HttpResponse, delete, get, patch, post, put,
    web::{Data, Path},
};
use flowmate_common::{
    Failure,
    auth::{
        Caller, MembersDelete, TenantsCreate, TenantsDelete, TenantsRead, TenantsUpdate, UsersRead,
        Visibility, is_common,
    },
    ids::TenantId,
    model::{AccountStatus, Tenant, User},
};
use flowmate_web::{Allowed, ApiError, Body, ErrorMessage, Params};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    answer::{Created, forbidden, input, invalid, is_name, many, not_found, ok, one},
    user_changes::Reached,
};
use crate::{State, records::TenantRecord};

/// What a tenant is created with or replaced by.
#[derive(Deserialize, ToSchema)]
pub(crate) struct TenantBody {
    /// What people call it.
    #[schema(example = "Acme", min_length = 1, max_length = 320)]
    name: String,
    /// Whether it was confirmed.
    #[serde(default)]
    confirmed: bool,
    /// `ACTIVE` where nothing is said.
    #[serde(default)]
    status: AccountStatus,
}

/// What may be changed of a tenant; what is left out stays.
#[derive(Deserialize, ToSchema)]
pub(crate) struct TenantChange {
    /// What people call it.
    #[schema(example = "Acme", min_length = 1, max_length = 320)]
    name: Option<String>,
    /// Whether it was confirmed.
    confirmed: Option<bool>,
    /// Users of a tenant that is not active are logged out and cannot log in; its flows are stopped, and cannot be started.
    status: Option<AccountStatus>,
}

/// System administrators see all tenants, everybody else the own one.
fn sees(caller: &Caller) -> Visibility {
    if caller.is_admin() {
        return Visibility::All;
    }
    Visibility::OwnedBy(caller.tenant.iter().map(TenantId::to_string).collect())
}

async fn visible(state: &State, caller: &Caller, id: &str) -> Result<TenantRecord, Failure> {
    state.store.tenant(&sees(caller), id).await?.ok_or_else(not_found)
}

/// Lists the tenants that the caller sees.
#[utoipa::path(tag = "Tenants", operation_id = "getTenants", security(("bearer" = [])), params(
    ("meta" = Option<String>, Query, description = "Any value wraps the list in {data, meta}")), responses(
    (status = 400, description = "Invalid parameter", body = ErrorMessage),
    (status = 200, description = "The tenants", body = Vec<Tenant>)))]
#[get("/tenants")]
pub(crate) async fn list(
    state: Data<State>,
    caller: Allowed<TenantsRead>,
    params: Params,
) -> Result<HttpResponse, ApiError> {
    params.only(&[])?;
    let records = state.store.list_tenants(&sees(&caller)).await?;
    let tenants: Vec<Tenant> = records.into_iter().map(|record| record.tenant).collect();
    Ok(many(&params, &tenants))
}

/// Creates a tenant.
#[utoipa::path(tag = "Tenants", operation_id = "createTenant", security(("bearer" = [])), request_body = TenantBody, params(
    ("meta" = Option<String>, Query, description = "Any value wraps the answer in {data}")), responses(
    (status = 200, description = "The new tenant's id", body = Created),
    (status = 400, description = "INPUT_INVALID", body = ErrorMessage)))]
#[post("/tenants")]
pub(crate) async fn create(
    state: Data<State>,
    _caller: Allowed<TenantsCreate>,
    params: Params,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let TenantBody {
        name,
        confirmed,
        status,
    } = input(&body)?;
    if !is_name(&name) {
        return Err(invalid().into());
    }
    let now = state.context.clock.now();
    let tenant = Tenant {
        id: state.context.ids.document(now).into(),
        name,
        confirmed,
        status,
        created_at: now,
        updated_at: now,
    };
    let id = tenant.id.to_string();
    state
        .store
        .add_tenant(&TenantRecord { tenant, key: None })
        .await?;
    Ok(one(&params, Created { id }))
}

/// One tenant.
#[utoipa::path(tag = "Tenants", operation_id = "getTenant", security(("bearer" = [])), params(
    ("id" = String, Path, description = "The tenant"),
    ("meta" = Option<String>, Query, description = "Any value wraps the answer in {data}")), responses(
    (status = 200, description = "The tenant", body = Tenant)))]
#[get("/tenants/{id}")]
pub(crate) async fn get(
    state: Data<State>,
    caller: Allowed<TenantsRead>,
    id: Path<String>,
    params: Params,
) -> Result<HttpResponse, ApiError> {
    Ok(one(&params, visible(&state, &caller, &id).await?.tenant))
}

/// One tenant, for who may only see its profile.
#[utoipa::path(tag = "Tenants", operation_id = "getTenantProfile", security(("bearer" = [])), params(
    ("id" = String, Path, description = "The tenant"),
    ("meta" = Option<String>, Query, description = "Any value wraps the answer in {data}")), responses(
    (status = 200, description = "The tenant", body = Tenant)))]
#[get("/tenants/{id}/profile")]
pub(crate) async fn profile(
    state: Data<State>,
    caller: Allowed<TenantsRead>,
    id: Path<String>,
    params: Params,
) -> Result<HttpResponse, ApiError> {
    Ok(one(&params, visible(&state, &caller, &id).await?.tenant))
}

/// Replaces a tenant.
#[utoipa::path(tag = "Tenants", operation_id = "replaceTenant", security(("bearer" = [])), request_body = TenantBody, params(
    ("id" = String, Path, description = "The tenant")), responses(
    (status = 200, description = "OK", body = String, content_type = "text/plain"),
    (status = 400, description = "INPUT_INVALID", body = ErrorMessage)))]
#[put("/tenants/{id}")]
pub(crate) async fn replace(
    state: Data<State>,
    caller: Allowed<TenantsUpdate>,
    id: Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    visible(&state, &caller, &id).await?;
    let new: TenantBody = input(&body)?;
    let change = TenantChange {
        name: Some(new.name),
        confirmed: Some(new.confirmed),
        status: Some(new.status),
    };
    apply(&state, &caller, &id, change).await
}

/// Changes a tenant.
#[utoipa::path(tag = "Tenants", operation_id = "updateTenant", security(("bearer" = [])), request_body = TenantChange, params(
    ("id" = String, Path, description = "The tenant")), responses(
    (status = 200, description = "OK", body = String, content_type = "text/plain"),
    (status = 400, description = "INPUT_INVALID", body = ErrorMessage)))]
#[patch("/tenants/{id}")]
pub(crate) async fn update(
    state: Data<State>,
    caller: Allowed<TenantsUpdate>,
    id: Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    visible(&state, &caller, &id).await?;
    apply(&state, &caller, &id, input(&body)?).await
}

async fn apply(
    state: &State,
    caller: &Caller,
    id: &str,
    change: TenantChange,
) -> Result<HttpResponse, ApiError> {
    if !change.name.as_deref().is_none_or(is_name) {
        return Err(invalid().into());
    }
    // Whoever locks the own tenant could not open it again.
    let locks = change
        .status
        .is_some_and(|status| status != AccountStatus::Active);
    if locks && caller.tenant.as_ref().is_some_and(|own| own.as_str() == id) {
        return Err(forbidden().into());
    }
    let see = sees(caller);
    let changed = state.store.change_tenant(&see, id, |record| {
        let tenant = &mut record.tenant;
        if let Some(name) = &change.name {
            tenant.name.clone_from(name);
        }
        tenant.confirmed = change.confirmed.unwrap_or(tenant.confirmed);
        tenant.status = change.status.unwrap_or(tenant.status);
    });
    changed.await?.ok_or_else(not_found)?;
    Ok(ok())
}

/// Deletes a tenant. Its users and roles go with it; flows that nobody else owns are stopped.
#[utoipa::path(tag = "Tenants", operation_id = "deleteTenant", security(("bearer" = [])), params(
    ("id" = String, Path, description = "The tenant")), responses(
    (status = 200, description = "OK", body = String, content_type = "text/plain")))]
#[delete("/tenants/{id}")]
pub(crate) async fn delete(
    state: Data<State>,
    caller: Allowed<TenantsDelete>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    if caller
        .tenant
        .as_ref()
        .is_some_and(|own| own.as_str() == id.as_str())
    {
        return Err(forbidden().into());
    }
    let see = sees(&caller);
    state
        .store
        .delete_tenant(&see, &id)
        .await?
        .ok_or_else(not_found)?;
    Ok(ok())
}

/// The users of a tenant.
#[utoipa::path(tag = "Tenants", operation_id = "getTenantUsers", security(("bearer" = [])), params(
    ("id" = String, Path, description = "The tenant"),
    ("meta" = Option<String>, Query, description = "Any value wraps the list in {data, meta}")), responses(
    (status = 400, description = "Invalid parameter", body = ErrorMessage),
    (status = 200, description = "The users", body = Vec<User>)))]
#[get("/tenants/{id}/users")]
pub(crate) async fn users(
    state: Data<State>,
    caller: Allowed<UsersRead>,
    id: Path<String>,
    params: Params,
) -> Result<HttpResponse, ApiError> {
    params.only(&[])?;
    let record = visible(&state, &caller, &id).await?;
    Ok(many(&params, &state.store.users_of(&record.tenant.id).await?))
}

/// Takes a user out of a tenant; the user stays, without a tenant, and is logged out.
#[utoipa::path(tag = "Tenants", operation_id = "removeTenantUser", security(("bearer" = [])), params(
    ("id" = String, Path, description = "The tenant"),
    ("userId" = String, Path, description = "The user")), responses(
    (status = 200, description = "OK", body = String, content_type = "text/plain"),
    (status = 409, description = "DUPLICATE_KEY", body = ErrorMessage)))]
#[delete("/tenants/{id}/user/{userId}")]
pub(crate) async fn remove_user(
    state: Data<State>,
    caller: Allowed<MembersDelete>,
    path: Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let (tenant, user) = path.into_inner();
    let tenant = visible(&state, &caller, &tenant).await?.tenant.id;
    let present = state.store.user(&Visibility::All, &user).await?;
    let present = present.filter(|record| record.user.tenant.as_ref() == Some(&tenant));
    let present = present.ok_or_else(not_found)?;
    let reached = Reached::check(&state, &caller, &present).await?;
    let removed = state.store.change_user(&Visibility::All, &user, |record| {
        if record.user.tenant.as_ref() != Some(&tenant) {
            return Err(not_found());
        }
        if record.user.id == caller.user {
            return Err(forbidden());
        }
        reached.holds(record)?;
        // What goes beyond a tenant was given to one of its users.
        record.user.permissions.retain(|permission| is_common(permission));
        record.user.tenant = None;
        record.role_ids.clear();
        record.rename();
        Ok(())
    });
    let record = removed.await?.ok_or_else(not_found)?;
    state.store.revoke_tokens_of(&record.user.id, None).await?;
    Ok(ok())
}
