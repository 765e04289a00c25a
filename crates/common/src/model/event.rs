//! Bodies of events.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Flow, Json, Message, Owner};
use crate::{
    Timestamp,
    ids::{ComponentId, ExecutionId, FlowId, NodeId, StepRunId, TemplateId, TenantId, UserId},
};

/// `flow.starting`: the whole flow, as the reference sends it, and which start this is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FlowStarting {
    /// The flow.
    #[serde(flatten)]
    pub flow: Flow,
    /// Grows with every start and stop of the flow; answers repeat it, and consumers ignore what is older than
    /// what they know.
    pub activation: u64,
}

/// `flow.started`: the engine runs it; with what the webhook service needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowStarted {
    /// The flow.
    pub id: FlowId,
    /// The start that this answers.
    pub activation: u64,
    /// Scheduled flows take no webhooks.
    pub cron: Option<String>,
    /// Who owns it.
    pub owners: Vec<Owner>,
    /// Settings of the flow as a whole.
    pub flow_settings: Option<Map<String, Value>>,
}

/// `flow.stopping`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FlowStopping {
    /// The flow.
    pub id: FlowId,
    /// Grows with every start and stop of the flow.
    pub activation: u64,
}

/// `flow.backlogged`: so much of the flow waits to be executed that its webhooks are refused for a while. Said again while it
/// lasts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FlowBacklogged {
    /// The flow.
    pub id: FlowId,
    /// Until when.
    pub until: Timestamp,
}

/// `flow.stopped`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FlowStopped {
    /// The flow.
    pub id: FlowId,
    /// The stop that this answers.
    pub activation: u64,
}

/// `flow.failed`: the flow cannot run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FlowFailed {
    /// The flow.
    pub id: FlowId,
    /// The start that this answers.
    pub activation: u64,
    /// Why, for the flow's owner to read.
    pub reason: String,
}

/// `flowrepo.flow.*`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowChanged {
    /// The flow.
    pub flow_id: FlowId,
    /// Who changed it.
    pub user: UserId,
    /// The tenant of who changed it.
    pub tenant: Option<TenantId>,
}

/// `templaterepo.template.*`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TemplateChanged {
    /// The template.
    pub template_id: TemplateId,
    /// Who changed it.
    pub user: UserId,
    /// The tenant of who changed it.
    pub tenant: Option<TenantId>,
}

/// `iam.user.*`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UserChanged {
    /// The user.
    pub id: UserId,
    /// The user's external id.
    pub username: String,
    /// The user's tenant.
    pub tenant: Option<TenantId>,
}

/// `iam.tenant.*`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TenantChanged {
    /// The tenant.
    pub id: TenantId,
    /// It may not work: neither its users nor its flows.
    #[serde(default)]
    pub disabled: bool,
    /// Grows with every change: what was said before is older.
    #[serde(default)]
    pub updated_at: Timestamp,
}

/// `iam.token.*`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenChanged {
    /// The token's id, never the token itself.
    pub id: String,
    /// Whose it is.
    pub account_id: UserId,
    /// When it would expire on its own.
    pub expire_at: Timestamp,
}

/// `flow.execute`: run the flow with this message.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowExecute {
    /// The new execution.
    pub execution_id: ExecutionId,
    /// The flow to run.
    pub flow_id: FlowId,
    /// The start of the flow that it was taken under; whoever knows only an earlier one looks for the later.
    #[serde(default)]
    pub activation: u64,
    /// For the flow's first step.
    pub message: Message,
}

/// `execution.started`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionStarted {
    /// Which execution of which flow, and whose.
    pub of: ExecutionOf,
    /// When the engine took it up.
    #[serde(with = "crate::clock::millis")]
    pub started_at: Timestamp,
}

/// `flow.resume`: go on with an execution that waited. What is left to run is with whoever let it wait.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowResume {
    /// The execution.
    pub execution_id: ExecutionId,
    /// Its flow.
    pub flow_id: FlowId,
    /// The start of the flow that it began under.
    pub activation: u64,
    /// Which wait ends, counted from 1.
    pub turn: u32,
}

