//! The distributed bus: Apache Kafka. Each topic is a Kafka topic; events are CloudEvents in binary mode. A publish is
//! acknowledged by all in-sync replicas before it returns, by an idempotent producer. Positions are offsets.
//!
//! Topics are made by [`create_topics`], an explicit command, and never by a service. `execution-requests` and
//! `execution-events` need the same number of partitions: both have executions as keys, and what one member has said of
//! its requests is found in the partition of the same number. Their times are the broker's, so that one clock orders them.

mod again;
mod codec;
mod contact;
mod member;
#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "tests")]
mod played;
mod producer;
mod reader;
mod reading;
mod rebalancing;
mod supervisor;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use flowmate_common::{Event, Topic};
use parking_lot::Mutex;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    config::FromClientConfig,
    error::{KafkaError, RDKafkaErrorCode},
    producer::Producer as _,
};

use tokio_util::task::TaskTracker;

use crate::{Assignment, Bus, Error, History, Start, Subscription};

/// How long a broker is asked for something before that is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a producer tries to publish an event.
const DELIVERY: Duration = Duration::from_secs(10);
/// Bytes of one event: a webhook's body of 10 MiB, and what is around it.
const MAX_EVENT: usize = 16 << 20;

/// Settings of the bus.
#[derive(Clone, Debug)]
pub struct Options {
    /// `host:port` of some brokers, separated by commas.
    pub brokers: String,
    /// What the names of topics and groups begin with.
    pub prefix: String,
    /// Settings of librdkafka, such as `security.protocol`, over ours.
    pub settings: BTreeMap<String, String>,
}

impl Options {
    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "flowmate")
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.max.ms", "2000")
            .set("message.max.bytes", MAX_EVENT.to_string())
            .set("receive.message.max.bytes", (4 * MAX_EVENT).to_string());
        config
    }

    /// A consumer with the group's commits, of which none is made by itself.
    fn consumer(&self, topic: Topic, group: &str) -> ClientConfig {
        let mut config = self.client();
        config
            .set("group.id", self.group(topic, group))
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("queued.max.messages.kbytes", "16384")
            // The broker answers at once when there is something; this is how often it says that there is nothing.
            .set("fetch.wait.max.ms", "500");
        config
    }

    /// Puts the settings over ours.
    fn over(&self, config: &mut ClientConfig) {
        for (key, value) in &self.settings {
            config.set(key, value);
        }
    }

    fn make<T: FromClientConfig>(&self, mut config: ClientConfig) -> Result<T, Error> {
        self.over(&mut config);
        config.create().map_err(unavailable)
    }

    fn topic(&self, topic: Topic) -> String {
        format!("{}{}", self.prefix, topic.name())
    }

    /// Members of a group have one topic: joining another would disturb them all.
    fn group(&self, topic: Topic, group: &str) -> String {
        format!("{}{group}.{}", self.prefix, topic.name())
    }
}

/// A connection to Kafka.
pub struct KafkaBus {
    options: Options,
    producer: Arc<producer::Producer>,
    supervisor: Arc<supervisor::Supervisor>,
    again: again::Again,
    lag: Lag,
    members: TaskTracker,
}

/// How far each group of this process is behind.
type Lag = Arc<Mutex<BTreeMap<(Topic, String), u64>>>;

impl KafkaBus {
    /// Connects. Fails where no broker answers, where a topic is missing, and where the partitions of two topics that
    /// belong together differ in number.
    pub async fn connect(options: Options) -> Result<Self, Error> {
        let producer = producer::Producer::new(&options)?;
        let supervisor = supervisor::Supervisor::start(options.clone()).map_err(unavailable)?;
        supervisor.watch(&producer);
        let bus = Self {
            again: again::Again::new(options.clone()),
            options,
            producer,
            supervisor,
            lag: Arc::default(),
            members: TaskTracker::new(),
        };
        bus.check_topics().await?;
        Ok(bus)
    }

    async fn check_topics(&self) -> Result<(), Error> {
        let partitions = self.partitions().await?;
        let count = |topic: Topic| partitions.get(&topic).copied().unwrap_or_default();
        if let Some(missing) = Topic::ALL.into_iter().find(|topic| count(*topic) == 0) {
            let name = self.options.topic(missing);
            let message = format!("topic {name} does not exist; `flowmate topics` makes what is missing");
            return Err(Error::Unavailable(message));
        }
        let (requests, events) = (count(Topic::ExecutionRequests), count(Topic::ExecutionEvents));
        if requests != events {
            let name = |topic| self.options.topic(topic);
            return Err(Error::Unavailable(format!(
                "topics {} and {} need the same number of partitions, they have {requests} and {events}",
                name(Topic::ExecutionRequests),
                name(Topic::ExecutionEvents)
            )));
        }
        Ok(())
    }

    /// How many partitions each topic has; none where it does not exist.
    async fn partitions(&self) -> Result<BTreeMap<Topic, usize>, Error> {
        let (producer, options) = (self.producer.client(), self.options.clone());
        blocking(move || {
            let metadata = producer
                .client()
                .fetch_metadata(None, PATIENCE)
                .map_err(unavailable)?;
            let count = |topic: Topic| {
                let name = options.topic(topic);
                let found = metadata.topics().iter().find(|one| one.name() == name);
                (topic, found.map_or(0, |found| found.partitions().len()))
            };
            Ok(Topic::ALL.into_iter().map(count).collect())
        })
        .await
    }
}

