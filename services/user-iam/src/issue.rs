//! Making tokens.

use flowmate_common::{
    Failure, Kind,
    auth::{Caller, Claims, Visibility},
    ids::{TokenId, UserId},
    model::{AccountStatus, Token, TokenKind},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{State, records::UserRecord};

/// Seconds that a token without an end is signed for: a hundred years. It ends when it is revoked.
const FOR_EVER: i64 = 100 * 366 * 24 * 3600;

/// A token for the `Authorization` header.
#[derive(Serialize, ToSchema)]
pub(crate) struct AccessToken {
    /// Opaque to clients.
    #[schema(example = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiI1Yzk5In0.c2lnbmF0dXJl")]
    pub(crate) token: String,
    /// The token's id, not the user's.
    #[schema(example = "5c99ec7e5ed40d3e7512cffa")]
    pub(crate) id: String,
}

/// What somebody asks a token for.
pub(crate) struct Grant {
    pub(crate) kind: TokenKind,
    /// `None`: until it is revoked.
    pub(crate) lifetime_seconds: Option<i64>,
    /// `None`: the account itself.
    pub(crate) initiator: Option<UserId>,
    pub(crate) inquirer: Option<String>,
    pub(crate) purpose: String,
    pub(crate) description: String,
    /// Beyond the account's own.
    pub(crate) permissions: Vec<String>,
}

impl Grant {
    /// As at a login.
    pub(crate) fn session(state: &State, kind: TokenKind) -> Self {
        Self {
            kind,
            lifetime_seconds: Some(state.config.token_lifetime_seconds),
            initiator: None,
            inquirer: None,
            purpose: "accountToken".into(),
            description: String::new(),
            permissions: Vec::new(),
        }
    }
}

/// Whether the account may work: neither it nor its tenant is locked.
pub(crate) async fn may_work(state: &State, record: &UserRecord) -> Result<bool, Failure> {
    let tenant = match &record.user.tenant {
        Some(id) => state.store.tenant(&Visibility::All, id.as_str()).await?,
        None => None,
    };
    // A tenant that nobody registered is only a name.
    let is_open = tenant.is_none_or(|record| record.tenant.status == AccountStatus::Active);
    Ok(is_open && record.user.status == AccountStatus::Active)
}

/// The account as a caller.
pub(crate) async fn caller(state: &State, record: &UserRecord, token: TokenId) -> Result<Caller, Failure> {
    let user = &record.user;
    Ok(Caller {
        user: user.id.clone(),
        username: user.username.clone(),
        tenant: user.tenant.clone(),
        permissions: state.store.effective_permissions(record).await?,
        token,
    })
}

/// Makes a token for the account, and keeps what has to be known of it.
pub(crate) async fn issue(state: &State, record: &UserRecord, grant: Grant) -> Result<AccessToken, Failure> {
    let now = state.context.clock.now();
    let id: TokenId = state.context.ids.document(now).into();
    let mut caller = caller(state, record, id.clone()).await?;
    caller.permissions.extend(grant.permissions.iter().cloned());
    let user = &record.user;
    let lifetime = grant.lifetime_seconds.unwrap_or(FOR_EVER);
    let signed = state
        .signer
        .sign(&Claims::new(&caller, now, lifetime))
        .map_err(Failure::internal)?;
    let token = Token {
        id: id.clone(),
        account_id: user.id.clone(),
        tenant: user.tenant.clone(),
        initiator: grant.initiator.unwrap_or_else(|| user.id.clone()),
        inquirer: grant.inquirer.unwrap_or_else(|| user.id.to_string()),
        kind: grant.kind,
        purpose: grant.purpose,
        description: grant.description,
        permissions: grant.permissions,
        created_at: now,
        expire_at: grant
            .lifetime_seconds
            .map(|seconds| now.plus_millis(seconds * 1000)),
    };
    state.store.add_token(token).await?;
    // Who was locked or deleted while this went on had its tokens ended before this one was there.
    let present = state.store.user(&Visibility::All, user.id.as_str()).await?;
    let still_works = match &present {
        Some(record) => may_work(state, record).await?,
        None => false,
    };
    if !still_works {
        state.store.revoke_token(&Visibility::All, &id).await?;
        return Err(Failure::coded(Kind::Unauthenticated, "ENTITY_DISABLED"));
    }
    Ok(AccessToken {
        token: signed,
        id: id.to_string(),
    })
}
