use actix_web::{
    get, post,
    web::{Data, Json},
};
use flowmate_common::{
    Failure, Kind,
    auth::{Authenticated, Visibility},
    model::TokenKind,
};
use flowmate_web::{Allowed, ApiError, Body, ErrorMessage};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    State,
    issue::{AccessToken, Grant, issue, may_work},
    records::UserRecord,
};

/// Name and password.
#[derive(Deserialize, ToSchema)]
pub(crate) struct Credentials {
    /// The external id.
    #[schema(example = "admin")]
    username: String,
    /// The password.
    #[schema(example = "correct horse battery staple")]
    password: String,
}

/// Logs in with name and password.
#[utoipa::path(tag = "Authentication", operation_id = "login", request_body = Credentials, responses(
    (status = 200, description = "A token", body = AccessToken),
    (status = 400, description = "INPUT_INVALID", body = ErrorMessage),
    (status = 401, description = "PASSWORD_INCORRECT", body = ErrorMessage),
    (status = 413, description = "The body is larger than allowed.", body = ErrorMessage),
    (status = 429, description = "TOO_MANY_ATTEMPTS", body = ErrorMessage)))]
#[post("/login")]
pub(crate) async fn login(state: Data<State>, body: Body) -> Result<Json<AccessToken>, ApiError> {
    let refused = |code| Failure::coded(Kind::Unauthenticated, code);
    let body = body
        .json_or_empty()
        .map_err(|failure| failure.with_code("INPUT_INVALID"))?;
    let Credentials { username, password } =
        serde_json::from_value(body).map_err(|_| refused("UNKNOWN_ERROR"))?;
    let record = authenticate(&state, &username, password).await?;
    let grant = Grant::session(&state, TokenKind::Login);
    Ok(Json(issue(&state, &record, grant).await?))
}

/// The account that has this name and password and may work.
pub(crate) async fn authenticate(
    state: &State,
    username: &str,
    password: String,
) -> Result<UserRecord, Failure> {
    let refused = |code| Failure::coded(Kind::Unauthenticated, code);
    let now = state.context.clock.now();
    if !state.limiter.allows(username, now) {
        return Err(Failure::coded(Kind::TooManyRequests, "TOO_MANY_ATTEMPTS"));
    }
    let record = state.store.user_by_login(username).await?;
    let hash = record.as_ref().and_then(|record| record.password_hash.clone());
    let is_right = state.passwords.verify(password, hash).await?;
    let Some(record) = record else {
        state.limiter.failed(username, now);
        return Err(refused("USER_NOT_FOUND"));
    };
    if !is_right {
        state.limiter.failed(username, now);
        return Err(refused("PASSWORD_INCORRECT"));
    }
    if !record.user.can_login || !may_work(state, &record).await? {
        return Err(refused("ENTITY_DISABLED"));
    }
    Ok(record)
}

/// That the session has ended.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LoggedOut {
    /// Always true.
    #[schema(example = true)]
    logged_out: bool,
}

/// Ends the session: the token is no longer valid.
#[utoipa::path(tag = "Authentication", operation_id = "logout", security(("bearer" = [])), extensions(("x-any-caller" = json!(true))), responses(
    (status = 200, description = "The token is revoked", body = LoggedOut)))]
#[post("/logout")]
pub(crate) async fn logout(
    state: Data<State>,
    caller: Allowed<Authenticated>,
) -> Result<Json<LoggedOut>, ApiError> {
    state.store.revoke_token(&Visibility::All, &caller.token).await?;
    Ok(Json(LoggedOut { logged_out: true }))
}

/// The public keys that tokens are signed with (RFC 7517).
#[utoipa::path(tag = "Authentication", operation_id = "jwks", responses(
    (status = 200, description = "A JSON Web Key Set", body = Object, example = json!({"keys": [
        {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": "k1", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}))))]
#[get("/.well-known/jwks.json")]
pub(crate) async fn jwks(state: Data<State>) -> Json<serde_json::Value> {
    Json(serde_json::to_value(state.signer.jwks()).unwrap_or_default())
}
