//! The producer of a bus, whichever it is at the moment.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use flowmate_common::{Event, Topic};
use futures_util::future::join_all;
use parking_lot::Mutex;
use rdkafka::{
    consumer::{BaseConsumer, Consumer},
    metadata::Metadata,
    producer::{FutureProducer, FutureRecord, Producer as _},
};

use super::{
    DELIVERY, Options, codec, refused,
    supervisor::{Client, Proof},
};
use crate::Error;

/// How long the client is believed to know by itself that an event cannot be delivered.
const OVERDUE: Duration = DELIVERY.saturating_add(Duration::from_secs(10));
/// How long a question of the supervisor waits for its answer.
const ASKED: Duration = Duration::from_secs(3);

/// A refusal counts for so long: where nobody tries again there is nothing to be seen of it. Shorter than the doubt that
/// ends in a replacement.
const LATELY: Duration = Duration::from_secs(10);

/// A producer that is replaced when it is dead.
pub(super) struct Producer {
    options: Options,
    now: Mutex<Now>,
}

struct Now {
    producer: FutureProducer,
    /// Which one it is, counted from 0.
    number: u64,
    /// When it last said that it does not deliver, since it last delivered.
    failed: Option<Instant>,
    /// Whether it has delivered anything.
    has_delivered: bool,
}

impl Producer {
    pub(super) fn new(options: &Options) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self {
            options: options.clone(),
            now: Mutex::new(Now {
                producer: make(options)?,
                number: 0,
                failed: None,
                has_delivered: false,
            }),
        }))
    }

    pub(super) fn client(&self) -> FutureProducer {
        self.now.lock().producer.clone()
    }

    pub(super) async fn publish(&self, events: &[Event]) -> Result<(), Error> {
        let (producer, number) = {
            let now = self.now.lock();
            (now.producer.clone(), now.number)
        };
        let deliveries = deliver(&self.options, &producer, events);
        let result = match tokio::time::timeout(OVERDUE, deliveries).await {
            Ok(result) => result,
            Err(_) => Err(Error::Unavailable("the producer says nothing".into())),
        };
        self.learn(number, &result);
        result
    }

    fn learn(&self, number: u64, result: &Result<(), Error>) {
        let mut now = self.now.lock();
        if now.number != number {
            return;
        }
        match result {
            Ok(()) => {
                now.failed = None;
                now.has_delivered = true;
            }
            Err(Error::Unavailable(_)) => {
                now.failed = Some(Instant::now());
            }
            Err(Error::TooLarge { .. }) => {}
        }
    }
}

fn make(options: &Options) -> Result<FutureProducer, Error> {
    let mut config = options.client();
    config
        .set("acks", "all")
        .set("enable.idempotence", "true")
        // What is published at the same time goes in one request. librdkafka waits in whole milliseconds and polls
        // without a pause through the last one: of two that is half of the thread's time, of five a fifth.
        .set("linger.ms", "5")
        .set("compression.type", "lz4")
        .set("delivery.timeout.ms", DELIVERY.as_millis().to_string())
        .set("queue.buffering.max.kbytes", (256 << 10).to_string());
    options.make(config)
}

async fn deliver(options: &Options, producer: &FutureProducer, events: &[Event]) -> Result<(), Error> {
    let mut sent = Vec::with_capacity(events.len());
    for event in events {
        let topic = options.topic(event.topic());
        let record = FutureRecord::to(&topic)
            .key(&*event.key)
            .payload(&*event.data)
            .headers(codec::headers(event));
        sent.push(
            producer
                .send_result(record)
                .map_err(|(error, _)| refused(error, event))?,
        );
    }
    for (result, event) in join_all(sent).await.into_iter().zip(events) {
        match result {
            Ok(Ok(_)) => {}
            Ok(Err((error, _))) => return Err(refused(error, event)),
            Err(_) => return Err(Error::Unavailable("the producer ended".into())),
        }
    }
    Ok(())
}

impl Client for Producer {
    fn name(&self) -> String {
        "the producer".into()
    }

    fn prove(&self) -> Proof {
        let (producer, failed, has_delivered) = {
            let now = self.now.lock();
            (now.producer.clone(), now.failed, now.has_delivered)
        };
        if let Some((code, reason)) = producer.client().fatal_error() {
            return Proof::Fails(format!("{code}: {reason}"));
        }
        if failed.is_some_and(|failed| failed.elapsed() < LATELY) {
            return Proof::Fails("it delivers nothing".into());
        }
        let topic = self.options.topic(Topic::Flows);
        match producer.client().fetch_metadata(Some(&topic), ASKED) {
            Ok(metadata) if has_brokers(&metadata) && has_delivered => Proof::Lives,
            Ok(metadata) if has_brokers(&metadata) => Proof::Unknown,
            Ok(_) => Proof::Fails("it knows no broker".into()),
            Err(error) => Proof::Fails(error.to_string()),
        }
    }

