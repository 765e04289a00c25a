//! A service as a process of its own: on MongoDB and Kafka, with the others behind their URLs.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Subcommand;
use flowmate_bus::kafka::{self, KafkaBus};
use flowmate_common::{
    Budget, Clock, Failure, Pressure,
    auth::{ServiceTokens, TokenVerifier},
    ids::IdGenerator,
};
use flowmate_execution_log::ExecutionLog;
use flowmate_flow_engine::{self as engine, FlowEngine};
use flowmate_flow_repository::FlowRepository;
use flowmate_gateway::{
    Gateway, Metrics,
    proxy::{Proxy, Route},
};
use flowmate_runtime::{Context, Listening, RequestContext, Service, internal::Remote, serve, sessions};
use flowmate_storage::mongo;
use flowmate_template_repository::TemplateRepository;
use flowmate_user_iam::UserIam;
use flowmate_webhook::Webhook;
use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::{Bus, Config, Services},
    serving,
    surface::{specification, styles, whole},
};

/// What a process can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Role {
    /// Users, tenants, roles, tokens.
    UserIam,
    /// Flows.
    FlowRepository,
    /// Templates.
    TemplateRepository,
    /// Takes webhooks.
    Webhook,
    /// Executions, logs, counts.
    ExecutionLog,
    /// Runs flows.
    FlowEngine,
    /// Passes requests on to the others.
    ApiGateway,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::UserIam,
        Self::FlowRepository,
        Self::TemplateRepository,
        Self::Webhook,
        Self::ExecutionLog,
        Self::FlowEngine,
        Self::ApiGateway,
    ];

    /// As in the architecture.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UserIam => "user-iam",
            Self::FlowRepository => "flow-repository",
            Self::TemplateRepository => "template-repository",
            Self::Webhook => "webhook",
            Self::ExecutionLog => "execution-log",
            Self::FlowEngine => "flow-engine",
            Self::ApiGateway => "api-gateway",
        }
    }

    /// The role of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Whether it gives way to taking webhooks and answering where they share a machine.
    pub const fn gives_way(self) -> bool {
        matches!(self, Self::FlowEngine | Self::ExecutionLog)
    }

    /// Where the others find it; the gateway is nobody's callee.
    fn url(self, services: &Services) -> Option<&str> {
        Some(match self {
            Self::UserIam => &services.user_iam,
            Self::FlowRepository => &services.flow_repository,
            Self::TemplateRepository => &services.template_repository,
            Self::Webhook => &services.webhook,
            Self::ExecutionLog => &services.execution_log,
            Self::FlowEngine => &services.flow_engine,
            Self::ApiGateway => return None,
        })
    }
}

/// A running service.
pub struct Process {
    server: Listening,
    /// None of the gateway, which stores and sends nothing.
    context: Option<Context>,
    grace: Duration,
    /// Where it listens.
    pub address: std::net::SocketAddr,
}

impl Process {
    /// Starts it; returns when requests are served. `metrics` renders Prometheus text.
    pub async fn start(
        role: Role,
        config: Config,
        metrics: impl Fn() -> String + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let listener = serving::listen(&config)?;
        let address = listener.local_addr()?;
        let (options, grace) = (
            serving::options(&config, role != Role::ApiGateway),
            serving::grace(&config),
        );
        let metrics = Metrics::new(metrics, config.http.metrics_token.as_deref());
        let (server, context) = if role == Role::ApiGateway {
            let clock = Clock::System;
            let requests = RequestContext {
                ids: IdGenerator::random(),
                tokens: TokenVerifier::new(clock),
                pressure: Pressure::default(),
                budget: Budget::new(config.limits.in_flight_bytes),
            };
            let proxy = gateway(&config, metrics)?;
            let styles = proxy.styles();
            let server = serve(listener, requests, styles, options, move |routes| {
                proxy.configure(routes);
            })?;
            (server, None)
        } else {
            let context = connect(&config).await?;
            let service = start(role, &context, config)
                .await
                .map_err(|failure| anyhow::anyhow!("{} cannot start: {failure}", role.name()))?;
            let described = specification(Some(role.name())).context("no specification")?;
            let bus = Arc::clone(&context.bus);
            let gateway = Gateway::new(vec![service], described, metrics)
                .living(move || bus.alive().map_err(|error| error.to_string()));
            let styles = gateway.styles();
            let server = serve(listener, (&context).into(), styles, options, move |routes| {
                gateway.configure(routes);
            })?;
            (server, Some(context))
        };
        Ok(Self {
            server,
            context,
            grace,
            address,
        })
    }

    /// What groups have still to take from the bus, for metrics.
    pub fn bus(&self) -> Option<Arc<dyn flowmate_bus::Bus>> {
        self.context.as_ref().map(|context| Arc::clone(&context.bus))
    }

    /// Ends in order, as [`crate::Embedded::stop`] does.
    pub async fn stop(self) {
        serving::end(self.server, self.context, self.grace).await;
    }
}

