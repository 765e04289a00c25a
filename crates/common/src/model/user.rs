use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Role;
use crate::{
    Timestamp,
    ids::{TenantId, UserId},
};

/// A user (contract 3.6).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = UserObject)]
pub struct User {
    /// 24 hexadecimal digits.
    #[serde(rename = "_id")]
    pub id: UserId,
    /// The partner's own id of the user, or an e-mail address.
    #[schema(example = "ada@example.com")]
    pub username: String,
    /// First name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firstname: Option<String>,
    /// Last name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lastname: Option<String>,
    /// Only active users may log in.
    pub status: AccountStatus,
    /// Whether the address was confirmed.
    pub confirmed: bool,
    /// Whether the user may log in with a password.
    pub can_login: bool,
    /// The tenant the user belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// The user's roles, whose permissions the user has as well.
    pub roles: Vec<Role>,
    /// What the user may do.
    pub permissions: Vec<String>,
    /// URL of a picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub img: Option<String>,
    /// ISO 8601, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// ISO 8601, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// Whether a user or a tenant may work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
#[schema(example = "ACTIVE")]
pub enum AccountStatus {
    /// May log in.
    #[default]
    Active,
    /// Not confirmed yet.
    Pending,
    /// Locked out.
    Disabled,
}
