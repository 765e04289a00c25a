//! Consumers among faults: of handlers, of events and of the bus.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use flowmate_bus::{
    Bus, Start,
    consumers::Consumers,
    dispatch::{Consumer, Refusal},
    inbox::Inbox,
    local::{LocalBus, Options},
};
use flowmate_common::{Clock, Event, EventType, Timestamp, Topic, ids::IdGenerator, model::DeadLetter};
use futures_util::FutureExt;
use tokio::{sync::mpsc, task::JoinSet};

const PATIENCE: Duration = Duration::from_secs(30);

fn open(directory: &Path, options: Options) -> Arc<dyn Bus> {
    Arc::new(LocalBus::open(directory, options).unwrap())
}

fn event(number: usize, data: impl Into<Bytes>) -> Event {
    Event {
        id: number.to_string().into(),
        kind: EventType::FlowModified,
        key: "k".into(),
        time: Timestamp::from_millis(0),
        trace: None,
        data: data.into(),
    }
}

fn consumer(bus: &Arc<dyn Bus>, group: &'static str, consumers: &Consumers) -> Consumer {
    Consumer {
        bus: Arc::clone(bus),
        topic: Topic::Flows,
        group,
        clock: Clock::manual(Timestamp::from_millis(0)),
        ids: IdGenerator::counting(),
        standing: consumers.register(Topic::Flows, group),
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.unwrap()
}

async fn letters(bus: &Arc<dyn Bus>, count: usize) -> Vec<DeadLetter> {
    let mut inbox = Inbox::open(&**bus, Topic::DeadLetters, "test", Start::Beginning, 10)
        .await
        .unwrap();
    let mut letters = Vec::new();
    while letters.len() < count {
        for job in soon(inbox.next(10)).await.unwrap() {
            letters.push(job.event.body().unwrap());
            job.ack.done();
        }
    }
    letters
}

#[tokio::test]
async fn a_handler_that_panics_costs_its_event_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let bus = open(directory.path(), Options::default());
    let consumers = Consumers::default();
    let (sender, mut handled) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    let one = sender.clone();
    tasks.spawn(
        consumer(&bus, "lanes", &consumers).each(Start::Beginning, move |event: Event| {
            let sender = one.clone();
            async move {
                let number: usize = event.body().map_err(Refusal::permanent)?;
                assert!(number != 1, "one is too few");
                sender.send(number).map_err(Refusal::transient)
            }
        }),
    );
    let all = (0..4).map(|number| event(number, number.to_string())).collect();
    bus.publish(all).await.unwrap();
    for expected in [0, 2, 3] {
        assert_eq!(soon(handled.recv()).await.unwrap(), expected, "the lane goes on");
    }
    tasks.spawn(consumer(&bus, "batches", &consumers).batches(
        Start::Beginning,
        Duration::ZERO,
        move |events: Vec<Event>| {
            let numbers: Vec<usize> = events.iter().map(|event| event.body().unwrap()).collect();
            assert!(!numbers.contains(&1), "one is too few");
            let sender = sender.clone();
            async move {
                numbers
                    .into_iter()
                    .try_for_each(|number| sender.send(number).map_err(Refusal::transient))
            }
        },
    ));
    for expected in [0, 2, 3] {
        assert_eq!(soon(handled.recv()).await.unwrap(), expected, "the batch goes on");
    }
    for (letter, group) in letters(&bus, 2).await.iter().zip(["lanes", "batches"]) {
        assert_eq!((letter.group.as_str(), letter.attempts), (group, 1));
        assert!(
            letter.reason.contains("panicked: one is too few"),
            "{}",
            letter.reason
        );
        assert_eq!(letter.event.get("id").unwrap(), "1");
    }
}

#[tokio::test]
async fn a_dead_letter_that_is_too_large_for_the_bus_goes_without_its_event() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        max_event_bytes: 10_000,
        ..Options::default()
    };
    let bus = open(directory.path(), options);
    let large = format!("\"{}\"", "x".repeat(9_500));
    bus.publish(vec![event(0, large), event(1, "1")]).await.unwrap();
    let mut tasks = JoinSet::new();
    let (sender, mut handled) = mpsc::unbounded_channel();
    let consumer = consumer(&bus, "g", &Consumers::default());
    tasks.spawn(consumer.each(Start::Beginning, move |event: Event| {
        let sender = sender.clone();
        async move {
            let number: usize = event.body().map_err(Refusal::permanent)?;
            sender.send(number).map_err(Refusal::transient)
        }
    }));
    assert_eq!(soon(handled.recv()).await.unwrap(), 1);
    let letter = letters(&bus, 1).await.remove(0);
    assert_eq!(letter.position, 17, "behind the mark of its group");
    assert_eq!(letter.event.get("id").unwrap(), "0");
    assert!(letter.event.get("size").unwrap().as_u64().unwrap() > 9_500);
    assert!(letter.event.get("data").is_none());
    assert_eq!(letter.reason.len(), 4_096, "the parser quotes what it read");
}

