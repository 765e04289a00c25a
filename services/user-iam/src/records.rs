//! What is stored: users, tokens, roles and tenants as documents.

use flowmate_common::{
    Timestamp,
    auth::{AccountAccess, RoleAccess, TenantAccess},
    ids::{RoleId, TenantId, TokenId, UserId},
    model::{AccountStatus, Role, Tenant, Token, User},
};
use flowmate_storage::{CollectionSpec, Document, Field};
use serde::{Deserialize, Serialize};

/// A user as it is stored.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UserRecord {
    /// Without its roles, which are looked up.
    pub(crate) user: User,
    pub(crate) role_ids: Vec<RoleId>,
    /// See [`unique_name`].
    pub(crate) unique_name: String,
    /// See [`tenant_name`]. Absent where the user was stored before there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tenant_name: Option<String>,
    /// PHC string; never leaves this service.
    pub(crate) password_hash: Option<String>,
}

impl UserRecord {
    /// What others have to know of its rights.
    pub(crate) fn access(&self) -> AccountAccess {
        let user = &self.user;
        AccountAccess {
            id: user.id.clone(),
            version: user.updated_at,
            active: user.status == AccountStatus::Active,
            tenant: user.tenant.clone(),
            username: user.username.clone(),
            can_login: user.can_login,
            permissions: user.permissions.clone(),
            roles: self.role_ids.clone(),
        }
    }
}

/// The name that must not occur twice: of all who log in, and of a tenant's other users, since two partners may well
/// call two users by the same id.
pub(crate) fn unique_name(username: &str, can_login: bool, tenant: Option<&TenantId>) -> String {
    match tenant {
        Some(tenant) if !can_login => format!("{tenant}/{username}"),
        _ => format!("/{username}"),
    }
}

/// The name that must not occur twice in a tenant, whether with it one logs in or not.
pub(crate) fn tenant_name(username: &str, tenant: Option<&TenantId>) -> Option<String> {
    tenant.map(|tenant| format!("{tenant}/{username}"))
}

impl UserRecord {
    /// To be called after its name, its tenant or whether it logs in has changed.
    pub(crate) fn rename(&mut self) {
        let User {
            username,
            can_login,
            tenant,
            ..
        } = &self.user;
        self.unique_name = unique_name(username, *can_login, tenant.as_ref());
        self.tenant_name = tenant_name(username, tenant.as_ref());
    }
}

impl Document for UserRecord {
    const SPEC: &'static CollectionSpec = &CollectionSpec {
        name: "users",
        fields: &[
            Field {
                name: "uniqueName",
                path: "$.uniqueName",
            },
            Field {
                name: "tenantName",
                path: "$.tenantName",
            },
            Field {
                name: "username",
                path: "$.user.username",
            },
            Field {
                name: "tenant",
                path: "$.user.tenant",
            },
        ],
        unique: &["uniqueName", "tenantName"],
    };

    fn id(&self) -> &str {
        self.user.id.as_str()
    }

    fn owners(&self) -> Vec<String> {
        owners(Some(&self.user.id), self.user.tenant.as_ref())
    }
}

/// A token as it is stored: never the token itself.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct TokenRecord {
    pub(crate) token: Token,
    pub(crate) revoked: bool,
    #[serde(default)]
    pub(crate) lineage: Lineage,
}

/// What a token depends on besides its account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Lineage {
    /// The tokens that it ends with.
    pub(crate) ancestors: Vec<TokenId>,
    /// Whose rights bound its own.
    pub(crate) grantors: Vec<UserId>,
    /// When the first of its ancestors ends on its own.
    pub(crate) ends: Option<Timestamp>,
}

impl TokenRecord {
    /// When nothing has to be known of it any more.
    pub(crate) fn ends(&self) -> Timestamp {
        self.token.expire_at.unwrap_or(Timestamp::MAX)
    }

