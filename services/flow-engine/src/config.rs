use flowmate_connectors::{PrivateTargets, RetryPolicy};
use flowmate_evaluator::Limits;
use flowmate_runtime::config::Error;
use serde::{Deserialize, Serialize};

/// Section `engine`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Executions that run at the same time.
    pub concurrency: usize,
    /// Of these, of one tenant.
    pub tenant_concurrency: usize,
    /// Of these, of one flow.
    pub flow_concurrency: usize,
    /// Steps with effects that run at the same time in one execution.
    pub branch_concurrency: usize,
    /// Seconds from the beginning to the end of an execution, its waits included.
    pub execution_seconds: u32,
    /// Bytes that executions at work may take, about.
    pub in_flight_bytes: usize,
    /// Requests held in memory, running ones included.
    pub window: usize,
    /// Requests that are held by their position. Webhooks of a flow are refused while it, or its tenant, has more of them
    /// than are free.
    pub waiting_requests: usize,
    /// Step runs that one execution may have.
    pub max_step_runs: usize,
    /// What one evaluation of an expression may take.
    pub expressions: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            concurrency: 128,
            tenant_concurrency: 96,
            flow_concurrency: 64,
            branch_concurrency: 8,
            execution_seconds: 7 * 86_400,
            in_flight_bytes: 128 << 20,
            window: 1_024,
            waiting_requests: 500_000,
            max_step_runs: 10_000,
            expressions: Limits::default(),
        }
    }
}

impl Config {
    /// Refuses values that make no sense.
    pub fn validate(&self) -> Result<(), Error> {
        let positive = [
            ("engine.concurrency", self.concurrency),
            ("engine.tenant_concurrency", self.tenant_concurrency),
            ("engine.flow_concurrency", self.flow_concurrency),
            ("engine.branch_concurrency", self.branch_concurrency),
            ("engine.in_flight_bytes", self.in_flight_bytes),
            ("engine.window", self.window),
            ("engine.waiting_requests", self.waiting_requests),
            ("engine.max_step_runs", self.max_step_runs),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::bad(*key, "has to be at least 1"));
        }
        self.expressions
            .validate()
            .map_err(|(key, reason)| Error::bad(format!("engine.expressions.{key}"), reason))
    }
}

/// Section `connectors`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Connectors {
    /// Which addresses that are not public steps may call: `deny`, `allow`, or networks. Those of metadata services and
    /// link-local ones only where a network names them.
    pub private_targets: PrivateTargets,
    /// Retries of HTTP requests.
    pub retry: RetryPolicy,
}

impl Connectors {
    /// Refuses values that make no sense.
    pub fn validate(&self) -> Result<(), Error> {
        if self.retry.retries > 20 {
            return Err(Error::bad("connectors.retry.retries", "has to be 20 at most"));
        }
        Ok(())
    }
}
