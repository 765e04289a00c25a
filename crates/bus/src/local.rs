//! The embedded bus: one log for all topics, so that one `fsync` serves whatever is published at the same time.
//!
//! ```text
//! data/log/00000000000000000000.log   records: length, checksum, event (see record.rs)
//!          00000000000067108870.log   named after the position of its first byte
//!          next                       the next of them, zeros so far (see ahead.rs)
//!          commits.json               where each group is
//! ```
//! A position is the number of bytes from the beginning of the log, so seeking costs nothing. The newest events of
//! each topic are kept in memory; a group that is further behind reads the files. A segment goes when every group
//! has passed it.
//!
//! A start tells rot from a torn end: only what was never synced may be cut off. What was synced is known from the marks
//! between groups of records (see record.rs) and from `commits.json`. A position before the oldest segment means that
//! `commits.json` is older than the log: the group goes on at the beginning, with a warning. One behind the end means that
//! the log has lost something: the start is refused.

mod ahead;
mod commits;
mod recent;
mod record;
mod room;
mod segments;
mod subscription;
mod tail;
mod writer;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use flowmate_common::{Event, Topic};
use parking_lot::Mutex;
use tokio::sync::Notify;

pub use self::room::{Disk, Space};
use self::{
    commits::{Commits, Consumer},
    room::Room,
    segments::{Segments, agreed, sync_directory},
    subscription::{LocalHistory, LocalSubscription, event_at},
    tail::Tail,
    writer::Writer,
};
use crate::{Assignment, Bus, Error, History, Start, Subscription};

/// Settings of the log.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes after which a new segment begins.
    pub segment_bytes: u64,
    /// Bytes of all segments above which no new execution requests are taken.
    pub max_bytes: u64,
    /// Bytes of one event.
    pub max_event_bytes: usize,
    /// Bytes of the newest events kept in memory for each topic.
    pub tail_bytes: usize,
    /// How often commits are written down, old segments removed, and the free space looked at.
    pub flush_every: Duration,
    /// Bytes that have to be free on the disk for new execution requests to be taken: what runs needs them to end.
    /// 0: a twentieth of the disk, 1 GiB at most.
    pub reserve_bytes: u64,
    /// Who is asked how much is free.
    pub disk: Disk,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            max_bytes: 8 << 30,
            max_event_bytes: 64 << 20,
            tail_bytes: 8 << 20,
            flush_every: Duration::from_millis(250),
            reserve_bytes: 0,
            disk: Disk::default(),
        }
    }
}

/// A durable log in a directory. One process at a time may open it.
pub struct LocalBus {
    shared: Arc<Shared>,
    writer: Writer,
    flusher: Option<std::thread::JoinHandle<()>>,
}

/// What writer, consumers and flusher share.
struct Shared {
    directory: PathBuf,
    options: Options,
    segments: Segments,
    /// Everything before this position is durable and in the tails.
    end: AtomicU64,
    tails: BTreeMap<Topic, Topical>,
    consumers: Mutex<BTreeMap<(Topic, String), Arc<Consumer>>>,
    /// Who watches: what it has yet to read stays.
    watchers: Mutex<Vec<(Topic, Weak<Consumer>)>>,
    room: Room,
    closing: Mutex<bool>,
    closed: parking_lot::Condvar,
    /// Keeps a second process out.
    _lock: std::fs::File,
}

/// The newest events of a topic, and a bell for new ones.
struct Topical {
    tail: Mutex<Tail>,
    bell: Notify,
}

impl LocalBus {
    /// Opens or makes the log. A group of records that a crash left half-written at the end is cut off; it was never
    /// acknowledged. Fails where something cannot be read that was, naming the file and the place.
    pub fn open(directory: &Path, options: Options) -> Result<Self, Error> {
        std::fs::create_dir_all(directory).map_err(unavailable)?;
        let lock = std::fs::File::create(directory.join("lock")).map_err(unavailable)?;
        lock.try_lock().map_err(|_| {
            Error::Unavailable(format!("{} is in use by another process", directory.display()))
        })?;
        let known = Commits::read(directory)?;
        let synced = known.as_ref().map_or(0, |known| known.synced);
        let (segments, end) = Segments::open(directory, synced)?;
        if known.is_none() && segments.first() > 0 {
            tracing::warn!(
                directory = %directory.display(),
                "commits.json is missing: every group begins at the beginning of the log, where events come again that were done"
            );
        }
        let mut known = known.unwrap_or_default();
        known.bring_into(segments.first(), end);
        let agreement = agreed(directory, end);
        if agreement.exists() {
            // From now on this is where the log ends, also if this process ends before it has said anything else.
            known.write(directory).map_err(unavailable)?;
            std::fs::remove_file(agreement).map_err(unavailable)?;
            sync_directory(directory).map_err(unavailable)?;
        }
        let tails = Topic::ALL
            .into_iter()
            .map(|topic| {
                (
                    topic,
                    Topical {
                        tail: Mutex::new(Tail::from(end)),
                        bell: Notify::new(),
                    },
                )
            })
            .collect();
        let consumers = known
            .groups
            .into_iter()
            .map(|(key, next)| (key, Arc::new(Consumer::new(next))))
            .collect();
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            options,
            segments,
            end: AtomicU64::new(end),
            tails,
            consumers: Mutex::new(consumers),
            watchers: Mutex::default(),
            room: Room::default(),
            closing: Mutex::new(false),
            closed: parking_lot::Condvar::new(),
            _lock: lock,
        });
        shared.measure();
        let writer = Writer::start(Arc::clone(&shared))?;
        let flusher = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("log-flusher".into())
                .spawn(move || commits::keep(&shared))
                .map_err(unavailable)?
        };
        Ok(Self {
            shared,
            writer,
            flusher: Some(flusher),
        })
    }
}

