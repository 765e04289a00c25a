use actix_web::{
    HttpResponse, get, patch, post,
    web::{Data, Path},
};
use flowmate_common::{
    Failure, Kind,
    auth::{Authenticated, Caller, UsersCreate, UsersRead, UsersUpdate, Visibility, is_common},
    ids::{TenantId, is_document_id},
    model::{User, UserStatus},
};
use flowmate_web::{Allowed, ApiError, Body, ErrorMessage, Params};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::{State, may_work, store::UserRecord};

/// The whole of what a user may be created with.
#[derive(Deserialize, ToSchema)]
pub(crate) struct NewUser {
    /// Unique: an e-mail address or the partner's own id.
    #[schema(example = "ada@example.com")]
    username: String,
    /// To log in with.
    #[schema(example = "correct horse battery staple")]
    password: String,
    /// First name.
    firstname: Option<String>,
    /// Last name.
    lastname: Option<String>,
    /// `ACTIVE` where nothing is said.
    #[serde(default)]
    status: UserStatus,
    /// System administrators only; everybody else creates inside the own tenant.
    tenant: Option<TenantId>,
    /// Roles; none are known yet.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    roles: Vec<serde_json::Value>,
    /// What the user may do.
    #[serde(default)]
    permissions: Vec<String>,
    /// Whether the address was confirmed.
    #[serde(default)]
    confirmed: bool,
    /// URL of a picture.
    img: Option<String>,
}

/// What may be changed of a user; what is left out stays.
#[derive(Deserialize, ToSchema)]
pub(crate) struct UserChange {
    /// First name.
    firstname: Option<String>,
    /// Last name.
    lastname: Option<String>,
    /// With anything but `ACTIVE` the user's tokens are no longer valid.
    status: Option<UserStatus>,
    /// What the user may do; valid with the next login.
    permissions: Option<Vec<String>>,
}

/// The id of what was created.
#[derive(Serialize, ToSchema)]
pub(crate) struct Created {
    #[schema(example = "5c99ec7e5ed40d3e7512cffa")]
    id: String,
}

fn forbidden() -> Failure {
    Failure::coded(Kind::Forbidden, "FORBIDDEN")
}

fn invalid() -> Failure {
    Failure::coded(Kind::Invalid, "INPUT_INVALID")
}

fn not_found() -> Failure {
    Failure::not_found("Not Found").bare()
}

/// What the caller sees of users: system administrators all, others their tenant, without a tenant themselves.
fn sees(caller: &Caller) -> Visibility {
    caller.visibility()
}

/// Bare, or in `{"data": …}` where `?meta` is given (contract 2.3).
fn answer<T: Serialize>(params: &Params, content: T, total: Option<usize>) -> HttpResponse {
    match (params.filled("meta"), total) {
        (None, _) => HttpResponse::Ok().json(content),
        (Some(_), None) => HttpResponse::Ok().json(json!({ "data": content })),
        (Some(_), Some(total)) => {
            HttpResponse::Ok().json(json!({ "data": content, "meta": { "total": total } }))
        }
    }
}

/// Lists users: a system administrator sees all, others those of their tenant.
#[utoipa::path(tag = "Users", operation_id = "getUsers", security(("bearer" = [])), params(
    ("meta" = Option<String>, Query, description = "Any value wraps the list in {data, meta}"),
    ("username" = Option<Vec<String>>, Query, description = "External id, exactly; may be repeated"),
    ("userId" = Option<Vec<String>>, Query, description = "Internal id; may be repeated")), responses(
    (status = 200, description = "The users", body = Vec<User>),
    (status = 400, description = "A malformed id", body = ErrorMessage),
    (status = 401, description = "Not logged in", body = ErrorMessage),
    (status = 403, description = "FORBIDDEN", body = ErrorMessage)))]
#[get("/users")]
pub(crate) async fn list(
    state: Data<State>,
    caller: Allowed<Authenticated>,
    params: Params,
) -> Result<HttpResponse, ApiError> {
    if !caller.may(<UsersRead as flowmate_common::auth::Permission>::ANY_OF) {
        return Err(forbidden().into());
    }
    let ids: Vec<&str> = params.all("userId").collect();
    if !ids.iter().all(|id| is_document_id(id)) {
        return Err(Failure::invalid("The filter is invalid.").into());
    }
    let users = state
        .store
        .list(&sees(&caller), params.all("username").collect(), &ids)
        .await?;
    let total = users.len();
    Ok(answer(&params, users, Some(total)))
}

/// Creates a user.
#[utoipa::path(tag = "Users", operation_id = "createUser", security(("bearer" = [])), request_body = NewUser, params(
    ("meta" = Option<String>, Query, description = "Any value wraps the answer in {data}")), responses(
    (status = 200, description = "The new user's id", body = Created),
    (status = 400, description = "INPUT_INVALID", body = ErrorMessage),
    (status = 401, description = "Not logged in", body = ErrorMessage),
    (status = 403, description = "MISSING_PERMISSION, or FORBIDDEN where permissions are granted that the caller may not grant", body = ErrorMessage),
    (status = 409, description = "DUPLICATE_KEY", body = ErrorMessage)))]
