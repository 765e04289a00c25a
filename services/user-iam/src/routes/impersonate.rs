use actix_web::{
    post,
    web::{Data, Json},
};
use flowmate_common::{
    Failure, Kind,
    auth::{Caller, END_USER, TokensCreate},
    model::{AccountStatus, TokenKind, User},
};
use flowmate_web::{Allowed, ApiError, Body, ErrorMessage};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    answer::{forbidden, input, invalid, is_name},
    users::add_member,
};
use crate::{
    State,
    issue::{Grant, calling_token, issue, may_work},
    records::{Lineage, UserRecord, tenant_name, unique_name},
};

/// The partner's user to act for.
#[derive(Deserialize, ToSchema)]
pub(crate) struct Impersonation {
    /// The partner's own stable id of the user; a hash of it is advised.
    #[schema(example = "abc123", min_length = 1, max_length = 320)]
    username: String,
    /// Credentials of the partner's app for this user. Refused with `CREDENTIALS_NOT_SUPPORTED` until there is a store
    /// for secrets.
    #[schema(value_type = Option<Object>)]
    credential: Option<serde_json::Map<String, serde_json::Value>>,
}

/// A token that acts for the user.
#[derive(Serialize, ToSchema)]
pub(crate) struct UserToken {
    /// Opaque to clients.
    #[schema(example = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiI1Yzk5In0.c2lnbmF0dXJl")]
    token: String,
    /// The user's internal id.
    #[schema(example = "5c99ec7e5ed40d3e7512cffa")]
    id: String,
}

/// Acts for one of the partner's users, who is created at the first call. Contract 4.1.
#[utoipa::path(tag = "Authentication", operation_id = "impersonate", security(("bearer" = [])), request_body = Impersonation, responses(
    (status = 200, description = "A token for that user", body = UserToken),
    (status = 400, description = "INPUT_INVALID", body = ErrorMessage)))]
#[post("/impersonate")]
pub(crate) async fn impersonate(
    state: Data<State>,
    caller: Allowed<TokensCreate>,
    body: Body,
) -> Result<Json<UserToken>, ApiError> {
    let Impersonation { username, credential } = input(&body)?;
    if !is_name(&username) {
        return Err(invalid().into());
    }
    if credential.is_some() {
        return Err(Failure::coded(Kind::Invalid, "CREDENTIALS_NOT_SUPPORTED").into());
    }
    let parent = calling_token(&state, &caller).await?;
    let lineage = Lineage::of_child(&parent, &caller.user, true)?;
    let record = find_or_create(&state, &caller, username).await?;
    let permissions = state.store.effective_permissions(&record).await?;
    let is_privileged = permissions
        .iter()
        .any(|permission| permission == "all" || permission == "tenant.all");
    if is_privileged || !caller.covers(&permissions) || !may_work(&state, &record).await? {
        return Err(forbidden().into());
    }
    let grant = Grant {
        initiator: Some(caller.user.clone()),
        inquirer: Some(caller.user.to_string()),
        lineage,
        ..Grant::session(&state, TokenKind::Impersonated)
    };
    let token = issue(&state, &record, grant).await?.token;
    let id = record.user.id.to_string();
    Ok(Json(UserToken { token, id }))
}

async fn find_or_create(state: &State, caller: &Caller, username: String) -> Result<UserRecord, Failure> {
    let tenant = caller.tenant.as_ref();
    if let Some(record) = state.store.user_of_tenant(tenant, &username).await? {
        return Ok(record);
    }
    let record = end_user(state, caller, username.clone());
    // Who is refused leaves nobody behind.
    if !caller.covers(&record.user.permissions) {
        return Err(forbidden());
    }
    match add_member(state, &record).await {
        Ok(()) => Ok(record),
        // Somebody else was first, or the name belongs to another tenant's user.
        Err(failure) if failure.kind == Kind::Conflict => {
            let found = state.store.user_of_tenant(tenant, &username).await?;
            found.ok_or_else(forbidden)
        }
        Err(failure) => Err(failure),
    }
}

fn end_user(state: &State, caller: &Caller, username: String) -> UserRecord {
    let now = state.context.clock.now();
    let permissions = END_USER.iter().map(ToString::to_string).collect();
    UserRecord {
        unique_name: unique_name(&username, false, caller.tenant.as_ref()),
        tenant_name: tenant_name(&username, caller.tenant.as_ref()),
        user: User {
            id: state.context.ids.document(now).into(),
            username,
            firstname: None,
            lastname: None,
            status: AccountStatus::Active,
            confirmed: true,
            can_login: false,
            tenant: caller.tenant.clone(),
            roles: Vec::new(),
            permissions,
            img: None,
            created_at: now,
            updated_at: now,
        },
        role_ids: Vec::new(),
        password_hash: None,
    }
}