#[async_trait]
impl Bus for KafkaBus {
    async fn publish(&self, events: Vec<Event>) -> Result<(), Error> {
        self.producer.publish(&events).await
    }

    async fn subscribe(
        &self,
        topic: Topic,
        group: &str,
        start: Start,
        assignment: Arc<dyn Assignment>,
    ) -> Result<Box<dyn Subscription>, Error> {
        let member = member::Member {
            options: self.options.clone(),
            producer: Arc::clone(&self.producer),
            supervisor: Arc::clone(&self.supervisor),
            topic,
            group: group.to_owned(),
            start,
            assignment,
            lag: Arc::clone(&self.lag),
            alive: self.members.token(),
        };
        Ok(Box::new(member.join().await?))
    }

    async fn since_commit(
        &self,
        topic: Topic,
        of: Topic,
        group: &str,
        partition: u32,
    ) -> Result<Box<dyn History>, Error> {
        let (options, group) = (self.options.clone(), group.to_owned());
        let supervisor = Arc::clone(&self.supervisor);
        blocking(move || reader::since_commit(&options, &supervisor, (topic, of), &group, partition)).await
    }

    async fn watch(&self, topic: Topic, group: &str) -> Result<Box<dyn History>, Error> {
        let partitions = self.partitions().await?.get(&topic).copied().unwrap_or_default();
        let (options, group) = (self.options.clone(), group.to_owned());
        let supervisor = Arc::clone(&self.supervisor);
        blocking(move || reader::watch(&options, &supervisor, topic, &group, partitions)).await
    }

    async fn read_at(&self, topic: Topic, partition: u32, position: u64) -> Result<Option<Event>, Error> {
        self.again.read(topic, partition, position).await
    }

    async fn close(&self) {
        self.members.close();
        if tokio::time::timeout(PATIENCE, self.members.wait()).await.is_err() {
            tracing::warn!("some commits are not durable; what they are about is delivered again");
        }
    }

    async fn ping(&self) -> Result<(), Error> {
        let (producer, name) = (self.producer.client(), self.options.topic(Topic::Flows));
        let patience = Duration::from_secs(2);
        blocking(move || {
            let metadata = producer.client().fetch_metadata(Some(&name), patience);
            metadata.map(|_| ()).map_err(unavailable)
        })
        .await
    }

    fn alive(&self) -> Result<(), Error> {
        self.supervisor.alive().map_err(Error::Unavailable)
    }

    fn lag(&self) -> Vec<(Topic, String, u64)> {
        let lag = self.lag.lock();
        lag.iter()
            .map(|((topic, group), count)| (*topic, group.clone(), *count))
            .collect()
    }
}

/// How topics are made.
#[derive(Clone, Copy, Debug)]
pub struct TopicSettings {
    /// Partitions of the topics that grow with the work: how many members can share it.
    pub partitions: i32,
    /// Copies of everything.
    pub replication: i32,
}

/// Makes the topics that do not exist; returns their names when brokers know of all. What exists stays as it is.
pub async fn create_topics(options: &Options, settings: TopicSettings) -> Result<Vec<String>, Error> {
    let client: AdminClient<DefaultClientContext> = options.make(options.client())?;
    let max_bytes = MAX_EVENT.to_string();
    let names: Vec<String> = Topic::ALL.iter().map(|topic| options.topic(*topic)).collect();
    let topics: Vec<NewTopic<'_>> = names
        .iter()
        .map(|name| {
            NewTopic::new(
                name,
                settings.partitions,
                TopicReplication::Fixed(settings.replication),
            )
            .set("max.message.bytes", &max_bytes)
            .set("message.timestamp.type", "LogAppendTime")
        })
        .collect();
    let patient = AdminOptions::new()
        .operation_timeout(Some(PATIENCE))
        .request_timeout(Some(PATIENCE));
    let results = client
        .create_topics(&topics, &patient)
        .await
        .map_err(unavailable)?;
    let mut made = Vec::new();
    for result in results {
        match result {
            Ok(name) => made.push(name),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => return Err(Error::Unavailable(format!("topic {name}: {code}"))),
        }
    }
    // They are made before every broker has heard of them.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while let Err(error) = KafkaBus::connect(options.clone()).await {
        if tokio::time::Instant::now() > deadline {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(made)
}

/// Removes the topics, for tests.
pub async fn delete_topics(options: &Options) -> Result<(), Error> {
    let client: AdminClient<DefaultClientContext> = options.make(options.client())?;
    let names: Vec<String> = Topic::ALL.iter().map(|topic| options.topic(*topic)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    client
        .delete_topics(&names, &AdminOptions::new())
        .await
        .map(|_| ())
        .map_err(unavailable)
}

fn refused(error: KafkaError, event: &Event) -> Error {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => Error::TooLarge {
            size: event.size(),
            limit: MAX_EVENT,
        },
        _ => unavailable(error),
    }
}

fn unavailable(error: impl std::fmt::Display) -> Error {
    Error::Unavailable(error.to_string())
}

/// How often it is said that no broker answers.
const SAID: Duration = Duration::from_secs(10);

/// Every connection of the process notices, again and again; one line now and then is enough.
fn no_broker(reason: &str) {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = LAST.lock();
    if last.is_none_or(|last| last.elapsed() > SAID) {
        *last = Some(Instant::now());
        tracing::warn!(reason, "Kafka does not answer; it is tried again all the time");
    }
}

/// The calls of the client that wait do so on a thread of their own.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(call).await.map_err(unavailable)?
}
