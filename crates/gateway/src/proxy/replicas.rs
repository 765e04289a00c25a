//! The replicas of a service: requests go to each in turn, and past those that do not answer.

use std::{
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
    time::Duration,
};

use recloser::{AsyncRecloser, Recloser};

/// Looks in a row that find no answer before a replica is left out.
const MISSED: u32 = 2;

pub(super) struct Replica {
    pub(super) url: String,
    pub(super) breaker: AsyncRecloser,
    missed: AtomicU32,
}

impl Replica {
    fn new(url: &str) -> Self {
        // Half of the last 32 calls failed to reach the service: it is left alone for a second.
        let breaker = Recloser::custom()
            .error_rate(0.5)
            .closed_len(32)
            .half_open_len(8)
            .open_wait(Duration::from_secs(1))
            .build();
        Self {
            url: url.trim_end_matches('/').to_owned(),
            breaker: AsyncRecloser::from(breaker),
            missed: AtomicU32::new(0),
        }
    }

    /// Whether it is left out.
    pub(super) fn is_out(&self) -> bool {
        self.missed.load(Ordering::Relaxed) >= MISSED
    }

    /// It was asked whether it is ready; whether that changes anything.
    pub(super) fn looked(&self, is_ready: bool) -> bool {
        let was_out = self.is_out();
        if is_ready {
            self.missed.store(0, Ordering::Relaxed);
        } else if !was_out {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
        was_out != self.is_out()
    }
}

pub(super) struct Replicas {
    all: Vec<Replica>,
    turn: AtomicUsize,
}

impl Replicas {
    /// `None`: there is no address.
    pub(super) fn new(urls: &[String]) -> Option<Self> {
        let all: Vec<Replica> = urls.iter().map(|url| Replica::new(url)).collect();
        (!all.is_empty()).then_some(Self {
            all,
            turn: AtomicUsize::new(0),
        })
    }

    pub(super) fn all(&self) -> &[Replica] {
        &self.all
    }

    pub(super) fn are_many(&self) -> bool {
        self.all.len() > 1
    }

    /// Whose turn it is, of those that are not left out; where all are, of all: that nobody answers says the next try
    /// better than we do.
    pub(super) fn next(&self) -> Option<&Replica> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = self.all.len();
        let in_turn = |offset: usize| self.all.get(turn.wrapping_add(offset).checked_rem(count)?);
        let answering = (0..count).filter_map(in_turn).find(|replica| !replica.is_out());
        answering.or_else(|| in_turn(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_go_past_who_misses_two_looks_until_it_answers_again() {
        assert!(Replicas::new(&[]).is_none());
        let urls = ["http://a/".to_owned(), "http://b".to_owned()];
        let replicas = Replicas::new(&urls).unwrap();
        let four = || -> Vec<&str> { (0..4).map(|_| &*replicas.next().unwrap().url).collect() };
        assert_eq!(four(), ["http://a", "http://b", "http://a", "http://b"]);
        let b = &replicas.all()[1];
        assert!(!b.looked(false));
        assert_eq!(
            four(),
            ["http://a", "http://b", "http://a", "http://b"],
            "once is nothing"
        );
        assert!(b.looked(false));
        assert_eq!(four(), ["http://a"; 4]);
        let a = &replicas.all()[0];
        assert!(!a.looked(false) && a.looked(false));
        assert_eq!(
            four(),
            ["http://a", "http://b", "http://a", "http://b"],
            "nobody is better"
        );
        assert!(b.looked(true) && !b.looked(true));
        assert_eq!(four(), ["http://b"; 4]);
    }
}
