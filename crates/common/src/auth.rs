//! Who is calling, what they may do and what they may see.

mod access;
mod permission;
mod service;
mod token;

use serde::{Deserialize, Serialize};

pub use access::{Access, AccessChange, AccessSnapshot, AccountAccess, RoleAccess, TenantAccess};
pub use permission::*;
pub use service::ServiceTokens;
pub use token::{Claims, Revocations, TokenError, TokenSigner, TokenVerifier};

use crate::{
    ids::{TenantId, TokenId, UserId},
    model::{Owner, OwnerKind},
};

/// The authenticated caller of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The user.
    pub user: UserId,
    /// The external id.
    pub username: String,
    /// The tenant the user belongs to; system administrators may have none.
    pub tenant: Option<TenantId>,
    /// Effective permissions.
    pub permissions: Vec<String>,
    /// Whether the account can log in; those that cannot are the end users of a partner.
    pub can_login: bool,
    /// The token the request came with.
    pub token: TokenId,
}

impl Caller {
    /// Whether the caller may do everything everywhere.
    pub fn is_admin(&self) -> bool {
        self.has("all")
    }

    /// Whether the caller may do everything inside the own tenant.
    pub fn is_tenant_admin(&self) -> bool {
        self.tenant.is_some() && self.has("tenant.all")
    }

    /// Whether the caller has that permission, one way or another (contract 1.5).
    pub fn may<P: Permission>(&self) -> bool {
        self.is_admin()
            || (self.is_tenant_admin() && !P::RESTRICTED)
            || P::ANY_OF.is_empty()
            || P::ANY_OF.iter().any(|permission| self.has(permission))
    }

    /// Whether the caller may give somebody these permissions: system administrators all, tenant administrators what
    /// does not go beyond a tenant, others of these what they have themselves.
    pub fn may_grant(&self, permissions: &[String]) -> bool {
        self.is_admin()
            || permissions
                .iter()
                .all(|permission| is_common(permission) && (self.is_tenant_admin() || self.has(permission)))
    }

    /// Whether the caller could do all that these permissions allow: who acts for somebody must not get more by it.
    pub fn covers(&self, permissions: &[String]) -> bool {
        permissions.iter().all(|permission| self.covers_one(permission))
    }

    pub(crate) fn covers_one(&self, permission: &str) -> bool {
        self.is_admin()
            || self.has(permission)
            || implied_by(permission).iter().any(|other| self.has(other))
            || (self.is_tenant_admin() && is_common(permission))
    }

    fn has(&self, permission: &str) -> bool {
        self.permissions.iter().any(|granted| granted == permission)
    }

    /// Which documents the caller may see: those that the user or the tenant owns (contract 1.6).
    pub fn visibility(&self) -> Visibility {
        if self.is_admin() {
            return Visibility::All;
        }
        let tenant = self.tenant.iter().map(TenantId::to_string);
        Visibility::OwnedBy(std::iter::once(self.user.to_string()).chain(tenant).collect())
    }

    /// The owners of what the caller creates: the user always, the tenant where there is one (contract 3.4).
    pub fn owners(&self) -> Vec<Owner> {
        let user = Owner {
            id: self.user.to_string(),
            kind: OwnerKind::User,
        };
        let tenant = self.tenant.iter().map(|id| Owner {
            id: id.to_string(),
            kind: OwnerKind::Tenant,
        });
        std::iter::once(user).chain(tenant).collect()
    }
}

/// Which documents a query may touch. Every store method takes one: what is not visible does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Everything: system administrators, and the services themselves.
    All,
    /// What one of these users or tenants owns.
    OwnedBy(Vec<String>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(permissions: &[&str], tenant: Option<&str>) -> Caller {
        Caller {
            user: UserId::from("u"),
            username: "u".into(),
            tenant: tenant.map(TenantId::from),
            permissions: permissions.iter().map(ToString::to_string).collect(),
            can_login: true,
            token: TokenId::from("t"),
        }
    }

    #[test]
    fn synonyms_grant_the_same() {
        assert!(caller(&["templates.read"], None).may::<TemplatesRead>());
        assert!(caller(&["flowTemplates.read"], None).may::<TemplatesRead>());
        assert!(caller(&["flows.write"], None).may::<FlowsDelete>());
        assert!(caller(&["flows.delete"], None).may::<FlowsDelete>());
        assert!(!caller(&["flows.delete"], None).may::<FlowsUpdate>());
    }

    #[test]
    fn a_tenant_administrator_needs_a_tenant() {
        assert!(caller(&["tenant.all"], Some("t")).may::<FlowsRead>());
        assert!(!caller(&["tenant.all"], None).may::<FlowsRead>());
        assert!(!caller(&["tenant.all"], Some("t")).may::<TenantsCreate>());
        assert!(caller(&["iam.tenant.create"], Some("t")).may::<TenantsCreate>());
    }

    #[test]
    fn who_covers_somebody_could_do_all_that_they_can() {
        let covers = |own: &[&str], tenant, theirs: &str| caller(own, tenant).covers(&[theirs.to_owned()]);
        assert!(covers(&["all"], None, "all"));
        assert!(!covers(&["tenant.all"], Some("t"), "all"));
        assert!(covers(&["tenant.all"], Some("t"), "tenant.all"));
        assert!(covers(&["tenant.all"], Some("t"), "made.up"));
        assert!(!covers(&["tenant.all"], Some("t"), "iam.token.create"));
        assert!(covers(&["iam.token.create"], None, "iam.token.create"));
        assert!(!covers(&["tenant.account.update"], Some("t"), "tenant.all"));
        assert!(covers(&["flows.write"], None, "flows.create"));
        assert!(!covers(&["flows.create"], None, "flows.write"));
    }

    #[test]
    fn only_administrators_see_everything() {
        assert_eq!(caller(&["all"], Some("t")).visibility(), Visibility::All);
        assert_eq!(
            caller(&["tenant.all"], Some("t")).visibility(),
            Visibility::OwnedBy(vec!["u".into(), "t".into()])
        );
    }
}
