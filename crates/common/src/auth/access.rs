//! What accounts may do now, in every process: a view of accounts, roles and tenants that events keep. A token says who
//! calls; what it says of rights counts only where it is newer than the view.

use std::{collections::HashMap, hash::Hash};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::{Caller, Claims, TokenError};
use crate::{
    Timestamp,
    ids::{RoleId, TenantId, UserId},
};

/// Seconds that the clocks of two replicas of user-iam may differ.
const SKEW: i64 = 10;

/// An account's rights as they are stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccountAccess {
    /// The account.
    pub id: UserId,
    /// Grows with every change.
    pub version: Timestamp,
    /// Whether it may work; an account that is deleted may not.
    pub active: bool,
    /// Where it belongs.
    pub tenant: Option<TenantId>,
    /// The external id.
    pub username: String,
    /// Whether it can log in.
    pub can_login: bool,
    /// Its own permissions, without those of its roles.
    pub permissions: Vec<String>,
    /// Its roles.
    pub roles: Vec<RoleId>,
}

/// A role as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoleAccess {
    /// The role.
    pub id: RoleId,
    /// Grows with every change.
    pub version: Timestamp,
    /// The tenant whose accounts it counts for; `None` where it is global.
    pub tenant: Option<TenantId>,
    /// Whether it counts for all tenants.
    pub is_global: bool,
    /// What it allows; nothing after its end.
    pub permissions: Vec<String>,
}

impl RoleAccess {
    /// Whether accounts of that tenant get anything of it: who changed the tenant has left the old one's roles.
    pub fn counts_in(&self, tenant: Option<&TenantId>) -> bool {
        self.is_global || self.tenant.as_ref() == tenant
    }
}

/// A tenant as far as its accounts are concerned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TenantAccess {
    /// The tenant.
    pub id: TenantId,
    /// Grows with every change.
    pub version: Timestamp,
    /// Whether its accounts may work.
    pub open: bool,
}

/// Body of `iam.access.changed`: what is stored from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AccessChange {
    /// Of an account.
    Account(AccountAccess),
    /// Of a role.
    Role(RoleAccess),
    /// Of a tenant.
    Tenant(TenantAccess),
}

/// All that is stored.
#[derive(Debug, Serialize, Deserialize)]
pub struct AccessSnapshot {
    /// Accounts made before this moment are in it.
    pub as_of: Timestamp,
    /// The newest version of all, also of what is no longer there.
    pub latest: Timestamp,
    /// What is stored, in any order.
    pub stored: Vec<AccessChange>,
}

/// Milliseconds without a word of user-iam after which nobody knows what is stored.
const PATIENCE_MILLIS: i64 = 30_000;

/// Something with a version.
trait Versioned {
    fn version(&self) -> Timestamp;
}

macro_rules! versioned {
    ($($name:ident),+) => {$(
        impl Versioned for $name {
            fn version(&self) -> Timestamp {
                self.version
            }
        }
    )+};
}

impl Versioned for AccessChange {
    fn version(&self) -> Timestamp {
        match self {
            Self::Account(account) => account.version,
            Self::Role(role) => role.version,
            Self::Tenant(tenant) => tenant.version,
        }
    }
}

versioned!(AccountAccess, RoleAccess, TenantAccess);

/// The view.
#[derive(Debug, Default)]
pub struct Access(RwLock<Stored>);

#[derive(Debug, Default)]
struct Stored {
    /// Accounts that are older than this and unknown do not exist. `None`: nothing was loaded yet.
    as_of: Option<Timestamp>,
    /// The newest version of all.
    latest: Timestamp,
    /// When user-iam was last heard of. `None`: it is in this process.
    heard: Option<Timestamp>,
    accounts: HashMap<UserId, AccountAccess>,
    roles: HashMap<RoleId, RoleAccess>,
    tenants: HashMap<TenantId, TenantAccess>,
}

/// Events may come again and late: what is known and as new stays.
fn put<K: Eq + Hash, V: Versioned>(map: &mut HashMap<K, V>, key: K, value: V) {
    if map
        .get(&key)
        .is_none_or(|known| known.version() < value.version())
    {
        map.insert(key, value);
    }
}

impl Access {
    /// Learns what is stored from now on.
    pub fn apply(&self, change: AccessChange) {
        self.0.write().apply(change);
    }

    /// Learns what was stored before this process watched. Changes have to be watched by then.
    pub fn load(&self, snapshot: AccessSnapshot) {
        self.0.write().load(snapshot);
    }

    /// The newest version that is known: as much as user-iam knows, unless events are on their way.
    pub fn latest(&self) -> Timestamp {
        self.0.read().latest
    }

    /// User-iam is in another process: from now on it has to be heard of again and again.
    pub fn follow(&self, now: Timestamp) {
        self.0.write().heard = Some(now);
    }

    /// User-iam was heard of.
    pub fn heard(&self, now: Timestamp) {
        let mut stored = self.0.write();
        stored.heard = stored.heard.map(|before| before.max(now));
    }

