//! template-repository: templates, and the flows made from them.
//!
//! Owns the collection `templates`. Publishes on topic `templates`. Consumes `iam.user.modified|deleted` and
//! `iam.tenant.deleted` from topic `iam`. Asks flow-repository to create flows, and user-iam who belongs to a tenant.
//! Contract sections 2.4, 3.5.

mod domain;
mod events;
mod routes;
mod store;

use std::sync::Arc;

use actix_web::web::Data;
use flowmate_common::{Failure, Topic};
use flowmate_runtime::{
    Context, Repository, Service,
    clients::{Accounts, Flows},
};
use flowmate_storage::{Document, Portable};
use flowmate_web::ServiceConfig;

use store::TemplateRecord;

/// What this service stores.
pub const COLLECTIONS: &[Portable] = &[Portable::of::<TemplateRecord>()];

/// What the operations need.
pub(crate) struct State {
    context: Context,
    store: Repository<TemplateRecord>,
    flows: Arc<dyn Flows>,
    accounts: Arc<dyn Accounts>,
}

/// The service.
pub struct TemplateRepository {
    state: Data<State>,
}

impl TemplateRepository {
    /// Opens the collection and begins to relay events. `flows` is where flows are created, `accounts` is asked who belongs
    /// to which tenant.
    pub async fn start(
        context: &Context,
        flows: Arc<dyn Flows>,
        accounts: Arc<dyn Accounts>,
    ) -> Result<Self, Failure> {
        let store = Repository::open(&context.storage).await?;
        context.relay(&[TemplateRecord::SPEC]);
        let state = Arc::new(State {
            context: context.clone(),
            store,
            flows,
            accounts,
        });
        let consuming = Arc::clone(&state);
        context.consume(Topic::Iam, "template-repository", move |event| {
            let state = Arc::clone(&consuming);
            async move { events::handle(&state, event).await }
        });
        Ok(Self {
            state: Data::from(state),
        })
    }
}

impl Service for TemplateRepository {
    fn name(&self) -> &'static str {
        "template-repository"
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
