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
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewPartitions},
    client::DefaultClientContext,
    mocking::MockCluster,
    producer::{DefaultProducerContext, FutureProducer, FutureRecord},
    types::{RDKafkaApiKey, RDKafkaRespErr},
};

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

/// A cluster inside of librdkafka, which gives faults on demand; and a bus on it.
async fn mocked() -> (MockCluster<'static, DefaultProducerContext>, KafkaBus) {
    mocked_with(&[]).await
}

async fn mocked_with(more: &[(&str, &str)]) -> (MockCluster<'static, DefaultProducerContext>, KafkaBus) {
    let cluster = MockCluster::new(3).unwrap();
    for topic in Topic::ALL {
        cluster
            .create_topic(&format!("m.{}", topic.name()), 2, 3)
            .unwrap();
    }
    let settings = [
        ("delivery.timeout.ms", "3000"),
        ("request.timeout.ms", "1000"),
        ("socket.timeout.ms", "1000"),
        ("reconnect.backoff.max.ms", "100"),
    ];
    let options = Options {
        brokers: cluster.bootstrap_servers(),
        prefix: "m.".into(),
        settings: settings
            .iter()
            .chain(more)
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
    };
    (cluster, KafkaBus::connect(options).await.unwrap())
}

/// Takes `count` events and says that they are done; the numbers by key, as they came.
async fn take(inbox: &mut Inbox, count: usize) -> BTreeMap<String, Vec<usize>> {
    let mut taken: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let all = async {
        let mut left = count;
        while left > 0 {
            for job in inbox.next(left).await.unwrap() {
                left -= 1;
                let number = job.event.body().unwrap();
                taken.entry(job.event.key.to_string()).or_default().push(number);
                job.ack.done();
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.unwrap();
    taken
}

fn with_runtime<F: Future<Output = ()>>(test: F) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}

/// What a broker refuses for a moment is published once and in order, and the publisher never hears of it.
#[test]
fn faults_of_a_broker_neither_lose_nor_repeat_nor_reorder() {
    use RDKafkaApiKey::{Fetch, FindCoordinator, Heartbeat, JoinGroup, OffsetCommit, Produce, SyncGroup};
    use RDKafkaRespErr::{
        RD_KAFKA_RESP_ERR__TRANSPORT as CUT, RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS as LOADING,
        RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE as NO_COORDINATOR,
        RD_KAFKA_RESP_ERR_NOT_COORDINATOR as NOT_COORDINATOR,
        RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS as FEW_REPLICAS,
        RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION as NOT_LEADER,
        RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS as REBALANCING, RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT as LATE,
    };
    with_runtime(async {
        let (cluster, bus) = mocked().await;
        for (request, errors) in [
            (FindCoordinator, &[NO_COORDINATOR, NOT_COORDINATOR][..]),
            (JoinGroup, &[LOADING]),
            (SyncGroup, &[REBALANCING]),
            (Heartbeat, &[REBALANCING]),
            (Fetch, &[NOT_LEADER, CUT]),
            (OffsetCommit, &[LOADING, CUT]),
            // Cut after the broker may have had it: only an idempotent producer knows not to say it twice.
            (Produce, &[NOT_LEADER, FEW_REPLICAS, LATE, CUT, CUT]),
        ] {
            cluster.request_errors(request, errors);
        }
        let mut inbox = Inbox::open(&bus, Topic::Flows, "g", Start::Beginning, 100)
            .await
            .unwrap();
        for number in 0..50 {
            let events = (0..4).map(|key| event(&format!("k{key}"), number)).collect();
            bus.publish(events).await.unwrap();
        }
        for (key, numbers) in take(&mut inbox, 200).await {
            assert_eq!(numbers, (0..50).collect::<Vec<_>>(), "{key}");
        }
    });
}

/// What no broker takes is refused in time, and never said to be durable.
#[test]
fn without_brokers_a_publish_is_refused_and_later_ones_are_not() {
    with_runtime(async {
        let (cluster, bus) = mocked().await;
        bus.publish(vec![event("k", 0)]).await.unwrap();
        for broker in 1..=3 {
            cluster.broker_down(broker).unwrap();
        }
        let refused = bus.publish(vec![event("k", 1)]).await;
        assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
        assert!(bus.ping().await.is_err());
        for broker in 1..=3 {
            cluster.broker_up(broker).unwrap();
        }
        bus.publish(vec![event("k", 2)]).await.unwrap();
        let mut inbox = Inbox::open(&bus, Topic::Flows, "g", Start::Beginning, 100)
            .await
            .unwrap();
        assert_eq!(take(&mut inbox, 2).await, [("k".into(), vec![0, 2])].into());
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
            ..options.clone()
        };
        assert!(KafkaBus::connect(nowhere).await.is_err());
        let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", &options.brokers)
            .create()
            .unwrap();
        let requests = format!("{}execution-requests", options.prefix);
        let more = NewPartitions::new(&requests, 5);
        admin
            .create_partitions(&[more], &AdminOptions::new())
            .await
            .unwrap();
        let unequal = async {
            loop {
                // Until the broker says so.
                if let Err(error) = KafkaBus::connect(options.clone()).await {
                    return error.to_string();
                }
            }
        };
        let unequal = tokio::time::timeout(Duration::from_secs(30), unequal)
            .await
            .unwrap();
        assert!(unequal.contains("they have 5 and 2"), "{unequal}");
    });
}

/// Takes one event and keeps it in hand.
async fn one(inbox: &mut Inbox) -> flowmate_bus::inbox::Job {
    let taken = tokio::time::timeout(Duration::from_secs(60), inbox.next(1));
    taken.await.unwrap().unwrap().remove(0)
}

/// Looks until it is so.
async fn until(is_so: impl Fn() -> bool) {
    let looking = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), looking)
        .await
        .unwrap();
}

