//! One member of a consumer group: a thread that polls, hands out, commits and takes part in rebalances. Whatever has to
//! be waited for in a rebalance is waited for here, where nothing else is.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use flowmate_common::{Clock, Event, Topic, ids::IdGenerator, model::DeadLetter};
use parking_lot::Mutex;
use rdkafka::{
    ClientContext, Message, Offset, Statistics, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance},
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
    producer::{FutureProducer, FutureRecord},
    topic_partition_list::TopicPartitionListElem,
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{Lag, Options, PATIENCE, codec, unavailable};
use crate::{Assignment, Commit, Delivery, Error, Start, Subscription, dispatch::dead_letter};

/// Events read ahead of who takes them.
const AHEAD: usize = 1_024;
/// How long one poll waits.
const POLL: Duration = Duration::from_millis(50);
/// How often commits are sent and the lag is looked at.
const COMMIT: Duration = Duration::from_millis(200);
/// How long joining may take before a subscription goes on without partitions of its own.
const JOIN: Duration = Duration::from_secs(30);

/// Who is to join.
pub(super) struct Member {
    pub(super) options: Options,
    pub(super) producer: FutureProducer,
    pub(super) topic: Topic,
    pub(super) group: String,
    pub(super) start: Start,
    pub(super) assignment: Arc<dyn Assignment>,
    pub(super) lag: Lag,
    /// Held until the thread has ended.
    pub(super) alive: TaskTrackerToken,
}

impl Member {
    /// Joins the group; returns when the first partitions are there.
    pub(super) async fn join(self) -> Result<Joined, Error> {
        let mut config = self.options.consumer(self.topic, &self.group);
        config
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("enable.auto.offset.store", "false")
            .set("session.timeout.ms", "10000")
            .set("heartbeat.interval.ms", "2000")
            .set("max.poll.interval.ms", "300000")
            .set("statistics.interval.ms", "5000");
        self.options.over(&mut config);
        let (joined, first) = oneshot::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let context = Rebalancing {
            stop: Arc::clone(&stop),
            handle: Handle::current(),
            assignment: Arc::clone(&self.assignment),
            start: self.start,
            commits: Arc::default(),
            epochs: Arc::default(),
            counter: AtomicU64::new(0),
            joined: Mutex::new(Some(joined)),
            lag: Arc::clone(&self.lag),
            of: (self.topic, self.group.clone()),
        };
        let (commits, epochs) = (Arc::clone(&context.commits), Arc::clone(&context.epochs));
        let consumer: BaseConsumer<Rebalancing> = config.create_with_context(context).map_err(unavailable)?;
        consumer
            .subscribe(&[&self.options.topic(self.topic)])
            .map_err(unavailable)?;
        let (deliveries, taken) = mpsc::channel(AHEAD);
        let alive = self.alive.clone();
        let thread = {
            let (stop, commits) = (Arc::clone(&stop), Arc::clone(&commits));
            let polling = Polling {
                member: self,
                consumer,
                deliveries,
                stop,
                commits,
                epochs,
                handle: Handle::current(),
            };
            std::thread::Builder::new()
                .name("kafka-member".into())
                .spawn(move || {
                    let _alive = alive;
                    polling.run();
                })
                .map_err(unavailable)?
        };
        let joined = Joined {
            deliveries: taken,
            commits,
            stop,
            thread: Some(thread),
        };
        // More members than partitions: somebody has none.
        let _ = tokio::time::timeout(JOIN, first).await;
        Ok(joined)
    }
}

/// What is to be committed, by partition.
#[derive(Default)]
struct Commits(Mutex<BTreeMap<i32, u64>>);

impl Commit for Commits {
    fn commit(&self, partition: u32, next: u64) {
        if let Ok(partition) = i32::try_from(partition) {
            let mut commits = self.0.lock();
            let known = commits.entry(partition).or_insert(next);
            *known = (*known).max(next);
        }
    }
}

impl Commits {
    /// The offsets of these partitions, or of all, taken out.
    fn take(&self, topic: &str, only: Option<&[i32]>) -> Option<TopicPartitionList> {
        let mut commits = self.0.lock();
        let chosen: Vec<(i32, u64)> = commits
            .iter()
            .filter(|(partition, _)| only.is_none_or(|only| only.contains(partition)))
            .map(|(partition, next)| (*partition, *next))
            .collect();
        let mut list = TopicPartitionList::new();
        for (partition, next) in chosen {
            commits.remove(&partition);
            let next = i64::try_from(next).unwrap_or(i64::MAX);
            list.add_partition_offset(topic, partition, Offset::Offset(next))
                .ok()?;
        }
        (list.count() > 0).then_some(list)
    }
}