    /// The seconds that were asked for; `None`: for ever.
    pub(crate) fn lifetime_seconds(&self) -> Option<i64> {
        let (from, until) = (self.token.created_at, self.token.expire_at?);
        Some((until.as_millis() - from.as_millis()) / 1000)
    }
}

impl Document for TokenRecord {
    const SPEC: &'static CollectionSpec = &CollectionSpec {
        name: "tokens",
        fields: &[Field {
            name: "revoked",
            path: "$.revoked",
        }],
        unique: &[],
    };

    fn id(&self) -> &str {
        self.token.id.as_str()
    }

    fn owners(&self) -> Vec<String> {
        owners(Some(&self.token.account_id), self.token.tenant.as_ref())
    }
}

/// A role as it is stored.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RoleRecord {
    pub(crate) role: Role,
    /// Where it counts, and its name. Absent where the role was stored before there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unique_name: Option<String>,
}

impl RoleRecord {
    pub(crate) fn new(role: Role) -> Self {
        let mut record = Self {
            role,
            unique_name: None,
        };
        record.rename();
        record
    }

    /// To be called after its name has changed.
    pub(crate) fn rename(&mut self) {
        let Role {
            name,
            tenant,
            is_global,
            ..
        } = &self.role;
        let place = match tenant {
            _ if *is_global => "*",
            Some(tenant) => tenant.as_str(),
            None => "",
        };
        self.unique_name = Some(format!("{place}/{name}"));
    }

    /// What others have to know of it.
    pub(crate) fn access(&self) -> RoleAccess {
        let role = &self.role;
        RoleAccess {
            id: role.id.clone(),
            version: role.updated_at,
            tenant: role.tenant.clone(),
            is_global: role.is_global,
            permissions: role.permissions.clone(),
        }
    }
}

impl Document for RoleRecord {
    const SPEC: &'static CollectionSpec = &CollectionSpec {
        name: "roles",
        fields: &[
            Field {
                name: "isGlobal",
                path: "$.role.isGlobal",
            },
            Field {
                name: "uniqueName",
                path: "$.uniqueName",
            },
        ],
        unique: &["uniqueName"],
    };

    fn id(&self) -> &str {
        self.role.id.as_str()
    }

    fn owners(&self) -> Vec<String> {
        owners(None, self.role.tenant.as_ref())
    }
}

/// A tenant as it is stored.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct TenantRecord {
    pub(crate) tenant: Tenant,
    /// A key that the tenant brought (contract 4.2, `/tenants/{id}/key`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
}

impl TenantRecord {
    /// What others have to know of it.
    pub(crate) fn access(&self) -> TenantAccess {
        TenantAccess {
            id: self.tenant.id.clone(),
            version: self.tenant.updated_at,
            open: self.tenant.status == AccountStatus::Active,
        }
    }
}

impl Document for TenantRecord {
    const SPEC: &'static CollectionSpec = &CollectionSpec {
        name: "tenants",
        fields: &[],
        unique: &[],
    };

    fn id(&self) -> &str {
        self.tenant.id.as_str()
    }

    fn owners(&self) -> Vec<String> {
        owners(None, Some(&self.tenant.id))
    }
}

fn owners(user: Option<&UserId>, tenant: Option<&TenantId>) -> Vec<String> {
    let user = user.map(UserId::to_string);
    user.into_iter().chain(tenant.map(TenantId::to_string)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_among_who_logs_in_and_inside_each_tenant() {
        let (one, two) = (TenantId::from("1"), TenantId::from("2"));
        let name = |can_login, tenant| unique_name("ada", can_login, tenant);
        assert_eq!(name(true, Some(&one)), name(true, Some(&two)));
        assert_ne!(name(false, Some(&one)), name(false, Some(&two)));
        assert_ne!(name(false, Some(&one)), name(true, Some(&one)));
        assert_eq!(tenant_name("ada", Some(&one)), Some("1/ada".into()));
        assert_eq!(tenant_name("ada", None), None);
    }
}