impl Drop for LocalBus {
    /// Writes what was accepted and the last commits.
    fn drop(&mut self) {
        self.writer.stop();
        *self.shared.closing.lock() = true;
        self.shared.closed.notify_all();
        if let Some(flusher) = self.flusher.take() {
            let _ = flusher.join();
        }
    }
}

#[async_trait]
impl Bus for LocalBus {
    async fn publish(&self, events: Vec<Event>) -> Result<(), Error> {
        self.writer.append(events).await
    }

    async fn subscribe(
        &self,
        topic: Topic,
        group: &str,
        start: Start,
        assignment: Arc<dyn Assignment>,
    ) -> Result<Box<dyn Subscription>, Error> {
        let consumer = {
            // Together with what removes segments: a group that is seen holds on to what it begins with.
            let mut consumers = self.shared.consumers.lock();
            let first = match start {
                Start::Beginning => self.shared.segments.first(),
                Start::End => self.shared.end.load(Ordering::Acquire),
            };
            let consumer = consumers
                .entry((topic, group.to_owned()))
                .or_insert_with(|| Arc::new(Consumer::new(first)));
            Arc::clone(consumer)
        };
        let cursor = consumer.rewind();
        assignment.assigned(0, 0).await?;
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(LocalSubscription::new(shared, topic, consumer, cursor)))
    }

    async fn since_commit(
        &self,
        topic: Topic,
        of: Topic,
        group: &str,
        _partition: u32,
    ) -> Result<Box<dyn History>, Error> {
        let end = self.shared.end.load(Ordering::Acquire);
        let committed = self
            .shared
            .consumers
            .lock()
            .get(&(of, group.to_owned()))
            .map(|one| one.committed());
        let cursor = committed.unwrap_or(end).max(self.shared.segments.first());
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(LocalHistory::new(shared, topic, cursor, end)))
    }

    async fn watch(&self, topic: Topic, group: &str) -> Result<Box<dyn History>, Error> {
        let consumers = self.shared.consumers.lock();
        let committed = consumers
            .get(&(topic, group.to_owned()))
            .map(|one| one.committed());
        let cursor = committed.unwrap_or(0).max(self.shared.segments.first());
        // Nobody's: it commits nothing. It holds what it has yet to read.
        let consumer = Arc::new(Consumer::new(cursor));
        self.shared
            .watchers
            .lock()
            .push((topic, Arc::downgrade(&consumer)));
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(LocalSubscription::new(shared, topic, consumer, cursor)))
    }

    async fn read_at(&self, topic: Topic, _partition: u32, position: u64) -> Result<Option<Event>, Error> {
        event_at(&self.shared, topic, position).await
    }

    async fn ping(&self) -> Result<(), Error> {
        self.writer.health()
    }

    fn lag(&self) -> Vec<(Topic, String, u64)> {
        let end = self.shared.end.load(Ordering::Acquire);
        let consumers = self.shared.consumers.lock();
        consumers
            .iter()
            .map(|((topic, group), consumer)| {
                let next = self.shared.effective_commit(*topic, consumer);
                (*topic, group.clone(), end.saturating_sub(next))
            })
            .collect()
    }
}

impl Shared {
    fn measure(&self) {
        let Options {
            disk, reserve_bytes, ..
        } = &self.options;
        self.room.measure(disk, &self.directory, *reserve_bytes);
    }

    /// What somebody who watches has yet to read begins here.
    fn watched(&self) -> u64 {
        let mut watchers = self.watchers.lock();
        watchers.retain(|(_, watcher)| watcher.strong_count() > 0);
        let alive = watchers
            .iter()
            .filter_map(|(topic, watcher)| Some(self.effective_commit(*topic, &*watcher.upgrade()?)));
        alive.min().unwrap_or(u64::MAX)
    }

    fn topical(&self, topic: Topic) -> Result<&Topical, Error> {
        self.tails
            .get(&topic)
            .ok_or_else(|| Error::Unavailable(format!("no topic {}", topic.name())))
    }

    /// Where the group would go on after a restart. A group that has done all there is on its topic moves along with
    /// the log, or a quiet topic would keep old segments for ever.
    fn effective_commit(&self, topic: Topic, consumer: &Consumer) -> u64 {
        // Read before the tail: what is published later is not skipped.
        let end = self.end.load(Ordering::Acquire);
        let Ok(topical) = self.topical(topic) else {
            return consumer.committed();
        };
        let tail = topical.tail.lock();
        consumer.advance_if_idle(&tail, end)
    }
}

fn unavailable(error: impl std::fmt::Display) -> Error {
    Error::Unavailable(error.to_string())
}