/// A member that has joined.
pub(super) struct Joined {
    deliveries: mpsc::Receiver<Delivery>,
    commits: Arc<Commits>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[async_trait]
impl Subscription for Joined {
    async fn next(&mut self, max: usize) -> Result<Vec<Delivery>, Error> {
        let mut taken = Vec::new();
        if self.deliveries.recv_many(&mut taken, max).await == 0 {
            return Err(Error::Unavailable("the member of the group has ended".into()));
        }
        Ok(taken)
    }

    fn committer(&self) -> Arc<dyn Commit> {
        Arc::clone(&self.commits) as Arc<dyn Commit>
    }
}

impl Drop for Joined {
    /// Leaves the group; the last commits are sent first, by the thread itself.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.deliveries.close();
        drop(self.thread.take());
    }
}

/// Told of rebalances by the client, on the polling thread.
struct Rebalancing {
    stop: Arc<AtomicBool>,
    handle: Handle,
    assignment: Arc<dyn Assignment>,
    start: Start,
    commits: Arc<Commits>,
    epochs: Arc<Mutex<BTreeMap<i32, u64>>>,
    counter: AtomicU64,
    joined: Mutex<Option<oneshot::Sender<()>>>,
    lag: Lag,
    of: (Topic, String),
}

impl ClientContext for Rebalancing {
    /// How many events the partitions of this member have that are not committed.
    fn stats(&self, statistics: Statistics) {
        let partitions = statistics
            .topics
            .values()
            .flat_map(|topic| topic.partitions.values());
        let behind: i64 = partitions.map(|partition| partition.consumer_lag.max(0)).sum();
        self.lag
            .lock()
            .insert(self.of.clone(), u64::try_from(behind).unwrap_or_default());
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
        match rebalance {
            Rebalance::Assign(partitions) => self.assigned(consumer, partitions),
            Rebalance::Revoke(partitions) => self.revoked(consumer, partitions),
            Rebalance::Error(error) => tracing::warn!(%error, "rebalancing"),
        }
    }
}

impl Rebalancing {
    fn assigned(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        if self.start == Start::End {
            begin_at_the_end(consumer, partitions);
        }
        for partition in numbers(partitions) {
            let epoch = self.counter.fetch_add(1, Ordering::Relaxed) + 1;
            let number = u32::try_from(partition).unwrap_or_default();
            // Without that nothing of it may be delivered, so it is done however long it takes.
            while let Err(error) = self.handle.block_on(self.assignment.assigned(number, epoch)) {
                tracing::warn!(partition, %error, "a partition cannot be prepared");
                std::thread::sleep(COMMIT);
            }
            self.epochs.lock().insert(partition, epoch);
        }
        if let Some(joined) = self.joined.lock().take() {
            let _ = joined.send(());
        }
    }

