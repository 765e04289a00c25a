//! flow-engine: runs flows.
//!
//! Owns the collection `engine_flows`, the flows that it runs. Consumes topic `flows` (start and stop) and
//! `execution-requests`; publishes `flow.started|stopped|failed` and, on `execution-events`, what executions do. That
//! topic is also the engine's journal: after a crash it is read from the oldest unfinished request on, and an
//! execution resumes behind its last recorded effect. Executions that wait are stored in `parked_executions`.
//! Architecture sections 5 and 6.

mod breaker;
mod claims;
mod components;
mod compute;
mod config;
mod ended;
mod events;
mod execution;
mod fair;
mod flows;
mod journal;
mod marks;
mod parked;
mod positions;
mod requests;
mod routes;
mod step;
mod stopping;
mod suspects;
mod turns;
mod waker;
mod work;

use std::{path::PathBuf, sync::Arc, time::Duration};

use actix_web::web::Data;
use flowmate_common::{Failure, Topic, ids::FlowId};
use flowmate_connectors::{HttpSettings, Registry};
use flowmate_evaluator::{Pool, Program};
use flowmate_runtime::{Context, Service, clients::Accounts};
use flowmate_storage::{Document, Portable};
use flowmate_web::ServiceConfig;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc},
};

use breaker::Breakers;
use components::{ComponentRecord, Components};
pub use config::{Config, Connectors};
use ended::Done;
use execution::between;
use fair::{Fair, Limits};
use flows::{Flows, RunningRecord};
use parked::{Parked, ParkedExecution};
use suspects::Suspects;
use waker::Waker;
use work::Job;

/// Executions that wait shortly in memory at the same time.
const SHORT_WAITS: usize = 256;

/// What this service stores.
pub const COLLECTIONS: &[Portable] = &[
    Portable::of::<RunningRecord>(),
    Portable::of::<ComponentRecord>(),
    Portable::of::<ParkedExecution>(),
];

/// What the workers need.
pub(crate) struct State {
    context: Context,
    config: Config,
    registry: Registry,
    elsewhere: compute::Elsewhere,
    flows: Arc<Flows>,
    components: Components,
    accounts: Arc<dyn Accounts>,
    spare: Handle,
    parked: Parked,
    waker: Waker,
    breakers: Breakers,
    suspects: Suspects,
    fair: Arc<Fair<Box<Job>>>,
    /// Executions that wait shortly in memory.
    short_waits: Arc<Semaphore>,
    /// Where ends go. Not kept open from here: it ends when nothing is left that could end.
    ended: mpsc::WeakSender<Done>,
}

impl State {
    /// The target answered the flow as it should, or with a failure that is not its own.
    pub(crate) fn worked(&self, flow: &FlowId, target: &str) {
        if self.breakers.worked(flow, target) {
            self.fair.go_on(flow);
        }
    }

    /// The target failed for now: after several failures in a row it is given rest, and the flow with it.
    pub(crate) fn failed(self: &Arc<Self>, flow: &FlowId, target: &str, asked: Option<Duration>) {
        let now = self.context.clock.now();
        let asked = asked.and_then(|asked| i64::try_from(asked.as_millis()).ok());
        let Some(until) = self.breakers.failed(flow, target, now, asked) else {
            return;
        };
        metrics::counter!("flowmate_targets_rested_total").increment(1);
        tracing::warn!(flow.id = %flow, target, %until, "a target failed again and again and is given rest");
        self.fair.rest(flow, until);
        let fair = Arc::clone(&self.fair);
        let rest = between(now, until);
        self.context.tasks.spawn(async move {
            tokio::time::sleep(rest).await;
            fair.ring();
        });
    }
}

/// What the service is told of its process.
pub struct Process {
    /// Where executions run while many requests are being answered.
    pub spare: Handle,
    /// A directory for what is at work, so that after an unclean end that is run first and alone.
    pub marks: Option<PathBuf>,
}

/// The service.
pub struct FlowEngine {
    state: Data<State>,
}

impl FlowEngine {
    /// Joins those who take execution requests, and begins to work. `accounts` is asked who belongs to which tenant.
    pub async fn start(
        context: &Context,
        config: Config,
        connectors: &Connectors,
        process: Process,
        accounts: Arc<dyn Accounts>,
    ) -> Result<Self, Failure> {
        let Process { spare, marks } = process;
        let settings = HttpSettings {
            private_targets: connectors.private_targets.clone(),
            retry: connectors.retry,
            budget: context.budget.clone(),
            clock: context.clock.clone(),
        };
        let registry = Registry::new(settings).map_err(Failure::internal)?;
        let pool = Program::this().and_then(|this| Pool::new(this, config.expressions, compute::places()));
        let elsewhere = compute::Elsewhere::new(Arc::new(pool.map_err(Failure::internal)?));
        let flows = Flows::open(context).await?;
        let limits = Limits {
            total: config.concurrency,
            tenant: config.tenant_concurrency,
            flow: config.flow_concurrency,
            bytes: config.in_flight_bytes,
        };
        let (ended, endings) = mpsc::channel(ended::WAITING);
        let (suspects, arriving) = Suspects::read(marks.as_deref(), config.concurrency);
        let state = Data::from(Arc::new(State {
            context: context.clone(),
            config,
            registry,
            elsewhere,
            flows,
            components: Components::open(context).await?,
            accounts,
            spare,
            parked: Parked::open(context).await.map_err(Failure::internal)?,
            waker: Waker::default(),
            breakers: Breakers::default(),
            suspects,
            fair: Fair::new(limits, context.clock.clone()),
            short_waits: Arc::new(Semaphore::new(SHORT_WAITS)),
            ended: ended.downgrade(),
        }));
        context.relay(&[RunningRecord::SPEC]);
        context.relay(&[ParkedExecution::SPEC]);
        let consuming = state.clone();
        context.consume(Topic::Flows, "flow-engine", move |event| {
            let state = consuming.clone();
            async move { events::handle(&state.into_inner(), event).await }
        });
        let consuming = state.clone();
        context.consume(Topic::Iam, "flow-engine", move |event| {
            let state = consuming.clone();
            async move { events::owner_gone(&state, event).await }
        });
        let shared = state.clone().into_inner();
        requests::start(Arc::clone(&shared), (ended, endings), arriving).await?;
        stopping::resume(&shared).await.map_err(Failure::internal)?;
        Ok(Self { state })
    }
}

impl Service for FlowEngine {
    fn name(&self) -> &'static str {
        "flow-engine"
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
