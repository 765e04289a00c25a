//! Runs handlers over a topic: order by key, retries with back-off, dead letters. A fault of the bus does not end a
//! consumer: it joins its group again.

use std::{
    any::Any, convert::Infallible, future::Future, hash::Hasher, panic::AssertUnwindSafe, sync::Arc,
    time::Duration,
};

use flowmate_common::{Clock, Event, EventType, Fault, Topic, ids::IdGenerator, model::DeadLetter};
use flowmate_retry::{Backoff, until_passes};
use futures_util::FutureExt;
use serde_json::json;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    Bus, Error, Start,
    consumers::Standing,
    inbox::{Inbox, Job},
};

/// Why a handler did not process an event. From a [`Fault`], which knows whether it is transient, by `?`.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// It never will: the event goes to the dead letters at once.
    #[error("{0}")]
    Permanent(String),
    /// Something it needs does not answer: it is tried again until it passes.
    #[error("{0}")]
    Transient(String),
}

impl Refusal {
    /// An event that cannot be read or makes no sense.
    pub fn permanent(error: impl std::fmt::Display) -> Self {
        Self::Permanent(error.to_string())
    }

    /// Something that passes by itself. Errors of storage and bus are told apart by `?` instead.
    pub fn transient(error: impl std::fmt::Display) -> Self {
        Self::Transient(error.to_string())
    }
}

impl<E: Fault> From<E> for Refusal {
    fn from(error: E) -> Self {
        if error.is_transient() {
            Self::transient(error)
        } else {
            Self::permanent(error)
        }
    }
}

/// Keys are spread over this many lanes, each in order; an event that is refused for now holds up only its own.
const LANES: usize = 16;
/// Events in hand.
const IN_HAND: usize = 1024;
/// Events in one batch.
const BATCH: usize = 4096;
/// A membership that has lasted that long, or has brought an event, is a sound one.
const SETTLES: Duration = Duration::from_secs(1);
/// Bytes of a reason in a dead letter.
const REASON: usize = 4096;

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
    /// Where it tells how it is.
    pub standing: Standing,
}

impl Consumer {
    /// Runs `handle` for each event, in order for each key, for ever, whatever happens to the bus meanwhile. Stop it by
    /// dropping the future; what is not done then is delivered again.
    pub async fn each<H, F>(self, start: Start, handle: H)
    where
        H: Fn(Event) -> F + Send + Sync + Clone + 'static,
        F: Future<Output = Result<(), Refusal>> + Send,
    {
        let mut backoff = self.backoff();
        loop {
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
            let Err(error) = self.spread(start, &senders, &mut backoff).await;
            // What they hold comes again; two at work on the same key would break its order.
            lanes.shutdown().await;
            self.rejoins(&error, &mut backoff).await;
        }
    }

    async fn spread(
        &self,
        start: Start,
        lanes: &[mpsc::UnboundedSender<Job>],
        backoff: &mut Backoff,
    ) -> Result<Infallible, Error> {
        let mut inbox = Inbox::open(&*self.bus, self.topic, self.group, start, IN_HAND).await?;
        loop {
            for job in self.take(&mut inbox, IN_HAND, backoff).await? {
                let ended = || Error::Unavailable("a lane of the consumer has ended".into());
                let lane = lanes.get(lane(&job.event.key)).ok_or_else(ended)?;
                lane.send(job).map_err(|_| ended())?;
            }
        }
    }

    /// Runs `handle` for batches of events in order, for ever, whatever happens to the bus meanwhile. A batch is what
    /// comes within `linger` of its first event: fewer and larger writes. A batch that is refused for good is halved until
    /// only the events to blame are left, which become dead letters; one that is refused for now is tried again as it is,
    /// since what comes after an outage is much.
    pub async fn batches<H, F>(self, start: Start, linger: Duration, handle: H)
    where
        H: Fn(Vec<Event>) -> F + Send + Sync,
        F: Future<Output = Result<(), Refusal>> + Send,
    {
        let mut backoff = self.backoff();
        loop {
            let Err(error) = self.gather(start, linger, &handle, &mut backoff).await;
            self.rejoins(&error, &mut backoff).await;
        }
    }

    async fn gather<H, F>(
        &self,
        start: Start,
        linger: Duration,
        handle: &H,
        backoff: &mut Backoff,
    ) -> Result<Infallible, Error>
    where
        H: Fn(Vec<Event>) -> F + Send + Sync,
        F: Future<Output = Result<(), Refusal>> + Send,
    {
        let mut inbox = Inbox::open(&*self.bus, self.topic, self.group, start, BATCH).await?;
        loop {
            let mut jobs = self.take(&mut inbox, BATCH, backoff).await?;
            if jobs.len() < BATCH {
                tokio::time::sleep(linger).await;
                // What came meanwhile is there at once; where nothing did, or cannot be read, the batch goes as it is.
                if let Some(Ok(more)) = inbox.next(BATCH - jobs.len()).now_or_never() {
                    jobs.extend(more);
                }
            }
            self.halve(jobs, handle).await;
        }
    }

