//! Reading single events again by their offset: for requests that keep only their place until it is their turn. One thread
//! reads, with a consumer for each partition that goes forward; what it passes on the way is kept for a while, since those
//! who wait behind each other ask for it next.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use flowmate_common::{Event, Topic};
use parking_lot::Mutex;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};
use tokio::sync::{mpsc, oneshot};

use super::{Options, codec, producer::bury, unavailable};
use crate::Error;

/// How long one event may take to come.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one poll waits.
const POLL: Duration = Duration::from_millis(100);
/// Bytes of passed events that are kept.
const KEPT: usize = 8 << 20;
/// Offsets that are read through rather than jumped over.
const NEAR: i64 = 2_000;
/// Partitions with a consumer at the same time.
const CONSUMERS: usize = 8;
/// Questions that wait.
const QUEUE: usize = 256;

type Answer = oneshot::Sender<Result<Option<Event>, Error>>;

/// One event that somebody wants.
struct Wanted {
    topic: Topic,
    partition: i32,
    offset: i64,
    answer: Answer,
}

/// Hands questions to the thread, which begins with the first and ends with this.
pub(super) struct Again {
    options: Options,
    thread: Mutex<Option<mpsc::Sender<Wanted>>>,
}

impl Again {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            thread: Mutex::default(),
        }
    }

    /// The event at this offset; `None` where there is none any more.
    pub(super) async fn read(
        &self,
        topic: Topic,
        partition: u32,
        offset: u64,
    ) -> Result<Option<Event>, Error> {
        let (answer, answered) = oneshot::channel();
        let (partition, Ok(offset)) = (
            i32::try_from(partition).map_err(unavailable)?,
            i64::try_from(offset),
        ) else {
            return Ok(None);
        };
        let wanted = Wanted {
            topic,
            partition,
            offset,
            answer,
        };
        let ended = || Error::Unavailable("who reads events again has ended".into());
        self.thread()?.send(wanted).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    fn thread(&self) -> Result<mpsc::Sender<Wanted>, Error> {
        let mut thread = self.thread.lock();
        if let Some(running) = thread.as_ref().filter(|running| !running.is_closed()) {
            return Ok(running.clone());
        }
        let (questions, asked) = mpsc::channel(QUEUE);
        let reader = Reader {
            options: self.options.clone(),
            places: HashMap::new(),
            kept: Kept::default(),
        };
        std::thread::Builder::new()
            .name("kafka-again".into())
            .spawn(move || reader.run(asked))
            .map_err(unavailable)?;
        *thread = Some(questions.clone());
        Ok(questions)
    }
}

type Place = (Topic, i32);

struct Reader {
    options: Options,
    /// With the offset that comes next.
    places: HashMap<Place, (Arc<BaseConsumer>, i64)>,
    kept: Kept,
}

impl Reader {
    fn run(mut self, mut asked: mpsc::Receiver<Wanted>) {
        while let Some(wanted) = asked.blocking_recv() {
            let (place, offset) = ((wanted.topic, wanted.partition), wanted.offset);
            let read = match self.kept.take(place, offset) {
                Some(event) => Ok(Some(event)),
                None => self.read(place, offset),
            };
            if read.is_err() {
                // It may be dead; the next question gets another.
                self.let_go(place);
            }
            let _ = wanted.answer.send(read);
        }
    }

    fn read(&mut self, place: Place, offset: i64) -> Result<Option<Event>, Error> {
        let name = self.options.topic(place.0);
        let consumer = self.at(place, offset)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Some(message) = consumer.poll(POLL) else {
                if Instant::now() > deadline {
                    let (low, high) = consumer
                        .fetch_watermarks(&name, place.1, PATIENCE)
                        .map_err(unavailable)?;
                    if offset < low || offset >= high {
                        return Ok(None);
                    }
                    return Err(Error::Unavailable(format!("{name}/{} does not come", place.1)));
                }
                continue;
            };
            let message = message.map_err(unavailable)?;
            let (found, event) = (message.offset(), codec::event(&message).ok());
            if let Some((_, next)) = self.places.get_mut(&place) {
                *next = found + 1;
            }
            if found >= offset {
                // What is behind it was read instead: it is gone.
                return Ok(event.filter(|_| found == offset));
            }
            if let Some(event) = event {
                self.kept.add(place, found, event);
            }
        }
    }

    /// A consumer whose next event is at `offset`, or a little before.
    fn at(&mut self, place: Place, offset: i64) -> Result<Arc<BaseConsumer>, Error> {
        if let Some((consumer, next)) = self.places.get(&place)
            && (*next..*next + NEAR).contains(&offset)
        {
            return Ok(Arc::clone(consumer));
        }
        let consumer = if let Some((known, _)) = self.places.get(&place) {
            Arc::clone(known)
        } else {
            if self.places.len() >= CONSUMERS
                && let Some(other) = self.places.keys().next().copied()
            {
                self.let_go(other);
            }
            let mut config = self.options.consumer(place.0, "again");
            config.set("queued.max.messages.kbytes", "2048");
            Arc::new(self.options.make::<BaseConsumer>(config)?)
        };
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.options.topic(place.0), place.1, Offset::Offset(offset))
            .map_err(unavailable)?;
        consumer.assign(&list).map_err(unavailable)?;
        self.places.insert(place, (Arc::clone(&consumer), offset));
        Ok(consumer)
    }

    /// Closing one may take long.
    fn let_go(&mut self, place: Place) {
        if let Some((consumer, _)) = self.places.remove(&place) {
            bury(move || drop(consumer));
        }
    }
}

/// Events that were passed, the oldest first.
#[derive(Default)]
struct Kept {
    events: HashMap<(Place, i64), Event>,
    order: VecDeque<(Place, i64)>,
    bytes: usize,
}

impl Kept {
    fn add(&mut self, place: Place, offset: i64, event: Event) {
        self.bytes += event.size();
        if let Some(before) = self.events.insert((place, offset), event) {
            self.bytes -= before.size();
        }
        self.order.push_back((place, offset));
        while self.bytes > KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.bytes -= self.events.remove(&oldest).map_or(0, |event| event.size());
        }
    }

    fn take(&mut self, place: Place, offset: i64) -> Option<Event> {
        let event = self.events.remove(&(place, offset))?;
        self.bytes -= event.size();
        if self.events.is_empty() {
            self.order.clear();
        }
        Some(event)
    }
}