#[post("/users")]
pub(crate) async fn create(
    state: Data<State>,
    caller: Allowed<UsersCreate>,
    params: Params,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let new: NewUser = body
        .json()
        .map_err(|failure| failure.with_code("INPUT_INVALID"))?;
    if new.username.trim().is_empty() || new.username.len() > 320 {
        return Err(invalid().into());
    }
    if new.password.is_empty() || new.password.len() > 1024 || !new.roles.is_empty() {
        return Err(invalid().into());
    }
    may_grant(&caller, &new.permissions)?;
    let now = state.context.clock.now();
    let user = User {
        id: state.context.ids.document(now).into(),
        username: new.username,
        firstname: new.firstname,
        lastname: new.lastname,
        status: new.status,
        confirmed: new.confirmed,
        can_login: true,
        tenant: if caller.is_admin() {
            new.tenant
        } else {
            caller.tenant.clone()
        },
        roles: Vec::new(),
        permissions: new.permissions,
        img: new.img,
        created_at: now,
        updated_at: now,
    };
    let created = Created {
        id: user.id.to_string(),
    };
    let password_hash = Some(state.passwords.hash(new.password).await?);
    state
        .store
        .add(
            &state.context,
            &UserRecord {
                user,
                password_hash,
                tokens_revoked_at: None,
            },
        )
        .await?;
    Ok(answer(&params, created, None))
}

/// System administrators grant everything, tenant administrators what is common, others what they have.
fn may_grant(caller: &Caller, permissions: &[String]) -> Result<(), Failure> {
    let grants = |permission: &String| {
        caller.is_admin()
            || (is_common(permission)
                && (caller.is_tenant_admin() || caller.permissions.contains(permission)))
    };
    if permissions.iter().all(grants) {
        Ok(())
    } else {
        Err(forbidden())
    }
}

/// The user that the token stands for.
#[utoipa::path(tag = "Users", operation_id = "getMe", security(("bearer" = [])), params(
    ("meta" = Option<String>, Query, description = "Any value wraps the answer in {data}")), responses(
    (status = 200, description = "The user", body = User),
    (status = 401, description = "Not logged in", body = ErrorMessage)))]
#[get("/users/me")]
pub(crate) async fn me(
    state: Data<State>,
    caller: Allowed<Authenticated>,
    params: Params,
) -> Result<HttpResponse, ApiError> {
    let record = state.store.user(&Visibility::All, caller.user.as_str()).await?;
    let gone = || Failure::coded(Kind::Unauthenticated, "USER_NOT_FOUND");
    Ok(answer(&params, record.ok_or_else(gone)?.user, None))
}

/// One user.
#[utoipa::path(tag = "Users", operation_id = "getUser", security(("bearer" = [])), params(
    ("id" = String, Path, description = "The internal id"),
    ("meta" = Option<String>, Query, description = "Any value wraps the answer in {data}")), responses(
    (status = 200, description = "The user", body = User),
    (status = 401, description = "Not logged in", body = ErrorMessage),
    (status = 403, description = "MISSING_PERMISSION", body = ErrorMessage),
    (status = 404, description = "There is none, or not in the caller's tenant", body = String, content_type = "text/plain")))]
#[get("/users/{id}")]
pub(crate) async fn get(
    state: Data<State>,
    caller: Allowed<UsersRead>,
    id: Path<String>,
    params: Params,
) -> Result<HttpResponse, ApiError> {
    let record = state.store.user(&sees(&caller), &id).await?;
    Ok(answer(&params, record.ok_or_else(not_found)?.user, None))
}

/// Changes a user. A user that is no longer active is logged out everywhere.
#[utoipa::path(tag = "Users", operation_id = "updateUser", security(("bearer" = [])), request_body = UserChange, params(
    ("id" = String, Path, description = "The internal id")), responses(
    (status = 200, description = "OK", body = String, content_type = "text/plain"),
    (status = 400, description = "INPUT_INVALID", body = ErrorMessage),
    (status = 401, description = "Not logged in", body = ErrorMessage),
    (status = 403, description = "MISSING_PERMISSION or FORBIDDEN", body = ErrorMessage),
    (status = 404, description = "There is none, or not in the caller's tenant", body = String, content_type = "text/plain")))]
#[patch("/users/{id}")]
pub(crate) async fn update(
    state: Data<State>,
    caller: Allowed<UsersUpdate>,
    id: Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    if state.store.user(&sees(&caller), &id).await?.is_none() {
        return Err(not_found().into());
    }
    let change: UserChange = body
        .json()
        .map_err(|failure| failure.with_code("INPUT_INVALID"))?;
    may_grant(&caller, change.permissions.as_deref().unwrap_or_default())?;
    let now = state.context.clock.now();
    let see = sees(&caller);
    let changed = state.store.change(&state.context, &see, &id, |record| {
        let user = &mut record.user;
        // Whoever may change the tenant's users may not reach for a system administrator among them.
        if user.permissions.iter().any(|permission| permission == "all") && !caller.is_admin() {
            return Err(forbidden());
        }
        user.firstname = change.firstname.clone().or_else(|| user.firstname.take());
        user.lastname = change.lastname.clone().or_else(|| user.lastname.take());
        user.status = change.status.unwrap_or(user.status);
        if let Some(permissions) = &change.permissions {
            user.permissions.clone_from(permissions);
        }
        if !may_work(user.status) {
            record.tokens_revoked_at = Some(now);
        }
        Ok(())
    });
    let record = changed.await?.ok_or_else(not_found)?;
    if let Some(at) = record.tokens_revoked_at {
        let expires = at.plus_millis(state.config.token_lifetime_seconds * 1000);
        state
            .context
            .tokens
            .revocations()
            .revoke_user(&record.user.id, at, expires, now);
    }
    Ok(HttpResponse::Ok()
        .content_type("text/plain; charset=utf-8")
        .body("OK"))
}
