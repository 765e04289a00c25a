//! What every backend has to pass.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use flowmate_common::{Clock, Event, EventType, Timestamp, Topic, ids::IdGenerator};
use parking_lot::Mutex;

use crate::{
    Bus, Start,
    consumers::Standing,
    dispatch::{Consumer, Refusal},
    inbox::{Inbox, Prepare},
};

/// How long a delivery that must come may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn event(kind: EventType, key: &str, number: usize) -> Event {
    Event {
        id: format!("{key}-{number}").into(),
        kind,
        key: key.into(),
        time: Timestamp::from_millis(0),
        trace: None,
        data: Bytes::from(number.to_string()),
    }
}

/// The whole suite. `open` opens the same bus again and again; each time the one before was dropped.
///
/// # Panics
/// Where the bus breaks its contract.
pub async fn bus(open: impl Fn() -> Arc<dyn Bus>) {
    groups_get_everything_in_order(open()).await;
    uncommitted_work_comes_again(&open).await;
    poison_goes_to_the_dead_letters(open()).await;
    batches_are_tried_again(open()).await;
    history_covers_what_is_not_committed(&open).await;
    everybody_watches(&open).await;
}

#[expect(clippy::unwrap_used, reason = "a test suite")]
async fn take(inbox: &mut Inbox, count: usize) -> Vec<crate::inbox::Job> {
    let mut jobs = Vec::new();
    while jobs.len() < count {
        jobs.extend(
            tokio::time::timeout(PATIENCE, inbox.next(count - jobs.len()))
                .await
                .unwrap()
                .unwrap(),
        );
    }
    jobs
}

#[expect(clippy::unwrap_used, reason = "a test suite")]
async fn groups_get_everything_in_order(bus: Arc<dyn Bus>) {
    let mut tasks = tokio::task::JoinSet::new();
    for key in ["a", "b", "c"] {
        let bus = Arc::clone(&bus);
        tasks.spawn(async move {
            for number in 0..50 {
                let other = event(EventType::StepFinished, key, number);
                bus.publish(vec![event(EventType::FlowModified, key, number), other])
                    .await
                    .unwrap();
            }
        });
    }
    tasks.join_all().await;
    for group in ["g1", "g2"] {
        let mut inbox = Inbox::open(&*bus, Topic::Flows, group, Start::Beginning, 1000)
            .await
            .unwrap();
        let mut seen = BTreeMap::<String, Vec<usize>>::new();
        for job in take(&mut inbox, 150).await {
            assert_eq!(job.event.topic(), Topic::Flows);
            seen.entry(job.event.key.to_string())
                .or_default()
                .push(job.event.body().unwrap());
            job.ack.done();
        }
        assert_eq!(seen.len(), 3);
        assert!(
            seen.values()
                .all(|numbers| *numbers == (0..50).collect::<Vec<_>>()),
            "{seen:?}"
        );
    }
    let mut late = Inbox::open(&*bus, Topic::Flows, "late", Start::End, 10)
        .await
        .unwrap();
    bus.publish(vec![event(EventType::FlowModified, "late", 1)])
        .await
        .unwrap();
    let jobs = take(&mut late, 1).await;
    assert_eq!(&*jobs[0].event.key, "late");
    for job in jobs {
        job.ack.done();
    }
}

#[expect(clippy::unwrap_used, reason = "a test suite")]
async fn uncommitted_work_comes_again(open: &impl Fn() -> Arc<dyn Bus>) {
    let bus = open();
    let mut inbox = Inbox::open(&*bus, Topic::Iam, "g", Start::Beginning, 1000)
        .await
        .unwrap();
    for number in 0..10 {
        bus.publish(vec![event(EventType::UserCreated, "k", number)])
            .await
            .unwrap();
    }
    for job in take(&mut inbox, 10).await {
        // Out of order, with a gap at 4: nothing after it may be forgotten.
        if job.event.body::<usize>().unwrap() != 4 {
            job.ack.done();
        }
    }
    drop((inbox, bus));
    let bus = open();
    let mut inbox = Inbox::open(&*bus, Topic::Iam, "g", Start::Beginning, 1000)
        .await
        .unwrap();
    let numbers: Vec<usize> = take(&mut inbox, 6)
        .await
        .into_iter()
        .map(|job| {
            let number = job.event.body().unwrap();
            job.ack.done();
            number
        })
        .collect();
    assert_eq!(numbers, [4, 5, 6, 7, 8, 9]);
    drop((inbox, bus));
    let bus = open();
    let mut inbox = Inbox::open(&*bus, Topic::Iam, "g", Start::Beginning, 1000)
        .await
        .unwrap();
    bus.publish(vec![event(EventType::UserCreated, "k", 10)])
        .await
        .unwrap();
    let jobs = take(&mut inbox, 1).await;
    assert_eq!(
        jobs[0].event.body::<usize>().unwrap(),
        10,
        "what was committed does not come again"
    );
}

