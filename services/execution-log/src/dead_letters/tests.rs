use std::time::Duration;

use flowmate_bus::local::{LocalBus, Options};
use flowmate_common::{
    Clock, Kind, Pressure, Timestamp, auth::TokenVerifier, ids::IdGenerator, model::DeadLetter,
};
use flowmate_storage::sqlite;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_000_000_000_000);

fn context(directory: &tempfile::TempDir) -> Context {
    let clock = Clock::manual(NOW);
    Context {
        storage: sqlite::open(directory.path()).unwrap(),
        bus: Arc::new(LocalBus::open(&directory.path().join("log"), Options::default()).unwrap()),
        tokens: TokenVerifier::new(clock.clone()),
        clock,
        ids: IdGenerator::counting(),
        tasks: tokio_util::task::TaskTracker::new(),
        shutdown: tokio_util::sync::CancellationToken::new(),
        services: None,
        pressure: Pressure::default(),
        consumers: flowmate_bus::consumers::Consumers::default(),
    }
}

fn flow_event(context: &Context) -> Event {
    context
        .event(EventType::FlowStopping, "f", &json!({"id": "f", "activation": 2}))
        .unwrap()
}

/// The event that brings a letter about `event`.
fn letter(context: &Context, id: &str, event: Value) -> Event {
    let letter = DeadLetter {
        group: "g".into(),
        topic: "flows".into(),
        position: 1,
        reason: "r".into(),
        attempts: 1,
        event,
    };
    let mut event = context.event(EventType::DeadLetter, "k", &letter).unwrap();
    event.id = id.into();
    event
}

async fn all(letters: &Letters) -> Vec<String> {
    letters.oldest(Filter::All, 100).await.unwrap()
}

async fn eventually<F: Future<Output = bool>>(mut is_so: impl FnMut() -> F) {
    let asking = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asking)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_dead_letter_is_kept_once_however_often_it_comes() {
    let directory = tempfile::tempdir().unwrap();
    let context = context(&directory);
    let letters = Letters::start(&context, Bounds::default()).await.unwrap();
    let event = letter(&context, "l", serde_json::to_value(flow_event(&context)).unwrap());
    context.bus.publish(vec![event.clone(), event]).await.unwrap();
    let (bus, kept) = (&context.bus, &letters);
    eventually(async || !all(kept).await.is_empty() && bus.lag().iter().all(|(_, _, bytes)| *bytes == 0))
        .await;
    assert_eq!(all(&letters).await, ["l"]);
    let kept = letters.get("l").await.unwrap().unwrap();
    assert_eq!(
        (kept.status, kept.is_replayable, kept.letter.reason.as_str()),
        (Status::Waiting, true, "r")
    );
    assert_eq!(kept.event.unwrap().kind, "flow.stopping");
    context.shutdown.cancel();
}

#[tokio::test]
async fn a_replayed_event_bears_its_id_and_key_and_is_published_again_after_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let context = context(&directory);
    let letters = Letters::open(&context).await.unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let seeing = Arc::clone(&seen);
    context.consume(Topic::Flows, "seen", move |event| {
        seeing.lock().push(event);
        async { Ok(()) }
    });
    let event = flow_event(&context);
    let value = serde_json::to_value(&event).unwrap();
    letters.keep(&letter(&context, "l", value)).await.unwrap();
    assert_eq!(replay::once(&letters).await, Ok(0), "nobody asked");

    letters.ask("l").await.unwrap().unwrap();
    assert_eq!(letters.ask("l").await.unwrap().unwrap().status, Status::Replaying);
    assert_eq!(replay::once(&letters).await, Ok(1));
    let kept = letters.get("l").await.unwrap().unwrap();
    assert_eq!((kept.status, kept.replayed_at), (Status::Replayed, Some(NOW)));
    assert_eq!(letters.ask("l").await.unwrap_err().kind, Kind::Conflict);
    assert_eq!(replay::once(&letters).await, Ok(0));

    // As where the process ended before it could note what it had published.
    letters
        .change("l", |letter| letter.status = Status::Replaying)
        .await
        .unwrap();
    assert_eq!(replay::once(&letters).await, Ok(1));
    eventually(async || seen.lock().len() == 2).await;
    assert_eq!(*seen.lock(), [event.clone(), event]);
    assert!(letters.ask("no").await.unwrap().is_none());
    context.shutdown.cancel();
}

