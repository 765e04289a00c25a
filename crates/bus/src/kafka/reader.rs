//! Reading without a group: what was said before, and views that every replica keeps.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use flowmate_common::{Event, Topic};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaResult,
    topic_partition_list::TopicPartitionListElem,
    util::Timeout,
};
use tokio::sync::mpsc;

use super::{
    DELIVERY, Options, PATIENCE, codec, producer::bury, reading::Reading, supervisor::Supervisor, unavailable,
};
use crate::{Error, History};

/// How long one poll waits.
const POLL: Duration = Duration::from_millis(100);
/// Events in one batch, and batches read ahead.
const BATCH: usize = 256;
const AHEAD: usize = 4;

/// Events that a thread of their own reads.
struct Read(mpsc::Receiver<Result<Vec<Event>, Error>>);

#[async_trait]
impl History for Read {
    async fn next(&mut self) -> Result<Vec<Event>, Error> {
        self.0.recv().await.unwrap_or_else(|| Ok(Vec::new()))
    }
}

/// The events of one partition of `topic` since the oldest of `of` that the group has not committed, and some before: of
/// a request that is there twice the first may be committed.
pub(super) fn since_commit(
    options: &Options,
    supervisor: &Supervisor,
    (topic, of): (Topic, Topic),
    group: &str,
    partition: u32,
) -> Result<Box<dyn History>, Error> {
    let partition = i32::try_from(partition).map_err(unavailable)?;
    let consumer = consumer(options, of, group)?;
    let (requests, events) = (options.topic(of), options.topic(topic));
    let (low, high) = patiently(|| consumer.fetch_watermarks(&requests, partition, PATIENCE))?;
    let first = committed(&consumer, &requests, partition)?
        .unwrap_or(low)
        .max(low);
    let (oldest, end) = patiently(|| consumer.fetch_watermarks(&events, partition, PATIENCE))?;
    if oldest >= end {
        return Ok(Box::new(Read(mpsc::channel(1).1)));
    }
    let time = if first < high {
        time_of(&consumer, &requests, partition, first)?
    } else {
        time_of(&consumer, &events, partition, end - 1)?
    };
    // A copy of a request may come that much later.
    let time = time - i64::try_from(DELIVERY.as_millis()).unwrap_or(i64::MAX);
    let mut at = TopicPartitionList::new();
    at.add_partition_offset(&events, partition, Offset::Offset(time))
        .map_err(unavailable)?;
    let found = patiently(|| consumer.offsets_for_times(at.clone(), PATIENCE))?;
    let begin = match found.elements().first().map(TopicPartitionListElem::offset) {
        Some(Offset::Offset(offset)) => offset,
        // Nothing was said since.
        Some(Offset::End) => return Ok(Box::new(Read(mpsc::channel(1).1))),
        _ => oldest,
    };
    let reading = Reading::new(events, None, None);
    let config = options.consumer(of, group);
    Reader::new(options, config, reading, [(partition, begin)].into(), Some(end)).start(supervisor)
}

/// Every event of `topic` since the oldest that the group has not committed in each partition, and then on.
pub(super) fn watch(
    options: &Options,
    supervisor: &Supervisor,
    topic: Topic,
    group: &str,
    partitions: usize,
) -> Result<Box<dyn History>, Error> {
    let consumer = consumer(options, topic, group)?;
    let name = options.topic(topic);
    let mut from = BTreeMap::new();
    for partition in 0..i32::try_from(partitions).map_err(unavailable)? {
        let low = || patiently(|| consumer.fetch_watermarks(&name, partition, PATIENCE));
        let begin = match committed(&consumer, &name, partition)? {
            Some(begin) => begin,
            None => low()?.0,
        };
        from.insert(partition, begin);
    }
    let reading = Reading::new(name, None, None);
    Reader::new(options, options.consumer(topic, group), reading, from, None).start(supervisor)
}

/// A consumer that looks at the group's commits and never joins it.
fn consumer(options: &Options, topic: Topic, group: &str) -> Result<BaseConsumer, Error> {
    options.make(options.consumer(topic, group))
}

fn committed(consumer: &BaseConsumer, topic: &str, partition: i32) -> Result<Option<i64>, Error> {
    let mut list = TopicPartitionList::new();
    list.add_partition(topic, partition);
    let committed = patiently(|| consumer.committed_offsets(list.clone(), PATIENCE))?;
    Ok(committed.elements().first().and_then(|one| match one.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }))
}

