//! What the client tells a member of its partitions, on the polling thread.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use flowmate_common::Topic;
use parking_lot::Mutex;
use rdkafka::{
    ClientContext, Offset, Statistics, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    topic_partition_list::TopicPartitionListElem,
};
use tokio::{runtime::Handle, sync::oneshot};

use super::{
    Lag, PATIENCE,
    contact::{COMMIT, Commits},
    reading::Reading,
};
use crate::{Assignment, Start};

/// Which time the member has each partition.
pub(super) type Epochs = Arc<Mutex<BTreeMap<i32, u64>>>;

pub(super) struct Rebalancing {
    /// The subscription is over: nobody is told anything.
    pub(super) stop: Arc<AtomicBool>,
    /// Another client is the member now.
    pub(super) is_replaced: Arc<AtomicBool>,
    pub(super) reading: Arc<Reading>,
    pub(super) handle: Handle,
    pub(super) assignment: Arc<dyn Assignment>,
    pub(super) start: Start,
    pub(super) commits: Arc<Commits>,
    pub(super) epochs: Epochs,
    pub(super) counter: Arc<AtomicU64>,
    pub(super) joined: Arc<Mutex<Option<oneshot::Sender<()>>>>,
    pub(super) lag: Lag,
    pub(super) of: (Topic, String),
}

impl ClientContext for Rebalancing {
    /// How many events the partitions of this member have that are not committed; nothing is said where that of one of
    /// them is not known.
    fn stats(&self, statistics: Statistics) {
        let epochs = self.epochs.lock();
        let mine = |partition: &i32| epochs.contains_key(partition);
        let behind: Option<i64> = statistics
            .topics
            .values()
            .flat_map(|topic| topic.partitions.values())
            .filter(|one| mine(&one.partition))
            .map(|one| (one.consumer_lag >= 0).then_some(one.consumer_lag))
            .sum();
        let mut lag = self.lag.lock();
        match behind.and_then(|behind| u64::try_from(behind).ok()) {
            Some(behind) => lag.insert(self.of.clone(), behind),
            None => lag.remove(&self.of),
        };
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            super::no_broker(reason);
        } else {
            tracing::debug!(%error, reason, "kafka");
        }
    }
}

impl ConsumerContext for Rebalancing {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if self.is_replaced.load(Ordering::Acquire) {
            return;
        }
        let was_busy = self.reading.is_busy.swap(true, Ordering::AcqRel);
        match rebalance {
            Rebalance::Assign(partitions) => self.assigned(consumer, partitions),
            Rebalance::Revoke(partitions) => self.revoked(consumer, partitions),
            Rebalance::Error(error) => tracing::warn!(%error, "rebalancing"),
        }
        self.reading.is_busy.store(was_busy, Ordering::Release);
    }
}

impl Rebalancing {
    fn assigned(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        // Without these two nothing may be delivered, so they are done however long it takes.
        self.insist("what is committed cannot be read", || {
            self.begin(consumer, partitions)
        });
        for partition in numbers(partitions) {
            let epoch = self.counter.fetch_add(1, Ordering::Relaxed) + 1;
            let number = u32::try_from(partition).unwrap_or_default();
            self.insist("a partition cannot be prepared", || {
                self.handle.block_on(self.assignment.assigned(number, epoch))
            });
            self.epochs.lock().insert(partition, epoch);
        }
        if let Some(joined) = self.joined.lock().take() {
            let _ = joined.send(());
        }
    }

    /// A group that has never committed in a partition commits where it begins: then everybody knows, and there is
    /// something to commit again.
    fn begin(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) -> KafkaResult<()> {
        let committed = consumer.committed_offsets(partitions.clone(), PATIENCE)?;
        let (mut places, mut fresh) = (Vec::new(), TopicPartitionList::new());
        for one in committed.elements() {
            let place = if let Offset::Offset(offset) = one.offset() {
                offset
            } else {
                let (low, high) = consumer.fetch_watermarks(one.topic(), one.partition(), PATIENCE)?;
                let place = if self.start == Start::End { high } else { low };
                fresh.add_partition_offset(one.topic(), one.partition(), Offset::Offset(place))?;
                place
            };
            places.push((one.partition(), place));
        }
        if fresh.count() > 0 {
            consumer.commit(&fresh, CommitMode::Sync)?;
        }
        for (partition, place) in places {
            self.commits
                .begin(partition, u64::try_from(place).unwrap_or_default());
            self.reading.at(partition, place);
        }
        Ok(())
    }

    fn insist<E: std::fmt::Display>(&self, failing: &str, attempt: impl Fn() -> Result<(), E>) {
        let is_over = || self.stop.load(Ordering::Acquire) || self.is_replaced.load(Ordering::Acquire);
        while !is_over()
            && let Err(error) = attempt()
        {
            tracing::warn!(%error, group = self.of.1, failing);
            std::thread::sleep(COMMIT);
        }
    }

    fn revoked(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        let numbers = numbers(partitions);
        let is_lost = consumer.assignment_lost();
        for partition in &numbers {
            self.epochs.lock().remove(partition);
            self.reading.forget(*partition);
            let number = u32::try_from(*partition).unwrap_or_default();
            // Who is leaving has let go of everything, and perhaps of the runtime.
            if self.stop.load(Ordering::Acquire) {
                continue;
            }
            if is_lost {
                self.handle.block_on(self.assignment.lost(number));
            } else {
                self.handle.block_on(self.assignment.revoked(number));
            }
        }
        let topic = partitions.elements().first().map(|one| one.topic().to_owned());
        match topic {
            Some(topic) if !is_lost => self.commits.end(consumer, &topic, &numbers),
            _ => self.commits.forget(&numbers),
        }
    }
}

fn numbers(partitions: &TopicPartitionList) -> Vec<i32> {
    partitions
        .elements()
        .iter()
        .map(TopicPartitionListElem::partition)
        .collect()
}
