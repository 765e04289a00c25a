//! Reading without a group: what was said before, and views that every replica keeps.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use flowmate_common::{Event, Topic};
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaResult,
    topic_partition_list::TopicPartitionListElem,
    util::Timeout,
};
use tokio::sync::mpsc;

use super::{DELIVERY, Options, PATIENCE, codec, unavailable};
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
    topic: Topic,
    of: Topic,
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
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(&events, partition, Offset::Offset(begin))
        .map_err(unavailable)?;
    read(consumer, &from, Some(end))
}

/// Every event of `topic` since the oldest that the group has not committed in each partition, and then on.
pub(super) fn watch(
    options: &Options,
    topic: Topic,
    group: &str,
    partitions: usize,
) -> Result<Box<dyn History>, Error> {
    let consumer = consumer(options, topic, group)?;
    let name = options.topic(topic);
    let mut from = TopicPartitionList::new();
    for partition in 0..i32::try_from(partitions).map_err(unavailable)? {
        let begin = committed(&consumer, &name, partition)?.map_or(Offset::Beginning, Offset::Offset);
        from.add_partition_offset(&name, partition, begin)
            .map_err(unavailable)?;
    }
    read(consumer, &from, None)
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

/// Reads from these offsets, up to `end` of the one partition, or for ever.
fn read(
    consumer: BaseConsumer,
    from: &TopicPartitionList,
    end: Option<i64>,
) -> Result<Box<dyn History>, Error> {
    consumer.assign(from).map_err(unavailable)?;
    let (batches, read) = mpsc::channel(AHEAD);
    let consumer = Arc::new(consumer);
    std::thread::Builder::new()
        .name("kafka-reader".into())
        .spawn(move || {
            let mut batch = Vec::new();
            let mut is_over = end.is_some_and(|end| end <= 0);
            while !is_over && !batches.is_closed() {
                // The first of a batch is waited for, the others only while there are some.
                let patience = if batch.is_empty() { POLL } else { Duration::ZERO };
                match consumer.poll(patience) {
                    Some(Ok(message)) => {
                        is_over = end.is_some_and(|end| message.offset() + 1 >= end);
                        // What is no event of ours is a consumer's to complain about.
                        batch.extend(codec::event(&message).ok());
                        if batch.len() < BATCH && !is_over {
                            continue;
                        }
                    }
                    Some(Err(error)) => tracing::debug!(%error, "reading"),
                    None => {}
                }
                if !batch.is_empty() && batches.blocking_send(Ok(std::mem::take(&mut batch))).is_err() {
                    return;
                }
            }
        })
        .map_err(unavailable)?;
    Ok(Box::new(Read(read)))
}
