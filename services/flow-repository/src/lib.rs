//! flow-repository: flows and their status.
//!
//! Owns the collections `flows` and `flow_tenants`, a view of disabled tenants. Publishes on topic `flows`: `flowrepo.flow.created|modified|deleted`, `flow.starting`,
//! `flow.stopping`. Consumes from it `flow.started`, `flow.stopped`, `flow.failed`, and
//! `iam.user.modified|deleted` and `iam.tenant.created|modified|deleted` from topic `iam`. Contract sections 2.2, 3.1 to 3.4,
//! 3.9, 3.11.
//!
//! ```text
//! inactive -- POST start --> starting -- flow.started --> active -- POST stop --> stopping -- flow.stopped --> inactive
//!                            starting -- flow.failed --> stopping
//! ```

mod active;
mod domain;
mod events;
mod reconcile;
mod routes;
mod store;
mod tenants;

use std::sync::Arc;

use actix_web::web::Data;
use async_trait::async_trait;
use flowmate_common::{
    Failure, Topic,
    auth::Caller,
    ids::{FlowId, UserId},
    model::Flow,
};
use flowmate_runtime::{
    Context, Repository, Service,
    clients::{Accounts, ActiveFlow, Flows},
    internal::{self, AskActive, CreateFlow, GetFlow},
};
use flowmate_storage::{Document, Portable};
use flowmate_web::ServiceConfig;
use serde_json::Value;

use store::FlowRecord;
use tenants::{KnownTenant, Tenants};

/// What this service stores.
pub const COLLECTIONS: &[Portable] = &[Portable::of::<FlowRecord>(), Portable::of::<KnownTenant>()];

/// What the operations need.
pub(crate) struct State {
    context: Context,
    store: Repository<FlowRecord>,
    tenants: Tenants,
    accounts: Arc<dyn Accounts>,
}

/// The service.
pub struct FlowRepository {
    state: Data<State>,
}

impl FlowRepository {
    /// Opens the collection and begins to relay and consume events. `accounts` is asked who belongs to which tenant.
    pub async fn start(context: &Context, accounts: Arc<dyn Accounts>) -> Result<Self, Failure> {
        let store = Repository::open(&context.storage).await?;
        let state = Data::from(Arc::new(State {
            context: context.clone(),
            store,
            tenants: Tenants::open(&context.storage).await?,
            accounts,
        }));
        context.relay(&[FlowRecord::SPEC]);
        let consuming = state.clone();
        context.consume(Topic::Flows, "flow-repository", move |event| {
            let state = consuming.clone();
            async move { events::flows::handle(&state, event).await }
        });
        let consuming = state.clone();
        context.consume(Topic::Iam, "flow-repository", move |event| {
            let state = consuming.clone();
            async move { events::iam::handle(&state, event).await }
        });
        let asking = state.clone();
        context.spawn("flows that wait for the engine", async move {
            reconcile::run(&asking).await;
        });
        Ok(Self { state })
    }

    /// How other services of this process call this one.
    pub fn client(&self) -> Arc<dyn Flows> {
        Arc::new(Local(self.state.clone()))
    }
}

struct Local(Data<State>);

#[async_trait]
impl Flows for Local {
    async fn create(&self, caller: &Caller, body: Value) -> Result<Flow, Failure> {
        routes::create::create(&self.0, caller, body).await
    }

    async fn get(&self, caller: &Caller, id: &str) -> Result<Flow, Failure> {
        routes::get::get(&self.0, caller, id).await
    }

    async fn active(&self, users: Vec<UserId>, flows: Vec<FlowId>) -> Result<Vec<ActiveFlow>, Failure> {
        active::of(&self.0, users, flows).await
    }
}

impl Service for FlowRepository {
    fn name(&self) -> &'static str {
        "flow-repository"
    }

    fn configure(&self, config: &mut ServiceConfig<'_>) {
        config.app_data(self.state.clone());
        operations(config);
        let (context, name) = (&self.state.context, self.name());
        let state = self.state.clone();
        internal::serve(
            config,
            context,
            name,
            "flows/create",
            move |CreateFlow { caller, body }| {
                let state = state.clone();
                async move { routes::create::create(&state, &caller, body).await }
            },
        );
        let state = self.state.clone();
        internal::serve(
            config,
            context,
            name,
            "flows/get",
            move |GetFlow { caller, id }| {
                let state = state.clone();
                async move { routes::get::get(&state, &caller, &id).await }
            },
        );
        let state = self.state.clone();
        internal::serve(
            config,
            context,
            name,
            "flows/active",
            move |AskActive { users, flows }| {
                let state = state.clone();
                async move { active::of(&state, users, flows).await }
            },
        );
    }

    fn context(&self) -> &Context {
        &self.state.context
    }
}

/// Registers the operations; the state comes with [`Service::configure`]. On its own this serves to write the spec.
pub fn operations(config: &mut ServiceConfig<'_>) {
    routes::configure(config);
}

#[cfg(test)]
mod tests;
