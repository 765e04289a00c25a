//! Slows down guessing: after some failures the name is refused for a while, whatever the password.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

use flowmate_common::Timestamp;
use parking_lot::Mutex;

/// Failures of one name in one window.
const FAILURES: u32 = 20;
/// The window.
const WINDOW_MILLIS: i64 = 60_000;
/// Names remembered.
const NAMES: usize = 10_000;

pub(crate) struct Limiter {
    /// By hash: names are as long as whoever tries them likes.
    names: Mutex<HashMap<u64, (Timestamp, u32)>>,
    hasher: RandomState,
}

impl Limiter {
    pub(crate) fn new() -> Self {
        Self {
            names: Mutex::default(),
            hasher: RandomState::new(),
        }
    }

    /// Whether the name may try now.
    pub(crate) fn allows(&self, name: &str, now: Timestamp) -> bool {
        let names = self.names.lock();
        names
            .get(&self.hasher.hash_one(name))
            .is_none_or(|(since, failures)| *failures < FAILURES || is_over(*since, now))
    }

    /// The name failed.
    pub(crate) fn failed(&self, name: &str, now: Timestamp) {
        let mut names = self.names.lock();
        if names.len() >= NAMES {
            names.retain(|_, (since, _)| !is_over(*since, now));
            if names.len() >= NAMES {
                names.clear();
            }
        }
        let entry = names.entry(self.hasher.hash_one(name)).or_insert((now, 0));
        if is_over(entry.0, now) {
            *entry = (now, 0);
        }
        entry.1 += 1;
    }
}

fn is_over(since: Timestamp, now: Timestamp) -> bool {
    now.as_millis() - since.as_millis() >= WINDOW_MILLIS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_refused_after_many_failures_and_for_a_while_only() {
        let limiter = Limiter::new();
        let at = |millis| Timestamp::from_millis(millis);
        for _ in 0..FAILURES {
            assert!(limiter.allows("a", at(0)));
            limiter.failed("a", at(0));
        }
        assert!(!limiter.allows("a", at(WINDOW_MILLIS - 1)));
        assert!(limiter.allows("b", at(0)));
        assert!(limiter.allows("a", at(WINDOW_MILLIS)));
    }
}
