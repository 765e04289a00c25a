//! The outbox relay: takes events out of the documents they were written with and hands them to a publisher.

use std::time::Duration;

use flowmate_common::Event;
use flowmate_retry::Backoff;
use futures_util::{StreamExt, stream};

use crate::{CollectionSpec, Error, Storage};

/// How many documents are looked at in one go.
const BATCH: usize = 256;
/// How many documents are cleared at a time.
const AT_ONCE: usize = BATCH;
/// How long to wait before looking again without being rung.
const IDLE: Duration = Duration::from_secs(1);

/// Publishes what waits in `collections`, for ever: an event is cleared only after `publish` said that it is durable,
/// so it is published at least once, whatever crashes when. `publish` deals with what never can be published: whatever it
/// refuses is tried again. Stop it by dropping the future between two calls.
pub async fn run<P, F, E>(storage: Storage, collections: &[&'static CollectionSpec], publish: P)
where
    P: Fn(Vec<Event>) -> F,
    F: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let mut backoff = Backoff::new("publishing events from the outbox");
    loop {
        // Listening before looking: what is written while this looks rings for the next round.
        let rung = storage.outbox().notified();
        tokio::pin!(rung);
        rung.as_mut().enable();
        let (mut moved, mut fault) = (0, None);
        for spec in collections {
            match once(&storage, spec, &publish).await {
                Ok(count) => moved += count,
                // The other collections do not wait for this one.
                Err(error) => fault = Some(format!("{}: {error}", spec.name)),
            }
        }
        match fault {
            Some(fault) => backoff.wait(&fault).await,
            None => backoff.passed(),
        }
        if moved == 0 && !backoff.is_failing() {
            let _ = tokio::time::timeout(IDLE, rung).await;
        }
    }
}

/// Publishes what waits now; returns how many events there were.
pub async fn once<P, F, E>(
    storage: &Storage,
    spec: &'static CollectionSpec,
    publish: &P,
) -> Result<usize, String>
where
    P: Fn(Vec<Event>) -> F,
    F: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let fail = |error: Error| error.to_string();
    let pending = storage.documents().pending(spec, BATCH).await.map_err(fail)?;
    let events: Vec<Event> = pending
        .iter()
        .flat_map(|(_, events)| events.iter().cloned())
        .collect();
    let count = events.len();
    if count == 0 {
        return Ok(0);
    }
    publish(events).await.map_err(|error| error.to_string())?;
    // Together, so that a store that commits in groups syncs once for many. One that fails is published again, and the
    // others are cleared all the same.
    let cleared: Vec<_> = pending
        .into_iter()
        .map(|(id, events)| async move {
            let ids = events.into_iter().map(|event| event.id.to_string()).collect();
            storage.documents().published(spec, &id, ids).await
        })
        .collect();
    let cleared: Vec<Result<(), Error>> = stream::iter(cleared).buffer_unordered(AT_ONCE).collect().await;
    cleared.into_iter().collect::<Result<(), Error>>().map_err(fail)?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use flowmate_common::{Clock, EventType, Timestamp, ids::IdGenerator};

    use super::*;
    use crate::{Write, sqlite};

    static SPEC: CollectionSpec = CollectionSpec {
        name: "relayed",
        fields: &[],
        unique: &[],
    };

    async fn filled(directory: &std::path::Path, count: usize) -> Storage {
        let storage = sqlite::open(directory).unwrap();
        storage.documents().open(&SPEC).await.unwrap();
        let (ids, clock) = (IdGenerator::counting(), Clock::manual(Timestamp::from_millis(0)));
        let mut inserts = tokio::task::JoinSet::new();
        for number in 0..count {
            let event = Event::new(&ids, &clock, EventType::FlowModified, "k", &()).unwrap();
            let write = Write {
                id: format!("{number:06}"),
                doc: "{}".into(),
                owners: vec![],
                events: vec![event],
            };
            let storage = storage.clone();
            inserts.spawn(async move { storage.documents().insert(&SPEC, write).await });
        }
        assert!(inserts.join_all().await.iter().all(Result::is_ok));
        storage
    }

    #[tokio::test]
    async fn what_was_published_is_cleared_and_what_was_not_waits() {
        let directory = tempfile::tempdir().unwrap();
        let storage = filled(directory.path(), BATCH + 10).await;
        let taken = AtomicUsize::new(0);
        let publish = |events: Vec<Event>| {
            taken.fetch_add(events.len(), Ordering::Relaxed);
            async { Ok::<_, Error>(()) }
        };
        let refuse = |_| async { Err(Error::Unavailable("no".into())) };
        assert!(once(&storage, &SPEC, &refuse).await.is_err());
        let waiting = async || storage.documents().pending(&SPEC, 1_000).await.unwrap().len();
        assert_eq!(waiting().await, BATCH + 10);
        assert_eq!(once(&storage, &SPEC, &publish).await, Ok(BATCH));
        assert_eq!(waiting().await, 10);
        assert_eq!(once(&storage, &SPEC, &publish).await, Ok(10));
        assert_eq!(once(&storage, &SPEC, &publish).await, Ok(0));
        assert_eq!((waiting().await, taken.into_inner()), (0, BATCH + 10));
    }
}