/// `execution.waiting`: nothing of the execution runs until `due`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionWaiting {
    /// Which execution of which flow, and whose.
    pub of: ExecutionOf,
    /// When the engine took it up.
    #[serde(with = "crate::clock::millis")]
    pub started_at: Timestamp,
    /// Which wait it is, counted from 1. A wait is over when `execution.resumed` with its turn, a later wait, or the end of
    /// the execution comes.
    pub turn: u32,
    /// When it goes on.
    #[serde(with = "crate::clock::millis")]
    pub due: Timestamp,
    /// Why it waits, for the flow's owner to read.
    pub reason: String,
}

/// `execution.resumed`: the wait of that turn is over.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionResumed {
    /// Which execution of which flow, and whose.
    pub of: ExecutionOf,
    /// When the engine took it up.
    #[serde(with = "crate::clock::millis")]
    pub started_at: Timestamp,
    /// Which wait is over.
    pub turn: u32,
}

/// Which execution of which flow, and whose.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionOf {
    /// The execution.
    pub execution_id: ExecutionId,
    /// The flow.
    pub flow_id: FlowId,
    /// The flow's name at that time.
    pub flow_name: Option<String>,
    /// The flow's first owner of type user.
    pub user: Option<UserId>,
    /// The flow's first owner of type tenant.
    pub tenant: Option<TenantId>,
}

/// How an execution or a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should.
    Success,
    /// A step failed.
    Error,
    /// The flow was stopped before the execution had ended.
    Cancelled,
}

impl Outcome {
    /// The outcome of that name; what is none of them is an error.
    pub fn read(name: &str) -> Self {
        match name {
            "success" => Self::Success,
            "cancelled" => Self::Cancelled,
            _ => Self::Error,
        }
    }

    /// The wire name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Error => "error",
            Self::Cancelled => "cancelled",
        }
    }
}

/// `step.finished`: one run of one step, of an execution that goes on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StepFinished {
    /// Which execution of which flow, and whose.
    pub of: ExecutionOf,
    /// The run.
    pub step: StepRun,
}

/// One run of one step.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepRun {
    /// The same at every recomputation of the execution.
    pub step_run_id: StepRunId,
    /// Counts the step runs of the execution as they end.
    pub sequence: u32,
    /// The step.
    pub node_id: NodeId,
    /// Its component.
    pub component_id: ComponentId,
    /// The component's name.
    pub component: String,
    /// The function that ran.
    pub function: String,
    /// Whether it counts as an execution in usage counts; control components do not.
    pub counted: bool,
    /// How it ended.
    pub status: Outcome,
    /// What it got; secrets masked, bounded.
    pub input: Json,
    /// What it emitted, an array; secrets masked, bounded. None where it failed, and where `unchanged` says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Json>,
    /// It emitted one message with the data it got; that is not said twice.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unchanged: bool,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How often the work was tried.
    pub attempts: u32,
    /// When it began.
    #[serde(with = "crate::clock::millis")]
    pub started_at: Timestamp,
    /// When it ended.
    #[serde(with = "crate::clock::millis")]
    pub finished_at: Timestamp,
    /// The emitted messages in full, where an effectful step has successors: the engine's journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<Vec<Message>>,
}

/// `execution.finished`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionFinished {
    /// Which execution of which flow, and whose.
    pub of: ExecutionOf,
    /// How it ended.
    pub status: Outcome,
    /// The first error, or why it was cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When the engine took it up.
    #[serde(with = "crate::clock::millis")]
    pub started_at: Timestamp,
    /// When the last step ended.
    #[serde(with = "crate::clock::millis")]
    pub finished_at: Timestamp,
    /// The runs that no `step.finished` told of: those after the last thing that had to be durable at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepRun>,
}

/// `event.dead-lettered`: an event that could not be processed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// The consumer group that gave up.
    pub group: String,
    /// Where the event was.
    pub topic: String,
    /// Its position in the topic.
    pub position: u64,
    /// Why.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
    /// The event itself.
    pub event: Value,
}
