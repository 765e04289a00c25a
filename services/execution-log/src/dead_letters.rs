//! Dead letters for people: kept out of the bus, which forgets what every group has passed; shown, replayed, deleted.
//!
//! A letter is kept in two documents: what is said of it in `dead_letters`, which lists read, and its event in
//! `dead_letter_events`, which may be megabytes. Replaying is asked for by a write of the letter alone; [`replay`]
//! publishes, so that nothing large waits in an outbox, and does so again after a crash: at least once.

mod bounds;
mod model;
mod replay;

use std::sync::Arc;

use flowmate_bus::dispatch::Refusal;
use flowmate_common::{Event, EventType, Failure, Fault, Topic, auth::Visibility};
use flowmate_runtime::Context;
use flowmate_storage::{Change, Collection, Document, Error, Filter, Query, Sort};
use tokio::sync::Notify;

pub(crate) use bounds::Bounds;
use model::{Arrived, Unsplit, split};
pub(crate) use model::{KeptEvent, KeptLetter, Status};

/// The group that keeps dead letters.
const GROUP: &str = "dead-letters";
/// Letters of the former form, event inside, that are read at a time.
const ADOPTED: u64 = 8;

/// Letters and their events. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Letters {
    context: Context,
    kept: Collection<KeptLetter>,
    events: Collection<KeptEvent>,
    /// Rings when there is something to replay, or to count.
    rung: Arc<Notify>,
}

/// What became of letters that were to be replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// They are published soon.
    pub(crate) accepted: u64,
    /// They are not there, are not waiting any more, or cannot be replayed.
    pub(crate) skipped: u64,
}

impl Letters {
    /// Begins to keep what comes on the topic `dead-letters`, to replay what was asked for, and to forget the oldest.
    pub(crate) async fn start(context: &Context, bounds: Bounds) -> Result<Self, Failure> {
        let letters = Self::open(context).await?;
        letters.adopt().await?;
        let keeping = letters.clone();
        context.consume(Topic::DeadLetters, GROUP, move |event| {
            let letters = keeping.clone();
            async move { letters.keep(&event).await }
        });
        let replaying = letters.clone();
        context.spawn("dead letter replay", async move { replay::run(&replaying).await });
        let bounded = letters.clone();
        context.spawn("dead letter bounds", async move {
            bounds::run(&bounded, bounds).await;
        });
        Ok(letters)
    }

    async fn open(context: &Context) -> Result<Self, Failure> {
        Ok(Self {
            context: context.clone(),
            kept: Collection::open(&context.storage).await?,
            events: Collection::open(&context.storage).await?,
            rung: Arc::default(),
        })
    }

    /// Keeps a letter; again and again the same changes nothing.
    async fn keep(&self, event: &Event) -> Result<(), Refusal> {
        if event.kind != EventType::DeadLetter {
            return Ok(());
        }
        // What is wrong with a letter is said in the log: it would come back as a letter about a letter, for ever.
        let Ok(arrived) = event.body::<Arrived>() else {
            tracing::error!(event.id = &*event.id, "a dead letter cannot be read");
            return Ok(());
        };
        let (letter, about) = split(event.id.to_string(), event.time, arrived);
        match self.add(&letter, about).await {
            Ok(()) => self.rung.notify_waiters(),
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(error) => tracing::error!(letter.id = letter.id, %error, "a dead letter cannot be kept"),
        }
        Ok(())
    }

    /// The event first: a letter that is there has its event.
    async fn add(&self, letter: &KeptLetter, event: Option<KeptEvent>) -> Result<(), Error> {
        if let Some(event) = event {
            self.add_event(&event).await?;
        }
        once(self.kept.insert(letter, Vec::new()).await)
    }

    async fn add_event(&self, event: &KeptEvent) -> Result<(), Error> {
        once(self.events.insert(event, Vec::new()).await)
    }

