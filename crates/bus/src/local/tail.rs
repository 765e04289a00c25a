//! The newest events of a topic, in memory.

use std::collections::VecDeque;

use crate::Delivery;

/// All events of the topic from `start` on.
pub(super) struct Tail {
    start: u64,
    bytes: usize,
    events: VecDeque<Delivery>,
}

impl Tail {
    /// Empty, complete from `start` on.
    pub(super) fn from(start: u64) -> Self {
        Self {
            start,
            bytes: 0,
            events: VecDeque::new(),
        }
    }

    /// Adds a new event, and lets go of the oldest beyond `limit` bytes.
    pub(super) fn push(&mut self, delivery: Delivery, limit: usize) {
        self.bytes += delivery.event.size();
        self.events.push_back(delivery);
        while self.bytes > limit && self.events.len() > 1 {
            let Some(oldest) = self.events.pop_front() else {
                break;
            };
            self.bytes -= oldest.event.size();
            self.start = oldest.next;
        }
    }

    /// Up to `max` events from `cursor` on; `None` if they are no longer in memory.
    pub(super) fn take(&self, cursor: u64, max: usize) -> Option<Vec<Delivery>> {
        if cursor < self.start {
            return None;
        }
        let first = self.events.partition_point(|delivery| delivery.position < cursor);
        Some(self.events.iter().skip(first).take(max).cloned().collect())
    }

    /// Whether the topic has nothing at or after `cursor`.
    pub(super) fn is_quiet_since(&self, cursor: u64) -> bool {
        cursor >= self.start && self.events.back().is_none_or(|last| last.position < cursor)
    }
}
