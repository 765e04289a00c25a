//! Work in hand: events complete in any order, the commit follows the oldest that is not done.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use flowmate_common::Event;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Commit, Delivery, Error, Subscription};

/// A subscription with a bound on what is in hand.
pub struct Inbox {
    subscription: Box<dyn Subscription>,
    tracker: Arc<Tracker>,
    room: Arc<Semaphore>,
}

impl Inbox {
    /// At most `in_hand` events are out and not done at any time.
    pub fn new(subscription: Box<dyn Subscription>, in_hand: usize) -> Self {
        let tracker = Arc::new(Tracker {
            committer: subscription.committer(),
            partitions: Mutex::default(),
        });
        Self {
            subscription,
            tracker,
            room: Arc::new(Semaphore::new(in_hand)),
        }
    }

    /// The next events, at least one and at most `max`; waits for them and for room.
    pub async fn next(&mut self, max: usize) -> Result<Vec<Job>, Error> {
        let closed = |_| Error::Unavailable("closed".into());
        let first = Arc::clone(&self.room).acquire_owned().await.map_err(closed)?;
        let mut permits = vec![first];
        while permits.len() < max {
            let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
                break;
            };
            permits.push(permit);
        }
        let deliveries = self.subscription.next(permits.len()).await?;
        let jobs = deliveries.into_iter().zip(permits);
        Ok(jobs
            .map(|(delivery, permit)| self.tracker.take(delivery, permit))
            .collect())
    }
}

/// An event in hand.
pub struct Job {
    /// The event.
    pub event: Event,
    /// Where it was, for dead letters.
    pub position: u64,
    /// Says that it is done.
    pub ack: Ack,
}

/// To be called when the event is done. Dropped without that, the event is delivered again after a restart.
#[must_use]
pub struct Ack {
    tracker: Arc<Tracker>,
    partition: u32,
    position: u64,
    _room: OwnedSemaphorePermit,
}

impl Ack {
    /// The event is done, whether it succeeded or was given up.
    pub fn done(self) {
        self.tracker.done(self.partition, self.position);
    }
}

struct Tracker {
    committer: Arc<dyn Commit>,
    partitions: Mutex<BTreeMap<u32, Partition>>,
}

#[derive(Default)]
struct Partition {
    in_hand: BTreeSet<u64>,
    /// After the last event that was taken.
    next: u64,
}

impl Tracker {
    fn take(self: &Arc<Self>, delivery: Delivery, room: OwnedSemaphorePermit) -> Job {
        let Delivery {
            partition,
            position,
            next,
            event,
        } = delivery;
        let mut partitions = self.partitions.lock();
        let state = partitions.entry(partition).or_default();
        state.in_hand.insert(position);
        state.next = state.next.max(next);
        let ack = Ack {
            tracker: Arc::clone(self),
            partition,
            position,
            _room: room,
        };
        Job { event, position, ack }
    }

    fn done(&self, partition: u32, position: u64) {
        let mut partitions = self.partitions.lock();
        let state = partitions.entry(partition).or_default();
        let was_oldest = state.in_hand.first() == Some(&position);
        state.in_hand.remove(&position);
        if was_oldest {
            let next = state.in_hand.first().copied().unwrap_or(state.next);
            self.committer.commit(partition, next);
        }
    }
}
