//! Work in hand: events complete in any order, the commit follows the oldest that is not done. Partitions that are taken
//! away are given up in order: what is in hand gets the time to be done, what is not is told so.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use flowmate_common::{Event, Topic};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{
    Assignment, Bus, Commit, Delivery, Error, Start, Subscription,
    lease::{Contact, Lease},
};

/// How long work on a partition that is taken away may take to be done.
const GRACE: Duration = Duration::from_secs(5);

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

    /// The next events, at least one and at most `max`; waits for them and for room.
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
            let deliveries = self.subscription.next(permits.len()).await?;
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

/// To be called when the event is done. Dropped without that, the event is delivered again after a restart.
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
}

impl Ack {
    /// Gives back the room in the inbox, so that another event may come, while this one stays in hand: it bounds the
    /// commit as before. For work that waits long and keeps only its place; [`Bus::read_at`] reads the event again on
    /// its turn.
    pub fn release_room(&mut self) {
        self.room = None;
    }

    /// The event is done, whether it succeeded or was given up.
    pub fn done(self) {
        self.tracker.done(self.partition, self.epoch, self.position);
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
}

struct Partition {
    epoch: u64,
    in_hand: BTreeSet<u64>,
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
        };
        Some(Job {
            event,
            partition,
            position,
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
