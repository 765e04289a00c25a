//! execution-log: what executions did.
//!
//! Owns the executions, their steps, the usage counts, a view of the users' names, and the dead letters of all consumers.
//! Consumes topic `execution-events` in batches, and topics `iam` and `dead-letters`. Contract sections 2.5, 3.7.

mod config;
mod dead_letters;
mod events;
mod routes;
mod users;

use std::{sync::Arc, time::Duration};

use actix_web::web::Data;
use flowmate_common::{Failure, Topic};
use flowmate_runtime::{Context, Service, clients::Flows};
use flowmate_storage::Portable;
use flowmate_web::ServiceConfig;

pub use config::Config;
use dead_letters::{Bounds, KeptEvent, KeptLetter, Letters};
use users::{KnownUser, Users};

/// What this service stores.
pub const COLLECTIONS: &[Portable] = &[
    Portable::of::<KnownUser>(),
    Portable::of::<KeptLetter>(),
    Portable::of::<KeptEvent>(),
];

/// What the operations need.
pub(crate) struct State {
    context: Context,
    users: Users,
    letters: Letters,
    flows: Arc<dyn Flows>,
}

/// The service.
pub struct ExecutionLog {
    state: Data<State>,
}

/// How long executions may take to appear in the log, for writes that are worth their sync.
const LINGER: Duration = Duration::from_millis(20);
const PRUNE_EVERY: Duration = Duration::from_secs(600);
/// Executions removed in one write, so that recording never waits long.
const PRUNE_AT_ONCE: u64 = 1_000;

impl ExecutionLog {
    /// Begins to consume events and to forget what is old. `flows` is asked which flows a caller sees.
    pub async fn start(context: &Context, config: Config, flows: Arc<dyn Flows>) -> Result<Self, Failure> {
        let users = Users::open(context).await?;
        let state = Data::from(Arc::new(State {
            context: context.clone(),
            users: users.clone(),
            letters: Letters::start(context, Bounds::default()).await?,
            flows,
        }));
        context.consume(Topic::Iam, "execution-log", move |event| {
            let users = users.clone();
            async move { users.handle(event).await }
        });
        let store = Arc::clone(context.storage.executions());
        context.consume_batches(Topic::ExecutionEvents, "execution-log", LINGER, move |events| {
            let store = Arc::clone(&store);
            async move { events::record(&store, events).await }
        });
        let pruning = context.clone();
        context.spawn("execution pruning", async move { prune(&pruning, config).await });
        Ok(Self { state })
    }
}

async fn prune(context: &Context, config: Config) {
    let keep = i64::from(config.retention_days) * 86_400_000;
    loop {
        let before = context.clock.now().plus_millis(-keep);
        match context.storage.executions().prune(before, PRUNE_AT_ONCE).await {
            Ok(PRUNE_AT_ONCE) => continue,
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "old executions were removed"),
            Err(error) => tracing::warn!(%error, "old executions could not be removed"),
        }
        tokio::time::sleep(PRUNE_EVERY).await;
    }
}

impl Service for ExecutionLog {
    fn name(&self) -> &'static str {
        "execution-log"
    }

    fn configure(&self, config: &mut ServiceConfig<'_>) {
        config.app_data(self.state.clone());
        operations(config);
    }

    fn context(&self) -> &Context {
        &self.state.context
    }
}

/// Registers the operations; the state comes with [`Service::configure`]. On its own this serves to write the spec.
pub fn operations(config: &mut ServiceConfig<'_>) {
    routes::configure(config);
}
