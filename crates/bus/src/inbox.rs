//! Work in hand: events complete in any order, the commit follows the oldest that is not done. Partitions that are taken
//! away are given up in order: what is in hand gets the time to be done, what is not is told so.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use flowmate_common::{Event, Topic};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Assignment, Bus, Commit, Delivery, Error, Start, Subscription,
    lease::{Contact, Lease},
};

/// How long work on a partition that is taken away may take to be done.
const GRACE: Duration = Duration::from_secs(5);

/// How long after it was let go unfinished an event is delivered again: the first time, and at most.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(60);

/// What has to be done before the first event of a partition is taken.
pub type Prepare = Arc<dyn Fn(u32) -> BoxFuture<'static, Result<(), Error>> + Send + Sync>;

/// A subscription with a bound on what is in hand.
pub struct Inbox {
    subscription: Box<dyn Subscription>,
    tracker: Arc<Tracker>,
    room: Arc<Semaphore>,
}

impl Inbox {
    /// Joins the group. At most `in_hand` events are out and not done at any time.
    pub async fn open(
        bus: &dyn Bus,
        topic: Topic,
        group: &str,
        start: Start,
        in_hand: usize,
    ) -> Result<Self, Error> {
        Self::prepared(
            bus,
            topic,
            group,
            start,
            in_hand,
            Arc::new(|_| Box::pin(async { Ok(()) })),
        )
        .await
    }

    /// The same, with `prepare` run for each partition before its events come.
    pub async fn prepared(
        bus: &dyn Bus,
        topic: Topic,
        group: &str,
        start: Start,
        in_hand: usize,
        prepare: Prepare,
    ) -> Result<Self, Error> {
        let tracker = Arc::new(Tracker {
            prepare,
            committer: OnceLock::new(),
            contact: OnceLock::new(),
            partitions: Mutex::default(),
            done: Notify::new(),
            is_open: AtomicBool::new(true),
            redelivers: AtomicBool::new(false),
            let_go: Notify::new(),
        });
        let assignment = Arc::clone(&tracker) as Arc<dyn Assignment>;
        let subscription = bus.subscribe(topic, group, start, assignment).await?;
        let _ = tracker.committer.set(subscription.committer());
        let _ = tracker.contact.set(subscription.contact());
        Ok(Self {
            subscription,
            tracker,
            room: Arc::new(Semaphore::new(in_hand)),
        })
    }

    /// Events whose [`Ack`] is dropped without [`Ack::done`], as by a panic, are delivered again in this process, after a
    /// second and then later and later; without this only after a restart. Where the bus cannot read one again, it waits
    /// for the restart, too.
    pub fn redelivers(self) -> Self {
        self.tracker.redelivers.store(true, Ordering::Relaxed);
        self
    }

    /// The next events, at least one and at most `max`; waits for them and for room. Dropping the future loses none.
    pub async fn next(&mut self, max: usize) -> Result<Vec<Job>, Error> {
        let closed = |_| Error::Unavailable("closed".into());
        loop {
            let first = Arc::clone(&self.room).acquire_owned().await.map_err(closed)?;
            let mut permits = vec![first];
            while permits.len() < max {
                let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
                    break;
                };
                permits.push(permit);
            }
            if let Some(place) = self.tracker.due() {
                let event = self.subscription.again(place.partition, place.position).await?;
                let permit = permits.pop();
                if let Some(job) = self.tracker.take_again(&place, event, permit) {
                    return Ok(vec![job]);
                }
                continue;
            }
            let deliveries = tokio::select! {
                deliveries = self.subscription.next(permits.len()) => deliveries?,
                () = self.tracker.some_due() => continue,
            };
            let taken = deliveries.into_iter().zip(permits);
            let jobs: Vec<Job> = taken
                .filter_map(|(delivery, permit)| self.tracker.take(delivery, permit))
                .collect();
            if !jobs.is_empty() {
                return Ok(jobs);
            }
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.tracker.is_open.store(false, Ordering::Relaxed);
    }
}

/// An event in hand.
pub struct Job {
    /// The event.
    pub event: Event,
    /// Where it was.
    pub partition: u32,
    /// Where it was in the partition.
    pub position: u64,
    /// Says that it is done.
    pub ack: Ack,
}

