//! Executions that are stopped.

use flowmate_common::{
    Event, EventType, Timestamp,
    model::{ExecutionFinished, ExecutionOf, Outcome},
};
use flowmate_runtime::Context;

use super::Run;

/// Why an execution of a flow that was stopped ends.
pub(crate) const STOPPED: &str = "The flow was stopped before the execution had ended.";

/// What is said of an effect that was not waited for.
pub(super) const ON_ITS_WAY: &str =
    "The flow was stopped while the request was on its way; whether it was carried out is not known.";

/// What there is to publish of an execution that ends without running: `started` where it had begun.
pub(crate) fn cancelled(
    context: &Context,
    of: ExecutionOf,
    started: Option<Timestamp>,
    reason: &str,
) -> Vec<Event> {
    ended(context, of, started, Outcome::Cancelled, reason)
}

/// What there is to publish of an execution that cannot run, or not to its end.
pub(crate) fn failed(
    context: &Context,
    of: ExecutionOf,
    started: Option<Timestamp>,
    reason: &str,
) -> Vec<Event> {
    ended(context, of, started, Outcome::Error, reason)
}

fn ended(
    context: &Context,
    of: ExecutionOf,
    started: Option<Timestamp>,
    status: Outcome,
    reason: &str,
) -> Vec<Event> {
    let now = context.clock.now();
    let execution = of.execution_id.clone();
    let body = ExecutionFinished {
        of,
        status,
        error: Some(reason.to_owned()),
        started_at: started.unwrap_or(now),
        finished_at: now,
        steps: Vec::new(),
    };
    metrics::counter!("flowmate_executions_total", "status" => status.as_str()).increment(1);
    context
        .event(EventType::ExecutionFinished, execution.as_str(), &body)
        .into_iter()
        .collect()
}

impl Run {
    /// Records the effects that were not done as cancelled.
    pub(super) fn cancel_rest(&mut self) {
        let rest = std::mem::take(&mut self.later)
            .into_iter()
            .chain(std::mem::take(&mut self.ready));
        for one in rest.collect::<Vec<_>>() {
            if one.tried.tries > 0 {
                let reason = format!("{} The last try: {}", STOPPED, one.tried.reason);
                self.cancelled_step(&one.task, &one.tried, &reason);
            }
        }
        self.queue.clear();
    }
}
