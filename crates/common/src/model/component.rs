use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::ids::ComponentId;

/// A component: a bundle of functions that steps can run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Component {
    /// 24 hexadecimal digits; for built-in components always the same.
    pub id: ComponentId,
    /// What people call it.
    #[schema(example = "http")]
    pub name: String,
    /// What it is for.
    pub description: String,
    /// `public`: everybody may use it.
    #[schema(example = "public")]
    pub access: String,
    /// Control components route messages; their runs are not counted as executions.
    pub is_control: bool,
    /// What a step can do with it.
    pub functions: Vec<ComponentFunction>,
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
    pub description: String,
    /// JSON Schema (draft 2020-12) of the node's `fields`.
    #[schema(value_type = Object)]
    pub fields: Value,
}
