//! flow-engine: runs flows.
//!
//! Owns the collection `engine_flows`, the flows that it runs. Consumes topic `flows` (start and stop) and
//! `execution-requests`; publishes `flow.started|stopped|failed` and, on `execution-events`, what executions do. That
//! topic is also the engine's journal: after a crash it is read from the oldest unfinished request on, and an
//! execution resumes behind its last recorded effect. Architecture sections 5 and 6.

mod claims;
mod components;
mod config;
mod events;
mod execution;
mod fair;
mod flows;
mod journal;
mod requests;
mod routes;
mod step;

use std::sync::Arc;

use actix_web::web::Data;
use flowmate_common::{Failure, Topic};
use flowmate_connectors::{HttpSettings, Registry};
use flowmate_runtime::{Context, Service};
use flowmate_storage::{Document, Portable};
use flowmate_web::ServiceConfig;
use tokio::runtime::Handle;

use components::{ComponentRecord, Components};
pub use config::{Config, Connectors};
use flows::{Flows, RunningRecord};

/// What this service stores.
pub const COLLECTIONS: &[Portable] = &[Portable::of::<RunningRecord>(), Portable::of::<ComponentRecord>()];

/// What the workers need.
pub(crate) struct State {
    context: Context,
    config: Config,
    registry: Registry,
    flows: Arc<Flows>,
    components: Components,
    spare: Handle,
}

/// The service.
pub struct FlowEngine {
    state: Data<State>,
}

impl FlowEngine {
    /// Joins those who take execution requests, and begins to work. `private_targets`: whether steps may call
    /// addresses that are not public. While many requests are being answered, executions run on `spare`.
    pub async fn start(
        context: &Context,
        config: Config,
        connectors: &Connectors,
        private_targets: bool,
        spare: Handle,
    ) -> Result<Self, Failure> {
        let settings = HttpSettings {
            private_targets,
            retry: connectors.retry,
        };
        let registry = Registry::new(settings).map_err(Failure::internal)?;
        let flows = Flows::open(context).await?;
        let state = Data::from(Arc::new(State {
            context: context.clone(),
            config,
            registry,
            flows,
            components: Components::open(context).await?,
            spare,
        }));
        context.relay(&[RunningRecord::SPEC]);
        let consuming = state.clone();
        context.consume(Topic::Flows, "flow-engine", move |event| {
            let state = consuming.clone();
            async move { events::handle(&state, event).await }
        });
        let consuming = state.clone();
        context.consume(Topic::Iam, "flow-engine", move |event| {
            let state = consuming.clone();
            async move { events::owner_gone(&state, event).await }
        });
        requests::start(state.clone().into_inner()).await?;
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