    /// Milliseconds since user-iam was heard of.
    fn silence(&self, now: Timestamp) -> i64 {
        let heard = self.0.read().heard;
        heard.map_or(0, |heard| now.as_millis() - heard.as_millis())
    }

    /// Whether so long nothing was heard that rights may have been taken meanwhile.
    pub(super) fn is_stale(&self, now: Timestamp) -> bool {
        self.silence(now) > PATIENCE_MILLIS
    }

    /// Gives the caller the rights that are stored now. Refused where the account may not work.
    pub(super) fn present(&self, claims: Claims) -> Result<Caller, TokenError> {
        self.0.read().present(claims)
    }
}

impl Stored {
    /// What is known and old and not in the snapshot was deleted.
    fn load(&mut self, snapshot: AccessSnapshot) {
        let oldest = snapshot.as_of.plus_millis(-1000 * SKEW);
        self.accounts.retain(|_, account| account.version >= oldest);
        self.roles.retain(|_, role| role.version >= oldest);
        self.tenants.retain(|_, tenant| tenant.version >= oldest);
        for change in snapshot.stored {
            self.apply(change);
        }
        self.latest = self.latest.max(snapshot.latest);
        self.as_of = Some(snapshot.as_of);
    }

    fn apply(&mut self, change: AccessChange) {
        self.latest = self.latest.max(change.version());
        match change {
            AccessChange::Account(account) => put(&mut self.accounts, account.id.clone(), account),
            AccessChange::Role(role) => put(&mut self.roles, role.id.clone(), role),
            AccessChange::Tenant(tenant) => put(&mut self.tenants, tenant.id.clone(), tenant),
        }
    }

    fn present(&self, claims: Claims) -> Result<Caller, TokenError> {
        let mut caller = self.account(&claims)?;
        for grantor in &claims.grantors {
            let grantor = self.grantor(grantor, &claims)?;
            if let Some(grantor) = grantor {
                caller
                    .permissions
                    .retain(|permission| grantor.covers_one(permission));
            }
        }
        Ok(caller)
    }

    /// The account that the token is of, with what the token allows beyond it.
    fn account(&self, claims: &Claims) -> Result<Caller, TokenError> {
        let known = self.known(&claims.sub, claims)?;
        let Some(account) = known.filter(|account| account.version >= claims.version) else {
            return Ok(Caller {
                user: claims.sub.clone(),
                username: claims.username.clone(),
                tenant: claims.tenant.clone(),
                permissions: claims.permissions.clone(),
                can_login: claims.can_login,
                token: claims.jti.clone(),
            });
        };
        let mut caller = self.caller(account);
        caller.permissions.extend(claims.extra.iter().cloned());
        caller.token = claims.jti.clone();
        Ok(caller)
    }

    /// Who made the token, as far as that is known.
    fn grantor(&self, id: &UserId, claims: &Claims) -> Result<Option<Caller>, TokenError> {
        Ok(self.known(id, claims)?.map(|account| self.caller(account)))
    }

    /// An account that may work. `None`: it is newer than what is known.
    fn known(&self, id: &UserId, claims: &Claims) -> Result<Option<&AccountAccess>, TokenError> {
        let Some(account) = self.accounts.get(id) else {
            let is_old = |as_of: Timestamp| claims.iat < as_of.as_seconds() - SKEW;
            return if self.as_of.is_some_and(is_old) {
                Err(TokenError::Revoked)
            } else {
                Ok(None)
            };
        };
        // A tenant that nobody registered is only a name.
        let tenant = account.tenant.as_ref().and_then(|id| self.tenants.get(id));
        if account.active && tenant.is_none_or(|tenant| tenant.open) {
            Ok(Some(account))
        } else {
            Err(TokenError::Revoked)
        }
    }