    /// Takes over letters that an earlier version kept with their events inside.
    async fn adopt(&self) -> Result<(), Error> {
        let unsplit = Collection::<Unsplit>::open(&self.context.storage).await?;
        let query = Query::new(Filter::Empty("status"), ADOPTED);
        loop {
            let found = unsplit.find(&Visibility::All, &query).await?;
            if found.is_empty() {
                return Ok(());
            }
            for old in found {
                let (letter, event) = split(old.id, old.at, old.letter);
                if let Some(event) = event {
                    self.add_event(&event).await?;
                }
                self.change(&letter.id, |known| known.clone_from(&letter)).await?;
            }
        }
    }

    async fn change(
        &self,
        id: &str,
        mut change: impl FnMut(&mut KeptLetter),
    ) -> Result<Option<KeptLetter>, Error> {
        let changed = self.kept.update(&Visibility::All, id, |letter| {
            change(letter);
            Ok::<_, Error>(Change::Write(Vec::new()))
        });
        changed.await
    }

    /// A page of letters, and how many there are in all.
    pub(crate) async fn page(&self, query: &Query) -> Result<(Vec<KeptLetter>, u64), Failure> {
        let found = self.kept.find(&Visibility::All, query).await?;
        let total = self.kept.count(&Visibility::All, &query.filter).await?;
        Ok((found, total))
    }

    /// One letter.
    pub(crate) async fn get(&self, id: &str) -> Result<Option<KeptLetter>, Failure> {
        Ok(self.kept.get(&Visibility::All, id).await?)
    }

    /// The event of a letter, where it was kept.
    pub(crate) async fn event(&self, id: &str) -> Result<Option<KeptEvent>, Failure> {
        Ok(self.events.get(&Visibility::All, id).await?)
    }

    /// Asks for a letter to be replayed; it is published soon, whatever crashes. `None`: there is none of that id.
    pub(crate) async fn ask(&self, id: &str) -> Result<Option<KeptLetter>, Failure> {
        let asked = self
            .kept
            .update(&Visibility::All, id, |letter| -> Result<Change, Failure> {
                letter.ask()?;
                Ok(Change::Write(Vec::new()))
            });
        let asked = asked.await?;
        self.rung.notify_waiters();
        Ok(asked)
    }

    /// Asks for each of these letters to be replayed; whatever is wrong with one holds up no other.
    pub(crate) async fn ask_all(&self, ids: &[String]) -> Result<Asked, Failure> {
        let mut asked = Asked::default();
        for id in ids {
            match self.ask(id).await {
                Ok(Some(_)) => asked.accepted += 1,
                Ok(None) => asked.skipped += 1,
                Err(failure) if failure.is_of_the_request() => asked.skipped += 1,
                Err(failure) => return Err(failure),
            }
        }
        Ok(asked)
    }

    /// The oldest letters that match.
    pub(crate) async fn oldest(&self, filter: Filter, limit: u64) -> Result<Vec<String>, Failure> {
        let query = Query {
            sort: Some(Sort {
                field: "at",
                descending: false,
            }),
            ..Query::new(filter, limit)
        };
        let found = self.kept.find(&Visibility::All, &query).await?;
        Ok(found.into_iter().map(|letter| letter.id).collect())
    }

    /// How many letters match.
    pub(crate) async fn count(&self, filter: &Filter) -> Result<u64, Failure> {
        Ok(self.kept.count(&Visibility::All, filter).await?)
    }

    /// Removes a letter and its event; whether it was there.
    pub(crate) async fn delete(&self, id: &str) -> Result<bool, Failure> {
        let removed = self.remove(id).await?;
        self.rung.notify_waiters();
        Ok(removed)
    }

    /// The event first: where the process ends in between, the letter is still there to be deleted.
    async fn remove(&self, id: &str) -> Result<bool, Error> {
        delete(&self.events, id).await?;
        delete(&self.kept, id).await
    }
}

async fn delete<D: Document>(collection: &Collection<D>, id: &str) -> Result<bool, Error> {
    let deleted = collection.delete(&Visibility::All, id, |_| Ok::<_, Error>(Vec::new()));
    Ok(deleted.await?.is_some())
}

/// What is there already was delivered again.
fn once(inserted: Result<(), Error>) -> Result<(), Error> {
    match inserted {
        Err(Error::Duplicate) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
