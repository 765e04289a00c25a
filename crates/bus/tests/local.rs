//! The local log against the conformance suite, and what only files can show.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    io::Write,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use flowmate_bus::{
    Bus, Start, conformance,
    inbox::Inbox,
    local::{Disk, LocalBus, Options, Space},
};
use flowmate_common::{Event, EventType, Fault, Timestamp, Topic};
use proptest::prelude::*;

fn open(directory: &Path, options: &Options) -> Arc<dyn Bus> {
    Arc::new(LocalBus::open(directory, options.clone()).unwrap())
}

fn small() -> Options {
    Options {
        segment_bytes: 500,
        tail_bytes: 300,
        flush_every: Duration::from_millis(5),
        ..Options::default()
    }
}

fn event(number: usize) -> Event {
    Event {
        id: number.to_string().into(),
        kind: EventType::FlowModified,
        key: (number % 3).to_string().into(),
        time: Timestamp::from_millis(0),
        trace: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        data: Bytes::from(number.to_string()),
    }
}

#[tokio::test]
async fn conforms() {
    let directory = tempfile::tempdir().unwrap();
    conformance::bus(|| open(directory.path(), &Options::default())).await;
}

#[tokio::test]
async fn conforms_with_tiny_segments_and_no_memory() {
    let directory = tempfile::tempdir().unwrap();
    conformance::bus(|| open(directory.path(), &small())).await;
}

#[tokio::test]
async fn a_torn_record_at_the_end_is_cut_off_and_the_log_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options::default();
    open(directory.path(), &options)
        .publish(vec![event(1)])
        .await
        .unwrap();
    let file = directory.path().join("00000000000000000000.log");
    let whole = std::fs::read(&file).unwrap();
    std::fs::OpenOptions::new()
        .append(true)
        .open(&file)
        .unwrap()
        .write_all(&whole[..whole.len() - 3])
        .unwrap();

    let bus = open(directory.path(), &options);
    bus.publish(vec![event(2)]).await.unwrap();
    let mut inbox = Inbox::open(&*bus, Topic::Flows, "g", Start::Beginning, 10)
        .await
        .unwrap();
    let mut ids = Vec::new();
    while ids.len() < 2 {
        ids.extend(
            inbox
                .next(10)
                .await
                .unwrap()
                .into_iter()
                .map(|job| job.event.id.to_string()),
        );
    }
    assert_eq!(ids, ["1", "2"]);
}

/// The number of zeros at the end of the newest file: it was made before it was needed.
fn left_ahead(directory: &Path) -> usize {
    let files = std::fs::read_dir(directory).unwrap();
    let logs = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "log"));
    let newest = std::fs::read(logs.max().unwrap()).unwrap();
    newest.iter().rev().take_while(|byte| **byte == 0).count()
}

#[tokio::test]
async fn a_file_that_was_made_ahead_is_written_on_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    // Larger than one event, so that a new file is not full at once.
    let options = Options {
        segment_bytes: 5_000,
        ..small()
    };
    let mut published = 0;
    let mut publish = async |bus: &Arc<dyn Bus>| {
        published += 1;
        bus.publish(vec![event(published)]).await.unwrap();
        published
    };
    let bus = open(directory.path(), &options);
    // The thread that makes files may be slow at first; each segment is another chance.
    while left_ahead(directory.path()) == 0 {
        publish(&bus).await;
    }
    drop(bus);
    let before = left_ahead(directory.path());
    assert!(before > 0);

    let bus = open(directory.path(), &options);
    let last = publish(&bus).await;
    assert!(
        left_ahead(directory.path()) < before,
        "written where the last start ended"
    );
    drop(bus);
    let bus = open(directory.path(), &options);
    let mut inbox = Inbox::open(&*bus, Topic::Flows, "g", Start::Beginning, 10)
        .await
        .unwrap();
    let mut next = 1;
    while next <= last {
        for job in inbox.next(10).await.unwrap() {
            assert_eq!(&*job.event.id, next.to_string());
            next += 1;
            job.ack.done();
        }
    }
}

#[tokio::test]
async fn a_file_that_was_made_ahead_for_larger_segments_is_cut_when_it_is_sealed() {
    let directory = tempfile::tempdir().unwrap();
    let first = directory.path().join("00000000000000000000.log");
    std::fs::write(&first, vec![0; 4_000]).unwrap();
    let bus = open(directory.path(), &small());
    for number in 1..=20 {
        bus.publish(vec![event(number)]).await.unwrap();
    }
    drop(bus);
    assert!(std::fs::metadata(&first).unwrap().len() < 1_000);
    // A start checks the sizes of what is sealed.
    drop(open(directory.path(), &small()));
}

#[tokio::test]
async fn a_second_process_is_kept_out() {
    let directory = tempfile::tempdir().unwrap();
    let _first = open(directory.path(), &Options::default());
    assert!(LocalBus::open(directory.path(), Options::default()).is_err());
}

