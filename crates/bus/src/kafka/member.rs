//! One member of a consumer group: a thread that polls, hands out, commits and takes part in rebalances. Whatever has to
//! be waited for in a rebalance is waited for here, where nothing else is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use flowmate_common::{Clock, Event, Topic, ids::IdGenerator, model::DeadLetter};
use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, Message, Offset,
    consumer::{BaseConsumer, Consumer},
    message::BorrowedMessage,
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{
    Lag, Options, PATIENCE, codec,
    contact::{COMMIT, Commits, Committing, Contact},
    producer::{Producer, bury},
    reading::Reading,
    rebalancing::{Epochs, Rebalancing},
    supervisor::Supervisor,
    unavailable,
};
use crate::{Assignment, Commit, Delivery, Error, Start, Subscription, dispatch::dead_letter, lease};

/// Events read ahead of who takes them.
const AHEAD: usize = 1_024;
/// How long one poll waits.
const POLL: Duration = Duration::from_millis(50);
/// After how long without a word a member is no member, unless the settings say otherwise.
const SESSION: Duration = Duration::from_secs(10);
/// How long joining may take before a subscription goes on without partitions of its own.
const JOIN: Duration = Duration::from_secs(30);

/// Who is to join.
pub(super) struct Member {
    pub(super) options: Options,
    pub(super) producer: Arc<Producer>,
    pub(super) supervisor: Arc<Supervisor>,
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
        let (joined, first) = oneshot::channel();
        let (deliveries, taken) = mpsc::channel(AHEAD);
        let config = self.config();
        let of = (self.topic, self.group.clone());
        let name = self.options.group(self.topic, &self.group);
        let lag = Some((Arc::clone(&self.lag), of));
        let reading = Reading::new(self.options.topic(self.topic), Some(name), lag);
        self.supervisor.watch(&reading);
        let contact = Arc::new(Contact::new(session(&config)));
        let alive = self.alive.clone();
        let polling = Polling {
            member: self,
            config,
            deliveries,
            stop: Arc::default(),
            commits: Arc::default(),
            contact: Arc::clone(&contact),
            epochs: Arc::default(),
            counter: Arc::default(),
            joined: Arc::new(Mutex::new(Some(joined))),
            reading,
            handle: Handle::current(),
        };
        let (stop, commits) = (Arc::clone(&polling.stop), Arc::clone(&polling.commits));
        let client = polling.client()?;
        let thread = std::thread::Builder::new()
            .name("kafka-member".into())
            .spawn(move || {
                let _alive = alive;
                polling.run(client);
            })
            .map_err(unavailable)?;
        let joined = Joined {
            deliveries: taken,
            commits,
            contact,
            stop,
            thread: Some(thread),
        };
        // More members than partitions: somebody has none.
        let _ = tokio::time::timeout(JOIN, first).await;
        Ok(joined)
    }

    fn config(&self) -> ClientConfig {
        let mut config = self.options.consumer(self.topic, &self.group);
        config
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("enable.auto.offset.store", "false")
            .set("session.timeout.ms", SESSION.as_millis().to_string())
            .set("heartbeat.interval.ms", "2000")
            .set("max.poll.interval.ms", "300000")
            // No answer to what is asked for takes longer where there is somebody to answer; what waits for one that
            // never comes holds its thread so long.
            .set("socket.timeout.ms", "20000")
            .set("statistics.interval.ms", "5000");
        self.options.over(&mut config);
        config
    }
}

fn session(config: &ClientConfig) -> Duration {
    let set = config.get("session.timeout.ms");
    let millis = set.and_then(|value| value.parse().ok());
    millis.map_or(SESSION, Duration::from_millis)
}

/// A member that has joined.
pub(super) struct Joined {
    deliveries: mpsc::Receiver<Delivery>,
    commits: Arc<Commits>,
    contact: Arc<Contact>,
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

