//! Composition: which services, over which backends, on which port.

use std::{
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use flowmate_bus::{
    Bus,
    local::{LocalBus, Options},
};
use flowmate_common::{Budget, Clock, Failure, Pressure, auth::TokenVerifier, ids::IdGenerator};
use flowmate_execution_log::ExecutionLog;
use flowmate_flow_engine::{FlowEngine, Process};
use flowmate_flow_repository::FlowRepository;
use flowmate_gateway::{Gateway, Metrics};
use flowmate_runtime::{Context, Listening, Service, serve};
use flowmate_storage::sqlite;
use flowmate_template_repository::TemplateRepository;
use flowmate_user_iam::{FirstAdmin, UserIam};
use flowmate_webhook::Webhook;
use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::{Config, Data},
    serving,
    surface::whole,
};

/// The threads that execute and record.
#[derive(Clone)]
pub struct Workers {
    /// Of [`flowmate_common::Priority::Background`].
    pub background: Handle,
    /// Of [`flowmate_common::Priority::Spare`].
    pub spare: Handle,
}

/// A running FlowMate.
pub struct Embedded {
    context: Context,
    server: Listening,
    grace: Duration,
    /// Where it listens.
    pub address: SocketAddr,
    /// The administrator, if this was the first start.
    pub first_admin: Option<FirstAdmin>,
}

impl Embedded {
    /// Starts everything; returns when requests are served. What executes and records flows runs on `workers`, all
    /// else on the caller's threads. `metrics` renders Prometheus text.
    pub async fn start(
        config: Config,
        workers: &Workers,
        metrics: impl Fn() -> String + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let listener = serving::listen(&config)?;
        let address = listener.local_addr()?;
        let budget = Budget::new(config.limits.in_flight_bytes);
        let context = open(&config.data, budget)?;
        let metrics = Metrics::new(metrics, config.http.metrics_token.as_deref());
        let (options, grace) = (serving::options(&config, false), serving::grace(&config));
        serving::tell_private_targets(&config);

        let iam = UserIam::start(&context, config.iam.clone(), &config.admin, &config.iam_keys())
            .await
            .map_err(|failure| starting("user-iam", &failure))?;
        let first_admin = iam.first_admin().cloned();
        let flows = FlowRepository::start(&context, iam.client())
            .await
            .map_err(|failure| starting("flow-repository", &failure))?;
        let templates = TemplateRepository::start(&context, flows.client(), iam.client())
            .await
            .map_err(|failure| starting("template-repository", &failure))?;
        let webhook = Webhook::start(&context, config.webhook.clone(), iam.client())
            .await
            .map_err(|failure| starting("webhook", &failure))?;
        let (shared, of_flows) = (context.clone(), flows.client());
        let log = workers
            .background
            .spawn(async move { ExecutionLog::start(&shared, config.executions, of_flows).await })
            .await?
            .map_err(|failure| starting("execution-log", &failure))?;
        let (shared, accounts) = (context.clone(), iam.client());
        let (spare, marks) = (workers.spare.clone(), Some(config.data.dir.join("engine")));
        let engine = workers
            .background
            .spawn(async move {
                let process = Process { spare, marks };
                FlowEngine::start(&shared, config.engine, &config.connectors, process, accounts).await
            })
            .await?
            .map_err(|failure| starting("flow-engine", &failure))?;

        // Routes are tried in this order: the webhook's first, since it is called most.
        let services: Vec<Arc<dyn Service>> = vec![
            Arc::new(webhook),
            Arc::new(iam),
            Arc::new(flows),
            Arc::new(templates),
            Arc::new(log),
            Arc::new(engine),
        ];
        let gateway = Gateway::new(services, whole(), metrics);
        let styles = gateway.styles();
        let server = serve(listener, (&context).into(), styles, options, move |routes| {
            gateway.configure(routes);
        })?;
        Ok(Self {
            context,
            server,
            grace,
            address,
            first_admin,
        })
    }

    /// What groups have still to take from the bus, for metrics.
    pub fn bus(&self) -> Arc<dyn Bus> {
        Arc::clone(&self.context.bus)
    }

    /// Ends in order: no new requests, running ones are answered, then running executions come to their end as far as
    /// the grace period allows. What does not is taken up again after the next start.
    pub async fn stop(self) {
        serving::end(self.server, Some(self.context), self.grace).await;
    }
}

fn open(data: &Data, budget: Budget) -> anyhow::Result<Context> {
    let directory: &Path = &data.dir;
    let named = || format!("data directory {} (FLOWMATE__DATA__DIR)", directory.display());
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(named)?;
    keep_private(directory);
    // The log first: its lock keeps a second process out of the data directory.
    let options = Options {
        reserve_bytes: data.reserve_bytes,
        ..Options::default()
    };
    let bus = LocalBus::open(&directory.join("log"), options).with_context(named)?;
    let storage = sqlite::open(directory).with_context(named)?;
    let clock = Clock::System;
    Ok(Context {
        storage,
        bus: Arc::new(bus),
        tokens: TokenVerifier::new(clock.clone()),
        clock,
        ids: IdGenerator::random(),
        tasks: TaskTracker::new(),
        shutdown: CancellationToken::new(),
        services: None,
        pressure: Pressure::default(),
        consumers: flowmate_bus::consumers::Consumers::default(),
        budget,
    })
}

/// What an older version wrote, or somebody carried here, is not for others either. Only what is FlowMate's by its name: the
/// directory may hold other things, and links lead out of it.
fn keep_private(directory: &Path) {
    let is_directory = |path: &Path| std::fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    let mut all = Vec::new();
    for name in ["log", "keys", "engine"] {
        let path = directory.join(name);
        if is_directory(&path) {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            all.extend(entries.map(|entry| entry.path()));
            all.push(path);
        }
    }
    for database in ["documents.db", "executions.db"] {
        all.extend(["", "-wal", "-shm"].map(|end| directory.join(format!("{database}{end}"))));
    }
    for path in all {
        let Ok(metadata) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        let mode = metadata.permissions().mode();
        if !metadata.is_symlink() && mode & 0o077 != 0 {
            let private = std::fs::Permissions::from_mode(mode & 0o700);
            if let Err(error) = std::fs::set_permissions(&path, private) {
                tracing::warn!(path = %path.display(), %error, "others may read this file");
            }
        }
    }
}

fn starting(service: &str, failure: &Failure) -> anyhow::Error {
    anyhow::anyhow!("{service} cannot start: {failure}")
}
