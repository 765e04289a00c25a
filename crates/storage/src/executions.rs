//! Executions and their steps: written in batches, read by time.

use async_trait::async_trait;
use flowmate_common::{
    Timestamp,
    auth::Visibility,
    ids::{ComponentId, ExecutionId, FlowId, NodeId, StepRunId, TenantId, UserId},
    model::{ExecutionOf, Json, Outcome},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::Error;

/// Stored text as the JSON that it was.
pub(crate) fn raw(text: String) -> Json {
    RawValue::from_string(text)
        .unwrap_or_else(|_| RawValue::NULL.to_owned())
        .into()
}

/// One fact about an execution.
#[derive(Clone, Debug)]
pub enum Record {
    /// The execution began.
    Started {
        /// Which.
        of: ExecutionOf,
        /// When.
        at: Timestamp,
    },
    /// A step ended.
    Step(Box<StepRow>),
    /// The execution waits and holds nothing meanwhile.
    Waiting {
        /// Which.
        of: ExecutionOf,
        /// When it began.
        started: Timestamp,
        /// Until when, and why.
        wait: Waiting,
    },
    /// A wait is over, and the execution runs again.
    Resumed {
        /// Which.
        of: ExecutionOf,
        /// When it began.
        started: Timestamp,
        /// Which wait is over.
        turn: u32,
    },
    /// The execution ended.
    Finished {
        /// Which.
        of: ExecutionOf,
        /// How.
        status: Outcome,
        /// Why, unless it succeeded.
        error: Option<String>,
        /// When it began.
        started: Timestamp,
        /// When it ended.
        at: Timestamp,
    },
}

/// What an execution waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Which wait of the execution it is, counted from 1.
    pub turn: u32,
    /// When it goes on.
    pub due: Timestamp,
    /// Why it waits.
    pub reason: String,
}

/// Waits and their ends in the order in which they happen, whatever the order in which they are told: 2 for the first
/// wait, 3 for its end, 4 for the second wait. A store keeps the largest that it was told for each execution, and what
/// is not larger is old.
pub(crate) fn moment(turn: u32, over: bool) -> i64 {
    i64::from(turn) * 2 + i64::from(over)
}

/// A step of an execution.
#[derive(Clone, Debug)]
pub struct StepRow {
    /// Whose.
    pub of: ExecutionOf,
    /// Unique in the execution.
    pub run: StepRunId,
    /// Orders steps that began in the same millisecond.
    pub sequence: u32,
    /// The node.
    pub node: NodeId,
    /// Its component.
    pub component_id: ComponentId,
    /// The component's name.
    pub component: String,
    /// The function.
    pub function: String,
    /// Whether it counts in usage.
    pub counted: bool,
    /// How it ended.
    pub status: Outcome,
    /// What it got, bounded and masked.
    pub input: Json,
    /// What it emitted, bounded and masked.
    pub output: Option<Json>,
    /// It emitted one message with the data it got.
    pub unchanged: bool,
    /// Why it failed.
    pub error: Option<String>,
    /// How often the work was tried.
    pub attempts: u32,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
}

/// An execution as it is listed.
#[derive(Clone, Debug)]
pub struct ExecutionRow {
    /// Which.
    pub of: ExecutionOf,
    /// `None` while it has not ended.
    pub status: Option<Outcome>,
    /// What it waits for; `None` while it runs, and when it has ended.
    pub waiting: Option<Waiting>,
    /// Why it failed or was cancelled.
    pub error: Option<String>,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Option<Timestamp>,
}

/// What an execution does at the moment. It is exactly one of these at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It has neither ended, nor does it wait.
    Running,
    /// It waits.
    Waiting,
    /// It has ended, in this way.
    Ended(Outcome),
}

/// Only of flows that belong to this tenant, or to none: who left a tenant sees no longer what they did there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Within(pub Option<TenantId>);

/// Which executions.
#[derive(Clone, Debug, Default)]
pub struct ExecutionFilter {
    /// Of this flow.
    pub flow: Option<FlowId>,
    /// With this status.
    pub status: Option<Status>,
    /// Begun at this time or later.
    pub from: Option<Timestamp>,
    /// Begun before this time.
    pub until: Option<Timestamp>,
    /// Of this tenant, or of none.
    pub within: Option<Within>,
}

