use actix_web::{
    get,
    web::{Data, Json, Path},
};
use flowmate_common::{
    Failure, Timestamp,
    auth::ExecutionsRead,
    ids::{ComponentId, ExecutionId, FlowId, NodeId, StepRunId, TenantId, UserId, canonical_id},
    model::{ExecutionOf, Json as Raw, Outcome, json},
};
use flowmate_runtime::owning;
use flowmate_storage::executions::{ExecutionFilter, ExecutionRow, Status, StepRow, Within};
use flowmate_web::{Allowed, ApiError, Envelope, Errors, ListEnvelope, Params};
use serde::Serialize;
use utoipa::ToSchema;

use super::within;
use crate::State;

/// Steps that one answer holds.
const MAX_STEPS: u64 = 1_000;
const KNOWN: [&str; 4] = [
    "filter[flowId]",
    "filter[status]",
    "filter[from]",
    "filter[until]",
];

/// One run of a flow.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Execution {
    id: ExecutionId,
    flow_id: FlowId,
    #[serde(skip_serializing_if = "Option::is_none")]
    flow_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<TenantId>,
    /// `running`, `waiting`, `success`, `error` or `cancelled`. What waits is not running: nothing of it is in hand.
    #[schema(example = "success")]
    status: &'static str,
    /// When it goes on. Only while it waits; it may wait a moment longer, where much goes on at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    waiting_until: Option<Timestamp>,
    /// Why it waits. Only while it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_reason: Option<String>,
    /// The first error, or why it was cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    finished_at: Option<Timestamp>,
}

impl From<ExecutionRow> for Execution {
    fn from(row: ExecutionRow) -> Self {
        let ExecutionRow {
            of,
            status,
            waiting,
            error,
            started,
            finished,
        } = row;
        let (status, waiting) = match (status, waiting) {
            (Some(outcome), _) => (outcome.as_str(), None),
            (None, Some(waiting)) => ("waiting", Some((waiting.due, waiting.reason))),
            (None, None) => ("running", None),
        };
        let (waiting_until, waiting_reason) = waiting.unzip();
        Self {
            id: of.execution_id,
            flow_id: of.flow_id,
            flow_name: of.flow_name,
            user: of.user,
            tenant: of.tenant,
            status,
            waiting_until,
            waiting_reason,
            error,
            started_at: started,
            finished_at: finished,
        }
    }
}

/// An execution and what its steps did.
#[derive(Serialize, ToSchema)]
pub(crate) struct ExecutionDetail {
    #[serde(flatten)]
    execution: Execution,
    /// In the order they began, 1000 at most.
    steps: Vec<ExecutionStep>,
}

/// One run of one step.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExecutionStep {
    id: StepRunId,
    node_id: NodeId,
    component_id: ComponentId,
    #[schema(example = "http")]
    component: String,
    #[schema(example = "request")]
    function: String,
    /// `success` or `error`.
    status: Outcome,
    /// What it got; bounded, secrets masked.
    #[schema(value_type = Object)]
    input: Raw,
    /// What it emitted, a list; bounded, secrets masked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    output: Option<Raw>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// How often the work was tried.
    attempts: u32,
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    finished_at: Timestamp,
    /// Milliseconds.
    duration: i64,
}

impl From<StepRow> for ExecutionStep {
    fn from(row: StepRow) -> Self {
        let unchanged = row.unchanged.then(|| json(&[&row.input]).ok()).flatten();
        Self {
            id: row.run,
            node_id: row.node,
            component_id: row.component_id,
            component: row.component,
            function: row.function,
            status: row.status,
            input: row.input,
            output: row.output.or(unchanged),
            error: row.error,
            attempts: row.attempts,
            started_at: row.started,
            finished_at: row.finished,
            duration: row.finished.as_millis() - row.started.as_millis(),
        }
    }
}

/// Lists executions, the newest first.
#[utoipa::path(tag = "Executions", operation_id = "getExecutions", security(("bearer" = [])), params(
    ("page[size]" = Option<u64>, Query, description = "Executions on a page, 10 where nothing is said, 1000 at most"),
    ("page[number]" = Option<u64>, Query, description = "Which page, from 1"),
    ("filter[flowId]" = Option<String>, Query, description = "Of this flow"),
    ("filter[status]" = Option<String>, Query, pattern = "^(running|waiting|success|error|cancelled)$", description = "running, waiting, success, error or cancelled; what waits is not running"),
    ("filter[from]" = Option<String>, Query, description = "Begun at this time or later, ISO 8601"),
    ("filter[until]" = Option<String>, Query, description = "Begun before this time, ISO 8601")), responses(
    (status = 200, description = "A page of executions", body = ListEnvelope<Execution>),
    (status = 400, description = "A parameter with an invalid value", body = Errors)))]