#[tokio::test]
async fn segments_go_when_every_group_has_passed_them_also_on_a_quiet_topic() {
    let directory = tempfile::tempdir().unwrap();
    let bus = open(directory.path(), &small());
    let _quiet = Inbox::open(&*bus, Topic::Iam, "quiet", Start::Beginning, 10)
        .await
        .unwrap();
    let mut inbox = Inbox::open(&*bus, Topic::Flows, "busy", Start::Beginning, 1000)
        .await
        .unwrap();
    for number in 0..200 {
        bus.publish(vec![event(number)]).await.unwrap();
    }
    let mut done = 0;
    while done < 200 {
        for job in inbox.next(1000).await.unwrap() {
            job.ack.done();
            done += 1;
        }
    }
    drop((inbox, bus));
    let left = std::fs::read_dir(directory.path()).unwrap().count();
    assert!(left <= 4, "{left} files: one segment, commits.json, lock");
}

/// The scan passes while work is in hand, which is done only later, with nothing new on the topic.
#[tokio::test]
async fn segments_go_when_the_work_is_done_that_was_in_hand_as_the_scan_passed() {
    let directory = tempfile::tempdir().unwrap();
    let bus = open(directory.path(), &small());
    let mut inbox = Inbox::open(&*bus, Topic::Flows, "g", Start::Beginning, 1_000)
        .await
        .unwrap();
    bus.publish(vec![event(0)]).await.unwrap();
    let held = inbox.next(1).await.unwrap().remove(0);
    drop(inbox);
    // Other topics fill the log, and another event of this one is the last in memory.
    let other = |number| Event {
        kind: EventType::UserCreated,
        ..event(number)
    };
    for number in 0..50 {
        bus.publish(vec![other(number)]).await.unwrap();
    }
    drop(held);
    drop(bus);
    // After a restart nothing is in memory: the group reads the files up to the end.
    let bus = open(directory.path(), &small());
    let mut inbox = Inbox::open(&*bus, Topic::Flows, "g", Start::Beginning, 1_000)
        .await
        .unwrap();
    let held = inbox.next(10).await.unwrap().remove(0);
    let scan = tokio::time::timeout(Duration::from_millis(300), inbox.next(10));
    assert!(scan.await.is_err(), "there is nothing more");
    for number in 50..100 {
        bus.publish(vec![other(number)]).await.unwrap();
    }
    held.ack.done();
    let gone = async {
        while directory.path().join("00000000000000000000.log").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.unwrap();
    let lag: u64 = bus.lag().iter().map(|(_, _, bytes)| bytes).sum();
    assert_eq!(lag, 0);
}

#[tokio::test]
async fn what_somebody_who_watches_has_yet_to_read_stays() {
    let directory = tempfile::tempdir().unwrap();
    let bus = open(directory.path(), &small());
    let mut inbox = Inbox::open(&*bus, Topic::Flows, "g", Start::Beginning, 1_000)
        .await
        .unwrap();
    let mut watch = bus.watch(Topic::Flows, "g").await.unwrap();
    let mut done = 0;
    for number in 0..100 {
        bus.publish(vec![event(number)]).await.unwrap();
    }
    while done < 100 {
        for job in inbox.next(1_000).await.unwrap() {
            job.ack.done();
            done += 1;
        }
    }
    let first = directory.path().join("00000000000000000000.log");
    let written = async {
        while !std::fs::read_to_string(directory.path().join("commits.json"))
            .is_ok_and(|commits| !commits.contains("\"next\": 0"))
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), written)
        .await
        .unwrap();
    assert!(first.exists(), "the group has passed it, who watches has not");
    let mut seen = Vec::new();
    while seen.len() < 100 {
        let events = watch.next().await.unwrap();
        seen.extend(events.iter().map(|event| event.body::<usize>().unwrap()));
    }
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
    drop(watch);
    let gone = async {
        while first.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.unwrap();
}

#[tokio::test]
async fn below_the_reserve_new_executions_are_refused_and_the_bus_says_why_while_running_work_ends() {
    let directory = tempfile::tempdir().unwrap();
    let free = Arc::new(AtomicU64::new(5_000));
    let asked = Arc::clone(&free);
    let options = Options {
        disk: Disk::new(move |_| {
            let free = asked.load(Ordering::Relaxed);
            Ok(Space { free, total: 100_000 })
        }),
        ..small()
    };
    let bus = open(directory.path(), &options);
    let of = |kind| vec![Event { kind, ..event(1) }];
    bus.ping().await.unwrap();
    bus.publish(of(EventType::FlowExecute)).await.unwrap();
    // A twentieth of the disk is the reserve.
    free.store(4_999, Ordering::Relaxed);
    let until = async |is_well: bool| {
        while bus.ping().await.is_ok() != is_well {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), until(false))
        .await
        .unwrap();
    let refused = bus.publish(of(EventType::FlowExecute)).await.unwrap_err();
    assert!(refused.is_transient());
    for reason in [refused.to_string(), bus.ping().await.unwrap_err().to_string()] {
        assert!(reason.contains("4999 bytes are free, 5000 are kept"), "{reason}");
    }
    // What runs ends, and old segments go.
    let mut inbox = Inbox::open(&*bus, Topic::ExecutionEvents, "log", Start::Beginning, 1_000)
        .await
        .unwrap();
    for _ in 0..50 {
        bus.publish(of(EventType::StepFinished)).await.unwrap();
        for job in inbox.next(1_000).await.unwrap() {
            job.ack.done();
        }
    }
    let gone = async {
        while directory.path().join("00000000000000000000.log").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.unwrap();
    free.store(5_000, Ordering::Relaxed);
    tokio::time::timeout(Duration::from_secs(30), until(true))
        .await
        .unwrap();
    bus.publish(of(EventType::FlowExecute)).await.unwrap();
}

#[tokio::test]
async fn new_executions_are_refused_when_too_much_is_unfinished_but_their_events_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let bus = open(
        directory.path(),
        &Options {
            max_bytes: 100,
            ..Options::default()
        },
    );
    let request = || Event {
        kind: EventType::FlowExecute,
        ..event(1)
    };
    bus.publish(vec![request(), request()]).await.unwrap();
    assert!(bus.publish(vec![request()]).await.is_err());
    bus.publish(vec![Event {
        kind: EventType::StepFinished,
        ..event(1)
    }])
    .await
    .unwrap();
}

#[tokio::test]
async fn an_event_that_kept_only_its_position_takes_no_room_and_is_read_again() {
    for options in [Options::default(), small()] {
        let directory = tempfile::tempdir().unwrap();
        let bus = open(directory.path(), &options);
        let mut inbox = Inbox::open(&*bus, Topic::Flows, "g", Start::Beginning, 1)
            .await
            .unwrap();
        for number in 0..40 {
            bus.publish(vec![event(number)]).await.unwrap();
        }
        let mut parked = Vec::new();
        for number in 0..40 {
            // Room for one: the next comes only because the one before gave its room back.
            let mut job = inbox.next(10).await.unwrap().remove(0);
            assert_eq!(job.event.body::<usize>().unwrap(), number);
            job.ack.release_room();
            parked.push((job.partition, job.position, job.ack));
        }
        for (number, (partition, position, _)) in parked.iter().enumerate() {
            let again = bus.read_at(Topic::Flows, *partition, *position).await.unwrap();
            assert_eq!(again, Some(event(number)));
        }
        let (partition, position) = (parked[3].0, parked[3].1);
        assert_eq!(bus.read_at(Topic::Iam, partition, position).await.unwrap(), None);
        assert_eq!(bus.read_at(Topic::Flows, 0, u64::MAX).await.unwrap(), None);
        for (_, _, ack) in parked.drain(..20) {
            ack.done();
        }
        drop((parked, inbox, bus));
        let bus = open(directory.path(), &options);
        let mut inbox = Inbox::open(&*bus, Topic::Flows, "g", Start::Beginning, 100)
            .await
            .unwrap();
        let first = inbox.next(1).await.unwrap().remove(0);
        assert_eq!(first.event.body::<usize>().unwrap(), 20, "positions stay in hand");
    }
}

#[derive(Clone, Debug)]
enum Action {
    Publish(usize),
    Take(usize),
    Finish(usize),
    Restart,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        (1..5usize).prop_map(Action::Publish),
        (1..6usize).prop_map(Action::Take),
        (0..8usize).prop_map(Action::Finish),
        Just(Action::Restart),
    ];
    prop::collection::vec(action, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever is published, taken, finished and restarted in whatever order: a group sees the events from the
    /// oldest unfinished one on, in order, without a gap.
    #[test]
    fn a_group_goes_on_after_its_oldest_unfinished_event(actions in actions()) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let mut published = 0;
            let mut bus = open(directory.path(), &small());
            let mut inbox = Inbox::open(&*bus, Topic::Flows, "g", Start::Beginning, 1000).await.unwrap();
            let mut in_hand = Vec::new();
            let (mut taken, mut finished) = (0, std::collections::BTreeSet::new());
            for action in actions {
                match action {
                    Action::Publish(count) => {
                        bus.publish((published..published + count).map(event).collect()).await.unwrap();
                        published += count;
                    }
                    Action::Take(max) => {
                        if taken < published {
                            for job in inbox.next(max).await.unwrap() {
                                prop_assert_eq!(job.event.body::<usize>().unwrap(), taken);
                                taken += 1;
                                in_hand.push(job);
                            }
                        }
                    }
                    Action::Finish(index) => {
                        if index < in_hand.len() {
                            let job = in_hand.remove(index);
                            finished.insert(job.event.body::<usize>().unwrap());
                            job.ack.done();
                        }
                    }
                    Action::Restart => {
                        in_hand.clear();
                        drop(inbox);
                        drop(bus);
                        bus = open(directory.path(), &small());
                        inbox = Inbox::open(&*bus, Topic::Flows, "g", Start::Beginning, 1000).await.unwrap();
                        taken = (0..taken).find(|number| !finished.contains(number)).unwrap_or(taken);
                        // What comes again is unfinished again, also where it was finished out of order.
                        finished.retain(|number| *number < taken);
                    }
                }
            }
            Ok(())
        })?;
    }
}