/// Which step runs.
#[derive(Clone, Debug, Default)]
pub struct LogFilter {
    /// Of this flow.
    pub flow: Option<FlowId>,
    /// Of this node.
    pub node: Option<NodeId>,
    /// Of this tenant.
    pub tenant: Option<TenantId>,
    /// Only those that failed.
    pub errors_only: bool,
    /// Of this tenant, or of none.
    pub within: Option<Within>,
    /// Only those before this one: the execution and the sequence of the last that was seen.
    pub before: Option<(ExecutionId, u32)>,
}

/// A step run as a line of a log.
#[derive(Clone, Debug)]
pub struct LogRow {
    /// Whose.
    pub of: ExecutionOf,
    /// Counts the step runs of the execution as they end.
    pub sequence: u32,
    /// The node.
    pub node: NodeId,
    /// Its component's name.
    pub component: String,
    /// The function.
    pub function: String,
    /// How it ended.
    pub status: Outcome,
    /// Why it failed.
    pub error: Option<String>,
    /// How often the work was tried.
    pub attempts: u32,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
}

/// By what usage is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// The flow's owner.
    User,
    /// The flow.
    Flow,
    /// The component.
    Component,
}

/// How many counted steps ran for one user, flow or component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRow {
    /// The user, flow or component.
    pub key: String,
    /// The owner; for components only where it is one and the same.
    pub user: Option<UserId>,
    /// The tenant; for components only where it is one and the same.
    pub tenant: Option<TenantId>,
    /// The flows that ran.
    pub flows: Vec<FlowId>,
    /// The count.
    pub executions: u64,
}

/// How often one component ran in one flow on one day.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Total {
    /// `YYYY-MM-DD`, UTC.
    pub day: String,
    /// The flow.
    pub flow: String,
    /// The component.
    pub component: String,
    /// The owner; empty where there was none.
    pub user: String,
    /// The tenant; empty where there was none.
    pub tenant: String,
    /// The count.
    pub count: u64,
}

/// Executions, their steps and the usage counts.
///
/// Contract, checked by [`crate::conformance::executions`]:
/// - `record` is durable when it returns, and idempotent: a record that was there before changes nothing, counts
///   included, in whatever order and how often it comes. What failed may be there in part; repeated, it is whole. A
///   finished execution stays as it is.
/// - An execution waits from its last wait until that wait's end, told by [`Record::Resumed`], or its own end; what is
///   told of earlier waits changes nothing. Nothing ends a wait by time: it is over when somebody says so.
/// - `list` is newest first, by execution id, which is time-ordered; `log` by execution id and then the latest step.
#[async_trait]
pub trait ExecutionStore: Send + Sync {
    /// Writes these facts.
    async fn record(&self, records: Vec<Record>) -> Result<(), Error>;
    /// A page of executions and how many there are in all.
    async fn list(
        &self,
        see: &Visibility,
        filter: &ExecutionFilter,
        skip: u64,
        limit: u64,
    ) -> Result<(Vec<ExecutionRow>, u64), Error>;
    /// One execution with its steps in the order they began, at most `steps`.
    async fn get(
        &self,
        see: &Visibility,
        id: &ExecutionId,
        steps: u64,
    ) -> Result<Option<(ExecutionRow, Vec<StepRow>)>, Error>;
    /// Step runs without their data, the newest first, at most `limit`.
    async fn log(&self, see: &Visibility, filter: &LogFilter, limit: u64) -> Result<Vec<LogRow>, Error>;
    /// Counts of the days from `first` to `last`, both inclusive, `YYYY-MM-DD`, UTC.
    async fn usage(
        &self,
        see: &Visibility,
        within: Option<&Within>,
        by: GroupBy,
        first: &str,
        last: &str,
    ) -> Result<Vec<UsageRow>, Error>;
    /// All counts, in order.
    async fn totals(&self) -> Result<Vec<Total>, Error>;
    /// Writes these facts without counting them, and these counts: what another store had, into an empty one.
    async fn restore(&self, records: Vec<Record>, totals: Vec<Total>) -> Result<(), Error>;
    /// Forgets executions begun before `before`, at most `limit`; counts stay. Returns how many went.
    async fn prune(&self, before: Timestamp, limit: u64) -> Result<u64, Error>;
}
