use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{
    Timestamp,
    ids::{ComponentId, FlowId, NodeId, TemplateId, UserId, canonical_id},
};

/// What a client may write of a flow (contract 3.1).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MutableFlow {
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "Orders to CRM")]
    pub name: Option<String>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Free text; visibility comes from `owners` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The steps and how they are connected.
    #[serde(default)]
    pub graph: Graph,
    /// `ordinary`, `realtime` or `long_running`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schema(example = "ordinary")]
    pub kind: Option<String>,
    /// Crontab expression; a flow without one is driven by webhooks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "*/5 * * * *")]
    pub cron: Option<String>,
    /// Who sees it; the caller is always added.
    #[serde(default)]
    pub owners: Vec<Owner>,
    /// Settings of the flow as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub flow_settings: Option<Map<String, Value>>,
    /// The template it was generated from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_template: Option<TemplateId>,
}

/// A flow (contract 3.2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// 24 hexadecimal digits.
    pub id: FlowId,
    /// What a client may write.
    #[serde(flatten)]
    pub body: MutableFlow,
    /// Changed by start and stop only.
    pub status: FlowStatus,
    /// Why the last start failed, or why it was stopped by nobody's call; gone with the next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "Node \"step_2\": unknown function \"sned\" of component \"http\".")]
    pub status_reason: Option<String>,
    /// Who started it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_by: Option<UserId>,
    /// ISO 8601, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// ISO 8601, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// Life cycle of a flow (contract 3.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FlowStatus {
    /// Runs; webhooks are accepted.
    Active,
    /// Does not run; may be changed.
    Inactive,
    /// Start was asked for, the engine has not answered yet.
    Starting,
    /// Stop was asked for, the engine has not answered yet.
    Stopping,
}

impl FlowStatus {
    /// The wire name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Inactive => "inactive",
            Self::Starting => "starting",
            Self::Stopping => "stopping",
        }
    }
}

/// Nodes and the edges between them (contract 3.3).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Graph {
    /// The steps.
    #[serde(default)]
    pub nodes: Vec<Node>,
    /// From which step to which.
    #[serde(default)]
    pub edges: Vec<Edge>,
}

/// One step: a function of a component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Unique in the graph, 30 characters at most in a flow.
    #[schema(example = "step_1")]
    pub id: NodeId,
    /// The component.
    pub component_id: ComponentId,
    /// Which trigger or action of the component.
    #[schema(example = "receive")]
    pub function: String,
    /// A stored secret.
    #[serde(default, rename = "credentials_id", skip_serializing_if = "Option::is_none")]
    #[schema(
        pattern = "^([0-9a-fA-F]{24}|[0-9A-Za-z]{12})?$",
        example = "507f1f77bcf86cd799439011"
    )]
    pub credentials_id: Option<String>,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Arguments for the function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub fields: Option<Map<String, Value>>,
    /// How the engine runs the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub node_settings: Option<Map<String, Value>>,
    /// How a template's node authenticates (templates only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub authorization: Option<Map<String, Value>>,
    /// Free text (templates only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

/// A connection between two steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Edge {
    /// 10 characters at most in a flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The step before.
    pub source: NodeId,
    /// The step after.
    pub target: NodeId,
    /// Condition and mapper.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<EdgeConfig>,
}

/// What happens on the way from one step to the next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EdgeConfig {
    /// JSONata on the message; the edge is taken where it is truthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "data.total > 100")]
    pub condition: Option<String>,
    /// JSONata on the message that makes the new one: a text, or an object whose texts are JSONata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>, example = "{\"sum\": data.total}")]
    pub mapper: Option<Value>,
}

/// Who owns a document (contract 3.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Owner {
    /// A user's or tenant's id.
    pub id: String,
    /// Which of the two.
    #[serde(rename = "type")]
    pub kind: OwnerKind,
}

/// What an owner is; either case is read, lower case is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OwnerKind {
    /// One user.
    #[serde(alias = "USER")]
    User,
    /// All users of a tenant.
    #[serde(alias = "TENANT")]
    Tenant,
}

impl Graph {
    /// Brings the ids of components and secrets into their one spelling.
    pub fn canonical(&mut self) {
        for node in &mut self.nodes {
            node.component_id = ComponentId::from(&*canonical_id(node.component_id.as_str()));
            if let Some(id) = &mut node.credentials_id {
                *id = canonical_id(id).into_owned();
            }
        }
    }
}

impl OwnerKind {
    /// The wire name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Tenant => "tenant",
        }
    }
}

impl MutableFlow {
    /// The id of the first owner of that kind.
    pub fn owner(&self, kind: OwnerKind) -> Option<&str> {
        self.owners
            .iter()
            .find(|owner| owner.kind == kind)
            .map(|owner| owner.id.as_str())
    }
}
