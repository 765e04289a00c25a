//! What a member says to its group, and when the group last answered.
//!
//! The proof of contact is a commit: the coordinator takes one only from a member of the present generation, and counts the
//! session from it. Heartbeats prove less to us: an answer that waited in a buffer while the process was stopped looks like
//! a fresh one. Of a commit we know when it was asked for, and the session cannot have ended before that moment and the
//! session's length. So commits are made here, one after the other, and the last one again when there is none to make.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::KafkaResult,
};

use super::rebalancing::Rebalancing;
use crate::{Commit, lease};

/// How often commits are sent.
pub(super) const COMMIT: Duration = Duration::from_millis(200);
/// How old a contact gets before the last commit is made again: as often as a heartbeat.
const RENEW: Duration = Duration::from_secs(2);
/// How long a partition that goes away waits for a commit on its way, so that an older one does not come after its last.
const ORDER: Duration = Duration::from_secs(2);

/// When the group last heard of this member, for certain.
pub(super) struct Contact {
    began: Instant,
    /// Milliseconds after `began`; none yet where it is 0.
    last: AtomicU64,
    /// How long a contact counts: shorter than the session, so that an effect that has just begun can end inside it.
    holds: Duration,
}

impl Contact {
    pub(super) fn new(session: Duration) -> Self {
        Self {
            began: Instant::now(),
            last: AtomicU64::new(0),
            holds: session.mul_f64(0.6),
        }
    }

    /// One that began long ago and never heard anything.
    #[cfg(test)]
    pub(super) fn aged(age: Duration) -> Self {
        Self {
            began: Instant::now().checked_sub(age).unwrap(),
            ..Self::new(Duration::from_secs(10))
        }
    }

    /// The group has answered what was asked then.
    fn was(&self, asked: Instant) {
        let millis = asked.saturating_duration_since(self.began).as_millis().max(1);
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        self.last.fetch_max(millis, Ordering::AcqRel);
    }

    /// The time since the last contact, or since the beginning.
    pub(super) fn age(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Acquire));
        self.began.elapsed().saturating_sub(last)
    }
}

impl lease::Contact for Contact {
    fn is_fresh(&self) -> bool {
        self.last.load(Ordering::Acquire) > 0 && self.age() < self.holds
    }
}

/// What is to be committed, and what was.
#[derive(Default)]
pub(super) struct Commits {
    places: Mutex<Places>,
    /// Held while a commit is on its way.
    order: Mutex<()>,
}

#[derive(Default)]
struct Places {
    /// To be committed, by partition.
    pending: BTreeMap<i32, u64>,
    /// What is known to be committed, of the partitions that the member has.
    committed: BTreeMap<i32, u64>,
}

impl Commit for Commits {
    fn commit(&self, partition: u32, next: u64) {
        if let Ok(partition) = i32::try_from(partition) {
            let mut places = self.places.lock();
            let known = places.pending.entry(partition).or_insert(next);
            *known = (*known).max(next);
        }
    }
}

impl Commits {
    /// The member has the partition now, and this is committed in it.
    pub(super) fn begin(&self, partition: i32, committed: u64) {
        let mut places = self.places.lock();
        places.pending.remove(&partition);
        places.committed.insert(partition, committed);
    }

    /// The partition is lost: nothing is said of it any more.
    pub(super) fn forget(&self, partitions: &[i32]) {
        let mut places = self.places.lock();
        for partition in partitions {
            places.pending.remove(partition);
            places.committed.remove(partition);
        }
    }

    /// The last commit of partitions that go away.
    pub(super) fn end<C: rdkafka::consumer::ConsumerContext>(
        &self,
        consumer: &BaseConsumer<C>,
        topic: &str,
        partitions: &[i32],
    ) {
        let Some(_order) = self.order.try_lock_for(ORDER) else {
            tracing::debug!("no last commit of a partition that goes away: one before it is not answered");
            return self.forget(partitions);
        };
        let last: BTreeMap<i32, u64> = {
            let places = self.places.lock();
            let pending = places.pending.iter().map(|(partition, next)| (*partition, *next));
            pending
                .filter(|(partition, _)| partitions.contains(partition))
                .collect()
        };
        self.forget(partitions);
        if !last.is_empty()
            && let Err(error) = send(consumer, topic, &last)
        {
            tracing::debug!(%error, "the last commit of a partition that went away");
        }
    }