    fn caller(&self, account: &AccountAccess) -> Caller {
        let mut permissions = account.permissions.clone();
        let roles = account.roles.iter().filter_map(|id| self.roles.get(id));
        for role in roles.filter(|role| role.counts_in(account.tenant.as_ref())) {
            permissions.extend(role.permissions.iter().cloned());
        }
        Caller {
            user: account.id.clone(),
            username: account.username.clone(),
            tenant: account.tenant.clone(),
            permissions,
            can_login: account.can_login,
            token: "".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TokenId;

    fn account(version: i64, permissions: &[&str]) -> AccountAccess {
        AccountAccess {
            id: UserId::from("u"),
            version: Timestamp::from_millis(version),
            active: true,
            tenant: Some(TenantId::from("t")),
            username: "ada".into(),
            can_login: true,
            permissions: permissions.iter().map(ToString::to_string).collect(),
            roles: vec![RoleId::from("r")],
        }
    }

    fn role(version: i64, tenant: &str, permissions: &[&str]) -> AccessChange {
        AccessChange::Role(RoleAccess {
            id: RoleId::from("r"),
            version: Timestamp::from_millis(version),
            tenant: Some(TenantId::from(tenant)),
            is_global: false,
            permissions: permissions.iter().map(ToString::to_string).collect(),
        })
    }

    fn tenant(version: i64, open: bool) -> AccessChange {
        AccessChange::Tenant(TenantAccess {
            id: TenantId::from("t"),
            version: Timestamp::from_millis(version),
            open,
        })
    }

    /// A token that was issued at second 100 for what was stored at `version`.
    fn claims(version: i64, permissions: &[&str]) -> Claims {
        let caller = Caller {
            user: UserId::from("u"),
            username: "ada".into(),
            tenant: Some(TenantId::from("t")),
            permissions: permissions.iter().map(ToString::to_string).collect(),
            can_login: true,
            token: TokenId::from("j"),
        };
        let mut claims = Claims::new(&caller, Timestamp::from_millis(100_000), 60);
        claims.version = Timestamp::from_millis(version);
        claims
    }

    fn permissions(access: &Access, claims: Claims) -> Vec<String> {
        access.present(claims).map(|caller| caller.permissions).unwrap()
    }

    #[test]
    fn what_is_stored_counts_whatever_the_token_says() {
        let access = Access::default();
        assert_eq!(permissions(&access, claims(1, &["all"])), ["all"]);
        access.apply(AccessChange::Account(account(2, &["flows.read"])));
        assert_eq!(permissions(&access, claims(1, &["all"])), ["flows.read"]);
        // An event that comes late changes nothing.
        access.apply(AccessChange::Account(account(1, &["all"])));
        assert_eq!(permissions(&access, claims(1, &["all"])), ["flows.read"]);
        // A token that is newer than what this process heard of.
        assert_eq!(permissions(&access, claims(3, &["flows.write"])), ["flows.write"]);
    }

    #[test]
    fn roles_count_while_they_are_there_and_in_their_tenant_only() {
        let access = Access::default();
        access.apply(AccessChange::Account(account(1, &[])));
        access.apply(role(1, "t", &["flows.read"]));
        assert_eq!(permissions(&access, claims(1, &[])), ["flows.read"]);
        access.apply(role(2, "t", &[]));
        assert!(permissions(&access, claims(1, &["flows.read"])).is_empty());
        access.apply(role(3, "other", &["flows.read"]));
        assert!(permissions(&access, claims(1, &[])).is_empty());
    }

    #[test]
    fn who_may_not_work_is_refused_also_with_a_newer_token() {
        let access = Access::default();
        access.apply(AccessChange::Account(account(1, &["flows.read"])));
        access.apply(tenant(1, true));
        assert!(access.present(claims(1, &[])).is_ok());
        access.apply(tenant(2, false));
        assert!(access.present(claims(1, &[])).is_err());
        access.apply(tenant(3, true));
        let gone = AccountAccess {
            active: false,
            ..account(2, &[])
        };
        access.apply(AccessChange::Account(gone));
        assert!(access.present(claims(9, &["all"])).is_err());
    }

    #[test]
    fn an_account_that_is_unknown_and_old_does_not_exist() {
        let access = Access::default();
        let load = |seconds: i64| AccessSnapshot {
            as_of: Timestamp::from_millis(seconds * 1000),
            latest: Timestamp::default(),
            stored: Vec::new(),
        };
        access.load(load(100));
        assert!(access.present(claims(1, &[])).is_ok(), "made since");
        access.load(load(200));
        assert!(
            access.present(claims(1, &[])).is_err(),
            "made before and not there"
        );
    }

    #[test]
    fn who_hears_nothing_for_half_a_minute_does_not_know_what_is_stored() {
        let access = Access::default();
        let at = Timestamp::from_millis;
        assert!(!access.is_stale(at(1_000_000)), "user-iam is in this process");
        access.heard(at(1));
        assert!(!access.is_stale(at(1_000_000)));
        access.follow(at(1000));
        access.heard(at(500));
        assert!(!access.is_stale(at(31_000)));
        assert!(access.is_stale(at(31_001)));
        access.heard(at(31_001));
        assert!(!access.is_stale(at(31_002)));
        access.apply(tenant(7, true));
        access.apply(tenant(3, true));
        assert_eq!(access.latest(), at(7));
    }

    #[test]
    fn a_token_that_others_made_allows_what_they_all_may() {
        let access = Access::default();
        access.apply(AccessChange::Account(account(1, &["flows.read", "flows.write"])));
        let grantor = |version, active, permissions: &[&str]| {
            AccessChange::Account(AccountAccess {
                id: UserId::from("g"),
                active,
                ..account(version, permissions)
            })
        };
        access.apply(grantor(1, true, &["tenant.all"]));
        let made = || Claims {
            extra: vec!["flows.bulk".into(), "iam.token.create".into()],
            grantors: vec![UserId::from("g")],
            ..claims(1, &[])
        };
        assert_eq!(
            permissions(&access, made()),
            ["flows.read", "flows.write", "flows.bulk"]
        );
        access.apply(grantor(2, true, &["flows.read"]));
        assert_eq!(permissions(&access, made()), ["flows.read"]);
        access.apply(grantor(3, false, &["flows.read"]));
        assert!(access.present(made()).is_err());
    }
}