/// A batch that is refused for now comes again as it is.
#[expect(clippy::unwrap_used, reason = "a test suite")]
async fn batches_are_tried_again(bus: Arc<dyn Bus>) {
    bus.publish(
        (0..4)
            .map(|number| event(EventType::TemplateCreated, "k", number))
            .collect(),
    )
    .await
    .unwrap();
    let (sender, mut sizes) = tokio::sync::mpsc::unbounded_channel();
    let delayed = Consumer {
        bus: Arc::clone(&bus),
        topic: Topic::Templates,
        group: "delayed",
        clock: Clock::System,
        ids: IdGenerator::counting(),
        standing: Standing::default(),
    };
    let mut task = tokio::task::JoinSet::new();
    task.spawn(async move {
        let refused = Arc::<AtomicBool>::default();
        let handle = move |events: Vec<Event>| {
            let _ = sender.send(events.len());
            let was_refused = refused.swap(true, Ordering::Relaxed);
            async move {
                if was_refused {
                    Ok(())
                } else {
                    Err(Refusal::transient("away"))
                }
            }
        };
        delayed
            .batches(Start::Beginning, Duration::from_millis(1), handle)
            .await;
    });
    let first = tokio::time::timeout(PATIENCE, sizes.recv()).await.unwrap();
    let second = tokio::time::timeout(PATIENCE, sizes.recv()).await.unwrap();
    assert_eq!(first, second);
    // Aborted tasks let go of the bus a little later; the next part opens it anew.
    task.shutdown().await;
    while Arc::strong_count(&bus) > 1 {
        tokio::task::yield_now().await;
    }
}

#[expect(clippy::unwrap_used, reason = "a test suite")]
async fn poison_goes_to_the_dead_letters(bus: Arc<dyn Bus>) {
    let consumer = |topic, group| Consumer {
        bus: Arc::clone(&bus),
        topic,
        group,
        clock: Clock::manual(Timestamp::from_millis(0)),
        ids: IdGenerator::random(),
        standing: Standing::default(),
    };
    let (sender, mut handled) = tokio::sync::mpsc::unbounded_channel();
    let failed_once = Arc::new(Mutex::new(false));
    let handler = move |event: Event| {
        let (sender, failed_once) = (sender.clone(), Arc::clone(&failed_once));
        async move {
            let number: usize = event.body().map_err(Refusal::permanent)?;
            if number == 1 && !std::mem::replace(&mut *failed_once.lock(), true) {
                return Err(Refusal::transient("try again"));
            }
            sender.send(number).map_err(Refusal::transient)
        }
    };
    let mut task = tokio::task::JoinSet::new();
    task.spawn(consumer(Topic::Templates, "poisoned").each(Start::Beginning, handler.clone()));
    let poison = Event {
        data: Bytes::from_static(b"\"x\""),
        ..event(EventType::TemplateCreated, "k", 0)
    };
    let good = (1..4).map(|number| event(EventType::TemplateCreated, "k", number));
    bus.publish(std::iter::once(poison.clone()).chain(good).collect())
        .await
        .unwrap();
    for expected in 1..4 {
        let number = tokio::time::timeout(PATIENCE, handled.recv())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(number, expected, "in order, after a retry");
    }
    let mut letters = Inbox::open(&*bus, Topic::DeadLetters, "reader", Start::Beginning, 10)
        .await
        .unwrap();
    let letter = take(&mut letters, 1).await.remove(0);
    let body: flowmate_common::model::DeadLetter = letter.event.body().unwrap();
    assert_eq!((body.group.as_str(), body.attempts), ("poisoned", 1));
    assert_eq!(serde_json::from_value::<Event>(body.event).unwrap(), poison);
    letter.ack.done();

    // The same in batches: one poison event does not take its neighbours along.
    let batches = move |events: Vec<Event>| {
        let handler = handler.clone();
        async move {
            for event in &events {
                event.body::<usize>().map_err(Refusal::permanent)?;
            }
            for event in events {
                handler(event).await?;
            }
            Ok(())
        }
    };
    let batched = consumer(Topic::Templates, "batched");
    task.spawn(async move {
        batched
            .batches(Start::Beginning, Duration::from_millis(1), batches)
            .await;
    });
    for expected in 1..4 {
        assert_eq!(
            tokio::time::timeout(PATIENCE, handled.recv())
                .await
                .unwrap()
                .unwrap(),
            expected
        );
    }
    let letter = take(&mut letters, 1).await.remove(0);
    assert_eq!(
        letter
            .event
            .body::<flowmate_common::model::DeadLetter>()
            .unwrap()
            .group,
        "batched"
    );
    letter.ack.done();
    // Aborted tasks let go of the bus a little later; the next part opens it anew.
    task.shutdown().await;
    drop((letters, consumer));
    while Arc::strong_count(&bus) > 1 {
        tokio::task::yield_now().await;
    }
}

