use actix_web::{
    HttpResponse, delete, get, post,
    web::{Data, Json, Path},
};
use flowmate_common::{
    Failure, Kind,
    auth::{Authenticated, Caller, TokensCreate, TokensDelete, TokensRead, Visibility},
    ids::{TenantId, TokenId, UserId},
    model::{Token, TokenKind},
};
use flowmate_web::{Allowed, ApiError, Body, ErrorMessage, Params};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answer::{are_permissions, forbidden, input, invalid, many, not_found, ok, one};
use crate::{
    State,
    issue::{AccessToken, Grant, calling_token, issue, may_work},
    records::Lineage,
};

/// Seconds of the longest token that ends by itself: ten years.
const MAX_LIFETIME: i64 = 10 * 366 * 24 * 3600;

/// What a token is asked for with.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TokenBody {
    /// Whom it is to stand for: the internal id of a user.
    account_id: UserId,
    /// How long; as a login where nothing is said.
    expires_in: Option<Lifetime>,
    /// On whose behalf; the caller where nothing is said.
    #[schema(example = "5c99ec7e5ed40d3e7512cffa", max_length = 320)]
    inquirer: Option<String>,
    /// For people to read.
    #[serde(default)]
    #[schema(example = "Nightly export", max_length = 1000)]
    description: String,
    /// What it allows beyond the account's permissions; the caller has to be able to grant them.
    #[serde(default)]
    #[schema(example = json!([]))]
    custom_permissions: Vec<String>,
    /// One word.
    #[schema(example = "accountToken", max_length = 320)]
    purpose: Option<String>,
    /// Accepted and without effect: tokens are not kept, so an old one cannot be given out again.
    #[expect(dead_code, reason = "documented, so that it is checked to be a boolean")]
    #[schema(example = true)]
    new: Option<bool>,
}

/// `-1` for ever, a number of seconds, or a number with one of the units s, m, h, d, such as `2h`.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(example = "2h")]
pub(crate) enum Lifetime {
    /// `-1` or seconds.
    Number(i64),
    /// With a unit.
    Text(String),
}

impl Lifetime {
    /// Seconds; `None`: for ever.
    fn seconds(&self) -> Result<Option<i64>, Failure> {
        let seconds = match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => parse(text.trim()),
        };
        match seconds {
            Some(-1) => Ok(None),
            Some(seconds @ 1..=MAX_LIFETIME) => Ok(Some(seconds)),
            _ => Err(invalid()),
        }
    }
}

fn parse(text: &str) -> Option<i64> {
    let unit = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return text.parse().ok(),
    };
    let number: i64 = text.get(..text.len() - 1)?.parse().ok()?;
    number.checked_mul(unit).filter(|seconds| *seconds > 0)
}

/// Lists the tokens that are valid: of the caller's tenant, and as a system administrator all. Never the tokens
/// themselves.
#[utoipa::path(tag = "Tokens", operation_id = "getTokens", security(("bearer" = [])), params(
    ("meta" = Option<String>, Query, description = "Any value wraps the list in {data, meta}")), responses(
    (status = 400, description = "Invalid parameter", body = ErrorMessage),
    (status = 200, description = "What is known of them", body = Vec<Token>)))]
#[get("/tokens")]
pub(crate) async fn list(
    state: Data<State>,
    caller: Allowed<TokensRead>,
    params: Params,
) -> Result<HttpResponse, ApiError> {
    params.only(&[])?;
    Ok(many(
        &params,
        &state.store.list_tokens(&caller.visibility()).await?,
    ))
}

/// Makes a token for an account.
#[utoipa::path(tag = "Tokens", operation_id = "createToken", security(("bearer" = [])), request_body = TokenBody, responses(
    (status = 200, description = "The token, shown only here", body = AccessToken),
    (status = 400, description = "INPUT_INVALID", body = ErrorMessage),
    (status = 403, description = "FORBIDDEN", body = ErrorMessage)))]
