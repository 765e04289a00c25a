use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{Graph, Owner};
use crate::{Timestamp, ids::TemplateId};

/// What a client may write of a template (contract 3.5).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MutableFlowTemplate {
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "Orders to CRM")]
    pub name: Option<String>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The steps and how they are connected.
    #[serde(default)]
    pub graph: Graph,
    /// `ordinary`, `realtime` or `long_running`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schema(example = "ordinary")]
    pub kind: Option<String>,
    /// Crontab expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "*/5 * * * *")]
    pub cron: Option<String>,
    /// Who sees it besides the tenant; the caller is always added.
    #[serde(default)]
    pub owners: Vec<Owner>,
    /// Settings of the flows made from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub flow_settings: Option<Map<String, Value>>,
    /// What the template is filed under.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// `draft` where nothing is said.
    #[serde(default)]
    pub status: TemplateStatus,
}

/// A template (contract 3.5).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FlowTemplate {
    /// 24 hexadecimal digits.
    pub id: TemplateId,
    /// What a client may write.
    #[serde(flatten)]
    pub body: MutableFlowTemplate,
    /// The tenant of who made it; the whole tenant sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// ISO 8601, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// ISO 8601, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// Whether a template is for use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TemplateStatus {
    /// For use.
    Published,
    /// Being worked on.
    #[default]
    Draft,
}