/// A broker that has just started, or has just lost a neighbour, does not know at once who coordinates a group.
fn patiently<T>(ask: impl Fn() -> KafkaResult<T>) -> Result<T, Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() > deadline => return Err(unavailable(error)),
            Err(error) => tracing::debug!(%error, "asking again"),
        }
        std::thread::sleep(POLL);
    }
}

/// When the broker took the message at this offset.
fn time_of(consumer: &BaseConsumer, topic: &str, partition: i32, offset: i64) -> Result<i64, Error> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset))
        .map_err(unavailable)?;
    consumer.assign(&list).map_err(unavailable)?;
    let message = match consumer.poll(Timeout::After(PATIENCE)) {
        Some(message) => message.map_err(unavailable)?,
        None => return Err(Error::Unavailable(format!("{topic}/{partition} cannot be read"))),
    };
    message
        .timestamp()
        .to_millis()
        .ok_or_else(|| Error::Unavailable(format!("{topic}/{partition} has no times")))
}

/// Reads from these offsets, up to `end` of the one partition, or for ever, with whichever client lives.
struct Reader {
    options: Options,
    config: ClientConfig,
    reading: Arc<Reading>,
    from: BTreeMap<i32, i64>,
    end: Option<i64>,
}

impl Reader {
    fn new(
        options: &Options,
        config: ClientConfig,
        reading: Arc<Reading>,
        from: BTreeMap<i32, i64>,
        end: Option<i64>,
    ) -> Self {
        Self {
            options: options.clone(),
            config,
            reading,
            from,
            end,
        }
    }

    fn start(self, supervisor: &Supervisor) -> Result<Box<dyn History>, Error> {
        let mut client = self.client(&self.from)?;
        supervisor.watch(&self.reading);
        let (batches, read) = mpsc::channel(AHEAD);
        std::thread::Builder::new()
            .name("kafka-reader".into())
            .spawn(move || {
                while !batches.is_closed() {
                    if self.read(&client, &batches).is_break() {
                        return;
                    }
                    let dead = client;
                    bury(move || drop(dead));
                    client = loop {
                        match self.client(&self.reading.places()) {
                            Ok(client) => break client,
                            Err(error) => tracing::error!(%error, "no new client"),
                        }
                        std::thread::sleep(POLL);
                    };
                }
            })
            .map_err(unavailable)?;
        Ok(Box::new(Read(read)))
    }

    fn client(&self, from: &BTreeMap<i32, i64>) -> Result<Arc<BaseConsumer>, Error> {
        let consumer: BaseConsumer = self.options.make(self.config.clone())?;
        let mut list = TopicPartitionList::new();
        for (partition, begin) in from {
            list.add_partition_offset(self.reading.topic(), *partition, Offset::Offset(*begin))
                .map_err(unavailable)?;
        }
        consumer.assign(&list).map_err(unavailable)?;
        let consumer = Arc::new(consumer);
        self.reading.reads(&consumer, None);
        for (partition, begin) in from {
            self.reading.at(*partition, *begin);
        }
        Ok(consumer)
    }

    /// Until everything is read or nobody wants more (break), or the client is to be replaced.
    fn read(&self, consumer: &BaseConsumer, batches: &Batches) -> ControlFlow<()> {
        let number = self.reading.number();
        let mut batch = Vec::new();
        let mut is_over = self.end.is_some_and(|end| end <= 0);
        while !is_over && !batches.is_closed() {
            // The first of a batch is waited for, the others only while there are some.
            let patience = if batch.is_empty() { POLL } else { Duration::ZERO };
            match consumer.poll(patience) {
                Some(Ok(message)) => {
                    is_over = self.end.is_some_and(|end| message.offset() + 1 >= end);
                    self.reading.passed(message.partition(), message.offset() + 1);
                    // What is no event of ours is a consumer's to complain about.
                    batch.extend(codec::event(&message).ok());
                    if batch.len() < BATCH && !is_over {
                        continue;
                    }
                }
                Some(Err(error)) => tracing::debug!(%error, "reading"),
                None => {}
            }
            if !batch.is_empty() {
                // Who takes them takes the time that it needs.
                self.reading.is_busy.store(true, Ordering::Release);
                let sent = batches.blocking_send(Ok(std::mem::take(&mut batch)));
                self.reading.is_busy.store(false, Ordering::Release);
                if sent.is_err() {
                    return ControlFlow::Break(());
                }
            } else if self.reading.number() != number {
                return ControlFlow::Continue(());
            }
        }
        ControlFlow::Break(())
    }
}

type Batches = mpsc::Sender<Result<Vec<Event>, Error>>;
