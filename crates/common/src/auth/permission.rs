//! Permissions as types, so that a handler's signature says what it needs.

/// What a request needs: any one of these synonyms (contract 1.5).
pub trait Permission {
    /// The synonyms; an empty list asks only for a valid token.
    const ANY_OF: &'static [&'static str];
    /// Whether an administrator of a tenant needs to have it granted as everybody else: what goes beyond a tenant.
    const RESTRICTED: bool;
}

macro_rules! permissions {
    ($restricted:literal; $($(#[$doc:meta])* $name:ident = [$($permission:literal),*]),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name;
        impl Permission for $name {
            const ANY_OF: &'static [&'static str] = &[$($permission),*];
            const RESTRICTED: bool = $restricted;
        }
    )+};
}

permissions! { false;
    /// Any valid token.
    Authenticated = [],
    /// List and get flows.
    FlowsRead = ["flows.read", "tenant.flows.read"],
    /// Create flows, also from templates.
    FlowsCreate = ["flows.write", "flows.create", "tenant.flows.create"],
    /// Change flows.
    FlowsUpdate = ["flows.write", "flows.update", "tenant.flows.update"],
    /// Create many flows at once.
    FlowsBulkCreate = ["flows.bulk"],
    /// Change many flows at once.
    FlowsBulkUpdate = ["flows.bulk", "flows.write", "flows.update", "tenant.flows.update"],
    /// Delete flows.
    FlowsDelete = ["flows.write", "flows.delete", "tenant.flows.delete"],
    /// Start and stop flows.
    FlowsControl = ["flows.control"],
    /// List and get templates.
    TemplatesRead = ["templates.read", "flowTemplates.read"],
    /// Create, change and delete templates.
    TemplatesWrite = ["templates.write", "flowTemplates.write"],
    /// List and get users.
    UsersRead = ["tenant.account.read", "iam.account.read"],
    /// Create users.
    UsersCreate = ["tenant.account.create", "iam.account.create"],
    /// Change users.
    UsersUpdate = ["tenant.account.update", "iam.account.update"],
    /// Delete users.
    UsersDelete = ["iam.account.delete", "tenant.account.delete"],
    /// List and get roles.
    RolesRead = ["tenant.roles.read"],
    /// Create roles.
    RolesCreate = ["tenant.roles.create"],
    /// Change roles.
    RolesUpdate = ["tenant.roles.update"],
    /// Delete roles.
    RolesDelete = ["tenant.roles.delete"],
    /// Get the own tenant.
    TenantsRead = ["iam.tenant.read", "tenant.profile.read"],
    /// Change the own tenant.
    TenantsUpdate = ["iam.tenant.update", "tenant.profile.update"],
    /// Take users out of the own tenant.
    MembersDelete = ["tenant.membership.delete"],
    /// Create tokens for accounts, and impersonate users.
    TokensCreate = ["iam.token.create"],
    /// List, get and introspect tokens.
    TokensRead = ["iam.token.introspect"],
    /// End tokens.
    TokensDelete = ["iam.token.delete"],
    /// Call protected webhooks.
    WebhooksExecute = ["webhooks.execute"],
    /// Executions, their logs, and usage counts.
    ExecutionsRead = ["icenter.read", "flows.read", "tenant.flows.read"],
    /// List and get components.
    ComponentsRead = [],
    /// Create components.
    ComponentsCreate = ["components.write", "components.create"],
    /// Change components.
    ComponentsUpdate = ["components.write", "components.update"],
    /// Delete components.
    ComponentsDelete = ["components.write", "components.delete"],
}

permissions! { true;
    /// Create tenants.
    TenantsCreate = ["iam.tenant.create"],
    /// Delete tenants.
    TenantsDelete = ["iam.tenant.delete"],
    /// See the keys that tenants brought.
    KeysRead = ["iam.key.read"],
    /// Store them.
    KeysCreate = ["iam.key.create"],
    /// Remove them.
    KeysDelete = ["iam.key.delete"],
    /// What concerns the whole system: system administrators only.
    SystemAdministration = ["all"],
}

/// Permissions that whoever administers a tenant may grant (contract 1.5). Others that do not go beyond a tenant may be
/// granted as well: partners use names of their own.
pub const COMMON: &[&str] = &[
    "tenant.all",
    "tenant.account.read",
    "tenant.account.create",
    "tenant.account.update",
    "tenant.account.delete",
    "tenant.membership.create",
    "tenant.membership.update",
    "tenant.membership.delete",
    "tenant.profile.read",
    "tenant.profile.update",
    "tenant.profile.delete",
    "tenant.roles.read",
    "tenant.roles.create",
    "tenant.roles.update",
    "tenant.roles.delete",
    "tenant.flows.read",
    "tenant.flows.create",
    "tenant.flows.update",
    "tenant.flows.delete",
    "flows.read",
    "flows.write",
    "flows.create",
    "flows.update",
    "flows.delete",
    "flows.control",
    "flows.bulk",
    "templates.read",
    "templates.write",
    "templates.control",
    "components.read",
    "components.write",
    "icenter.read",
    "icenter.write",
    "secrets.create",
    "secrets.read",
    "secrets.delete",
    "webhooks.execute",
];

/// Permissions that only system administrators grant (contract 1.5).
pub const RESTRICTED: &[&str] = &[
    "all",
    "iam.tenant.create",
    "iam.tenant.read",
    "iam.tenant.update",
    "iam.tenant.delete",
    "iam.secret.create",
    "iam.secret.read",
    "iam.key.create",
    "iam.key.read",
    "iam.key.delete",
    "iam.account.create",
    "iam.account.read",
    "iam.account.update",
    "iam.account.delete",
    "iam.token.create",
    "iam.token.update",
    "iam.token.delete",
    "iam.token.introspect",
    "secrets.secret.readRaw",
];

/// What end users made by impersonation may do: the set that FlowMate shows (contract 1.5), and creating flows, which
/// generating one from a template is.
pub const END_USER: &[&str] = &[
    "flows.read",
    "flows.create",
    "tenant.flows.update",
    "flows.update",
    "flows.delete",
    "flows.control",
    "icenter.read",
    "icenter.write",
    "secrets.create",
    "secrets.read",
    "secrets.delete",
    "templates.read",
    "components.read",
    "components.write",
];

/// The permissions that somebody who is not a system administrator may grant (contract 2.3, POST /users).
pub fn is_common(permission: &str) -> bool {
    permission != "all" && !permission.starts_with("iam.") && permission != "secrets.secret.readRaw"
}

/// The permissions that allow what this one allows, and maybe more.
pub(super) fn implied_by(permission: &str) -> &'static [&'static str] {
    match permission {
        "flows.create" | "flows.update" | "flows.delete" => &["flows.write"],
        "flowTemplates.read" => &["templates.read"],
        "flowTemplates.write" => &["templates.write"],
        "templates.read" => &["flowTemplates.read"],
        "templates.write" => &["flowTemplates.write"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_and_the_rule_agree() {
        assert!(COMMON.iter().all(|permission| is_common(permission)));
        assert!(!RESTRICTED.iter().any(|permission| is_common(permission)));
        assert!(END_USER.iter().all(|permission| is_common(permission)));
    }
}
