//! Saying now and then what happens all the time.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Counts what happens, and says when it is time to tell of it.
pub(crate) struct Seldom {
    interval: Duration,
    said: Mutex<(Option<Instant>, u64)>,
}

impl Seldom {
    pub(crate) const fn new(interval: Duration) -> Self {
        Self {
            interval,
            said: Mutex::new((None, 0)),
        }
    }

    /// It happened. How often since it was told of last, if it is to be told of now.
    pub(crate) fn note(&self, now: Instant) -> Option<u64> {
        let mut said = self.said.lock();
        let (last, count) = &mut *said;
        *count += 1;
        if last.is_some_and(|last| now.duration_since(last) < self.interval) {
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_of_the_others_how_many_there_were() {
        let seldom = Seldom::new(Duration::from_secs(10));
        let began = Instant::now();
        let at = |seconds| seldom.note(began + Duration::from_secs(seconds));
        assert_eq!(
            [at(0), at(1), at(9), at(10), at(11)],
            [Some(1), None, None, Some(3), None]
        );
        assert_eq!(at(60), Some(2));
    }
}
