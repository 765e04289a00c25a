//! What a start makes of a log whose files are not as they were left.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{fs, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use flowmate_bus::{
    Bus, Start,
    inbox::Inbox,
    local::{LocalBus, Options},
};
use flowmate_common::{Event, EventType, Timestamp, Topic};

const FIRST: &str = "00000000000000000000.log";
/// Bytes of the mark that each group begins with.
const MARK: usize = 17;

fn event(number: usize) -> Event {
    Event {
        id: number.to_string().into(),
        kind: EventType::FlowModified,
        key: "k".into(),
        time: Timestamp::from_millis(0),
        trace: None,
        data: Bytes::from(number.to_string()),
    }
}

/// Writes nothing down but what the log itself holds, until it is closed.
fn quiet() -> Options {
    Options {
        flush_every: Duration::from_secs(3_600),
        ..Options::default()
    }
}

fn small() -> Options {
    Options {
        segment_bytes: 300,
        tail_bytes: 1,
        ..quiet()
    }
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn refusal(directory: &Path, options: Options) -> String {
    match LocalBus::open(directory, options) {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    }
}

/// The numbers of all events that a new group gets, of which there are `count`.
async fn events(bus: &dyn Bus, group: &str, count: usize) -> Vec<usize> {
    let mut inbox = Inbox::open(bus, Topic::Flows, group, Start::Beginning, 1_000)
        .await
        .unwrap();
    let mut numbers = Vec::new();
    while numbers.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(30), inbox.next(1_000));
        for job in next.await.unwrap().unwrap() {
            numbers.push(job.event.body().unwrap());
            job.ack.done();
        }
    }
    numbers
}

/// Five groups of two events, as they are on disk while the log is open; the bytes of the last group.
async fn groups(directory: &Path, crashed: &Path) -> (Vec<u8>, usize) {
    let bus = LocalBus::open(directory, quiet()).unwrap();
    let file = directory.join(FIRST);
    let mut last = 0;
    for number in 0..5 {
        last = fs::read(&file).unwrap().len();
        bus.publish(vec![event(2 * number), event(2 * number + 1)])
            .await
            .unwrap();
    }
    copy(directory, crashed);
    assert!(!crashed.join("commits.json").exists(), "as after a crash");
    (fs::read(&file).unwrap(), last)
}

