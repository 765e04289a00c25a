use actix_web::{
    get,
    web::{Data, Json, Path},
};
use flowmate_common::{
    Failure, Timestamp,
    auth::{Caller, ExecutionsRead},
    ids::{ExecutionId, FlowId, NodeId, TenantId, canonical_id},
    model::Outcome,
};
use flowmate_runtime::owning;
use flowmate_storage::executions::{LogFilter, LogRow};
use flowmate_web::{Allowed, ApiError, Errors, Params};
use serde::Serialize;
use utoipa::ToSchema;

use super::within;
use crate::State;

/// Lines on a page, where nothing is said and at the most.
const PAGE: u64 = 1_000;
const PAGING: [&str; 2] = ["pageSize", "pageToken"];

/// One run of one step, as a line.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LogLine {
    /// When the step ended.
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    /// `info` or `error`.
    #[schema(example = "error")]
    level: &'static str,
    /// What the step did and how it ended; failures begin with `Error: `.
    #[schema(example = "Error: http.request: the receiver answered 500")]
    message: String,
    flow_id: FlowId,
    /// The node.
    step_id: NodeId,
    execution_id: ExecutionId,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    tenant: Option<TenantId>,
}

impl From<LogRow> for LogLine {
    fn from(row: LogRow) -> Self {
        let step = format!("{}.{}", row.component, row.function);
        let millis = row.finished.as_millis() - row.started.as_millis();
        let tries = match row.attempts {
            0 | 1 => String::new(),
            attempts => format!(", {attempts} attempts"),
        };
        let message = match (&row.error, row.status) {
            (Some(error), _) => format!("Error: {step}: {error} ({millis} ms{tries})"),
            (None, status) => format!("{step}: {} ({millis} ms{tries})", status.as_str()),
        };
        Self {
            timestamp: row.finished,
            level: if row.status == Outcome::Error {
                "error"
            } else {
                "info"
            },
            message,
            flow_id: row.of.flow_id,
            step_id: row.node,
            execution_id: row.of.execution_id,
            tenant: row.of.tenant,
        }
    }
}

/// A page of log lines, the newest first.
#[derive(Serialize, ToSchema)]
pub(crate) struct Log {
    data: Vec<LogLine>,
    meta: LogPage,
}

/// Which page, and how to get the next.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LogPage {
    #[schema(example = 1000)]
    page_size: u64,
    /// For `pageToken`; absent on the last page. Lines that come meanwhile do not move the pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "0192f0c4a0b07c3d8e5f60718293a4b5.3")]
    next_page_token: Option<String>,
}

/// The log of all flows that the caller sees, the newest line first. Contract 4.1.
#[utoipa::path(tag = "Executions", operation_id = "getLogs", security(("bearer" = [])), params(
    ("filter[flowId]" = Option<String>, Query, description = "Of this flow"),
    ("filter[stepId]" = Option<String>, Query, description = "Of this step"),
    ("filter[tenant]" = Option<String>, Query, description = "Of this tenant; all that the caller sees where nothing is said"),
    ("showErrors" = Option<String>, Query, pattern = "^(true|false)$", description = "true: only failures"),
    ("pageSize" = Option<u64>, Query, minimum = 1, description = "Lines on a page, 1000 where nothing is said and at the most"),
    ("pageToken" = Option<String>, Query, pattern = "^[0-9a-f]{1,32}[.][0-9]{1,9}$", description = "nextPageToken of the page before")), responses(
    (status = 200, description = "A page of the log", body = Log),
    (status = 400, description = "Invalid pageSize parameter", body = Errors)))]
#[get("/logs")]
pub(crate) async fn logs(
    state: Data<State>,
    caller: Allowed<ExecutionsRead>,
    params: Params,
) -> Result<Json<Log>, ApiError> {
    let filters = ["filter[flowId]", "filter[stepId]", "filter[tenant]", "showErrors"];
    params.only(&[&filters[..], &PAGING].concat())?;
    let errors_only = match params.get("showErrors") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Failure::invalid("Invalid showErrors parameter").into()),
    };
    let filter = LogFilter {
        flow: params
            .filled("filter[flowId]")
            .map(|id| FlowId::from(&*canonical_id(id))),
        node: params.filled("filter[stepId]").map(NodeId::from),
        tenant: params
            .filled("filter[tenant]")
            .map(|id| TenantId::from(&*canonical_id(id))),
        errors_only,
        before: None,
        within: None,
    };
    Ok(Json(page(&state, &caller, &params, filter).await?))
}

/// The log of one step of a flow, the newest line first. Contract 4.2.
#[utoipa::path(tag = "Flows", operation_id = "getStepLogs", security(("bearer" = [])), params(
    ("id" = String, Path, description = "The flow"),
    ("stepId" = String, Path, description = "The node"),
    ("pageSize" = Option<u64>, Query, minimum = 1, description = "Lines on a page, 1000 where nothing is said and at the most"),
    ("pageToken" = Option<String>, Query, pattern = "^[0-9a-f]{1,32}[.][0-9]{1,9}$", description = "nextPageToken of the page before")), responses(
    (status = 200, description = "A page of the log", body = Log),
    (status = 400, description = "Invalid id", body = Errors),
    (status = 404, description = "No flow found", body = Errors)))]
#[get("/flows/{id}/steps/{stepId}/logs")]
pub(crate) async fn step_logs(
    state: Data<State>,
    caller: Allowed<ExecutionsRead>,
    path: Path<(String, String)>,
    params: Params,
) -> Result<Json<Log>, ApiError> {
    let (flow, step) = path.into_inner();
    let flow = state.flows.get(&caller, &flow).await?;
    params.only(&PAGING)?;
    let filter = LogFilter {
        flow: Some(flow.id),
        node: Some(step.into()),
        ..LogFilter::default()
    };
    Ok(Json(page(&state, &caller, &params, filter).await?))
}

async fn page(state: &State, caller: &Caller, params: &Params, filter: LogFilter) -> Result<Log, Failure> {
    let page_size = params.number("pageSize", PAGE)?.min(PAGE);
    let before = params.get("pageToken").map(position).transpose()?;
    let filter = LogFilter {
        before,
        within: within(caller),
        ..filter
    };
    let store = state.context.storage.executions();
    let mut rows = store.log(&owning::sees(caller), &filter, page_size + 1).await?;
    let fits = usize::try_from(page_size).unwrap_or(usize::MAX);
    let is_last = rows.len() <= fits;
    rows.truncate(fits);
    let last = rows.last().filter(|_| !is_last);
    let next_page_token = last.map(|row| format!("{}.{}", row.of.execution_id, row.sequence));
    Ok(Log {
        data: rows.into_iter().map(LogLine::from).collect(),
        meta: LogPage {
            page_size,
            next_page_token,
        },
    })
}

fn position(token: &str) -> Result<(ExecutionId, u32), Failure> {
    let parsed = token.split_once('.').and_then(|(execution, sequence)| {
        let sequence = sequence.parse().ok()?;
        Some((ExecutionId::from(execution), sequence))
    });
    parsed.ok_or_else(|| Failure::invalid("Invalid pageToken parameter"))
}
