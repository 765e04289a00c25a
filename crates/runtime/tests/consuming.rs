//! Consumers and views of a service, and its health, among faults of the store and of the bus.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use flowmate_bus::{
    Assignment, Bus, History, Start, Subscription,
    consumers::Consumers,
    inbox::Inbox,
    local::{LocalBus, Options},
};
use flowmate_common::{
    Clock, Event, EventType, Pressure, Timestamp, Topic, auth::TokenVerifier, ids::IdGenerator,
    model::DeadLetter,
};
use flowmate_runtime::{Context, Health, Service};
use flowmate_storage::{Collection, CollectionSpec, Document, sqlite};
use flowmate_web::ServiceConfig;
use futures_util::FutureExt;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

fn context(directory: &Path, bus: Arc<dyn Bus>) -> Context {
    let clock = Clock::manual(Timestamp::from_millis(5));
    Context {
        storage: sqlite::open(directory).unwrap(),
        bus,
        tokens: TokenVerifier::new(clock.clone()),
        clock,
        ids: IdGenerator::counting(),
        tasks: tokio_util::task::TaskTracker::new(),
        shutdown: tokio_util::sync::CancellationToken::new(),
        services: None,
        pressure: Pressure::default(),
        consumers: Consumers::default(),
    }
}

fn log(directory: &Path) -> Arc<dyn Bus> {
    Arc::new(LocalBus::open(&directory.join("log"), Options::default()).unwrap())
}

struct Probe(Context);

