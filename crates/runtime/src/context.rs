use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use flowmate_bus::{
    Bus, History, Start,
    consumers::{Consumers, Standing},
    dispatch,
};
use flowmate_common::{
    Budget, Clock, Event, EventType, Fault, Pressure, Topic,
    auth::{ServiceTokens, TokenVerifier},
    ids::IdGenerator,
};
use flowmate_retry::Backoff;
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
    /// How the consumers of this process are.
    pub consumers: Consumers,
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
        let context = self.clone();
        self.spawn("outbox relay", async move {
            relay::run(context.storage.clone(), collections, |events| {
                let context = context.clone();
                async move { context.publish_isolated(events).await }
            })
            .await;
        });
    }

    /// Publishes what can be published; an event that never can becomes a dead letter, alone.
    async fn publish_isolated(&self, events: Vec<Event>) -> Result<(), flowmate_bus::Error> {
        match self.bus.publish(events.clone()).await {
            Err(error) if !error.is_transient() => {}
            result => return result,
        }
        for event in events {
            match self.bus.publish(vec![event.clone()]).await {
                Err(error) if !error.is_transient() => {
                    let consumer = self.consumer(event.topic(), "outbox");
                    consumer.refuse(&event, &error).await?;
                }
                result => result?,
            }
        }
        Ok(())
    }

    /// Runs `handle` for each event of the topic, in order for each key.
    pub fn consume<H, F>(&self, topic: Topic, group: &'static str, handle: H)
    where
        H: Fn(Event) -> F + Send + Sync + Clone + 'static,
        F: Future<Output = Result<(), dispatch::Refusal>> + Send + 'static,
    {
        let consumer = self.registered(topic, group);
        self.spawn(group, consumer.each(Start::Beginning, handle));
    }

    /// Runs `handle` for batches of the topic's events; a batch is what comes within `linger` of its first.
    pub fn consume_batches<H, F>(&self, topic: Topic, group: &'static str, linger: Duration, handle: H)
    where
        H: Fn(Vec<Event>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), dispatch::Refusal>> + Send + 'static,
    {
        let consumer = self.registered(topic, group);
        self.spawn(group, consumer.batches(Start::Beginning, linger, handle));
    }

    /// Runs `apply` for each event of the topic in every replica, beginning with the oldest that `group` has not
    /// committed: see [`Bus::watch`]. Returns when the beginning is fixed: what is stored is to be loaded after that.
    /// Faults of the bus do not end it. An event may come twice: `apply` is idempotent.
    pub async fn watch(
        &self,
        topic: Topic,
        group: &'static str,
        apply: impl Fn(Event) + Send + Sync + 'static,
    ) -> Result<(), flowmate_bus::Error> {
        let events = self.bus.watch(topic, group).await?;
        let standing = self.consumers.register(topic, &format!("view of {group}"));
        standing.runs();
        let watching = Watching {
            bus: Arc::clone(&self.bus),
            topic,
            group,
            standing,
        };
        self.spawn("view", async move { watching.run(events, apply).await });
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
            standing: Standing::default(),
        }
    }

    fn registered(&self, topic: Topic, group: &'static str) -> dispatch::Consumer {
        dispatch::Consumer {
            standing: self.consumers.register(topic, group),
            ..self.consumer(topic, group)
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

/// A view that follows a topic.
struct Watching {
    bus: Arc<dyn Bus>,
    topic: Topic,
    group: &'static str,
    standing: Standing,
}

impl Watching {
    async fn run(self, mut events: Box<dyn History>, apply: impl Fn(Event) + Send + Sync) {
        let mut backoff = Backoff::new(format!("watching {} for {}", self.topic.name(), self.group));
        loop {
            let ended = match events.next().await {
                Ok(batch) if batch.is_empty() => None,
                Ok(batch) => {
                    backoff.passed();
                    self.standing.runs();
                    for event in batch {
                        self.shielded(&apply, event);
                    }
                    continue;
                }
                Err(error) => Some(error),
            };
            let reason = ended
                .as_ref()
                .map_or_else(|| "it ended".into(), ToString::to_string);
            self.standing.fails(&reason);
            backoff.wait(&reason).await;
            if ended.is_none() {
                match self.bus.watch(self.topic, self.group).await {
                    Ok(again) => events = again,
                    Err(error) => tracing::debug!(%error, "watching again"),
                }
            }
        }
    }

    /// A view survives an event that it cannot take.
    fn shielded(&self, apply: impl Fn(Event), event: Event) {
        let id = Arc::clone(&event.id);
        if std::panic::catch_unwind(AssertUnwindSafe(|| apply(event))).is_err() {
            tracing::error!(group = self.group, event.id = &*id, "a view panicked at an event");
        }
    }
}

/// Whether a part works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Pass,
    /// It does, but something is tried again and again, and why.
    Warn(String),
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
    /// Whether it can do its work: storage and bus answer, and every consumer of this process takes events. A consumer
    /// whose handler is refused for now is no reason to say no: what refuses it says so here itself.
    async fn health(&self) -> Health {
        let context = self.context();
        if let Some(reason) = context.consumers.failed() {
            return Health::Fail(reason);
        }
        let storage = context.storage.documents().ping().await;
        let bus = context.bus.ping().await;
        match (storage, bus) {
            (Ok(()), Ok(())) => context.consumers.waiting().map_or(Health::Pass, Health::Warn),
            (Err(error), _) => Health::Fail(error.to_string()),
            (_, Err(error)) => Health::Fail(error.to_string()),
        }
    }
}
