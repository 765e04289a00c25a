//! Making tokens.

use flowmate_common::{
    Failure, Kind, Timestamp,
    auth::{Caller, Claims, Visibility},
    ids::{TokenId, UserId},
    model::{AccountStatus, Token, TokenKind},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    State,
    records::{Lineage, TokenRecord, UserRecord},
};

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
    /// What it depends on.
    pub(crate) lineage: Lineage,
}

/// Tokens that make one another, at most; each is looked at when the last is used.
const GENERATIONS: usize = 8;

/// The token that the caller calls with.
pub(crate) async fn calling_token(state: &State, caller: &Caller) -> Result<TokenRecord, Failure> {
    let record = state
        .store
        .token_record(&Visibility::All, caller.token.as_str())
        .await?;
    record.ok_or_else(|| Failure::coded(Kind::Unauthenticated, "SESSION_EXPIRED"))
}

impl Lineage {
    /// That of a token which `maker` makes with the token `parent`, and which ends with it if it is `bound`.
    pub(crate) fn of_child(parent: &TokenRecord, maker: &UserId, bound: bool) -> Result<Self, Failure> {
        let mut lineage = parent.lineage.clone();
        if !lineage.grantors.contains(maker) {
            lineage.grantors.push(maker.clone());
        }
        if bound {
            lineage.ancestors.push(parent.token.id.clone());
            lineage.ends = earlier(lineage.ends, parent.token.expire_at);
        }
        if lineage.ancestors.len().max(lineage.grantors.len()) > GENERATIONS {
            return Err(Failure::coded(Kind::Forbidden, "FORBIDDEN"));
        }
        Ok(lineage)
    }
}

/// The earlier of two ends; `None` is never.
fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
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
            lineage: Lineage::default(),
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
        can_login: user.can_login,
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
    let asked = grant
        .lifetime_seconds
        .map(|seconds| now.plus_millis(seconds * 1000));
    let expire_at = earlier(asked, grant.lineage.ends);
    let lifetime = expire_at.map_or(FOR_EVER, |end| end.as_seconds() - now.as_seconds());
    let claims = Claims {
        extra: grant.permissions.clone(),
        version: user.updated_at,
        grantors: grant.lineage.grantors.clone(),
        ancestors: grant.lineage.ancestors.clone(),
        ..Claims::new(&caller, now, lifetime)
    };
    let signed = state.signer.sign(&claims).map_err(Failure::internal)?;
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
        expire_at,
    };
    state.store.add_token(token, grant.lineage).await?;
    // Who was locked, deleted or given another password while this went on had its tokens ended before this one was there.
    let present = state.store.user(&Visibility::All, user.id.as_str()).await?;
    let is_as_before = match &present {
        Some(present) => {
            present.password_hash == record.password_hash
                && present.user.can_login == user.can_login
                && may_work(state, present).await?
        }
        None => false,
    };
    if !is_as_before {
        state.store.revoke_token(&Visibility::All, &id).await?;
        return Err(Failure::coded(Kind::Unauthenticated, "ENTITY_DISABLED"));
    }
    Ok(AccessToken {
        token: signed,
        id: id.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: &str, expire_at: Option<i64>, lineage: Lineage) -> TokenRecord {
        let account = UserId::from("u");
        TokenRecord {
            token: Token {
                id: TokenId::from(id),
                account_id: account.clone(),
                tenant: None,
                initiator: account,
                inquirer: String::new(),
                kind: TokenKind::Persistent,
                purpose: String::new(),
                description: String::new(),
                permissions: Vec::new(),
                created_at: Timestamp::from_millis(0),
                expire_at: expire_at.map(Timestamp::from_millis),
            },
            revoked: false,
            lineage,
        }
    }

    #[test]
    fn a_child_ends_with_the_first_of_its_ancestors_and_is_bounded_by_all_who_made_them() {
        let first = token("1", Some(5000), Lineage::default());
        let one = Lineage::of_child(&first, &UserId::from("a"), true).unwrap();
        let second = token("2", None, one);
        let two = Lineage::of_child(&second, &UserId::from("b"), true).unwrap();
        assert_eq!(two.ancestors, [TokenId::from("1"), TokenId::from("2")]);
        assert_eq!(two.grantors, [UserId::from("a"), UserId::from("b")]);
        assert_eq!(two.ends, Some(Timestamp::from_millis(5000)));
        let free = Lineage::of_child(&first, &UserId::from("a"), false).unwrap();
        assert_eq!((free.ancestors.len(), free.ends), (0, None));
        assert_eq!(first.lifetime_seconds(), Some(5));
        assert_eq!(second.lifetime_seconds(), None);
    }

    #[test]
    fn generations_are_bounded() {
        let mut lineage = Lineage::default();
        for generation in 0..GENERATIONS {
            let parent = token(&generation.to_string(), None, lineage);
            lineage = Lineage::of_child(&parent, &UserId::from("a"), true).unwrap();
        }
        let parent = token("last", None, lineage);
        assert!(Lineage::of_child(&parent, &UserId::from("a"), true).is_err());
    }
}
