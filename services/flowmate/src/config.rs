//! The configuration, of both shapes: each section belongs to whom it configures.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use flowmate_common::mask::MASK;
use flowmate_runtime::{config::Error, telemetry::Format};
use flowmate_web::{Pace, TrustedProxies};
use serde::{Deserialize, Serialize};

/// All sections.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The HTTP server.
    pub http: Http,
    /// What the process may hold.
    pub limits: Limits,
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
    /// The gateway.
    pub gateway: flowmate_gateway::proxy::Config,
    /// Where documents are, where services run apart.
    pub storage: Storage,
    /// Where events are, where services run apart.
    pub bus: Bus,
    /// Where services are, where they run apart.
    pub services: Services,
}

/// Section `storage`.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Storage {
    /// `mongodb://user:password@host:port/database?options`.
    pub url: String,
}

/// Section `bus`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Bus {
    /// `kafka://host:port,host:port`.
    pub url: String,
    /// What the names of topics and groups begin with.
    pub prefix: String,
    /// `PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`.
    pub security_protocol: Option<String>,
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub sasl_mechanism: Option<String>,
    /// The name to log in with.
    pub sasl_username: Option<String>,
    /// Its password.
    pub sasl_password: Option<String>,
    /// A file with the certificates of who signs the brokers'.
    pub ca_file: Option<PathBuf>,
}

impl Default for Bus {
    fn default() -> Self {
        Self {
            url: String::new(),
            prefix: "flowmate.".into(),
            security_protocol: None,
            sasl_mechanism: None,
            sasl_username: None,
            sasl_password: None,
            ca_file: None,
        }
    }
}

/// Section `services`: the names that Kubernetes gives them, where nothing is said.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Services {
    /// What services sign their calls to each other with: the same for all, 32 bytes or more.
    pub secret: Option<String>,
    /// Where user-iam is.
    pub user_iam: String,
    /// Where flow-repository is.
    pub flow_repository: String,
    /// Where template-repository is.
    pub template_repository: String,
    /// Where webhook is.
    pub webhook: String,
    /// Where execution-log is.
    pub execution_log: String,
    /// Where flow-engine is.
    pub flow_engine: String,
}

impl Default for Services {
    fn default() -> Self {
        let at = |name: &str| format!("http://{name}:8080");
        Self {
            secret: None,
            user_iam: at("user-iam"),
            flow_repository: at("flow-repository"),
            template_repository: at("template-repository"),
            webhook: at("webhook"),
            execution_log: at("execution-log"),
            flow_engine: at("flow-engine"),
        }
    }
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
    /// Milliseconds that a request's body may take whatever comes of it; then it is answered 408.
    pub body_timeout_ms: u64,
    /// For each so many bytes of a body that have come it may take a second more.
    pub body_bytes_per_second: u64,
    /// Addresses and networks, with commas between them, of the proxies whose `X-Forwarded-For` says where a client is.
    pub trusted_proxies: TrustedProxies,
    /// Who sends this as a bearer token may read `/metrics`; administrators of the system may anyway. 16 bytes or more.
    pub metrics_token: Option<String>,
}

impl Http {
    /// How long a body may take.
    pub fn pace(&self) -> Pace {
        Pace {
            patience: Duration::from_millis(self.body_timeout_ms),
            bytes_per_second: self.body_bytes_per_second,
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            workers: 0,
            grace_seconds: 10,
            body_timeout_ms: 30_000,
            body_bytes_per_second: 64 << 10,
            trusted_proxies: TrustedProxies::default(),
            metrics_token: None,
        }
    }
}

/// Section `limits`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes of requests that are held at the same time. A tenant has half of them at the most, a flow a quarter; what
    /// does not fit is refused with 503 before it is taken.
    pub in_flight_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_flight_bytes: 256 << 20,
        }
    }
}

impl Limits {
    /// A flow's share has to hold the largest body, and what becomes of it.
    fn validate(&self, max_body: usize) -> Result<(), Error> {
        let least = max_body.saturating_mul(8).max(8 << 20);
        if (least..=1 << 40).contains(&self.in_flight_bytes) {
            return Ok(());
        }
        let reason = format!(
            "has to be from {least}, eight times webhook.max_body_bytes, to {}",
            1_u64 << 40
        );
        Err(Error::bad("limits.in_flight_bytes", reason))
    }
}

/// Section `data`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Data {
    /// The directory; made where it does not exist.
    pub dir: PathBuf,
    /// Bytes of its disk that have to be free for new executions to be taken; 0: a twentieth of the disk, 1 GiB at most.
    pub reserve_bytes: u64,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            dir: "./data".into(),
            reserve_bytes: 0,
        }
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
    /// The same without what nobody should read.
    pub fn masked(mut self) -> Self {
        let mask = || MASK.to_owned();
        let secrets = [
            &mut self.admin.password,
            &mut self.http.metrics_token,
            &mut self.services.secret,
            &mut self.bus.sasl_password,
        ];
        for secret in secrets.into_iter().filter(|secret| secret.is_some()) {
            *secret = Some(mask());
        }
        // It may hold a password.
        if self.storage.url.contains('@') {
            self.storage.url = mask();
        }
        self
    }

    /// Where the signing key is.
    pub fn iam_keys(&self) -> PathBuf {
        let own = || self.data.dir.join("keys");
        self.iam.key_directory.clone().unwrap_or_else(own)
    }

    /// Refuses values that make no sense, naming the key.
    pub fn validate(&self) -> Result<(), Error> {
        if self.http.workers > 1024 {
            return Err(Error::bad("http.workers", "has to be 1024 at most"));
        }
        if self.http.grace_seconds > 3600 {
            return Err(Error::bad("http.grace_seconds", "has to be 3600 at most"));
        }
        if !(100..=3_600_000).contains(&self.http.body_timeout_ms) {
            return Err(Error::bad(
                "http.body_timeout_ms",
                "has to be from 100 to 3600000",
            ));
        }
        if self.http.body_bytes_per_second == 0 {
            return Err(Error::bad("http.body_bytes_per_second", "has to be 1 at least"));
        }
        if self
            .http
            .metrics_token
            .as_ref()
            .is_some_and(|token| token.len() < 16)
        {
            return Err(Error::bad("http.metrics_token", "has to have 16 bytes or more"));
        }
        self.limits.validate(self.webhook.max_body_bytes)?;
        self.admin.validate()?;
        self.iam.validate()?;
        self.webhook.validate()?;
        self.engine.validate()?;
        self.connectors.validate()?;
        self.executions.validate()?;
        self.gateway.validate()
    }
}