    fn asks_afresh(&self, options: &Options) -> bool {
        let Ok(fresh) = options.make::<BaseConsumer>(options.client()) else {
            return false;
        };
        let topic = options.topic(Topic::Flows);
        fresh
            .fetch_metadata(Some(&topic), ASKED)
            .is_ok_and(|metadata| has_brokers(&metadata))
    }

    /// Whoever waits for a delivery of the old one is told that it is not certain, and publishes again.
    fn replace(&self) {
        let fresh = match make(&self.options) {
            Ok(fresh) => fresh,
            Err(error) => {
                tracing::error!(%error, "no new producer");
                return;
            }
        };
        let old = {
            let mut now = self.now.lock();
            now.number += 1;
            now.failed = None;
            now.has_delivered = false;
            std::mem::replace(&mut now.producer, fresh)
        };
        old.purge(rdkafka::producer::PurgeConfig::default().queue().inflight());
        bury(move || drop(old));
    }
}

/// A broker that answers, and leads all partitions that it tells of.
fn has_brokers(metadata: &Metadata) -> bool {
    let mut partitions = metadata
        .topics()
        .iter()
        .flat_map(rdkafka::metadata::MetadataTopic::partitions);
    !metadata.brokers().is_empty() && partitions.all(|partition| partition.leader() >= 0)
}

/// Ends a client on a thread of its own: one that is dead may never be done with it.
pub(super) fn bury(end: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().name("kafka-burial".into());
    if let Err(error) = thread.spawn(end) {
        tracing::warn!(%error, "a client is not ended");
    }
}

#[cfg(test)]
mod tests {
    use super::{super::played::Broker, *};

    fn until(mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_so() {
            assert!(Instant::now() < deadline, "it never is");
        }
    }

    fn options(broker: &Broker) -> Options {
        Options {
            brokers: broker.address.to_string(),
            prefix: "t.".into(),
            settings: [
                ("reconnect.backoff.max.ms", "500"),
                // It answers no more than who is there.
                ("enable.idempotence", "false"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        }
    }

    /// What supervision is for (confluentinc/librdkafka#5301): whether it would come back by itself or not, its successor
    /// works.
    #[test]
    fn a_producer_that_was_told_of_no_brokers_is_in_doubt_and_its_successor_is_not() {
        let broker = Broker::start("t.flows");
        let options = options(&broker);
        let producer = Producer::new(&options).unwrap();
        until(|| producer.prove() == Proof::Unknown);
        assert!(producer.asks_afresh(&options));
        broker.knows_nobody(true);
        until(|| matches!(producer.prove(), Proof::Fails(_)));
        assert!(!producer.asks_afresh(&options), "nobody gets more");
        broker.knows_nobody(false);
        producer.replace();
        until(|| producer.prove() == Proof::Unknown);
    }

    /// The choice of librdkafka's version: its clients come back by themselves from every outage, also from one that ends
    /// with a broker that knows of none. Outages of 0.2 to 1 s, then 0.05 to 0.85 s without brokers.
    #[test]
    #[ignore = "takes minutes: make soak"]
    fn soak_clients_come_back_from_fifty_outages_by_themselves() {
        let broker = Broker::start("t.flows");
        let options = options(&broker);
        let make = || Producer::new(&options).unwrap();
        let mut clients: Vec<Arc<Producer>> = (0..8).map(|_| make()).collect();
        // What they have to say never stops, so that they look for a leader all the time.
        let talking = Arc::new(Mutex::new(clients.clone()));
        let talks = Arc::downgrade(&talking);
        std::thread::spawn(move || {
            while let Some(talking) = talks.upgrade() {
                for client in &*talking.lock() {
                    let record = FutureRecord::to("t.flows").key("k").payload("x");
                    drop(client.client().send_result(record));
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let (mut random, mut dead) = (12_345_u64, 0);
        let mut millis = |most: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            Duration::from_millis((random >> 33) % most)
        };
        for client in &clients {
            until(|| client.prove() == Proof::Unknown);
        }
        for outage in 1..=50 {
            broker.hangs_up(true);
            std::thread::sleep(Duration::from_millis(200) + millis(800));
            broker.knows_nobody(true);
            broker.hangs_up(false);
            std::thread::sleep(Duration::from_millis(50) + millis(800));
            broker.knows_nobody(false);
            let deadline = Instant::now() + Duration::from_secs(20);
            for client in &mut clients {
                let mut lives = client.prove() == Proof::Unknown;
                while !lives && Instant::now() < deadline {
                    lives = client.prove() == Proof::Unknown;
                }
                if !lives {
                    dead += 1;
                    println!("outage {outage}: a client is dead; {dead} until now");
                    *client = make();
                }
            }
            talking.lock().clone_from(&clients);
        }
        let (_, version) = rdkafka::util::get_rdkafka_version();
        println!("librdkafka {version}: 50 outages, 8 clients, {dead} dead");
        assert_eq!(dead, 0);
    }
}