#[post("/tokens")]
pub(crate) async fn create(
    state: Data<State>,
    caller: Allowed<TokensCreate>,
    body: Body,
) -> Result<Json<AccessToken>, ApiError> {
    let new: TokenBody = input(&body)?;
    let texts = [
        Some(&new.description),
        new.purpose.as_ref(),
        new.inquirer.as_ref(),
    ];
    if texts.into_iter().flatten().any(|text| text.len() > 1000) || !are_permissions(&new.custom_permissions)
    {
        return Err(invalid().into());
    }
    let session = Some(state.config.token_lifetime_seconds);
    let lifetime_seconds = new.expires_in.as_ref().map_or(Ok(session), Lifetime::seconds)?;
    let account = state.store.user(&reach(&caller), new.account_id.as_str()).await?;
    let account = account.ok_or_else(forbidden)?;
    let own = state.store.effective_permissions(&account).await?;
    let may =
        may_work(&state, &account).await? && caller.covers(&own) && caller.may_grant(&new.custom_permissions);
    if !may {
        return Err(forbidden().into());
    }
    let parent = calling_token(&state, &caller).await?;
    // Who logs in may make tokens that outlive the login: they end with the account.
    let bound = parent.token.kind != TokenKind::Login;
    let lineage = Lineage::of_child(&parent, &caller.user, bound)?;
    let kind = match lifetime_seconds {
        None => TokenKind::Persistent,
        Some(_) => TokenKind::EphemeralServiceAccount,
    };
    let grant = Grant {
        lifetime_seconds,
        initiator: Some(caller.user.clone()),
        inquirer: Some(new.inquirer.unwrap_or_else(|| caller.user.to_string())),
        purpose: new.purpose.unwrap_or_else(|| "accountToken".into()),
        description: new.description,
        permissions: new.custom_permissions,
        lineage,
        ..Grant::session(&state, kind)
    };
    Ok(Json(issue(&state, &account, grant).await?))
}

/// The accounts that the caller may make tokens for and look into, as far as their rights do not go beyond the caller's: a
/// service account belongs to no tenant and works for all.
fn reach(caller: &Caller) -> Visibility {
    match caller.tenant {
        None => Visibility::All,
        Some(_) => caller.visibility(),
    }
}

/// A token to look into.
#[derive(Deserialize, ToSchema)]
pub(crate) struct Introspection {
    /// The token.
    #[schema(example = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiI1Yzk5In0.c2lnbmF0dXJl")]
    token: String,
}

/// Whom a valid token stands for.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AccountData {
    /// The account.
    sub: UserId,
    /// The account, by the name that user documents use.
    #[serde(rename = "_id")]
    id: UserId,
    /// The external id.
    #[schema(example = "ada@example.com")]
    username: String,
    /// The account's tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    tenant: Option<TenantId>,
    /// Effective permissions.
    #[schema(example = json!(["flows.read"]))]
    permissions: Vec<String>,
    /// Whether it is a system administrator.
    is_admin: bool,
    /// Whether it administers its tenant.
    is_tenant_admin: bool,
    /// The token's id.
    token_id: TokenId,
}

/// Says whom a token stands for, if it is valid.
#[utoipa::path(tag = "Tokens", operation_id = "introspectToken", security(("bearer" = [])), request_body = Introspection, responses(
    (status = 200, description = "The account", body = AccountData),
    (status = 400, description = "INPUT_INVALID", body = ErrorMessage),
    (status = 404, description = "Not Found", body = String, content_type = "text/plain")))]
#[post("/tokens/introspect")]
pub(crate) async fn introspect(
    state: Data<State>,
    caller: Allowed<TokensRead>,
    body: Body,
) -> Result<Json<AccountData>, ApiError> {
    let Introspection { token } = input(&body)?;
    let of = state.context.tokens.verify(&token).map_err(|_| not_found())?;
    // A service account looks into the tokens of all tenants.
    let is_service = caller.tenant.is_none();
    if !caller.is_admin() && !is_service && of.tenant != caller.tenant {
        return Err(not_found().into());
    }
    if of.is_admin() && !caller.is_admin() || !is_service && !caller.covers(&of.permissions) {
        return Err(forbidden().into());
    }
    Ok(Json(AccountData {
        is_admin: of.is_admin(),
        is_tenant_admin: of.is_tenant_admin(),
        sub: of.user.clone(),
        id: of.user,
        username: of.username,
        tenant: of.tenant,
        permissions: of.permissions,
        token_id: of.token,
    }))
}