#[tokio::test]
async fn what_is_no_event_of_ours_says_why_it_cannot_be_replayed_and_holds_up_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let context = context(&directory);
    let letters = Letters::open(&context).await.unwrap();
    let ours = serde_json::to_value(flow_event(&context)).unwrap();
    let mut elsewhere = ours.clone();
    elsewhere["type"] = json!("iam.user.deleted");
    let mut unknown = ours.clone();
    unknown["type"] = json!("no.such.type");
    let large =
        json!({"id": "e", "type": "flow.stopping", "key": "f", "time": NOW, "data": "x".repeat(13 << 20)});
    let omitted = json!({"id": "e", "type": "flow.stopping", "size": 5, "omitted": "the event is too large to be kept"});
    for (id, event, obstacle) in [
        ("o", omitted, "the event is too large to be kept"),
        ("a", Value::Null, "its event was not kept"),
        ("b", json!("not ours"), "it is no event of ours"),
        ("c", unknown, "unknown event type no.such.type"),
        ("d", elsewhere, "iam.user.deleted does not belong on topic flows"),
        ("e", large, "more than the 12582912 that are kept"),
    ] {
        letters.keep(&letter(&context, id, event)).await.unwrap();
        let refused = letters.ask(id).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Conflict);
        assert!(refused.to_string().contains(obstacle), "{refused}");
    }
    letters.keep(&letter(&context, "z", ours)).await.unwrap();
    assert!(letters.event("b").await.unwrap().is_some(), "it is shown");
    assert!(letters.event("e").await.unwrap().is_none());
    let asked = letters.ask_all(&["a".into(), "no".into(), "z".into()]).await;
    let expected = Asked {
        accepted: 1,
        skipped: 2,
    };
    assert_eq!(asked.unwrap(), expected);
    // Gone between the asking and the publishing.
    letters.delete("z").await.unwrap();
    assert_eq!(replay::once(&letters).await, Ok(0));
}

#[tokio::test]
async fn letters_stay_within_bounds_of_count_bytes_and_age_and_the_oldest_go() {
    let directory = tempfile::tempdir().unwrap();
    let context = context(&directory);
    let letters = Letters::open(&context).await.unwrap();
    for number in 0..10 {
        context.clock.advance(1000);
        let event = json!({"data": "x".repeat(100)});
        let letter = letter(&context, &format!("l{number}"), event);
        letters.keep(&letter).await.unwrap();
    }
    let bounds = |letters, bytes, age| Bounds { letters, bytes, age };
    let size = letters.get("l0").await.unwrap().unwrap().bytes;
    assert_eq!(
        bounds::once(&letters, bounds(10, 10 * size, 10_000))
            .await
            .unwrap(),
        0
    );
    assert_eq!(
        bounds::once(&letters, bounds(8, u64::MAX, 10_000)).await.unwrap(),
        2
    );
    assert_eq!(all(&letters).await.first().unwrap(), "l2");
    assert!(letters.event("l1").await.unwrap().is_none(), "its event went too");
    assert_eq!(
        bounds::once(&letters, bounds(10, 5 * size, 10_000))
            .await
            .unwrap(),
        3
    );
    assert_eq!(
        bounds::once(&letters, bounds(10, u64::MAX, 2_500)).await.unwrap(),
        2
    );
    assert_eq!(all(&letters).await, ["l7", "l8", "l9"]);
}

#[tokio::test]
async fn letters_of_an_earlier_version_are_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let context = context(&directory);
    let old = Collection::<Unsplit>::open(&context.storage).await.unwrap();
    let event = flow_event(&context);
    for number in 0..20 {
        let stored = json!({"id": format!("l{number}"), "at": NOW, "letter": {"group": "g", "topic": "flows",
            "position": 7, "reason": "r", "attempts": 50, "event": event}});
        let stored: Unsplit = serde_json::from_str(&stored.to_string()).unwrap();
        old.insert(&stored, Vec::new()).await.unwrap();
    }
    let letters = Letters::open(&context).await.unwrap();
    letters.adopt().await.unwrap();
    let waiting = Filter::eq("status", "waiting");
    assert_eq!(letters.count(&waiting).await.unwrap(), 20);
    let kept = letters.event("l3").await.unwrap().unwrap();
    assert_eq!(kept.parsed().unwrap(), event);
    letters.ask("l3").await.unwrap().unwrap();
}