/// To be called when the event is done. Dropped without that, the event is delivered again after a restart, or before
/// that where the inbox [redelivers](Inbox::redelivers); until then it bounds the commit.
#[must_use]
pub struct Ack {
    tracker: Arc<Tracker>,
    partition: u32,
    epoch: u64,
    position: u64,
    lost: CancellationToken,
    /// None: given back already.
    room: Option<OwnedSemaphorePermit>,
    lease: Lease,
    delivered: u32,
    is_done: bool,
}

impl Drop for Ack {
    fn drop(&mut self) {
        if !self.is_done {
            self.tracker.let_go(self);
        }
    }
}

impl Ack {
    /// Gives back the room in the inbox, so that another event may come, while this one stays in hand: it bounds the
    /// commit as before. For work that waits long and keeps only its place; [`Bus::read_at`] reads the event again on
    /// its turn.
    pub fn release_room(&mut self) {
        self.room = None;
    }

    /// The event is done, whether it succeeded or was given up.
    pub fn done(mut self) {
        self.is_done = true;
        self.tracker.done(self.partition, self.epoch, self.position);
    }

    /// How often the event was delivered in this process, with this time.
    pub fn delivered(&self) -> u32 {
        self.delivered
    }

    /// Rings when somebody else gets the event: what is still done for it is done twice.
    pub fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Whether an effect of the event may begin: to be asked before each.
    pub fn lease(&self) -> Lease {
        self.lease.clone()
    }
}

struct Tracker {
    prepare: Prepare,
    committer: OnceLock<Arc<dyn Commit>>,
    contact: OnceLock<Arc<dyn Contact>>,
    partitions: Mutex<BTreeMap<u32, Partition>>,
    done: Notify,
    /// The inbox is there.
    is_open: AtomicBool,
    redelivers: AtomicBool,
    /// Rings when an event was let go that is to come again.
    let_go: Notify,
}

/// An event that was let go unfinished.
struct LetGo {
    delivered: u32,
    /// When it is to come again; none while it is out again.
    due: Option<Instant>,
}

/// Where an event is that is to come again.
struct Place {
    partition: u32,
    position: u64,
    epoch: u64,
    delivered: u32,
}

struct Partition {
    epoch: u64,
    in_hand: BTreeSet<u64>,
    let_go: BTreeMap<u64, LetGo>,
    /// After the last event that was taken.
    next: u64,
    lost: CancellationToken,
    /// No more is taken.
    is_closing: bool,
}

#[async_trait]
impl Assignment for Tracker {
    async fn assigned(&self, partition: u32, epoch: u64) -> Result<(), Error> {
        (self.prepare)(partition).await?;
        let fresh = Partition {
            epoch,
            in_hand: BTreeSet::new(),
            let_go: BTreeMap::new(),
            next: 0,
            lost: CancellationToken::new(),
            is_closing: false,
        };
        self.partitions.lock().insert(partition, fresh);
        Ok(())
    }

    async fn revoked(&self, partition: u32) {
        let is_idle = || {
            let mut partitions = self.partitions.lock();
            partitions.get_mut(&partition).is_none_or(|state| {
                state.is_closing = true;
                state.in_hand.is_empty()
            })
        };
        let idle = async {
            loop {
                let done = self.done.notified();
                tokio::pin!(done);
                done.as_mut().enable();
                if is_idle() {
                    return;
                }
                done.await;
            }
        };
        if tokio::time::timeout(GRACE, idle).await.is_err() {
            tracing::warn!(partition, "work in hand goes to another member unfinished");
        }
        if let Some(state) = self.partitions.lock().remove(&partition) {
            state.lost.cancel();
        }
    }

    async fn lost(&self, partition: u32) {
        if let Some(state) = self.partitions.lock().remove(&partition) {
            if !state.in_hand.is_empty() {
                tracing::warn!(partition, "work in hand is another member's now, and ends here");
            }
            state.lost.cancel();
        }
        self.done.notify_waiters();
    }
}

impl Tracker {
    /// `None`: the partition is not this member's any more.
    fn take(self: &Arc<Self>, delivery: Delivery, room: OwnedSemaphorePermit) -> Option<Job> {
        let Delivery {
            partition,
            position,
            next,
            epoch,
            event,
        } = delivery;
        let mut partitions = self.partitions.lock();
        let state = partitions
            .get_mut(&partition)
            .filter(|state| state.epoch == epoch && !state.is_closing)?;
        // Set before the first delivery is asked for.
        let contact = Arc::clone(self.contact.get()?);
        state.in_hand.insert(position);
        state.next = state.next.max(next);
        let ack = Ack {
            tracker: Arc::clone(self),
            partition,
            epoch,
            position,
            lost: state.lost.clone(),
            room: Some(room),
            lease: Lease::new(contact, state.lost.clone()),
            delivered: 1,
            is_done: false,
        };
        Some(Job {
            event,
            partition,
            position,
            ack,
        })
    }

