//! The one thread that appends: whatever was published while the last `fsync` ran goes into the next.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use flowmate_common::{Event, EventType, Topic};
use tokio::sync::{mpsc, oneshot};

use super::{
    Shared,
    ahead::Ahead,
    record::{MARK, encode, mark},
    unavailable,
};
use crate::{Delivery, Error};

/// Appends that wait; more make publishers wait.
const QUEUE: usize = 4096;
/// Appends in one group.
const GROUP: usize = 1024;

struct Append {
    events: Vec<(Event, u32)>,
    records: Vec<u8>,
    done: oneshot::Sender<Result<(), Error>>,
}

/// Hands appends to the thread.
pub(super) struct Writer {
    shared: Arc<Shared>,
    queue: Option<mpsc::Sender<Append>>,
    thread: Option<thread::JoinHandle<()>>,
    broken: Arc<AtomicBool>,
}

impl Writer {
    pub(super) fn start(shared: Arc<Shared>) -> Result<Self, Error> {
        let (queue, appends) = mpsc::channel(QUEUE);
        let file = shared.segments.newest().map_err(unavailable)?;
        let broken = Arc::new(AtomicBool::new(false));
        let log = Log {
            shared: Arc::clone(&shared),
            file,
            ahead: Ahead::new(&shared.directory, shared.options.segment_bytes),
            broken: Arc::clone(&broken),
        };
        let thread = thread::Builder::new()
            .name("log-writer".into())
            .spawn(move || log.run(appends))
            .map_err(unavailable)?;
        Ok(Self {
            shared,
            queue: Some(queue),
            thread: Some(thread),
            broken,
        })
    }

    /// Returns when the events are on disk.
    pub(super) async fn append(&self, events: Vec<Event>) -> Result<(), Error> {
        if events.is_empty() {
            return Ok(());
        }
        self.check_room(&events)?;
        let limit = self.shared.options.max_event_bytes;
        let mut records = Vec::with_capacity(events.iter().map(|event| event.size() + 64).sum());
        let mut sized = Vec::with_capacity(events.len());
        for event in events {
            if event.size() > limit {
                return Err(Error::TooLarge {
                    size: event.size(),
                    limit,
                });
            }
            let before = records.len();
            encode(&event, &mut records);
            sized.push((event, u32::try_from(records.len() - before).unwrap_or(u32::MAX)));
        }
        let (done, answer) = oneshot::channel();
        let closed = || Error::Unavailable("the log is closed".into());
        let queue = self.queue.as_ref().ok_or_else(closed)?;
        queue
            .send(Append {
                events: sized,
                records,
                done,
            })
            .await
            .map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// New work is refused before the disk is full, so that what was accepted can still be finished.
    fn check_room(&self, events: &[Event]) -> Result<(), Error> {
        if !events.iter().any(|event| event.kind == EventType::FlowExecute) {
            return Ok(());
        }
        self.shared.room.check()?;
        let segments = &self.shared.segments;
        let used = self
            .shared
            .end
            .load(Ordering::Acquire)
            .saturating_sub(segments.first());
        if used > self.shared.options.max_bytes {
            return Err(Error::Unavailable(format!(
                "the event log holds {used} bytes of unfinished work"
            )));
        }
        Ok(())
    }

    pub(super) fn health(&self) -> Result<(), Error> {
        if self.broken.load(Ordering::Acquire) {
            return Err(Error::Unavailable(
                "the log could not be written; restart when the disk is well".into(),
            ));
        }
        self.shared.room.check()
    }

    pub(super) fn stop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Log {
    shared: Arc<Shared>,
    file: File,
    ahead: Ahead,
    broken: Arc<AtomicBool>,
}

impl Log {
    fn run(mut self, mut appends: mpsc::Receiver<Append>) {
        let mut group = Vec::with_capacity(GROUP);
        let mut buffer = Vec::new();
        while appends.blocking_recv_many(&mut group, GROUP) > 0 {
            let start = self.shared.end.load(Ordering::Acquire);
            buffer.clear();
            buffer.extend_from_slice(&mark(start));
            for append in &group {
                buffer.extend_from_slice(&append.records);
            }
            let result = self.write(&buffer).map_err(unavailable);
            if result.is_ok() {
                self.hand_over(&mut group, start + MARK as u64);
                self.shared
                    .end
                    .store(start + buffer.len() as u64, Ordering::Release);
                for topical in self.shared.tails.values() {
                    topical.bell.notify_waiters();
                }
            }
            for append in group.drain(..) {
                // Who published may have gone away; the events stand.
                let _ = append.done.send(result.clone());
            }
            buffer.shrink_to(1 << 20);
        }
    }

    /// Writes and syncs, into a new file where this one is full.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.broken.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier write failed"));
        }
        let end = self.shared.end.load(Ordering::Acquire);
        let offset = self.seat(end)?;
        if let Err(error) = self.file.write_all_at(bytes, offset) {
            // Nothing of it was acknowledged: take it back, so that a later write does not follow half a record.
            if self.file.set_len(offset).is_err() {
                self.broken.store(true, Ordering::Release);
            }
            return Err(error);
        }
        if let Err(error) = self.file.sync_data() {
            // What is on disk after a failed sync is unknown, and a second sync would not tell.
            self.broken.store(true, Ordering::Release);
            return Err(error);
        }
        Ok(())
    }

    /// Where in which file the position is; begins a new file where this one is full.
    fn seat(&mut self, end: u64) -> io::Result<u64> {
        let Shared {
            segments, options, ..
        } = &*self.shared;
        let used = end - segments.last();
        if used >= options.segment_bytes {
            // A sealed file ends with its last record, also where it was made ahead for larger segments.
            if self.file.metadata()?.len() != used {
                self.file.set_len(used)?;
                self.file.sync_all()?;
            }
            self.ahead.take(&segments.path(end));
            self.file = segments.begin(end)?;
            return Ok(0);
        }
        if used >= options.segment_bytes / 2 && self.shared.room.check().is_ok() {
            self.ahead.make();
        }
        Ok(used)
    }

    /// Puts the events into memory; returns their topics.
    fn hand_over(&self, group: &mut [Append], start: u64) -> BTreeSet<Topic> {
        let mut position = start;
        let mut topics = BTreeSet::new();
        for append in group {
            for (event, length) in append.events.drain(..) {
                let next = position + u64::from(length);
                let topic = event.topic();
                if let Some(topical) = self.shared.tails.get(&topic) {
                    topics.insert(topic);
                    let delivery = Delivery {
                        partition: 0,
                        position,
                        next,
                        epoch: 0,
                        event,
                    };
                    topical.tail.lock().push(delivery, self.shared.options.tail_bytes);
                }
                position = next;
            }
        }
        topics
    }
}