#[tokio::test]
async fn whatever_byte_of_a_synced_group_flips_the_start_is_refused_and_names_file_and_offset() {
    let directory = tempfile::tempdir().unwrap();
    let (closed, crashed) = (directory.path().join("closed"), directory.path().join("crashed"));
    let (whole, last) = groups(&closed, &crashed).await;
    // After a crash the next group proves each; a log that was closed says where it ended.
    for (log, end) in [(&crashed, last), (&closed, whole.len())] {
        for flipped in 0..end {
            for bit in [0x01, 0x80] {
                let mut damaged = whole.clone();
                damaged[flipped] ^= bit;
                fs::write(log.join(FIRST), &damaged).unwrap();
                let refusal = refusal(log, quiet());
                assert!(refusal.contains(FIRST), "{refusal}");
                let offset = refusal.split_once("from byte ").unwrap().1;
                let offset: usize = offset.split(' ').next().unwrap().parse().unwrap();
                assert!(offset <= flipped, "{flipped}: {refusal}");
                assert!(
                    refusal.contains(&format!("ends-at-{offset}")),
                    "what to do: {refusal}"
                );
                assert_eq!(fs::read(log.join(FIRST)).unwrap(), damaged, "nothing was cut");
            }
        }
        fs::write(log.join(FIRST), &whole).unwrap();
        let bus = LocalBus::open(log, quiet()).unwrap();
        assert_eq!(events(&bus, "g", 10).await, (0..10).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_length_that_was_corrupted_is_not_taken_for_the_end_of_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let (closed, crashed) = (directory.path().join("closed"), directory.path().join("crashed"));
    let (whole, _) = groups(&closed, &crashed).await;
    for length in [0, 1, 1_000_000, u32::MAX] {
        let mut damaged = whole.clone();
        damaged[MARK..MARK + 4].copy_from_slice(&u32::to_le_bytes(length));
        fs::write(crashed.join(FIRST), damaged).unwrap();
        let refusal = refusal(&crashed, quiet());
        assert!(
            refusal.contains(&format!("{FIRST} cannot be read from byte {MARK} ")),
            "{refusal}"
        );
    }
}

#[tokio::test]
async fn a_last_group_that_was_torn_anywhere_is_cut_and_everything_before_it_stays() {
    let directory = tempfile::tempdir().unwrap();
    let (closed, crashed) = (directory.path().join("closed"), directory.path().join("crashed"));
    let (whole, last) = groups(&closed, &crashed).await;
    let one = (whole.len() - last - MARK) / 2;
    for cut in last..whole.len() {
        // What was not synced may be there in any part: missing, empty, or only its end.
        let short = whole[..cut].to_vec();
        let zeros = [&whole[..cut], &vec![0; whole.len() - cut][..]].concat();
        let mut holed = whole.clone();
        holed[last..=cut].fill(0);
        for (torn, whole_events) in [(short, true), (zeros, true), (holed, false)] {
            fs::write(crashed.join(FIRST), torn).unwrap();
            let _ = fs::remove_file(crashed.join("commits.json"));
            let bus = LocalBus::open(&crashed, quiet()).unwrap();
            let kept = 8 + usize::from(whole_events && cut >= last + MARK + one);
            bus.publish(vec![event(100)]).await.unwrap();
            let expected: Vec<usize> = (0..kept).chain([100]).collect();
            assert_eq!(events(&bus, "g", kept + 1).await, expected, "{cut}");
        }
    }
}

#[tokio::test]
async fn a_log_that_lost_its_end_is_refused_until_somebody_agrees_to_the_loss() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let bus = LocalBus::open(&log, quiet()).unwrap();
    bus.publish(vec![event(0)]).await.unwrap();
    let end = fs::read(log.join(FIRST)).unwrap().len();
    bus.publish(vec![event(1)]).await.unwrap();
    assert_eq!(events(&bus, "ahead", 2).await, [0, 1]);
    drop(bus);
    let synced = fs::read(log.join(FIRST)).unwrap().len();
    let file = fs::OpenOptions::new().write(true).open(log.join(FIRST)).unwrap();
    file.set_len(end as u64).unwrap();
    let refused = refusal(&log, quiet());
    for part in [FIRST, &format!("byte {end} "), &format!("position {synced}")] {
        assert!(refused.contains(part), "{refused}");
    }
    fs::write(log.join(format!("ends-at-{}", end + 1)), "").unwrap();
    refusal(&log, quiet());
    fs::write(log.join(format!("ends-at-{end}")), "").unwrap();
    drop(LocalBus::open(&log, quiet()).unwrap());
    assert!(!log.join(format!("ends-at-{end}")).exists(), "agreed to once");
    let bus = LocalBus::open(&log, quiet()).unwrap();
    bus.publish(vec![event(2)]).await.unwrap();
    assert_eq!(
        events(&bus, "ahead", 1).await,
        [2],
        "a group that was ahead goes on"
    );
    assert_eq!(events(&bus, "g", 2).await, [0, 2]);
}

#[tokio::test]
async fn a_sealed_segment_that_is_not_whole_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let (log, copied) = (directory.path().join("log"), directory.path().join("copied"));
    let bus = LocalBus::open(&log, small()).unwrap();
    let holds = Inbox::open(&bus, Topic::Flows, "holds", Start::Beginning, 1)
        .await
        .unwrap();
    for number in 0..30 {
        bus.publish(vec![event(number)]).await.unwrap();
    }
    drop((holds, bus));
    let mut files: Vec<String> = fs::read_dir(&log)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains(".log"))
        .collect();
    files.sort();
    assert!(files.len() > 3, "{files:?}");
    copy(&log, &copied);
    let second = copied.join(&files[1]);
    let whole = fs::read(&second).unwrap();
    fs::write(&second, &whole[..whole.len() - 5]).unwrap();
    let refused = refusal(&copied, small());
    let offset = format!("{} cannot be read from byte {} ", files[1], whole.len() - 5);
    assert!(refused.contains(&offset), "{refused}");
    fs::remove_file(&second).unwrap();
    let refused = refusal(&copied, small());
    assert!(
        refused.contains(&files[0]) && refused.contains("missing"),
        "{refused}"
    );
    // Damage inside is found when it is read.
    let mut damaged = whole.clone();
    damaged[MARK + 20] ^= 1;
    fs::write(&second, damaged).unwrap();
    let bus = LocalBus::open(&copied, small()).unwrap();
    let mut inbox = Inbox::open(&bus, Topic::Flows, "g", Start::Beginning, 1_000)
        .await
        .unwrap();
    let refused = loop {
        match inbox.next(1_000).await {
            Ok(jobs) => jobs.into_iter().for_each(|job| job.ack.done()),
            Err(error) => break error.to_string(),
        }
    };
    let offset = format!("{} cannot be read from byte {MARK} ", files[1]);
    assert!(refused.contains(&offset), "{refused}");
    drop((inbox, bus));
    // What it says to do: what is left goes on, also for groups that were before it.
    fs::remove_file(copied.join(&files[0])).unwrap();
    fs::remove_file(second).unwrap();
    let bus = LocalBus::open(&copied, small()).unwrap();
    let mut inbox = Inbox::open(&bus, Topic::Flows, "holds", Start::Beginning, 1_000)
        .await
        .unwrap();
    assert!(!inbox.next(1).await.unwrap().is_empty());
}