    /// Somebody dropped it unfinished: it stays in hand, and is told.
    fn let_go(&self, ack: &Ack) {
        if !self.is_open.load(Ordering::Relaxed) || ack.lost.is_cancelled() {
            return;
        }
        let mut partitions = self.partitions.lock();
        let Some(state) = partitions
            .get_mut(&ack.partition)
            .filter(|state| state.epoch == ack.epoch && !state.is_closing)
        else {
            return;
        };
        let (partition, position, delivered) = (ack.partition, ack.position, ack.delivered);
        metrics::counter!("flowmate_events_let_go_total").increment(1);
        if !self.redelivers.load(Ordering::Relaxed) {
            // At an end of the process there may be thousands.
            tracing::debug!(
                partition,
                position,
                "an event was let go unfinished; it comes again after a restart"
            );
            return;
        }
        tracing::warn!(
            partition,
            position,
            delivered,
            "an event was let go unfinished; it comes again"
        );
        let wait = AGAIN
            .saturating_mul(1 << (delivered.saturating_sub(1)).min(6))
            .min(AGAIN_AT_MOST);
        let due = Some(Instant::now() + wait);
        state.let_go.insert(position, LetGo { delivered, due });
        self.let_go.notify_one();
    }

    /// An event that is due again. It is until it was taken: reading it may fail, or be given up.
    fn due(&self) -> Option<Place> {
        let now = Instant::now();
        let partitions = self.partitions.lock();
        let open = partitions.iter().filter(|(_, state)| !state.is_closing);
        for (partition, state) in open {
            let due = |entry: &(&u64, &LetGo)| entry.1.due.is_some_and(|due| due <= now);
            if let Some((position, entry)) = state.let_go.iter().find(due) {
                return Some(Place {
                    partition: *partition,
                    position: *position,
                    epoch: state.epoch,
                    delivered: entry.delivered,
                });
            }
        }
        None
    }

    /// Returns when an event is due again.
    async fn some_due(&self) {
        loop {
            let rung = self.let_go.notified();
            let earliest = {
                let partitions = self.partitions.lock();
                let open = partitions.values().filter(|state| !state.is_closing);
                let let_go = open.flat_map(|state| state.let_go.values());
                let_go.filter_map(|entry| entry.due).min()
            };
            match earliest {
                None => rung.await,
                Some(due) if due <= Instant::now() => return,
                Some(due) => {
                    let _ = tokio::time::timeout_at(due, rung).await;
                }
            }
        }
    }

    /// `None`: the partition went away meanwhile, or the event cannot be read again.
    fn take_again(
        self: &Arc<Self>,
        place: &Place,
        event: Option<Event>,
        room: Option<OwnedSemaphorePermit>,
    ) -> Option<Job> {
        let mut partitions = self.partitions.lock();
        let state = partitions
            .get_mut(&place.partition)
            .filter(|state| state.epoch == place.epoch && !state.is_closing)?;
        if let Some(entry) = state.let_go.get_mut(&place.position) {
            entry.due = None;
        }
        let event = event?;
        let contact = Arc::clone(self.contact.get()?);
        let ack = Ack {
            lease: Lease::new(contact, state.lost.clone()),
            tracker: Arc::clone(self),
            partition: place.partition,
            epoch: place.epoch,
            position: place.position,
            lost: state.lost.clone(),
            room,
            delivered: place.delivered.saturating_add(1),
            is_done: false,
        };
        Some(Job {
            event,
            partition: place.partition,
            position: place.position,
            ack,
        })
    }

    fn done(&self, partition: u32, epoch: u64, position: u64) {
        let mut partitions = self.partitions.lock();
        let Some(state) = partitions
            .get_mut(&partition)
            .filter(|state| state.epoch == epoch)
        else {
            return;
        };
        let was_oldest = state.in_hand.first() == Some(&position);
        state.in_hand.remove(&position);
        state.let_go.remove(&position);
        if was_oldest {
            let next = state.in_hand.first().copied().unwrap_or(state.next);
            if let Some(committer) = self.committer.get() {
                committer.commit(partition, next);
            }
        }
        if state.is_closing {
            self.done.notify_waiters();
        }
    }
}