#[expect(clippy::unwrap_used, reason = "a test suite")]
async fn history_covers_what_is_not_committed(open: &impl Fn() -> Arc<dyn Bus>) {
    let bus = open();
    let mut inbox = Inbox::open(&*bus, Topic::ExecutionRequests, "engine", Start::Beginning, 10)
        .await
        .unwrap();
    for key in ["done", "open"] {
        bus.publish(vec![event(EventType::FlowExecute, key, 0)])
            .await
            .unwrap();
    }
    for (number, job) in take(&mut inbox, 2).await.into_iter().enumerate() {
        bus.publish(vec![event(EventType::StepFinished, &job.event.key, number)])
            .await
            .unwrap();
        if &*job.event.key == "done" {
            job.ack.done();
        }
    }
    drop((inbox, bus));
    let bus = open();
    let keys = Arc::new(Mutex::new(Vec::new()));
    let prepare: Prepare = {
        let (bus, keys) = (Arc::clone(&bus), Arc::clone(&keys));
        Arc::new(move |partition| {
            let (bus, keys) = (Arc::clone(&bus), Arc::clone(&keys));
            Box::pin(async move {
                let (topic, of) = (Topic::ExecutionEvents, Topic::ExecutionRequests);
                let mut history = bus.since_commit(topic, of, "engine", partition).await?;
                loop {
                    let events = history.next().await?;
                    if events.is_empty() {
                        return Ok(());
                    }
                    keys.lock()
                        .extend(events.into_iter().map(|event| event.key.to_string()));
                }
            })
        })
    };
    let topic = Topic::ExecutionRequests;
    let mut inbox = Inbox::prepared(&*bus, topic, "engine", Start::Beginning, 10, prepare)
        .await
        .unwrap();
    let again = take(&mut inbox, 1).await.remove(0);
    assert_eq!(&*again.event.key, "open");
    let keys = keys.lock().clone();
    assert!(
        keys.contains(&"open".to_owned()),
        "before its request comes again: {keys:?}"
    );
    again.ack.done();
}

/// Views: each watcher gets what the group that stores the view has not committed, and everything after.
#[expect(clippy::unwrap_used, reason = "a test suite")]
async fn everybody_watches(open: &impl Fn() -> Arc<dyn Bus>) {
    let bus = open();
    let mut inbox = Inbox::open(&*bus, Topic::Templates, "view", Start::End, 10)
        .await
        .unwrap();
    let send = async |number| {
        let event = event(EventType::TemplateModified, "v", number);
        bus.publish(vec![event]).await.unwrap();
    };
    send(0).await;
    send(1).await;
    let mut jobs = take(&mut inbox, 2).await;
    let open_one = jobs.remove(1);
    jobs.remove(0).ack.done();
    let mut early = bus.watch(Topic::Templates, "view").await.unwrap();
    send(2).await;
    let mut late = bus.watch(Topic::Templates, "view").await.unwrap();
    send(3).await;
    for watcher in [&mut early, &mut late] {
        let mut seen = Vec::new();
        while seen.last() != Some(&3) {
            let events = tokio::time::timeout(PATIENCE, watcher.next())
                .await
                .unwrap()
                .unwrap();
            seen.extend(events.iter().map(|event| event.body::<usize>().unwrap()));
        }
        assert!(seen.ends_with(&[1, 2, 3]), "{seen:?}");
    }
    open_one.ack.done();
}
