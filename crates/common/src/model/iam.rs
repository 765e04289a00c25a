//! Tenants, roles and tokens (contract 3.6, 4.2; the reference's IAM models).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AccountStatus;
use crate::{
    Timestamp,
    ids::{RoleId, TenantId, TokenId, UserId},
};

/// A tenant: an organisation whose users share templates and components.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tenant {
    /// 24 hexadecimal digits.
    #[serde(rename = "_id")]
    pub id: TenantId,
    /// What people call it.
    #[schema(example = "Acme")]
    pub name: String,
    /// Whether it was confirmed.
    pub confirmed: bool,
    /// Users of a tenant that is not active cannot log in.
    pub status: AccountStatus,
    /// ISO 8601, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// ISO 8601, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// A named set of permissions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Role {
    /// 24 hexadecimal digits.
    #[serde(rename = "_id")]
    pub id: RoleId,
    /// What people call it.
    #[schema(example = "Integrator")]
    pub name: String,
    /// What it is for.
    #[schema(example = "May build flows")]
    pub description: String,
    /// What it allows.
    #[schema(example = json!(["flows.read", "flows.write"]))]
    pub permissions: Vec<String>,
    /// Whether all tenants have it.
    pub is_global: bool,
    /// The tenant it belongs to, where it is not global.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub tenant: Option<TenantId>,
    /// ISO 8601, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// ISO 8601, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// What is known of a token; never the token itself, which nobody keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TokenObject)]
pub struct Token {
    /// 24 hexadecimal digits.
    #[serde(rename = "_id")]
    pub id: TokenId,
    /// Whom it stands for.
    pub account_id: UserId,
    /// That account's tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub tenant: Option<TenantId>,
    /// Who asked for it.
    pub initiator: UserId,
    /// On whose behalf it was asked for.
    #[schema(example = "5c99ec7e5ed40d3e7512cffa")]
    pub inquirer: String,
    /// How it came about.
    #[serde(rename = "type")]
    pub kind: TokenKind,
    /// What it is for, one word.
    #[schema(example = "accountToken")]
    pub purpose: String,
    /// What it is for.
    #[schema(example = "Nightly export")]
    pub description: String,
    /// What it allows beyond the account's permissions.
    #[schema(example = json!([]))]
    pub permissions: Vec<String>,
    /// ISO 8601, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it ends on its own; permanent tokens do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, nullable = false)]
    pub expire_at: Option<Timestamp>,
}

/// How a token came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schema(example = "SELF")]
pub enum TokenKind {
    /// By login.
    #[serde(rename = "SELF")]
    Login,
    /// By impersonation.
    Impersonated,
    /// Asked for, for a time.
    EphemeralServiceAccount,
    /// Asked for, for ever.
    Persistent,
}