#[tokio::test]
async fn commits_that_are_older_than_the_log_or_missing_end_no_consumer() {
    for missing in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path();
        let options = Options {
            flush_every: Duration::from_millis(1),
            ..small()
        };
        let bus: Arc<dyn Bus> = Arc::new(LocalBus::open(log, options.clone()).unwrap());
        bus.publish(vec![event(0)]).await.unwrap();
        assert_eq!(events(&*bus, "g", 1).await, [0]);
        drop(bus);
        let old = fs::read(log.join("commits.json")).unwrap();
        let bus = LocalBus::open(log, options.clone()).unwrap();
        for number in 1..50 {
            bus.publish(vec![event(number)]).await.unwrap();
        }
        assert_eq!(events(&bus, "g", 49).await.len(), 49);
        drop(bus);
        assert!(!log.join(FIRST).exists(), "old segments are gone");
        if missing {
            fs::remove_file(log.join("commits.json")).unwrap();
        } else {
            fs::write(log.join("commits.json"), old).unwrap();
        }
        let bus = LocalBus::open(log, options).unwrap();
        bus.publish(vec![event(50)]).await.unwrap();
        let mut numbers = Vec::new();
        while numbers.last() != Some(&50) {
            numbers.extend(events(&bus, "g", 1).await);
        }
    }
}

/// A log of the version before this one: records alone, and commits that do not say what was synced.
#[tokio::test]
async fn a_log_of_the_form_before_marks_is_read_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let bus = LocalBus::open(&directory.path().join("new"), quiet()).unwrap();
    bus.publish(vec![event(0)]).await.unwrap();
    let record = fs::read(directory.path().join("new").join(FIRST))
        .unwrap()
        .split_off(MARK);
    let old = directory.path().join("old");
    fs::create_dir_all(&old).unwrap();
    fs::write(old.join(FIRST), record.repeat(3)).unwrap();
    let commits = format!(
        r#"{{"version":1,"commits":[{{"topic":"flows","group":"g","next":{}}}]}}"#,
        record.len()
    );
    fs::write(old.join("commits.json"), commits).unwrap();
    let bus = LocalBus::open(&old, quiet()).unwrap();
    bus.publish(vec![event(1)]).await.unwrap();
    assert_eq!(events(&bus, "g", 3).await, [0, 0, 1]);
    drop(bus);
    let bus = LocalBus::open(&old, quiet()).unwrap();
    assert_eq!(events(&bus, "other", 4).await, [0, 0, 0, 1]);
}
