//! The outbox relay: takes events out of the documents they were written with and hands them to a publisher.

use std::time::Duration;

use flowmate_common::Event;
use flowmate_retry::Backoff;

use crate::{CollectionSpec, Error, Storage};

/// How many documents are looked at in one go.
const BATCH: usize = 256;
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
    for (id, events) in pending {
        let ids = events.into_iter().map(|event| event.id.to_string()).collect();
        storage
            .documents()
            .published(spec, &id, ids)
            .await
            .map_err(fail)?;
    }
    Ok(count)
}