async fn start(role: Role, context: &Context, config: Config) -> Result<Arc<dyn Service>, Failure> {
    let services = config.services.clone();
    let remote = |callee: Role| {
        let url = callee.url(&services).unwrap_or_default();
        let tokens = context
            .services
            .clone()
            .ok_or_else(|| Failure::internal("no service tokens"))?;
        Remote::new(url, role.name(), callee.name(), tokens)
    };
    if role != Role::UserIam {
        sessions::follow(context, remote(Role::UserIam)?).await?;
    }
    Ok(match role {
        Role::UserIam => {
            let keys = config.iam_keys();
            Arc::new(UserIam::start(context, config.iam, &config.admin, &keys).await?)
        }
        Role::FlowRepository => {
            let accounts = Arc::new(remote(Role::UserIam)?);
            Arc::new(FlowRepository::start(context, accounts).await?)
        }
        Role::TemplateRepository => {
            let flows = Arc::new(remote(Role::FlowRepository)?);
            let accounts = Arc::new(remote(Role::UserIam)?);
            Arc::new(TemplateRepository::start(context, flows, accounts).await?)
        }
        Role::Webhook => {
            let accounts = Arc::new(remote(Role::UserIam)?);
            Arc::new(Webhook::start(context, config.webhook, accounts).await?)
        }
        Role::ExecutionLog => {
            let flows = Arc::new(remote(Role::FlowRepository)?);
            Arc::new(ExecutionLog::start(context, config.executions, flows).await?)
        }
        Role::FlowEngine => {
            // Nobody waits for this process's answers: it works on ordinary threads.
            serving::tell_private_targets(&config);
            let process = engine::Process {
                spare: Handle::current(),
                marks: Some(config.data.dir.join("engine")),
            };
            let accounts = Arc::new(remote(Role::UserIam)?);
            let engine = FlowEngine::start(context, config.engine, &config.connectors, process, accounts);
            Arc::new(engine.await?)
        }
        Role::ApiGateway => return Err(Failure::internal("the gateway is no service")),
    })
}

fn gateway(config: &Config, metrics: Metrics) -> anyhow::Result<Proxy> {
    let mut routes = Vec::new();
    for role in Role::ALL {
        if let Some(url) = role.url(&config.services) {
            routes.push(Route {
                name: role.name(),
                urls: addresses(url),
                spec: specification(Some(role.name())).context("no specification")?,
            });
        }
    }
    Proxy::new(routes, whole(), styles(), &config.gateway, metrics)
        .map_err(|failure| anyhow::anyhow!("api-gateway cannot start: {failure}"))
}

/// A service's addresses: a list with commas.
fn addresses(list: &str) -> Vec<String> {
    let addresses = list.split(',').map(|one| one.trim().to_owned());
    addresses.filter(|one| !one.is_empty()).collect()
}

/// Connects to storage and bus.
async fn connect(config: &Config) -> anyhow::Result<Context> {
    let clock = Clock::System;
    let secret = config.services.secret.as_deref().unwrap_or_default();
    anyhow::ensure!(
        secret.len() >= ServiceTokens::MIN_SECRET,
        "configuration key `services.secret`: needs {} bytes or more, the same for all services",
        ServiceTokens::MIN_SECRET
    );
    anyhow::ensure!(
        config.storage.url.starts_with("mongodb"),
        "configuration key `storage.url`: has to be mongodb://host:port/database"
    );
    let bus = bus_options(&config.bus)?;
    let storage = mongo::connect(&config.storage.url)
        .await
        .context("configuration key `storage.url`")?;
    let brokers = bus.brokers.clone();
    let bus = KafkaBus::connect(bus)
        .await
        .with_context(|| format!("configuration key `bus.url`: kafka://{brokers}"))?;
    Ok(Context {
        storage,
        bus: Arc::new(bus),
        tokens: TokenVerifier::new(clock.clone()),
        services: Some(ServiceTokens::new(secret, clock.clone())),
        clock,
        ids: IdGenerator::random(),
        tasks: TaskTracker::new(),
        shutdown: CancellationToken::new(),
        pressure: Pressure::default(),
        consumers: flowmate_bus::consumers::Consumers::default(),
        budget: Budget::new(config.limits.in_flight_bytes),
    })
}

/// How Kafka is reached.
pub fn bus_options(bus: &Bus) -> anyhow::Result<kafka::Options> {
    let brokers = bus
        .url
        .strip_prefix("kafka://")
        .filter(|brokers| !brokers.is_empty())
        .context("configuration key `bus.url`: has to be kafka://host:port,host:port")?;
    let file = bus.ca_file.as_deref().and_then(Path::to_str);
    let given = [
        ("security.protocol", bus.security_protocol.as_deref()),
        ("sasl.mechanism", bus.sasl_mechanism.as_deref()),
        ("sasl.username", bus.sasl_username.as_deref()),
        ("sasl.password", bus.sasl_password.as_deref()),
        ("ssl.ca.location", file),
    ];
    let settings: BTreeMap<String, String> = given
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())))
        .collect();
    Ok(kafka::Options {
        brokers: brokers.to_owned(),
        prefix: bus.prefix.clone(),
        settings,
    })
}
