//! Runs handlers over a topic: order by key, retries with back-off, dead letters.

use std::{future::Future, hash::Hasher, sync::Arc, time::Duration};

use flowmate_common::{Clock, Event, EventType, Topic, ids::IdGenerator, model::DeadLetter};
use futures_util::FutureExt;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    Bus, Error, Start,
    inbox::{Inbox, Job},
};

/// Why a handler did not process an event.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// It never will: the event goes to the dead letters at once.
    #[error("{0}")]
    Permanent(String),
    /// Something it needs does not answer: it is tried again, for minutes.
    #[error("{0}")]
    Transient(String),
}

impl Refusal {
    /// An event that cannot be read or makes no sense.
    pub fn permanent(error: impl std::fmt::Display) -> Self {
        Self::Permanent(error.to_string())
    }

    /// A fault of storage or bus.
    pub fn transient(error: impl std::fmt::Display) -> Self {
        Self::Transient(error.to_string())
    }
}

/// Tries of a transient refusal; with the waits between them about four minutes.
const ATTEMPTS: u32 = 50;
/// The longest wait between two tries.
const LONGEST: Duration = Duration::from_secs(5);
/// Keys are spread over this many lanes, each in order; a poison event holds up only its own.
const LANES: usize = 16;
/// Events in hand.
const IN_HAND: usize = 1024;
/// Events in one batch.
const BATCH: usize = 4096;

/// Who consumes what.
#[derive(Clone)]
pub struct Consumer {
    /// The bus.
    pub bus: Arc<dyn Bus>,
    /// The topic.
    pub topic: Topic,
    /// The consumer group.
    pub group: &'static str,
    /// For the dead letters' time.
    pub clock: Clock,
    /// For the dead letters' ids.
    pub ids: IdGenerator,
}

impl Consumer {
    /// Runs `handle` for each event, in order for each key, for ever. Stop it by dropping the future; what is not
    /// done then is delivered again.
    pub async fn each<H, F>(self, start: Start, handle: H) -> Result<(), Error>
    where
        H: Fn(Event) -> F + Send + Sync + Clone + 'static,
        F: Future<Output = Result<(), Refusal>> + Send,
    {
        let mut inbox = Inbox::open(&*self.bus, self.topic, self.group, start, IN_HAND).await?;
        let mut lanes = JoinSet::new();
        let senders: Vec<mpsc::UnboundedSender<Job>> = (0..LANES)
            .map(|_| {
                // Bounded by the inbox.
                let (sender, mut jobs) = mpsc::unbounded_channel::<Job>();
                let (consumer, handle) = (self.clone(), handle.clone());
                lanes.spawn(async move {
                    while let Some(job) = jobs.recv().await {
                        consumer.process(job, &handle).await;
                    }
                });
                sender
            })
            .collect();
        loop {
            for job in inbox.next(IN_HAND).await? {
                if let Some(lane) = senders.get(lane(&job.event.key)) {
                    let _ = lane.send(job);
                }
            }
        }
    }

    /// Runs `handle` for batches of events in order, for ever. A batch is what comes within `linger` of its first event:
    /// fewer and larger writes. A batch that is refused for good is handled event by event, so that only the events to
    /// blame become dead letters; one that is refused for now is tried again as it is, since what comes after an outage is
    /// much.
    pub async fn batches<H, F>(self, start: Start, linger: Duration, handle: H) -> Result<(), Error>
    where
        H: Fn(Vec<Event>) -> F + Send + Sync,
        F: Future<Output = Result<(), Refusal>> + Send,
    {
        let mut inbox = Inbox::open(&*self.bus, self.topic, self.group, start, BATCH).await?;
        loop {
            let mut jobs = inbox.next(BATCH).await?;
            if jobs.len() < BATCH {
                tokio::time::sleep(linger).await;
                // What came meanwhile is there at once; where nothing did, the batch goes as it is.
                if let Some(more) = inbox.next(BATCH - jobs.len()).now_or_never() {
                    jobs.extend(more?);
                }
            }
            let outcome = self
                .insist(|| handle(jobs.iter().map(|job| job.event.clone()).collect()))
                .await;
            for job in jobs {
                match &outcome {
                    Ok(()) => job.ack.done(),
                    Err(_) => self.process(job, &|event| handle(vec![event])).await,
                }
            }
        }
    }

    async fn process<H, F>(&self, job: Job, handle: &H)
    where
        H: Fn(Event) -> F,
        F: Future<Output = Result<(), Refusal>>,
    {
        match self.insist(|| handle(job.event.clone())).await {
            Ok(()) => job.ack.done(),
            Err((refusal, attempts)) => self.bury(job, &refusal.to_string(), attempts).await,
        }
    }

    /// Tries again while it is refused for now; the last refusal and the tries.
    async fn insist<F>(&self, mut handle: impl FnMut() -> F) -> Result<(), (Refusal, u32)>
    where
        F: Future<Output = Result<(), Refusal>>,
    {
        let mut attempt = 1;
        loop {
            match handle().await {
                Ok(()) => return Ok(()),
                Err(Refusal::Transient(reason)) if attempt < ATTEMPTS => {
                    tracing::warn!(group = self.group, attempt, reason, "events are tried again");
                    tokio::time::sleep(backoff(attempt)).await;
                    attempt += 1;
                }
                Err(refusal) => return Err((refusal, attempt)),
            }
        }
    }

    /// Sends an event that never can be processed to the dead letters; it is done after that.
    pub async fn give_up(&self, job: Job, reason: &str) {
        self.bury(job, reason, 1).await;
    }

    async fn bury(&self, job: Job, reason: &str, attempts: u32) {
        tracing::error!(
            group = self.group,
            event.id = &*job.event.id,
            attempts,
            reason,
            "event is given up"
        );
        let letter = DeadLetter {
            group: self.group.to_owned(),
            topic: self.topic.name().to_owned(),
            position: job.position,
            reason: reason.to_owned(),
            attempts,
            event: serde_json::to_value(&job.event)
                .unwrap_or_else(|_| String::from_utf8_lossy(&job.event.data).into()),
        };
        let key = Arc::clone(&job.event.key);
        match dead_letter(&self.ids, &self.clock, key, job.partition, &letter) {
            // Until the dead letter is durable the event is not done.
            Ok(event) => {
                while let Err(error) = self.bus.publish(vec![event.clone()]).await {
                    tracing::error!(%error, "the dead letter cannot be written");
                    tokio::time::sleep(LONGEST).await;
                }
            }
            Err(error) => tracing::error!(%error, "the dead letter cannot be written"),
        }
        job.ack.done();
    }
}

/// The event that carries a dead letter. Its id is where the event was and whose it is: the same whenever it is given up
/// again, so that it is kept once.
pub(crate) fn dead_letter(
    ids: &IdGenerator,
    clock: &Clock,
    key: Arc<str>,
    partition: u32,
    letter: &DeadLetter,
) -> Result<Event, serde_json::Error> {
    metrics::counter!("flowmate_dead_letters_total", "group" => letter.group.clone()).increment(1);
    let mut event = Event::new(ids, clock, EventType::DeadLetter, key, letter)?;
    let DeadLetter {
        topic,
        position,
        group,
        ..
    } = letter;
    event.id = format!("{topic}-{partition}-{position}-{group}").into();
    Ok(event)
}

fn backoff(attempt: u32) -> Duration {
    Duration::from_millis(50)
        .saturating_mul(1 << attempt.min(10))
        .min(LONGEST)
}

fn lane(key: &str) -> usize {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(key.as_bytes());
    usize::try_from(hasher.finish() % LANES as u64).unwrap_or_default()
}
