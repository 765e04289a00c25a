//! What can go wrong on the bus without anybody's process dying: events that are none, and events that come twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use flowmate_common::{EventType, Topic};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::{BorrowedHeaders, BorrowedMessage, Header, Headers, OwnedHeaders},
    producer::{
        BaseRecord, DefaultProducerContext, FutureProducer, FutureRecord, Producer, ThreadedProducer,
    },
};

/// How long the broker may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The header of an event's second copy.
const COPY: &str = "x-copy";

/// The topics of one distributed server.
#[derive(Clone, Debug)]
pub struct Broker {
    /// `host:port`
    pub brokers: String,
    /// What its topics' names begin with.
    pub prefix: String,
}

impl Broker {
    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config
    }

    /// Publishes on every topic what is no event of ours, and what looks like one and cannot be read. Returns how many.
    pub async fn poison(&self) -> anyhow::Result<u64> {
        let producer: FutureProducer = self.client().create()?;
        let mut sent = 0;
        for (topic, kind) in [
            (Topic::Flows, EventType::FlowStarting),
            (Topic::Flows, EventType::FlowStarted),
            (Topic::Templates, EventType::TemplateCreated),
            (Topic::Iam, EventType::UserDeleted),
            (Topic::Iam, EventType::TokenDeleted),
            (Topic::ExecutionRequests, EventType::FlowExecute),
            (Topic::ExecutionEvents, EventType::StepFinished),
            (Topic::ExecutionEvents, EventType::ExecutionFinished),
            (Topic::DeadLetters, EventType::DeadLetter),
        ] {
            let name = format!("{}{}", self.prefix, topic.name());
            let as_event = headers(&[
                ("ce_type", kind.name()),
                ("ce_id", "poison"),
                ("ce_time", "2026-01-01T00:00:00Z"),
            ]);
            let unknown = headers(&[
                ("ce_type", "no.such.type"),
                ("ce_id", "poison"),
                ("ce_time", "2026-01-01T00:00:00Z"),
            ]);
            let poison: [(Option<&str>, &[u8], OwnedHeaders); 6] = [
                (None, b"", OwnedHeaders::new()),
                (Some("poison"), b"not ours", OwnedHeaders::new()),
                (Some("poison"), b"\xff\xfe\x00", as_event.clone()),
                (Some("poison"), b"{\"id\":", as_event.clone()),
                (Some("poison"), b"{\"it\":\"is something else\"}", as_event),
                (Some("poison"), b"{}", unknown),
            ];
            for (key, payload, headers) in poison {
                let mut record = FutureRecord::to(&name).payload(payload).headers(headers);
                record.key = key;
                let done = producer.send(record, PATIENCE).await;
                done.map_err(|(error, _)| error)?;
                sent += 1;
            }
        }
        Ok(sent)
    }

    /// From now on publishes a second time whatever is published, until the result is dropped.
    pub fn duplicate(&self) -> anyhow::Result<Duplicator> {
        let consumer: BaseConsumer = self
            .client()
            .set("group.id", "duplicator")
            .set("enable.auto.commit", "false")
            .create()?;
        let producer: ThreadedProducer<DefaultProducerContext> =
            self.client().set("linger.ms", "1").create()?;
        let metadata = consumer.fetch_metadata(None, PATIENCE)?;
        let mut from = TopicPartitionList::new();
        for topic in metadata
            .topics()
            .iter()
            .filter(|topic| topic.name().starts_with(&self.prefix))
        {
            for partition in topic.partitions() {
                let (_, end) = consumer.fetch_watermarks(topic.name(), partition.id(), PATIENCE)?;
                from.add_partition_offset(topic.name(), partition.id(), Offset::Offset(end))?;
            }
        }
        consumer.assign(&from)?;
        let (stop, copies) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (ends, counted) = (Arc::clone(&stop), Arc::clone(&copies));
        let thread = std::thread::Builder::new().name("duplicator".into());
        let thread = thread.spawn(move || {
            while !ends.load(Ordering::Acquire) {
                if let Some(Ok(message)) = consumer.poll(Duration::from_millis(50))
                    && copy(&message, &producer)
                {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
            let _ = producer.flush(PATIENCE);
        })?;
        Ok(Duplicator {
            stop,
            copies,
            thread: Some(thread),
        })
    }
}

fn headers(all: &[(&str, &str)]) -> OwnedHeaders {
    all.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
        headers.insert(Header {
            key,
            value: Some(*value),
        })
    })
}

/// Publishes it again where it was, unless it is a copy.
fn copy(message: &BorrowedMessage<'_>, producer: &ThreadedProducer<DefaultProducerContext>) -> bool {
    let headers = message.headers().map(BorrowedHeaders::detach).unwrap_or_default();
    if headers.iter().any(|header| header.key == COPY) {
        return false;
    }
    let mut record = BaseRecord::to(message.topic())
        .partition(message.partition())
        .payload(message.payload().unwrap_or_default())
        .headers(headers.insert(Header {
            key: COPY,
            value: Some("1"),
        }));
    record.key = message.key();
    producer.send(record).is_ok()
}

/// Copies events until it is dropped.
pub struct Duplicator {
    stop: Arc<AtomicBool>,
    copies: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Duplicator {
    /// How many events were copied so far.
    pub fn copies(&self) -> u64 {
        self.copies.load(Ordering::Relaxed)
    }
}

impl Drop for Duplicator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The broker that these variables lead a service to.
pub(crate) fn of(variables: &[(String, String)]) -> anyhow::Result<Broker> {
    // The last of a name counts, as in the environment of a process.
    let value = |name: &str| {
        let found = variables.iter().rev().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone()).context(name.to_owned())
    };
    let url = value("FLOWMATE__BUS__URL")?;
    Ok(Broker {
        brokers: url.trim_start_matches("kafka://").to_owned(),
        prefix: value("FLOWMATE__BUS__PREFIX")?,
    })
}