    /// What to commit next: what waits, or something that is committed where the last contact was too long ago.
    fn next(&self, contact: &Contact) -> BTreeMap<i32, u64> {
        let mut places = self.places.lock();
        let waiting = std::mem::take(&mut places.pending);
        if !waiting.is_empty() || contact.age() < RENEW {
            return waiting;
        }
        let again = places.committed.first_key_value();
        again
            .map(|(partition, next)| (*partition, *next))
            .into_iter()
            .collect()
    }

    fn done(&self, sent: &BTreeMap<i32, u64>) {
        let mut places = self.places.lock();
        for (partition, next) in sent {
            if let Some(known) = places.committed.get_mut(partition) {
                *known = (*known).max(*next);
            }
        }
    }

    /// Later, where the partitions are still there.
    fn put_back(&self, sent: BTreeMap<i32, u64>) {
        let mut places = self.places.lock();
        for (partition, next) in sent {
            if places
                .committed
                .get(&partition)
                .is_some_and(|known| *known < next)
            {
                let known = places.pending.entry(partition).or_insert(next);
                *known = (*known).max(next);
            }
        }
    }
}

fn send<C: rdkafka::consumer::ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    places: &BTreeMap<i32, u64>,
) -> KafkaResult<()> {
    let mut list = TopicPartitionList::new();
    for (partition, next) in places {
        let next = i64::try_from(*next).unwrap_or(i64::MAX);
        list.add_partition_offset(topic, *partition, Offset::Offset(next))?;
    }
    consumer.commit(&list, CommitMode::Sync)
}

/// The thread that commits.
pub(super) struct Committing {
    pub(super) consumer: Arc<BaseConsumer<Rebalancing>>,
    pub(super) topic: String,
    pub(super) group: String,
    pub(super) commits: Arc<Commits>,
    pub(super) contact: Arc<Contact>,
    /// Nothing more is said by this one.
    pub(super) stop: Arc<AtomicBool>,
}

impl Committing {
    pub(super) fn run(&self) {
        let mut is_refused = false;
        while !self.stop.load(Ordering::Acquire) {
            std::thread::park_timeout(COMMIT);
            let order = self.commits.order.lock();
            let places = self.commits.next(&self.contact);
            if places.is_empty() {
                continue;
            }
            let asked = Instant::now();
            let answer = send(&self.consumer, &self.topic, &places);
            drop(order);
            match answer {
                // Whoever has lost its session may commit as nobody's member where the group is empty.
                Ok(()) if self.consumer.assignment_lost() => {}
                Ok(()) => {
                    is_refused = false;
                    self.contact.was(asked);
                    self.commits.done(&places);
                }
                Err(error) => {
                    if !is_refused {
                        tracing::warn!(%error, group = self.group, "committing; it is tried again");
                    }
                    is_refused = true;
                    self.commits.put_back(places);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Contact as _;

    #[test]
    fn a_contact_counts_from_when_it_was_asked_for_and_shorter_than_the_session() {
        let contact = Contact::new(Duration::from_secs(10));
        assert!(!contact.is_fresh(), "there was none");
        std::thread::sleep(Duration::from_millis(2));
        contact.was(Instant::now());
        assert!(contact.is_fresh());
        // An answer that was asked for before the process was stopped comes after it.
        let late = Contact::aged(Duration::from_secs(60));
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        late.was(ago(15));
        assert!(!late.is_fresh(), "the session may have ended five seconds ago");
        late.was(ago(7));
        assert!(
            !late.is_fresh(),
            "an effect that begins now may end after the session"
        );
        late.was(ago(5));
        assert!(late.is_fresh());
        late.was(ago(20));
        assert!(late.is_fresh(), "an older answer takes nothing back");
    }

    #[test]
    fn commits_go_forward_only_and_nothing_is_said_of_what_is_lost() {
        let (commits, contact) = (Commits::default(), Contact::new(Duration::from_secs(10)));
        commits.begin(0, 5);
        commits.commit(0, 9);
        commits.commit(0, 7);
        let first = commits.next(&contact);
        assert_eq!(first, [(0, 9)].into());
        commits.put_back(first);
        commits.commit(0, 8);
        let again = commits.next(&contact);
        assert_eq!(again, [(0, 9)].into(), "what was refused is said again");
        commits.done(&again);
        assert!(commits.next(&contact).is_empty(), "the contact is young");
        let old = Contact::aged(RENEW * 2);
        assert_eq!(commits.next(&old), [(0, 9)].into(), "the last one again");
        commits.forget(&[0]);
        commits.put_back([(0, 12)].into());
        assert!(commits.next(&old).is_empty());
    }
}