#[tokio::test]
async fn one_poison_event_costs_its_batch_a_few_halves_and_not_a_try_for_each_neighbour() {
    const EVENTS: usize = 1_000;
    let directory = tempfile::tempdir().unwrap();
    let bus = open(directory.path(), Options::default());
    let events = (0..EVENTS).map(|number| event(number, if number == 700 { "\"poison\"" } else { "1" }));
    bus.publish(events.collect()).await.unwrap();
    let mut tasks = JoinSet::new();
    let (sender, mut handled) = mpsc::unbounded_channel();
    let consumer = consumer(&bus, "g", &Consumers::default());
    tasks.spawn(consumer.batches(
        Start::Beginning,
        Duration::from_millis(1),
        move |events: Vec<Event>| {
            let sender = sender.clone();
            async move {
                let count = events.len();
                let read = events.iter().try_for_each(|event| event.body::<u32>().map(drop));
                let _ = sender.send((count, read.is_ok()));
                read.map_err(Refusal::permanent)
            }
        },
    ));
    let (mut tries, mut done) = (0, 0);
    while done < EVENTS - 1 {
        let (count, is_done) = soon(handled.recv()).await.unwrap();
        tries += 1;
        done += if is_done { count } else { 0 };
    }
    let letter = letters(&bus, 1).await.remove(0);
    assert_eq!(letter.event.get("id").unwrap(), "700");
    assert!(tries < 60, "{tries} tries");
}

/// No file can be opened for a while, as without file descriptors: the directory is elsewhere.
#[tokio::test(start_paused = true)]
async fn a_log_whose_files_cannot_be_opened_for_a_while_ends_no_consumer_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (log, away) = (directory.path().join("log"), directory.path().join("away"));
    let options = Options {
        segment_bytes: 2_000,
        tail_bytes: 300,
        flush_every: Duration::from_millis(1),
        ..Options::default()
    };
    let bus = open(&log, options.clone());
    let consumers = Consumers::default();
    let (sender, mut handled) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    for group in ["lanes", "batches"] {
        // Joined before there is anything: what comes is too much for memory.
        let mut inbox = Inbox::open(&*bus, Topic::Flows, group, Start::Beginning, 1)
            .await
            .unwrap();
        bus.publish(vec![event(0, "0")]).await.unwrap();
        drop(inbox.next(1).await.unwrap());
    }
    let all = |range: std::ops::Range<usize>| range.map(|number| event(number, number.to_string())).collect();
    bus.publish(all(2..20)).await.unwrap();
    std::fs::rename(&log, &away).unwrap();
    let mut watch = bus.watch(Topic::Flows, "lanes").await.unwrap();
    let lanes = sender.clone();
    tasks.spawn(
        consumer(&bus, "lanes", &consumers).each(Start::Beginning, move |event: Event| {
            let sent = lanes.send(("lanes", event.body::<usize>().unwrap()));
            async move { sent.map_err(Refusal::transient) }
        }),
    );
    tasks.spawn(consumer(&bus, "batches", &consumers).batches(
        Start::Beginning,
        Duration::ZERO,
        move |events: Vec<Event>| {
            let mut numbers = events.iter().map(|event| event.body::<usize>().unwrap());
            let sent = numbers.try_for_each(|number| sender.send(("batches", number)));
            async move { sent.map_err(Refusal::transient) }
        },
    ));
    tokio::time::sleep(Duration::from_secs(60)).await;
    let failed = consumers.failed().unwrap();
    assert!(failed.contains("lanes") && failed.contains("batches"), "{failed}");
    assert!(failed.contains(".log"), "it names the file: {failed}");
    assert!(watch.next().await.is_err());
    assert!(handled.try_recv().is_err(), "nothing could be read");
    std::fs::rename(&away, &log).unwrap();
    for _ in 0..40 {
        handled.recv().await.unwrap();
    }
    bus.publish(vec![event(20, "20")]).await.unwrap();
    for _ in 0..2 {
        assert_eq!(handled.recv().await.unwrap().1, 20);
    }
    assert_eq!(consumers.failed(), None, "they take events again");
    let mut seen = 0;
    while seen < 21 {
        seen += watch.next().await.unwrap().len();
    }
    tasks.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_that_was_let_go_comes_again_in_the_same_process_later_and_later() {
    let directory = tempfile::tempdir().unwrap();
    // One in memory, one in a file.
    let options = Options {
        tail_bytes: 1,
        ..Options::default()
    };
    let bus = open(directory.path(), options);
    bus.publish(vec![event(0, "0"), event(1, "1")]).await.unwrap();
    let mut inbox = Inbox::open(&*bus, Topic::Flows, "g", Start::Beginning, 10)
        .await
        .unwrap()
        .redelivers();
    let mut jobs = Vec::new();
    while jobs.len() < 2 {
        jobs.extend(inbox.next(10).await.unwrap());
    }
    drop(jobs);
    let begun = tokio::time::Instant::now();
    let mut seen = Vec::new();
    while seen.len() < 8 {
        for job in inbox.next(10).await.unwrap() {
            seen.push((job.event.body::<usize>().unwrap(), job.ack.delivered()));
            if job.ack.delivered() == 5 {
                job.ack.done();
            }
        }
    }
    seen.sort_unstable();
    assert_eq!(
        seen,
        [(0, 2), (0, 3), (0, 4), (0, 5), (1, 2), (1, 3), (1, 4), (1, 5)]
    );
    assert!(begun.elapsed() >= Duration::from_secs(1 + 2 + 4 + 8));
    drop(inbox);
    let mut inbox = Inbox::open(&*bus, Topic::Flows, "g", Start::Beginning, 10)
        .await
        .unwrap();
    assert!(inbox.next(10).now_or_never().is_none(), "both are done");
}