/// A new token in place of the one this is called with, which stays valid as long as it was. It lasts as long as was
/// asked for that one.
#[utoipa::path(tag = "Tokens", operation_id = "refreshToken", security(("bearer" = [])), extensions(("x-any-caller" = json!(true))), responses(
    (status = 200, description = "A token", body = AccessToken),
    (status = 401, description = "SESSION_EXPIRED", body = ErrorMessage)))]
#[get("/tokens/refresh")]
pub(crate) async fn refresh(
    state: Data<State>,
    caller: Allowed<Authenticated>,
) -> Result<Json<AccessToken>, ApiError> {
    let expired = || Failure::coded(Kind::Unauthenticated, "SESSION_EXPIRED");
    let all = &Visibility::All;
    let old = calling_token(&state, &caller).await?;
    let account = state
        .store
        .user(all, caller.user.as_str())
        .await?
        .ok_or_else(expired)?;
    if !may_work(&state, &account).await? {
        return Err(expired().into());
    }
    let lifetime_seconds = old.lifetime_seconds();
    let (old, lineage) = (old.token, old.lineage);
    let grant = Grant {
        lifetime_seconds,
        initiator: Some(old.initiator),
        inquirer: Some(old.inquirer),
        purpose: old.purpose,
        description: old.description,
        permissions: old.permissions,
        lineage,
        ..Grant::session(&state, old.kind)
    };
    Ok(Json(issue(&state, &account, grant).await?))
}

/// What is known of one valid token.
#[utoipa::path(tag = "Tokens", operation_id = "getToken", security(("bearer" = [])), params(
    ("id" = String, Path, description = "The token's id"),
    ("meta" = Option<String>, Query, description = "Any value wraps the answer in {data}")), responses(
    (status = 200, description = "What is known of it", body = Token)))]
#[get("/tokens/{id}")]
pub(crate) async fn get(
    state: Data<State>,
    caller: Allowed<TokensRead>,
    id: Path<String>,
    params: Params,
) -> Result<HttpResponse, ApiError> {
    let token = state.store.token(&caller.visibility(), &id).await?;
    Ok(one(&params, token.ok_or_else(not_found)?))
}

/// Ends a token.
#[utoipa::path(tag = "Tokens", operation_id = "deleteToken", security(("bearer" = [])), params(
    ("id" = String, Path, description = "The token's id")), responses(
    (status = 200, description = "OK", body = String, content_type = "text/plain")))]
#[delete("/tokens/{id}")]
pub(crate) async fn delete(
    state: Data<State>,
    caller: Allowed<TokensDelete>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let see = caller.visibility();
    state.store.token(&see, &id).await?.ok_or_else(not_found)?;
    state
        .store
        .revoke_token(&see, &TokenId::from(id.as_str()))
        .await?;
    Ok(ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_seconds_units_or_for_ever() {
        let text = |text: &str| Lifetime::Text(text.into()).seconds().ok();
        assert_eq!(text("2h"), Some(Some(7200)));
        assert_eq!(text("30m"), Some(Some(1800)));
        assert_eq!(text("-1"), Some(None));
        assert_eq!(text("90"), Some(Some(90)));
        for nonsense in [
            "",
            "h",
            "-2h",
            "0",
            "0s",
            "1y",
            "9999999999d",
            "2 h",
            "ü",
            "9223372036854775807d",
        ] {
            assert_eq!(text(nonsense), None, "{nonsense}");
        }
        assert_eq!(Lifetime::Number(-1).seconds().ok(), Some(None));
        assert!(Lifetime::Number(0).seconds().is_err());
        assert!(Lifetime::Number(i64::MAX).seconds().is_err());
    }
}