    fn revoked(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        let numbers = numbers(partitions);
        for partition in &numbers {
            self.epochs.lock().remove(partition);
            let number = u32::try_from(*partition).unwrap_or_default();
            // Who is leaving has let go of everything, and perhaps of the runtime.
            if !self.stop.load(Ordering::Acquire) {
                self.handle.block_on(self.assignment.revoked(number));
            }
        }
        let topic = partitions.elements().first().map(|one| one.topic().to_owned());
        let Some(list) = self.commits.take(&topic.unwrap_or_default(), Some(&numbers)) else {
            return;
        };
        if let Err(error) = consumer.commit(&list, CommitMode::Sync) {
            tracing::debug!(%error, "the last commit of a partition that went away");
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

/// A group that has never committed in a partition and is to begin with what comes next commits its end.
fn begin_at_the_end(consumer: &BaseConsumer<Rebalancing>, partitions: &TopicPartitionList) {
    let Ok(committed) = consumer.committed_offsets(partitions.clone(), PATIENCE) else {
        return;
    };
    let mut ends = TopicPartitionList::new();
    for one in committed.elements() {
        if one.offset() == Offset::Invalid
            && let Ok((_, end)) = consumer.fetch_watermarks(one.topic(), one.partition(), PATIENCE)
        {
            let _ = ends.add_partition_offset(one.topic(), one.partition(), Offset::Offset(end));
        }
    }
    if ends.count() > 0
        && let Err(error) = consumer.commit(&ends, CommitMode::Sync)
    {
        tracing::warn!(%error, "the end of a partition could not be committed");
    }
}

/// The polling thread.
struct Polling {
    member: Member,
    consumer: BaseConsumer<Rebalancing>,
    deliveries: mpsc::Sender<Delivery>,
    stop: Arc<AtomicBool>,
    commits: Arc<Commits>,
    epochs: Arc<Mutex<BTreeMap<i32, u64>>>,
    handle: Handle,
}

impl Polling {
    fn run(self) {
        let mut committed = Instant::now();
        while !self.stop.load(Ordering::Acquire) {
            if self.deliveries.capacity() == 0 {
                self.wait_for_room();
            }
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    if let Some(delivery) = self.delivery(&message) {
                        // There is room: nobody else sends.
                        let _ = self.deliveries.try_send(delivery);
                    }
                }
                // Those that do not go away by themselves are said by what they prevent.
                Some(Err(error)) => tracing::debug!(%error, group = self.member.group, "polling"),
                None => {}
            }
            if committed.elapsed() >= COMMIT {
                committed = Instant::now();
                self.commit(CommitMode::Async);
            }
        }
        self.commit(CommitMode::Sync);
        self.consumer.unsubscribe();
    }

    /// While nobody takes what was read, nothing more is fetched, but the group still hears from this member, and what
    /// was done is still committed.
    fn wait_for_room(&self) {
        while !self.stop.load(Ordering::Acquire) && self.deliveries.capacity() == 0 {
            // Again each time: partitions come while this waits.
            if let Ok(assignment) = self.consumer.assignment() {
                let _ = self.consumer.pause(&assignment);
            }
            if let Some(Ok(message)) = self.consumer.poll(POLL)
                && let Some(delivery) = self.delivery(&message)
            {
                self.go_back(&delivery);
            }
            self.commit(CommitMode::Async);
        }
        if let Ok(assignment) = self.consumer.assignment() {
            let _ = self.consumer.resume(&assignment);
        }
    }

    fn go_back(&self, delivery: &Delivery) {
        let topic = self.member.options.topic(self.member.topic);
        let partition = i32::try_from(delivery.partition).unwrap_or_default();
        let offset = Offset::Offset(i64::try_from(delivery.position).unwrap_or_default());
        if let Err(error) = self.consumer.seek(&topic, partition, offset, PATIENCE) {
            tracing::warn!(%error, "going back in a partition");
        }
    }

    fn delivery(&self, message: &BorrowedMessage<'_>) -> Option<Delivery> {
        let partition = message.partition();
        let epoch = self.epochs.lock().get(&partition).copied()?;
        let position = u64::try_from(message.offset()).ok()?;
        let event = match codec::event(message) {
            Ok(event) => event,
            Err(reason) => self.poison(message, &reason)?,
        };
        Some(Delivery {
            partition: u32::try_from(partition).ok()?,
            position,
            next: position + 1,
            epoch,
            event,
        })
    }

    /// What is no event of ours goes to the dead letters and blocks nobody. It is skipped by the next commit after it.
    fn poison(&self, message: &BorrowedMessage<'_>, reason: &str) -> Option<Event> {
        tracing::error!(
            group = self.member.group,
            partition = message.partition(),
            offset = message.offset(),
            reason,
            "a message is no event"
        );
        let key = String::from_utf8_lossy(message.key().unwrap_or_default());
        let partition = u32::try_from(message.partition()).unwrap_or_default();
        let letter = DeadLetter {
            group: self.member.group.clone(),
            topic: self.member.topic.name().to_owned(),
            position: u64::try_from(message.offset()).unwrap_or_default(),
            reason: reason.to_owned(),
            attempts: 1,
            event: String::from_utf8_lossy(message.payload().unwrap_or_default()).into(),
        };
        let (ids, clock) = (IdGenerator::random(), Clock::System);
        let event = dead_letter(&ids, &clock, key.into(), partition, &letter).ok()?;
        while !self.stop.load(Ordering::Acquire)
            && let Err(error) = self.bury(&event)
        {
            tracing::error!(%error, "the dead letter cannot be written");
            std::thread::sleep(COMMIT);
        }
        metrics::counter!("flowmate_dead_letters_total", "group" => self.member.group.clone()).increment(1);
        None
    }

    fn bury(&self, letter: &Event) -> Result<(), KafkaError> {
        let topic = self.member.options.topic(Topic::DeadLetters);
        let record = FutureRecord::to(&topic)
            .key(&*letter.key)
            .payload(&*letter.data)
            .headers(codec::headers(letter));
        let sent = self.member.producer.send_result(record);
        let sent = sent.map_err(|(error, _)| error)?;
        match self.handle.block_on(sent) {
            Ok(result) => result.map(|_| ()).map_err(|(error, _)| error),
            Err(_) => Err(KafkaError::Canceled),
        }
    }

    fn commit(&self, mode: CommitMode) {
        let topic = self.member.options.topic(self.member.topic);
        if let Some(list) = self.commits.take(&topic, None)
            && let Err(error) = self.consumer.commit(&list, mode)
        {
            tracing::warn!(%error, group = self.member.group, "committing");
        }
    }
}
