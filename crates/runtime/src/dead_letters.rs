//! Keeps dead letters: the log forgets what every group has passed, and these are for a person to look at.

use flowmate_bus::dispatch::Refusal;
use flowmate_common::{Event, Failure, Timestamp, Topic, model::DeadLetter};
use flowmate_storage::{Collection, CollectionSpec, Document, Error, Field, Portable};
use serde::{Deserialize, Serialize};

use crate::Context;

/// What this service stores.
pub const COLLECTIONS: &[Portable] = &[Portable::of::<KeptLetter>()];

/// A dead letter as it is stored, in collection `dead_letters`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeptLetter {
    /// The id of the event that brought it.
    pub id: String,
    /// When it was given up.
    pub at: Timestamp,
    /// What could not be processed, by whom and why.
    pub letter: DeadLetter,
}

impl Document for KeptLetter {
    const SPEC: &'static CollectionSpec = &CollectionSpec {
        name: "dead_letters",
        fields: &[
            Field {
                name: "at",
                path: "$.at",
            },
            Field {
                name: "group",
                path: "$.letter.group",
            },
        ],
        unique: &[],
    };

    fn id(&self) -> &str {
        &self.id
    }

    /// Nobody's: only system administrators see them.
    fn owners(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Begins to keep what comes on the topic `dead-letters`.
pub async fn keep(context: &Context) -> Result<(), Failure> {
    let kept = Collection::<KeptLetter>::open(&context.storage)
        .await
        .map_err(Failure::internal)?;
    context.consume(Topic::DeadLetters, "dead-letters", move |event| {
        let kept = kept.clone();
        async move { store(&kept, &event).await }
    });
    Ok(())
}

async fn store(kept: &Collection<KeptLetter>, event: &Event) -> Result<(), Refusal> {
    let Ok(letter) = event.body::<DeadLetter>() else {
        tracing::error!(event.id = &*event.id, "a dead letter cannot be read");
        return Ok(());
    };
    let letter = KeptLetter {
        id: event.id.to_string(),
        at: event.time,
        letter,
    };
    match kept.insert(&letter, Vec::new()).await {
        // Delivered again.
        Ok(()) | Err(Error::Duplicate) => Ok(()),
        Err(error) => Err(Refusal::transient(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use flowmate_bus::local::{LocalBus, Options};
    use flowmate_common::{
        Budget, Clock, EventType, Pressure,
        auth::{TokenVerifier, Visibility},
        ids::IdGenerator,
    };
    use flowmate_storage::{Filter, Query, sqlite};

    use super::*;

    #[tokio::test]
    async fn a_dead_letter_is_kept_once_however_often_it_comes() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::manual(Timestamp::from_millis(5));
        let context = Context {
            storage: sqlite::open(directory.path()).unwrap(),
            bus: Arc::new(LocalBus::open(&directory.path().join("log"), Options::default()).unwrap()),
            tokens: TokenVerifier::new(clock.clone()),
            clock,
            ids: IdGenerator::counting(),
            tasks: tokio_util::task::TaskTracker::new(),
            shutdown: tokio_util::sync::CancellationToken::new(),
            services: None,
            pressure: Pressure::default(),
            budget: Budget::new(1 << 20),
        };
        keep(&context).await.unwrap();
        let letter = DeadLetter {
            group: "g".into(),
            topic: "flows".into(),
            position: 1,
            reason: "r".into(),
            attempts: 1,
            event: serde_json::Value::Null,
        };
        let event = context.event(EventType::DeadLetter, "k", &letter).unwrap();
        context.bus.publish(vec![event.clone(), event]).await.unwrap();
        let kept = Collection::<KeptLetter>::open(&context.storage).await.unwrap();
        let all = Query::new(Filter::All, 10);
        let found = async {
            loop {
                let found = kept.find(&Visibility::All, &all).await.unwrap();
                let idle = context.bus.lag().iter().all(|(_, _, bytes)| *bytes == 0);
                if idle && !found.is_empty() {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(30), found)
            .await
            .unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].letter.reason, "r");
        context.shutdown.cancel();
    }
}
