//! Reading the log: for a group, for who watches, and for who looks back.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;
use flowmate_common::{Event, Topic};

use super::{Shared, commits::Consumer, unavailable};
use crate::{Commit, Delivery, Error, History, Subscription};

pub(super) struct LocalSubscription {
    shared: Arc<Shared>,
    topic: Topic,
    consumer: Arc<Consumer>,
    /// Where to go on reading.
    cursor: u64,
    /// Read from a file and not handed out yet. Who falls behind takes a few at a time, and reading a chunk of the file
    /// for each would cost more than the work itself.
    ahead: VecDeque<Delivery>,
}

#[async_trait]
impl Subscription for LocalSubscription {
    async fn next(&mut self, max: usize) -> Result<Vec<Delivery>, Error> {
        let shared = Arc::clone(&self.shared);
        let topical = shared.topical(self.topic)?;
        loop {
            if !self.ahead.is_empty() {
                let deliveries: Vec<_> = self.ahead.drain(..max.min(self.ahead.len())).collect();
                return Ok(self.hand_out(deliveries));
            }
            let bell = topical.bell.notified();
            tokio::pin!(bell);
            bell.as_mut().enable();
            // An idle group was moved along with the log; what it skipped may be gone.
            self.cursor = self.cursor.max(self.consumer.committed());
            let from_memory = topical.tail.lock().take(self.cursor, max);
            match from_memory {
                Some(deliveries) if deliveries.is_empty() => bell.await,
                Some(deliveries) => return Ok(self.hand_out(deliveries)),
                None => {
                    let (deliveries, cursor) = read_files(&self.shared, self.topic, self.cursor).await?;
                    self.cursor = cursor;
                    if deliveries.is_empty() {
                        self.consumer.scanned(cursor);
                    }
                    self.ahead = deliveries.into();
                }
            }
        }
    }

    async fn again(&mut self, _partition: u32, position: u64) -> Result<Option<Event>, Error> {
        event_at(&self.shared, self.topic, position).await
    }

    fn committer(&self) -> Arc<dyn Commit> {
        Arc::clone(&self.consumer) as Arc<dyn Commit>
    }
}

impl LocalSubscription {
    pub(super) fn new(shared: Arc<Shared>, topic: Topic, consumer: Arc<Consumer>, cursor: u64) -> Self {
        Self {
            shared,
            topic,
            consumer,
            cursor,
            ahead: VecDeque::new(),
        }
    }

    fn hand_out(&mut self, deliveries: Vec<Delivery>) -> Vec<Delivery> {
        if let Some(last) = deliveries.last() {
            self.cursor = self.cursor.max(last.next);
            self.consumer.delivered(last.next);
            if self.ahead.is_empty() {
                self.consumer.scanned(self.cursor);
            }
        }
        deliveries
    }
}

/// Events handed out at once to who watches.
const WATCHED: usize = 256;

#[async_trait]
impl History for LocalSubscription {
    async fn next(&mut self) -> Result<Vec<Event>, Error> {
        self.consumer.watched();
        let deliveries = Subscription::next(self, WATCHED).await?;
        Ok(deliveries.into_iter().map(|delivery| delivery.event).collect())
    }
}

pub(super) struct LocalHistory {
    shared: Arc<Shared>,
    topic: Topic,
    cursor: u64,
    end: u64,
}

impl LocalHistory {
    pub(super) fn new(shared: Arc<Shared>, topic: Topic, cursor: u64, end: u64) -> Self {
        Self {
            shared,
            topic,
            cursor,
            end,
        }
    }
}

#[async_trait]
impl History for LocalHistory {
    async fn next(&mut self) -> Result<Vec<Event>, Error> {
        while self.cursor < self.end {
            let (deliveries, cursor) = read_files(&self.shared, self.topic, self.cursor).await?;
            self.cursor = cursor;
            if !deliveries.is_empty() {
                return Ok(deliveries.into_iter().map(|delivery| delivery.event).collect());
            }
        }
        Ok(Vec::new())
    }
}

/// The event at `position`, if it is one of `topic`.
pub(super) async fn event_at(
    shared: &Arc<Shared>,
    topic: Topic,
    position: u64,
) -> Result<Option<Event>, Error> {
    let from_memory = shared.topical(topic)?.tail.lock().take(position, 1);
    if let Some(deliveries) = from_memory {
        let found = deliveries.into_iter().next();
        return Ok(found
            .filter(|delivery| delivery.position == position)
            .map(|delivery| delivery.event));
    }
    let event = if let Some(event) = shared.segments.recent(position) {
        Some(event)
    } else {
        let shared = Arc::clone(shared);
        let read = move || {
            shared
                .segments
                .read_one(position, shared.end.load(Ordering::Acquire))
        };
        tokio::task::spawn_blocking(read).await.map_err(unavailable)??
    };
    Ok(event.filter(|event| event.topic() == topic))
}

/// The events of `topic` in the next chunk of the files, and where to go on reading.
async fn read_files(shared: &Arc<Shared>, topic: Topic, cursor: u64) -> Result<(Vec<Delivery>, u64), Error> {
    let shared = Arc::clone(shared);
    tokio::task::spawn_blocking(move || {
        let end = shared.end.load(Ordering::Acquire);
        shared.segments.read(topic, cursor, end)
    })
    .await
    .map_err(unavailable)?
}
