//! A real Kafka against the conformance suite, and what only several members can show. `make services-up` starts one;
//! `FLOWMATE_KAFKA_BROKERS` names another. Each test has topics of its own.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use flowmate_bus::{
    Bus, Error, Start, conformance,
    inbox::Inbox,
    kafka::{KafkaBus, Options, TopicSettings, create_topics, delete_topics},
};
use flowmate_common::{Event, EventType, Timestamp, Topic, ids::IdGenerator};

fn variable(name: &str) -> Option<String> {
    std::env::vars()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value)
}

fn options() -> Options {
    Options {
        brokers: variable("FLOWMATE_KAFKA_BROKERS").unwrap_or_else(|| "127.0.0.1:19092".into()),
        prefix: format!("t{}.", IdGenerator::random().long()),
        settings: BTreeMap::new(),
    }
}

/// Runs `test` with fresh topics; where no broker answers, that is said loudly, and CI fails.
fn with_topics<F: Future<Output = ()>>(partitions: i32, test: impl FnOnce(Options) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let options = options();
        let settings = TopicSettings {
            partitions,
            replication: 1,
        };
        if let Err(error) = create_topics(&options, settings).await {
            let message = format!(
                "NOT RUN: no Kafka at {} (make services-up): {error}",
                options.brokers
            );
            assert!(variable("CI").is_none(), "{message}");
            eprintln!("\n{message}\n");
            return;
        }
        test(options.clone()).await;
        delete_topics(&options).await.unwrap();
    });
}

#[test]
fn conforms() {
    with_topics(3, |options| async move {
        let open = move || -> Arc<dyn Bus> {
            let options = options.clone();
            let connect = async move { KafkaBus::connect(options).await.unwrap() };
            Arc::new(tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(connect)
            }))
        };
        tokio::spawn(conformance::bus(open)).await.unwrap();
    });
}

fn event(key: &str, number: usize) -> Event {
    Event {
        id: format!("{key}-{number}").into(),
        kind: EventType::FlowModified,
        key: key.into(),
        time: Timestamp::from_millis(0),
        trace: None,
        data: Bytes::from(number.to_string()),
    }
}

/// When a member joins or leaves, others get what it had not done; what was done does not come again.
#[test]
fn members_share_and_hand_over() {
    with_topics(4, |options| async move {
        let bus = KafkaBus::connect(options).await.unwrap();
        let join = async || {
            Inbox::open(&bus, Topic::Flows, "g", Start::Beginning, 1_000)
                .await
                .unwrap()
        };
        let events = (0..200).map(|number| event(&format!("k{}", number % 20), number));
        bus.publish(events.collect()).await.unwrap();
        let mut first = join().await;
        let mut kept = Vec::new();
        let mut taken = 0;
        while taken < 200 {
            for job in first.next(1_000).await.unwrap() {
                taken += 1;
                if job.event.body::<usize>().unwrap() % 2 == 0 {
                    job.ack.done();
                } else {
                    kept.push(job);
                }
            }
        }
        // The second gets some of the partitions, and when the first leaves the others.
        let mut second = join().await;
        drop((first, kept));
        let mut odd = std::collections::BTreeSet::new();
        let hand_over = async {
            while odd.len() < 100 {
                for job in second.next(1_000).await.unwrap() {
                    let number: usize = job.event.body().unwrap();
                    job.ack.done();
                    if number % 2 == 1 {
                        odd.insert(number);
                    }
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), hand_over)
            .await
            .unwrap();
        drop(second);
        let mut third = join().await;
        bus.publish(vec![event("k0", 1_000)]).await.unwrap();
        let mut last = 0;
        while last != 1_000 {
            // What the second had not got to may come again.
            for job in third.next(1_000).await.unwrap() {
                last = job.event.body().unwrap();
                assert!(last % 2 == 0, "{last} was done and comes again");
                job.ack.done();
            }
        }
    });
}

#[test]
fn poison_goes_to_the_dead_letters_and_blocks_nobody() {
    use rdkafka::{
        ClientConfig,
        producer::{FutureProducer, FutureRecord},
    };
    with_topics(1, |options| async move {
        let producer: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", &options.brokers)
            .create()
            .unwrap();
        let topic = format!("{}flows", options.prefix);
        let record = FutureRecord::to(&topic).key("k").payload("not ours");
        producer.send(record, Duration::from_secs(10)).await.unwrap();
        let bus = KafkaBus::connect(options).await.unwrap();
        bus.publish(vec![event("k", 1)]).await.unwrap();
        let mut inbox = Inbox::open(&bus, Topic::Flows, "g", Start::Beginning, 10)
            .await
            .unwrap();
        let job = inbox.next(10).await.unwrap().remove(0);
        assert_eq!(job.event, event("k", 1));
        job.ack.done();
        let mut letters = Inbox::open(&bus, Topic::DeadLetters, "r", Start::Beginning, 10)
            .await
            .unwrap();
        let letter = letters.next(10).await.unwrap().remove(0);
        let body: flowmate_common::model::DeadLetter = letter.event.body().unwrap();
        assert_eq!((body.event.as_str(), body.position), (Some("not ours"), 0));
        letter.ack.done();
    });
}

#[test]
fn missing_topics_and_partitions_that_do_not_fit_are_named() {
    with_topics(2, |options| async move {
        let elsewhere = Options {
            prefix: "nothing.".into(),
            ..options.clone()
        };
        let refused = KafkaBus::connect(elsewhere).await.map(|_| ());
        assert!(
            matches!(&refused, Err(Error::Unavailable(reason)) if reason.contains("nothing.flows") && reason.contains("flowmate topics")),
            "{refused:?}"
        );
        let nowhere = Options {
            brokers: "127.0.0.1:9".into(),
            ..options
        };
        assert!(KafkaBus::connect(nowhere).await.is_err());
    });
}
