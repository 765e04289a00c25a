use std::sync::Arc;

use async_trait::async_trait;
use flowmate_bus::{Bus, Start, dispatch};
use flowmate_common::{
    Budget, Clock, Event, EventType, Pressure, Topic,
    auth::{ServiceTokens, TokenVerifier},
    ids::IdGenerator,
};
use flowmate_storage::{CollectionSpec, Storage, relay};
use flowmate_web::{ErrorStyle, ServiceConfig};
use serde::Serialize;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What a service is started with. It never knows which backends stand behind it. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// Documents and executions.
    pub storage: Storage,
    /// Events.
    pub bus: Arc<dyn Bus>,
    /// The time.
    pub clock: Clock,
    /// New ids.
    pub ids: IdGenerator,
    /// Checks tokens.
    pub tokens: TokenVerifier,
    /// Everything that runs in the background.
    pub tasks: TaskTracker,
    /// Rings when it is time to end.
    pub shutdown: CancellationToken,
    /// Tokens for calls between services; none where all services are in this process.
    pub services: Option<ServiceTokens>,
    /// The requests that this process answers at the moment.
    pub pressure: Pressure,
    /// The bytes that this process may hold for requests.
    pub budget: Budget,
}

impl Context {
    /// Runs `work` in the background until it ends or the process is to end, whichever comes first.
    pub fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = work => tracing::error!(task = name, "background work ended on its own"),
            }
        });
    }

    /// Publishes the events that wait in these collections, for ever.
    pub fn relay(&self, collections: &'static [&'static CollectionSpec]) {
        let (storage, bus) = (self.storage.clone(), Arc::clone(&self.bus));
        self.spawn("outbox relay", async move {
            relay::run(storage, collections, |events| {
                let bus = Arc::clone(&bus);
                async move { bus.publish(events).await }
            })
            .await;
        });
    }

    /// Runs `handle` for each event of the topic, in order for each key.
    pub fn consume<H, F>(&self, topic: Topic, group: &'static str, handle: H)
    where
        H: Fn(Event) -> F + Send + Sync + Clone + 'static,
        F: Future<Output = Result<(), dispatch::Refusal>> + Send + 'static,
    {
        let consumer = self.consumer(topic, group);
        self.spawn(group, async move {
            if let Err(error) = consumer.each(Start::Beginning, handle).await {
                tracing::error!(group, %error, "consuming stopped");
            }
        });
    }

    /// Runs `apply` for each event of the topic in every replica, beginning with the oldest that `group` has not
    /// committed: see [`Bus::watch`]. Returns when the beginning is fixed: what is stored is to be loaded after that.
    pub async fn watch(
        &self,
        topic: Topic,
        group: &'static str,
        apply: impl Fn(Event) + Send + 'static,
    ) -> Result<(), flowmate_bus::Error> {
        let mut events = self.bus.watch(topic, group).await?;
        self.spawn("view", async move {
            loop {
                match events.next().await {
                    Ok(batch) if batch.is_empty() => return,
                    Ok(batch) => batch.into_iter().for_each(&apply),
                    Err(error) => tracing::error!(group, %error, "watching stopped"),
                }
            }
        });
        Ok(())
    }

    /// Who consumes what, for services that consume in their own way.
    pub fn consumer(&self, topic: Topic, group: &'static str) -> dispatch::Consumer {
        let (bus, clock, ids) = (Arc::clone(&self.bus), self.clock.clone(), self.ids.clone());
        dispatch::Consumer {
            bus,
            topic,
            group,
            clock,
            ids,
        }
    }

    /// An event with `body`.
    pub fn event<T: Serialize>(
        &self,
        kind: EventType,
        key: impl Into<Arc<str>>,
        body: &T,
    ) -> Result<Event, flowmate_storage::Error> {
        Event::new(&self.ids, &self.clock, kind, key, body)
            .map_err(|error| flowmate_storage::Error::Corrupt(error.to_string()))
    }
}

/// Whether a part works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Pass,
    /// It does not, and why.
    Fail(String),
}

/// A service: a library that can register its operations and say how it is. Starting it is its own constructor's
/// business, which takes a [`Context`] and the service's own configuration.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Its name, as in the architecture.
    fn name(&self) -> &'static str;
    /// Registers its operations; called once for each worker thread.
    fn configure(&self, config: &mut ServiceConfig<'_>);
    /// First path segments whose failures are not told as `{"errors":[…]}`.
    fn error_styles(&self) -> &'static [(&'static str, ErrorStyle)] {
        &[]
    }
    /// What it was started with.
    fn context(&self) -> &Context;
    /// Whether it can do its work: storage and bus answer.
    async fn health(&self) -> Health {
        let context = self.context();
        let storage = context.storage.documents().ping().await;
        let bus = context.bus.ping().await;
        match (storage, bus) {
            (Ok(()), Ok(())) => Health::Pass,
            (Err(error), _) => Health::Fail(error.to_string()),
            (_, Err(error)) => Health::Fail(error.to_string()),
        }
    }
}
