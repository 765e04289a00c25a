use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::Owner;
use crate::{Timestamp, ids::ComponentId};

/// A component: a bundle of functions that steps can run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Component {
    /// 24 hexadecimal digits; for built-in components always the same.
    pub id: ComponentId,
    /// What describes it.
    #[serde(flatten)]
    pub body: MutableComponent,
    /// Control components route messages; their runs are not counted as executions.
    pub is_control: bool,
    /// ISO 8601, UTC; built-in components have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, nullable = false)]
    pub created_at: Option<Timestamp>,
    /// ISO 8601, UTC; built-in components have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, nullable = false)]
    pub updated_at: Option<Timestamp>,
}

/// What describes a component.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MutableComponent {
    /// What people call it.
    #[schema(example = "http", min_length = 1, max_length = 320)]
    pub name: String,
    /// What it is for.
    #[serde(default)]
    #[schema(example = "Calls other systems over HTTP.")]
    pub description: String,
    /// Who may see and use it; `private` where nothing is said. System administrators only make one public.
    #[serde(default)]
    pub access: Access,
    /// One for all flows of all tenants. System administrators only.
    #[serde(default)]
    pub is_global: bool,
    /// Where it comes from, such as `{"type": "docker", "image": "…"}`. Built-in components have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub distribution: Option<Map<String, Value>>,
    /// What a step can do with it.
    #[serde(default)]
    pub functions: Vec<ComponentFunction>,
    /// Who may change it; the caller and the caller's tenant are always added. Built-in components have none.
    #[serde(default)]
    pub owners: Vec<Owner>,
}

/// Who may see and use a component.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(example = "public")]
pub enum Access {
    /// Everybody, in all tenants.
    Public,
    /// Its owners; a tenant that owns it with all its users.
    #[default]
    Private,
}

/// One function of a component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComponentFunction {
    /// What a node names in `function`.
    #[schema(example = "request")]
    pub name: String,
    /// `trigger` or `action`.
    #[schema(example = "action")]
    pub kind: String,
    /// What it does.
    #[serde(default)]
    #[schema(example = "Sends a request.")]
    pub description: String,
    /// JSON Schema (draft 2020-12) of the node's `fields`.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub fields: Map<String, Value>,
}