    fn contact(&self) -> Arc<dyn lease::Contact> {
        Arc::clone(&self.contact) as Arc<dyn lease::Contact>
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

/// What is the member at the moment.
struct Client {
    consumer: Arc<BaseConsumer<Rebalancing>>,
    committing: std::thread::JoinHandle<()>,
    /// Nothing more is committed.
    is_quiet: Arc<AtomicBool>,
    is_replaced: Arc<AtomicBool>,
    number: u64,
}

/// The polling thread.
struct Polling {
    member: Member,
    config: ClientConfig,
    deliveries: mpsc::Sender<Delivery>,
    stop: Arc<AtomicBool>,
    commits: Arc<Commits>,
    contact: Arc<Contact>,
    epochs: Epochs,
    counter: Arc<AtomicU64>,
    joined: Arc<Mutex<Option<oneshot::Sender<()>>>>,
    reading: Arc<Reading>,
    handle: Handle,
}

impl Polling {
    fn run(self, mut client: Client) {
        loop {
            self.poll(&client);
            if self.stop.load(Ordering::Acquire) {
                return self.leave(client);
            }
            self.give_up(client);
            client = loop {
                match self.client() {
                    Ok(client) => break client,
                    Err(error) => tracing::error!(%error, group = self.member.group, "no new client"),
                }
                std::thread::sleep(COMMIT);
                if self.stop.load(Ordering::Acquire) {
                    return;
                }
            };
        }
    }

    /// A client that joins the group.
    fn client(&self) -> Result<Client, Error> {
        let topic = self.member.options.topic(self.member.topic);
        let (is_quiet, is_replaced) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let context = Rebalancing {
            stop: Arc::clone(&self.stop),
            is_replaced: Arc::clone(&is_replaced),
            reading: Arc::clone(&self.reading),
            handle: self.handle.clone(),
            assignment: Arc::clone(&self.member.assignment),
            start: self.member.start,
            commits: Arc::clone(&self.commits),
            epochs: Arc::clone(&self.epochs),
            counter: Arc::clone(&self.counter),
            joined: Arc::clone(&self.joined),
            lag: Arc::clone(&self.member.lag),
            of: (self.member.topic, self.member.group.clone()),
        };
        let number = self.reading.number();
        let consumer: BaseConsumer<Rebalancing> =
            self.config.create_with_context(context).map_err(unavailable)?;
        consumer.subscribe(&[&topic]).map_err(unavailable)?;
        let consumer = Arc::new(consumer);
        self.reading.reads(&consumer, Some(Arc::clone(&self.contact)));
        let committing = Committing {
            consumer: Arc::clone(&consumer),
            topic,
            group: self.member.group.clone(),
            commits: Arc::clone(&self.commits),
            contact: Arc::clone(&self.contact),
            stop: Arc::clone(&is_quiet),
        };
        let committing = std::thread::Builder::new()
            .name("kafka-commit".into())
            .spawn(move || committing.run())
            .map_err(unavailable)?;
        Ok(Client {
            consumer,
            committing,
            is_quiet,
            is_replaced,
            number,
        })
    }

    /// Until the subscription is over or the client is to be replaced.
    fn poll(&self, client: &Client) {
        let consumer = &*client.consumer;
        while !self.is_over(client) {
            if self.deliveries.capacity() == 0 {
                self.wait_for_room(client);
            }
            match consumer.poll(POLL) {
                Some(Ok(message)) => {
                    if let Some(delivery) = self.delivery(&message) {
                        // There is room: nobody else sends.
                        let _ = self.deliveries.try_send(delivery);
                    }
                    self.reading.passed(message.partition(), message.offset() + 1);
                }
                // Those that do not go away by themselves are said by what they prevent.
                Some(Err(error)) => tracing::debug!(%error, group = self.member.group, "polling"),
                None => {}
            }
        }
    }

    fn is_over(&self, client: &Client) -> bool {
        self.stop.load(Ordering::Acquire) || self.reading.number() != client.number
    }

    /// Says what was done and leaves the group.
    fn leave(&self, client: Client) {
        let topic = self.member.options.topic(self.member.topic);
        client.is_quiet.store(true, Ordering::Release);
        client.committing.thread().unpark();
        if client.committing.join().is_err() {
            tracing::error!("the committing thread ended badly");
        }
        let mine: Vec<i32> = self.epochs.lock().keys().copied().collect();
        self.commits.end(&client.consumer, &topic, &mine);
        client.consumer.unsubscribe();
        end(client.consumer);
    }

    /// The client is dead. Its partitions may be somebody else's any moment; its end is nobody's concern.
    fn give_up(&self, client: Client) {
        client.is_replaced.store(true, Ordering::Release);
        client.is_quiet.store(true, Ordering::Release);
        let mine = std::mem::take(&mut *self.epochs.lock());
        let partitions: Vec<i32> = mine.keys().copied().collect();
        self.commits.forget(&partitions);
        for partition in partitions {
            let number = u32::try_from(partition).unwrap_or_default();
            self.handle.block_on(self.member.assignment.lost(number));
        }
        bury(move || {
            client.consumer.unsubscribe();
            let _ = client.committing.join();
            end(client.consumer);
        });
    }

    /// While nobody takes what was read, nothing more is fetched, but the group still hears from this member, and what
    /// was done is still committed.
    fn wait_for_room(&self, client: &Client) {
        let consumer = &*client.consumer;
        self.reading.is_busy.store(true, Ordering::Release);
        while !self.is_over(client) && self.deliveries.capacity() == 0 {
            // Again each time: partitions come while this waits.
            if let Ok(assignment) = consumer.assignment() {
                let _ = consumer.pause(&assignment);
            }
            if let Some(Ok(message)) = consumer.poll(POLL)
                && let Some(delivery) = self.delivery(&message)
            {
                self.go_back(consumer, &delivery);
            }
        }
        if let Ok(assignment) = consumer.assignment() {
            let _ = consumer.resume(&assignment);
        }
        self.reading.is_busy.store(false, Ordering::Release);
    }

    fn go_back(&self, consumer: &BaseConsumer<Rebalancing>, delivery: &Delivery) {
        let topic = self.member.options.topic(self.member.topic);
        let partition = i32::try_from(delivery.partition).unwrap_or_default();
        let offset = Offset::Offset(i64::try_from(delivery.position).unwrap_or_default());
        if let Err(error) = consumer.seek(&topic, partition, offset, PATIENCE) {
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
            && let Err(error) = self
                .handle
                .block_on(self.member.producer.publish(std::slice::from_ref(&event)))
        {
            tracing::error!(%error, "the dead letter cannot be written");
            std::thread::sleep(COMMIT);
        }
        metrics::counter!("flowmate_dead_letters_total", "group" => self.member.group.clone()).increment(1);
        None
    }
}

/// Ends a client when nobody asks it anything any more.
fn end(mut consumer: Arc<BaseConsumer<Rebalancing>>) {
    loop {
        match Arc::try_unwrap(consumer) {
            Ok(consumer) => return drop(consumer),
            Err(shared) => consumer = shared,
        }
        std::thread::sleep(POLL);
    }
}
