use actix_web::{
    get, post,
    web::{Data, Json},
};
use flowmate_common::{
    Failure, Kind,
    auth::{Authenticated, Caller, Claims},
};
use flowmate_web::{Allowed, ApiError, Body, ErrorMessage};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    State, may_work,
    store::{TokenRecord, UserRecord},
};

/// What to log in with.
#[derive(Deserialize, ToSchema)]
pub(crate) struct Credentials {
    /// The external id.
    #[schema(example = "admin")]
    username: String,
    /// The password.
    #[schema(example = "correct horse battery staple")]
    password: String,
}

/// A token for the `Authorization` header, and the token's id.
#[derive(Serialize, ToSchema)]
pub(crate) struct AccessToken {
    /// Opaque to clients.
    token: String,
    /// The token's id, not the user's.
    #[schema(example = "5c99ec7e5ed40d3e7512cffa")]
    id: String,
}

/// Logs in with name and password.
#[utoipa::path(tag = "Authentication", operation_id = "login", request_body = Credentials, responses(
    (status = 200, description = "A token", body = AccessToken),
    (status = 400, description = "The body is not JSON", body = ErrorMessage),
    (status = 401, description = "USER_NOT_FOUND, PASSWORD_INCORRECT, ENTITY_DISABLED, or UNKNOWN_ERROR where something is missing", body = ErrorMessage),
    (status = 429, description = "Too many failures", body = ErrorMessage)))]
#[post("/login")]
pub(crate) async fn login(state: Data<State>, body: Body) -> Result<Json<AccessToken>, ApiError> {
    let refused = |code| Failure::coded(Kind::Unauthenticated, code);
    let body = body
        .json_or_empty()
        .map_err(|failure| failure.with_code("INPUT_INVALID"))?;
    let Credentials { username, password } =
        serde_json::from_value(body).map_err(|_| refused("UNKNOWN_ERROR"))?;
    let now = state.context.clock.now();
    if !state.limiter.allows(&username, now) {
        return Err(Failure::coded(Kind::TooManyRequests, "TOO_MANY_ATTEMPTS").into());
    }
    let record = state.store.user_by_name(&username).await?;
    let hash = record.as_ref().and_then(|record| record.password_hash.clone());
    let is_right = state.passwords.verify(password, hash).await?;
    let Some(record) = record else {
        state.limiter.failed(&username, now);
        return Err(refused("USER_NOT_FOUND").into());
    };
    if !is_right {
        state.limiter.failed(&username, now);
        return Err(refused("PASSWORD_INCORRECT").into());
    }
    if !may_work(record.user.status) || !record.user.can_login {
        return Err(refused("ENTITY_DISABLED").into());
    }
    Ok(Json(issue(&state, record).await?))
}

async fn issue(state: &State, record: UserRecord) -> Result<AccessToken, Failure> {
    let now = state.context.clock.now();
    let lifetime = state.config.token_lifetime_seconds;
    let token = TokenRecord {
        id: state.context.ids.document(now).into(),
        account_id: record.user.id.clone(),
        created_at: now,
        expire_at: now.plus_millis(lifetime * 1000),
        revoked: false,
    };
    let caller = Caller {
        user: record.user.id,
        username: record.user.username,
        tenant: record.user.tenant,
        permissions: record.user.permissions,
        token: token.id.clone(),
    };
    let signed = state
        .signer
        .sign(&Claims::new(&caller, now, lifetime))
        .map_err(Failure::internal)?;
    state.store.add_token(&state.context, &token).await?;
    Ok(AccessToken {
        token: signed,
        id: token.id.to_string(),
    })
}

/// That the session has ended.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LoggedOut {
    /// Always true.
    logged_out: bool,
}

/// Ends the session: the token is no longer valid.
#[utoipa::path(tag = "Authentication", operation_id = "logout", security(("bearer" = [])), responses(
    (status = 200, description = "The token is revoked", body = LoggedOut),
    (status = 401, description = "Not logged in", body = ErrorMessage)))]
#[post("/logout")]
pub(crate) async fn logout(
    state: Data<State>,
    caller: Allowed<Authenticated>,
) -> Result<Json<LoggedOut>, ApiError> {
    state.store.revoke_token(&state.context, &caller.token).await?;
    Ok(Json(LoggedOut { logged_out: true }))
}

/// The public keys that tokens are signed with (RFC 7517).
#[utoipa::path(tag = "Authentication", operation_id = "jwks", responses(
    (status = 200, description = "A JSON Web Key Set", body = Object)))]
#[get("/.well-known/jwks.json")]
pub(crate) async fn jwks(state: Data<State>) -> Json<serde_json::Value> {
    Json(serde_json::to_value(state.signer.jwks()).unwrap_or_default())
}
