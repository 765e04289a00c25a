//! The configuration of the embedded shape: each section belongs to whom it configures.

use std::{net::SocketAddr, path::PathBuf};

use flowmate_runtime::{config::Error, telemetry::Format};
use serde::{Deserialize, Serialize};

/// All sections.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The HTTP server.
    pub http: Http,
    /// Where data is kept.
    pub data: Data,
    /// The first administrator.
    pub admin: flowmate_user_iam::Admin,
    /// Logs.
    pub log: Log,
    /// Tokens.
    pub iam: flowmate_user_iam::Config,
    /// Webhooks.
    pub webhook: flowmate_webhook::Config,
    /// Running flows.
    pub engine: flowmate_flow_engine::Config,
    /// What steps may do.
    pub connectors: flowmate_flow_engine::Connectors,
    /// The execution log.
    pub executions: flowmate_execution_log::Config,
}

/// Section `http`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Http {
    /// Address and port; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Threads that serve requests; 0: one for each core.
    pub workers: usize,
    /// Seconds that running requests and executions get when the process is to end.
    pub grace_seconds: u64,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            workers: 0,
            grace_seconds: 10,
        }
    }
}

/// Section `data`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Data {
    /// The directory; made where it does not exist.
    pub dir: PathBuf,
}

impl Default for Data {
    fn default() -> Self {
        Self { dir: "./data".into() }
    }
}

/// Section `log`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    /// `pretty` or `json`.
    pub format: Format,
    /// A level, or directives such as `info,flowmate_flow_engine=debug`.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: Format::Pretty,
            filter: "info".into(),
        }
    }
}

impl Config {
    /// Refuses values that make no sense, naming the key.
    pub fn validate(&self) -> Result<(), Error> {
        if self.http.workers > 1024 {
            return Err(Error::bad("http.workers", "has to be 1024 at most"));
        }
        if self.http.grace_seconds > 3600 {
            return Err(Error::bad("http.grace_seconds", "has to be 3600 at most"));
        }
        self.admin.validate()?;
        self.iam.validate()?;
        self.webhook.validate()?;
        self.engine.validate()?;
        self.connectors.validate()?;
        self.executions.validate()
    }
}