#[get("/executions")]
pub(crate) async fn list(
    state: Data<State>,
    caller: Allowed<ExecutionsRead>,
    params: Params,
) -> Result<Json<ListEnvelope<Execution>>, ApiError> {
    params.only(&KNOWN)?;
    let paging = params.paging()?;
    let filter = ExecutionFilter {
        within: within(&caller),
        ..filter(&params)?
    };
    let store = state.context.storage.executions();
    let (rows, total) = store
        .list(&owning::sees(&caller), &filter, paging.skip(), paging.size)
        .await?;
    let data = rows.into_iter().map(Execution::from).collect();
    Ok(Json(ListEnvelope {
        data,
        meta: paging.page(total),
    }))
}

fn filter(params: &Params) -> Result<ExecutionFilter, Failure> {
    let invalid = |name: &str| Failure::invalid(format!("Invalid {name} parameter"));
    let status = match params.get("filter[status]") {
        None => None,
        Some("running") => Some(Status::Running),
        Some("waiting") => Some(Status::Waiting),
        Some("success") => Some(Status::Ended(Outcome::Success)),
        Some("error") => Some(Status::Ended(Outcome::Error)),
        Some("cancelled") => Some(Status::Ended(Outcome::Cancelled)),
        Some(_) => return Err(invalid("filter[status]")),
    };
    let time = |name: &str| {
        let text = params.get(name);
        text.map(|text| text.parse::<Timestamp>().map_err(|_| invalid(name)))
            .transpose()
    };
    let flow = params
        .filled("filter[flowId]")
        .map(|id| FlowId::from(&*canonical_id(id)));
    Ok(ExecutionFilter {
        flow,
        status,
        from: time("filter[from]")?,
        until: time("filter[until]")?,
        within: None,
    })
}

/// One execution with its steps.
#[utoipa::path(tag = "Executions", operation_id = "getExecution", security(("bearer" = [])), params(("id" = String, Path, description = "The execution")), responses(
    (status = 200, description = "The execution", body = Envelope<ExecutionDetail>),
    (status = 404, description = "No execution found", body = Errors)))]
#[get("/executions/{id}")]
pub(crate) async fn get(
    state: Data<State>,
    caller: Allowed<ExecutionsRead>,
    id: Path<String>,
) -> Result<Json<Envelope<ExecutionDetail>>, ApiError> {
    let id = ExecutionId::from(id.to_ascii_lowercase());
    let found = state
        .context
        .storage
        .executions()
        .get(&owning::sees(&caller), &id, MAX_STEPS)
        .await;
    let is_its = |Within(own): Within, of: &ExecutionOf| of.tenant.is_none() || of.tenant == own;
    let (row, steps) = found?
        .filter(|(row, _)| within(&caller).is_none_or(|within| is_its(within, &row.of)))
        .ok_or_else(|| Failure::not_found("No execution found"))?;
    let steps = steps.into_iter().map(ExecutionStep::from).collect();
    Ok(Json(Envelope::of(ExecutionDetail {
        execution: row.into(),
        steps,
    })))
}

#[cfg(test)]
mod tests {
    use flowmate_storage::executions::Waiting;

    use super::*;

    #[test]
    fn an_execution_that_waits_shows_until_when_and_why_and_no_other_does() {
        let shown = |status, waiting| {
            let row = ExecutionRow {
                of: ExecutionOf {
                    execution_id: "e".into(),
                    flow_id: "f".into(),
                    flow_name: None,
                    user: None,
                    tenant: None,
                },
                status,
                waiting,
                error: None,
                started: Timestamp::from_millis(0),
                finished: None,
            };
            let shown = serde_json::to_value(Execution::from(row)).unwrap();
            let fields = ["status", "waitingUntil", "waitingReason"];
            fields.map(|field| {
                shown
                    .get(field)
                    .and_then(|value| value.as_str())
                    .map(str::to_owned)
            })
        };
        let waiting = || {
            Some(Waiting {
                turn: 1,
                due: Timestamp::from_millis(1_000),
                reason: "429".into(),
            })
        };
        let text = |text: &str| Some(text.to_owned());
        let until = text(&Timestamp::from_millis(1_000).to_string());
        assert_eq!(shown(None, waiting()), [text("waiting"), until, text("429")]);
        assert_eq!(shown(None, None), [text("running"), None, None]);
        let ended = shown(Some(Outcome::Success), waiting());
        assert_eq!(ended, [text("success"), None, None]);
    }
}