#[async_trait]
impl Service for Probe {
    fn name(&self) -> &'static str {
        "probe"
    }
    fn configure(&self, _: &mut ServiceConfig<'_>) {}
    fn context(&self) -> &Context {
        &self.0
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_store_of_ten_minutes_buries_nothing_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let context = context(directory.path(), log(directory.path()));
    let begun = Instant::now();
    let is_away = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&is_away);
    let store = move || {
        if asked.load(Ordering::Relaxed) {
            return Err(flowmate_storage::Error::Unavailable("the store is away".into()));
        }
        Ok(())
    };
    let each = Arc::<Mutex<BTreeSet<usize>>>::default();
    let batched = Arc::<Mutex<BTreeSet<usize>>>::default();
    let (seen, of_each) = (Arc::clone(&each), store.clone());
    context.consume(Topic::Flows, "each", move |event| {
        let (seen, store) = (Arc::clone(&seen), of_each.clone());
        async move {
            store()?;
            seen.lock().insert(event.body().unwrap());
            Ok(())
        }
    });
    let seen = Arc::clone(&batched);
    context.consume_batches(Topic::Flows, "batched", Duration::from_millis(1), move |events| {
        let (seen, store) = (Arc::clone(&seen), store.clone());
        async move {
            store()?;
            seen.lock()
                .extend(events.iter().map(|event| event.body::<usize>().unwrap()));
            Ok(())
        }
    });
    for number in 0..100_usize {
        let key = number.to_string();
        let event = context.event(EventType::FlowModified, key, &number).unwrap();
        context.bus.publish(vec![event]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    while begun.elapsed() < Duration::from_secs(600) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(each.lock().is_empty() && batched.lock().is_empty());
    let probe = Probe(context.clone());
    let Health::Warn(reason) = probe.health().await else {
        panic!("who waits says so, and stays ready");
    };
    assert!(
        reason.contains("each on flows") && reason.contains("batched on flows"),
        "{reason}"
    );
    assert!(reason.contains("the store is away"), "{reason}");
    is_away.store(false, Ordering::Relaxed);
    while each.lock().len() < 100 || batched.lock().len() < 100 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let mut letters = Inbox::open(&*context.bus, Topic::DeadLetters, "test", Start::Beginning, 10)
        .await
        .unwrap();
    assert!(letters.next(1).now_or_never().is_none(), "no dead letters");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(probe.health().await, Health::Pass);
    context.shutdown.cancel();
}

/// A bus that refuses to subscribe and to be watched for a while.
struct Faulty {
    bus: Arc<dyn Bus>,
    is_away: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Faulty {
    fn check(&self) -> Result<(), flowmate_bus::Error> {
        fault(&self.is_away, &self.asked)
    }
}

fn fault(is_away: &AtomicBool, asked: &AtomicUsize) -> Result<(), flowmate_bus::Error> {
    asked.fetch_add(1, Ordering::Relaxed);
    if is_away.load(Ordering::Relaxed) {
        return Err(flowmate_bus::Error::Unavailable("no file descriptors".into()));
    }
    Ok(())
}

struct FaultyHistory {
    history: Box<dyn History>,
    is_away: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

#[async_trait]
impl History for FaultyHistory {
    async fn next(&mut self) -> Result<Vec<Event>, flowmate_bus::Error> {
        fault(&self.is_away, &self.asked)?;
        self.history.next().await
    }
}

#[async_trait]
impl Bus for Faulty {
    async fn publish(&self, events: Vec<Event>) -> Result<(), flowmate_bus::Error> {
        self.bus.publish(events).await
    }
    async fn subscribe(
        &self,
        topic: Topic,
        group: &str,
        start: Start,
        assignment: Arc<dyn Assignment>,
    ) -> Result<Box<dyn Subscription>, flowmate_bus::Error> {
        self.check()?;
        self.bus.subscribe(topic, group, start, assignment).await
    }
    async fn since_commit(
        &self,
        topic: Topic,
        of: Topic,
        group: &str,
        partition: u32,
    ) -> Result<Box<dyn History>, flowmate_bus::Error> {
        self.bus.since_commit(topic, of, group, partition).await
    }
    async fn watch(&self, topic: Topic, group: &str) -> Result<Box<dyn History>, flowmate_bus::Error> {
        Ok(Box::new(FaultyHistory {
            history: self.bus.watch(topic, group).await?,
            is_away: Arc::clone(&self.is_away),
            asked: Arc::clone(&self.asked),
        }))
    }
    async fn read_at(
        &self,
        topic: Topic,
        partition: u32,
        position: u64,
    ) -> Result<Option<Event>, flowmate_bus::Error> {
        self.bus.read_at(topic, partition, position).await
    }
    async fn ping(&self) -> Result<(), flowmate_bus::Error> {
        self.bus.ping().await
    }
    fn lag(&self) -> Vec<(Topic, String, u64)> {
        self.bus.lag()
    }
}

#[tokio::test(start_paused = true)]
async fn a_consumer_and_a_view_survive_a_bus_that_fails_and_the_service_is_not_ready_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let (is_away, asked) = (Arc::new(AtomicBool::new(true)), Arc::<AtomicUsize>::default());
    let bus = Arc::new(Faulty {
        bus: log(directory.path()),
        is_away: Arc::clone(&is_away),
        asked: Arc::clone(&asked),
    });
    let context = context(directory.path(), bus);
    let begun = Instant::now();
    let probe = Probe(context.clone());
    let consumed = Arc::<Mutex<BTreeSet<usize>>>::default();
    let viewed = Arc::<Mutex<BTreeSet<usize>>>::default();
    let seen = Arc::clone(&consumed);
    context.consume(Topic::Flows, "g", move |event| {
        let fresh = seen.lock().insert(event.body().unwrap());
        assert!(fresh, "once");
        async move { Ok(()) }
    });
    let seen = Arc::clone(&viewed);
    let view = context.watch(Topic::Flows, "g", move |event| {
        let number = event.body().unwrap();
        assert!(number != 3, "a view survives what it cannot take");
        seen.lock().insert(number);
    });
    view.await.unwrap();
    for number in 0..10_usize {
        let event = context.event(EventType::FlowModified, "k", &number).unwrap();
        context.bus.publish(vec![event]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(6)).await;
    }
    let Health::Fail(reason) = probe.health().await else {
        panic!("a consumer that does not run is a reason");
    };
    for part in [
        "consumer g on flows",
        "consumer view of g on flows",
        "no file descriptors",
    ] {
        assert!(reason.contains(part), "{reason}");
    }
    // Simulated time runs on while the disk is waited for: what counts is how many tries there were in it.
    let (tries, seconds) = (asked.load(Ordering::Relaxed) as u64, begun.elapsed().as_secs());
    assert!(
        tries < 40 + seconds,
        "back-off, not spinning: {tries} in {seconds} s"
    );
    is_away.store(false, Ordering::Relaxed);
    while consumed.lock().len() < 10 || viewed.lock().len() < 9 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(
        viewed.lock().iter().copied().collect::<Vec<_>>(),
        [0, 1, 2, 4, 5, 6, 7, 8, 9]
    );
    assert_eq!(probe.health().await, Health::Pass);
    context.shutdown.cancel();
}

/// A document whose changes are told by events.
#[derive(Serialize, Deserialize)]
struct Note {
    id: String,
}

impl Document for Note {
    const SPEC: &'static CollectionSpec = &CollectionSpec {
        name: "notes",
        fields: &[],
        unique: &[],
    };
    fn id(&self) -> &str {
        &self.id
    }
    fn owners(&self) -> Vec<String> {
        Vec::new()
    }
}

#[tokio::test]
async fn an_event_in_the_outbox_that_the_bus_never_takes_becomes_a_dead_letter_and_holds_up_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        max_event_bytes: 2_000,
        ..Options::default()
    };
    let bus = LocalBus::open(&directory.path().join("log"), options).unwrap();
    let context = context(directory.path(), Arc::new(bus));
    let notes = Collection::<Note>::open(&context.storage).await.unwrap();
    for (number, size) in [1, 5_000, 1].into_iter().enumerate() {
        let body = "x".repeat(size);
        let event = context
            .event(EventType::FlowModified, number.to_string(), &body)
            .unwrap();
        let note = Note {
            id: number.to_string(),
        };
        notes.insert(&note, vec![event]).await.unwrap();
    }
    context.relay(&[Note::SPEC]);
    let soon = Duration::from_secs(30);
    let mut inbox = Inbox::open(&*context.bus, Topic::Flows, "g", Start::Beginning, 10)
        .await
        .unwrap();
    let mut keys = BTreeSet::new();
    while keys.len() < 2 {
        for job in tokio::time::timeout(soon, inbox.next(10)).await.unwrap().unwrap() {
            keys.insert(job.event.key.to_string());
            job.ack.done();
        }
    }
    assert!(keys.contains("0") && keys.contains("2"));
    let mut letters = Inbox::open(&*context.bus, Topic::DeadLetters, "g", Start::Beginning, 10)
        .await
        .unwrap();
    let letter = tokio::time::timeout(soon, letters.next(1))
        .await
        .unwrap()
        .unwrap()
        .remove(0);
    let body: DeadLetter = letter.event.body().unwrap();
    assert_eq!((body.group.as_str(), &*letter.event.key), ("outbox", "1"));
    assert!(
        body.reason.contains("larger than the limit of 2000 bytes"),
        "{}",
        body.reason
    );
    letter.ack.done();
    let emptied = async {
        while !context
            .storage
            .documents()
            .pending(Note::SPEC, 10)
            .await
            .unwrap()
            .is_empty()
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(soon, emptied).await.unwrap();
    context.shutdown.cancel();
}

#[test]
fn faults_of_storage_and_bus_become_refusals_by_themselves() {
    use flowmate_bus::dispatch::Refusal;
    use flowmate_storage::Error;
    let is_transient = |refusal: Refusal| matches!(refusal, Refusal::Transient(_));
    assert!(is_transient(Error::Unavailable("away".into()).into()));
    assert!(is_transient(Error::VersionConflict.into()));
    assert!(!is_transient(Error::Corrupt("a document".into()).into()));
    let unknown = Error::UnknownField {
        collection: "c",
        field: "f".into(),
    };
    assert!(!is_transient(unknown.into()));
    assert!(is_transient(
        flowmate_bus::Error::Unavailable("away".into()).into()
    ));
    assert!(!is_transient(
        flowmate_bus::Error::TooLarge { size: 2, limit: 1 }.into()
    ));
}
