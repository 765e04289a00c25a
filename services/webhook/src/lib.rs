//! webhook: takes requests from other systems and hands them to the engine, durably.
//!
//! Owns the collection `webhook_flows`, its view of the flows that are live. Consumes topic `flows`, publishes
//! `flow.execute` on `execution-requests`. Contract sections 2.6, 3.8.

mod body;
mod config;
mod events;
mod message;
mod record;
mod routes;
mod view;

use std::sync::Arc;

use actix_web::web::Data;
use flowmate_bus::dispatch::Refusal;
use flowmate_common::{Failure, Topic};
use flowmate_runtime::{Context, Service, clients::Accounts};
use flowmate_storage::Portable;
use flowmate_web::{ErrorStyle, ServiceConfig};
use tokio::sync::Semaphore;

pub use config::Config;
use record::LiveFlow;
use view::View;

/// Requests for unknown flows that wait out their delay at the same time.
const WAITING: usize = 1_024;

/// What this service stores.
pub const COLLECTIONS: &[Portable] = &[Portable::of::<LiveFlow>()];

/// First path segments whose failures are told as `{"error":"text"}`.
pub const ERROR_STYLES: &[(&str, ErrorStyle)] = &[("webhooks", ErrorStyle::Error)];

/// What the operations need.
pub(crate) struct State {
    context: Context,
    config: Config,
    view: Arc<View>,
    waiting: Semaphore,
    accounts: Arc<dyn Accounts>,
}

/// The service.
pub struct Webhook {
    state: Data<State>,
}

impl Webhook {
    /// Loads the view and begins to keep it up to date.
    pub async fn start(
        context: &Context,
        config: Config,
        accounts: Arc<dyn Accounts>,
    ) -> Result<Self, Failure> {
        let view = View::open(context).await?;
        let waiting = Semaphore::new(WAITING);
        let state = Data::from(Arc::new(State {
            context: context.clone(),
            config,
            view,
            waiting,
            accounts,
        }));
        let consuming = state.clone();
        context.consume(Topic::Flows, "webhook", move |event| {
            let state = consuming.clone();
            async move {
                match events::change(&event)? {
                    Some(change) => state.view.store(change).await.map_err(Refusal::from),
                    None => Ok(()),
                }
            }
        });
        Ok(Self { state })
    }
}

impl Service for Webhook {
    fn name(&self) -> &'static str {
        "webhook"
    }

    fn configure(&self, config: &mut ServiceConfig<'_>) {
        config.app_data(self.state.clone());
        operations(config);
    }

    fn error_styles(&self) -> &'static [(&'static str, ErrorStyle)] {
        ERROR_STYLES
    }

    fn context(&self) -> &Context {
        &self.state.context
    }
}

/// Registers the operations; the state comes with [`Service::configure`]. On its own this serves to write the spec.
pub fn operations(config: &mut ServiceConfig<'_>) {
    routes::configure(config);
}