    /// Handles the events as one batch. Where that is refused for good, each half is one, down to the events to blame.
    async fn halve<H, F>(&self, jobs: Vec<Job>, handle: &H)
    where
        H: Fn(Vec<Event>) -> F,
        F: Future<Output = Result<(), Refusal>>,
    {
        let mut batches = vec![jobs];
        while let Some(mut jobs) = batches.pop() {
            let outcome = self
                .insist(|| handle(jobs.iter().map(|job| job.event.clone()).collect()))
                .await;
            match outcome {
                Ok(()) => jobs.into_iter().for_each(|job| job.ack.done()),
                Err((reason, attempts)) if jobs.len() <= 1 => {
                    for job in jobs {
                        self.bury(job, &reason, attempts).await;
                    }
                }
                Err(_) => {
                    let later = jobs.split_off(jobs.len() / 2);
                    batches.push(later);
                    batches.push(jobs);
                }
            }
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(format!("consuming {} as {}", self.topic.name(), self.group))
    }

    async fn take(&self, inbox: &mut Inbox, max: usize, backoff: &mut Backoff) -> Result<Vec<Job>, Error> {
        let next = inbox.next(max);
        tokio::pin!(next);
        let early = tokio::time::timeout(SETTLES, &mut next).await;
        if !matches!(early, Ok(Err(_))) {
            backoff.passed();
            self.standing.joined();
        }
        match early {
            Ok(result) => result,
            Err(_) => next.await,
        }
    }

    async fn rejoins(&self, error: &Error, backoff: &mut Backoff) {
        self.standing.fails(error);
        backoff.wait(error).await;
    }

    async fn process<H, F>(&self, job: Job, handle: &H)
    where
        H: Fn(Event) -> F,
        F: Future<Output = Result<(), Refusal>>,
    {
        match self.insist(|| handle(job.event.clone())).await {
            Ok(()) => job.ack.done(),
            Err((reason, attempts)) => self.bury(job, &reason, attempts).await,
        }
    }

    /// Tries again while it is refused for now, however long that takes; why it is refused for good, and the tries.
    async fn insist<F>(&self, mut handle: impl FnMut() -> F) -> Result<(), (String, u32)>
    where
        F: Future<Output = Result<(), Refusal>>,
    {
        let mut backoff = Backoff::new(format!("what {} does with {}", self.group, self.topic.name()));
        let mut attempts: u32 = 1;
        loop {
            // A panic is a refusal for good: of this event, not of those that come after it.
            let outcome = AssertUnwindSafe(async { handle().await }).catch_unwind().await;
            let refusal = match outcome {
                Ok(Err(Refusal::Transient(reason))) => {
                    self.standing.waits(&reason);
                    backoff.wait(&reason).await;
                    attempts = attempts.saturating_add(1);
                    continue;
                }
                Ok(Err(Refusal::Permanent(reason))) => Err((reason, attempts)),
                Err(panic) => Err((format!("the handler panicked: {}", text(&*panic)), attempts)),
                Ok(Ok(())) => Ok(()),
            };
            if attempts > 1 {
                backoff.passed();
                self.standing.passes();
            }
            return refusal;
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
        let place = Place {
            id: None,
            partition: job.partition,
            position: job.position,
        };
        // Until the dead letter is durable the event is not done.
        let written = until_passes("writing a dead letter", || {
            self.post(&job.event, place.clone(), reason, attempts)
        });
        if let Err(error) = written.await {
            tracing::error!(%error, event.id = &*job.event.id, "the dead letter cannot be written");
        }
        job.ack.done();
    }

    /// Makes a dead letter of an event that the bus will not take, for who publishes it.
    pub async fn refuse(&self, event: &Event, error: &Error) -> Result<(), Error> {
        tracing::error!(group = self.group, event.id = &*event.id, %error, "event cannot be published");
        let place = Place {
            id: Some(Arc::clone(&event.id)),
            partition: 0,
            position: 0,
        };
        self.post(event, place, &error.to_string(), 1).await
    }

    /// A dead letter that is larger than the bus takes goes without the event's body.
    async fn post(&self, event: &Event, place: Place, reason: &str, attempts: u32) -> Result<(), Error> {
        let cut = reason.floor_char_boundary(REASON);
        let mut letter = DeadLetter {
            group: self.group.to_owned(),
            topic: self.topic.name().to_owned(),
            position: place.position,
            reason: reason.get(..cut).unwrap_or_default().to_owned(),
            attempts,
            event: serde_json::to_value(event)
                .unwrap_or_else(|_| String::from_utf8_lossy(&event.data).into()),
        };
        let publish = async |letter: &DeadLetter| {
            let key = Arc::clone(&event.key);
            let mut carrier = dead_letter(&self.ids, &self.clock, key, place.partition, letter)
                .map_err(|error| Error::Unavailable(error.to_string()))?;
            if let Some(id) = &place.id {
                carrier.id = Arc::clone(id);
            }
            self.bus.publish(vec![carrier]).await
        };
        match publish(&letter).await {
            Err(Error::TooLarge { .. }) => {
                letter.event = json!({
                    "id": &*event.id,
                    "type": event.kind.name(),
                    "size": event.size(),
                    "omitted": "the event is too large to be kept with its dead letter",
                });
                publish(&letter).await?;
            }
            result => result?,
        }
        metrics::counter!("flowmate_dead_letters_total", "group" => self.group).increment(1);
        Ok(())
    }
}

/// Where an event was that is given up; with an id of its own where that says too little.
#[derive(Clone)]
struct Place {
    id: Option<Arc<str>>,
    partition: u32,
    position: u64,
}

/// What a panic says.
fn text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a text")
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

fn lane(key: &str) -> usize {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(key.as_bytes());
    usize::try_from(hasher.finish() % LANES as u64).unwrap_or_default()
}
