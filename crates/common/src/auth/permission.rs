//! Permissions as types, so that a handler's signature says what it needs.

/// What a request needs: any one of these synonyms (contract 1.5).
pub trait Permission {
    /// The synonyms; an empty list asks only for a valid token.
    const ANY_OF: &'static [&'static str];
}

macro_rules! permissions {
    ($($(#[$doc:meta])* $name:ident = [$($permission:literal),*]),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name;
        impl Permission for $name {
            const ANY_OF: &'static [&'static str] = &[$($permission),*];
        }
    )+};
}

permissions! {
    /// Any valid token.
    Authenticated = [],
    /// List and get flows.
    FlowsRead = ["flows.read", "tenant.flows.read"],
    /// Create flows, also from templates.
    FlowsCreate = ["flows.write", "flows.create", "tenant.flows.create"],
    /// Change flows.
    FlowsUpdate = ["flows.write", "flows.update", "tenant.flows.update"],
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
    /// Executions and usage counts.
    ExecutionsRead = ["icenter.read", "flows.read", "tenant.flows.read"],
    /// The component list.
    ComponentsRead = [],
}

/// The permissions that somebody who is not a system administrator may grant (contract 2.3, POST /users).
pub fn is_common(permission: &str) -> bool {
    permission != "all" && !permission.starts_with("iam.")
}
