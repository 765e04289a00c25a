use std::{net::IpAddr, time::Duration};

use actix_web::{
    HttpRequest, get, post,
    web::{Data, Json},
};
use flowmate_common::{
    Failure, Kind,
    auth::{Authenticated, Visibility},
    model::TokenKind,
};
use flowmate_web::{Allowed, ApiError, Body, ErrorMessage, client_address};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{answer::is_name, users::is_password};
use crate::{
    State,
    issue::{AccessToken, Grant, issue, may_work},
    password::Turn,
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
    (status = 401, description = "PASSWORD_INCORRECT, for unknown names too", body = ErrorMessage),
    (status = 413, description = "The body is larger than allowed.", body = ErrorMessage),
    (status = 429, description = "TOO_MANY_ATTEMPTS; `Retry-After` says when the next one counts", body = ErrorMessage)))]
#[post("/login")]
pub(crate) async fn login(
    state: Data<State>,
    request: HttpRequest,
    body: Body,
) -> Result<Json<AccessToken>, ApiError> {
    let refused = |code| Failure::coded(Kind::Unauthenticated, code);
    let sent = body
        .json_or_empty()
        .map_err(|failure| failure.with_code("INPUT_INVALID"))?;
    // What waits for its turn holds a name and a password, and no body.
    drop(body);
    let Credentials { username, password } =
        serde_json::from_value(sent).map_err(|_| refused("UNKNOWN_ERROR"))?;
    let address = client_address(&request);
    let record = authenticate(&state, &username, address, password).await?;
    let grant = Grant::session(&state, TokenKind::Login);
    Ok(Json(issue(&state, &record, grant).await?))
}

/// The account that has this name and password and may work. `address` is unknown where another service asks.
pub(crate) async fn authenticate(
    state: &State,
    username: &str,
    address: Option<IpAddr>,
    password: String,
) -> Result<UserRecord, Failure> {
    let refused = |code| Failure::coded(Kind::Unauthenticated, code);
    if !is_name(username) || !is_password(&password) {
        return Err(refused("PASSWORD_INCORRECT"));
    }
    let record = state.store.user_by_login(username).await?;
    let hash = record.as_ref().and_then(|record| record.password_hash.clone());
    let is_right = guess(state, username, address, password, hash).await?;
    let record = record
        .filter(|_| is_right)
        .ok_or_else(|| refused("PASSWORD_INCORRECT"))?;
    if !record.user.can_login || !may_work(state, &record).await? {
        return Err(refused("ENTITY_DISABLED"));
    }
    Ok(record)
}

/// Whether the password is the one; counted as a failure until it is known to be right.
pub(crate) async fn guess(
    state: &State,
    username: &str,
    address: Option<IpAddr>,
    password: String,
    hash: Option<String>,
) -> Result<bool, Failure> {
    let guess = state
        .limiter
        .begin(username, address, state.context.clock.now())
        .map_err(|seconds| Failure::coded(Kind::TooManyRequests, "TOO_MANY_ATTEMPTS").after(seconds))?;
    let turn = match turn(state, guess.delay).await {
        Ok(turn) => turn,
        Err(failure) => {
            state.limiter.withdraw(&guess);
            return Err(failure);
        }
    };
    let is_right = turn.verify(password, hash).await?;
    if is_right {
        state.limiter.succeeded(&guess);
    }
    Ok(is_right)
}

/// A turn to evaluate a password, after the delay. What is held back is bounded, and takes nobody's place meanwhile.
async fn turn(state: &State, delay: Duration) -> Result<Turn, Failure> {
    if !delay.is_zero() {
        let held_back = state.held_back.try_acquire();
        let _place =
            held_back.map_err(|_| Failure::new(Kind::Unavailable, "too many guesses are held back"))?;
        tokio::time::sleep(delay).await;
    }
    state.passwords.queue()
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