/// A process that was stopped, or that nobody hears, cannot know whether its partitions are somebody else's.
#[test]
fn no_effect_begins_while_the_group_is_silent_for_most_of_a_session() {
    with_runtime(async {
        let (cluster, bus) =
            mocked_with(&[("session.timeout.ms", "5000"), ("heartbeat.interval.ms", "500")]).await;
        bus.publish(vec![event("k", 0)]).await.unwrap();
        let mut inbox = Inbox::open(&bus, Topic::Flows, "g", Start::Beginning, 10)
            .await
            .unwrap();
        let job = one(&mut inbox).await;
        let lease = job.ack.lease();
        assert!(lease.held().await && lease.is_held());
        for broker in 1..=3 {
            cluster.broker_down(broker).unwrap();
        }
        until(|| !lease.is_held()).await;
        assert!(!job.ack.lost().is_cancelled(), "nobody said that it is lost");
        for broker in 1..=3 {
            cluster.broker_up(broker).unwrap();
        }
        // Its own again, or taken away meanwhile: never undecided for ever.
        let decided = tokio::time::timeout(Duration::from_secs(60), lease.held());
        assert_eq!(decided.await.unwrap(), !job.ack.lost().is_cancelled());
    });
}

/// What a group says of this member.
#[derive(Default)]
struct Told {
    lost: std::sync::Mutex<Vec<u32>>,
    revoked: std::sync::Mutex<Vec<u32>>,
}

#[async_trait::async_trait]
impl flowmate_bus::Assignment for Told {
    async fn assigned(&self, _: u32, _: u64) -> Result<(), Error> {
        Ok(())
    }
    async fn revoked(&self, partition: u32) {
        self.revoked.lock().unwrap().push(partition);
    }
    async fn lost(&self, partition: u32) {
        self.lost.lock().unwrap().push(partition);
    }
}

/// A session that is over: somebody else may have it all.
#[test]
fn partitions_of_an_ended_session_are_lost_and_get_no_grace() {
    with_runtime(async {
        let (cluster, bus) = mocked_with(&[("heartbeat.interval.ms", "200")]).await;
        bus.publish(vec![event("k", 0)]).await.unwrap();
        let told = Arc::<Told>::default();
        let assignment = Arc::clone(&told);
        let mut member = bus
            .subscribe(Topic::Flows, "g", Start::Beginning, assignment)
            .await
            .unwrap();
        assert_eq!(member.next(10).await.unwrap().len(), 1);
        let over = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID;
        cluster.request_errors(RDKafkaApiKey::Heartbeat, &[over]);
        until(|| told.lost.lock().unwrap().len() == 2).await;
        assert!(told.revoked.lock().unwrap().is_empty());
        // It is a member again, and what was not committed comes again.
        assert_eq!(member.next(10).await.unwrap().len(), 1);
    });
}

/// The same for work in hand: it is told at once.
#[test]
fn work_in_hand_ends_at_once_when_the_session_is_over() {
    with_runtime(async {
        let (cluster, bus) = mocked_with(&[("heartbeat.interval.ms", "200")]).await;
        bus.publish(vec![event("k", 0)]).await.unwrap();
        let mut inbox = Inbox::open(&bus, Topic::Flows, "g", Start::Beginning, 10)
            .await
            .unwrap();
        let job = one(&mut inbox).await;
        let over = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID;
        cluster.request_errors(RDKafkaApiKey::Heartbeat, &[over]);
        let lost = job.ack.lost();
        tokio::time::timeout(Duration::from_secs(60), lost.cancelled())
            .await
            .unwrap();
        assert!(!job.ack.lease().is_held() && !job.ack.lease().held().await);
    });
}

#[test]
fn single_events_are_read_again_by_their_place_forwards_and_backwards() {
    with_topics(3, |options| async move {
        let bus = KafkaBus::connect(options).await.unwrap();
        let mut inbox = Inbox::open(&bus, Topic::Flows, "g", Start::Beginning, 64)
            .await
            .unwrap();
        let events: Vec<Event> = (0..20)
            .map(|number| event(&format!("k{number}"), number))
            .collect();
        bus.publish(events.clone()).await.unwrap();
        let mut jobs = Vec::new();
        while jobs.len() < events.len() {
            jobs.extend(inbox.next(64).await.unwrap());
        }
        let again = async |job: &flowmate_bus::inbox::Job| {
            let read = bus.read_at(Topic::Flows, job.partition, job.position);
            assert_eq!(read.await.unwrap().as_ref(), Some(&job.event));
        };
        for job in jobs.iter().chain(jobs.iter().rev()) {
            again(job).await;
        }
        assert_eq!(bus.read_at(Topic::Flows, 0, 1_000).await.unwrap(), None);
        for job in jobs {
            job.ack.done();
        }
    });
}
