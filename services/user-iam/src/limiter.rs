//! Slows down guessing. A guess counts before it is evaluated, so that many at once are not all evaluated: it is taken
//! back when it was right. Who fails from one address is refused for a while there and nowhere else, so that nobody locks
//! out others; a name as such is only slowed down.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    time::Duration,
};

use flowmate_common::Timestamp;
use parking_lot::Mutex;

/// Failures of a name from one address in one window, before the next has to wait.
const OF_PAIR: u32 = 10;
/// Failures from one address in one window, whatever the names.
const OF_ADDRESS: u32 = 100;
/// Failures of a name from anywhere, before its guesses are slowed down.
const OF_NAME: u32 = 10;
/// The window, and the longest wait.
const WINDOW_MILLIS: i64 = 15 * 60_000;
/// The longest delay of a name.
const MAX_DELAY_MILLIS: u64 = 2_000;
/// Counts remembered, of each kind.
const REMEMBERED: usize = 100_000;

#[derive(Default)]
pub(crate) struct Limiter {
    counts: Mutex<Counts>,
    /// By hash: what is remembered has one size.
    hasher: RandomState,
}

#[derive(Default)]
struct Counts {
    pairs: HashMap<u64, Count>,
    addresses: HashMap<u64, Count>,
    names: HashMap<u64, Count>,
}

#[derive(Clone, Copy)]
struct Count {
    since: Timestamp,
    failures: u32,
    /// The next one counts from then on.
    next: Timestamp,
}

/// A guess that may be evaluated.
pub(crate) struct Guess {
    /// After this.
    pub(crate) delay: Duration,
    pair: Option<u64>,
    address: Option<u64>,
    name: u64,
}

impl Count {
    fn at(now: Timestamp) -> Self {
        Self {
            since: now,
            failures: 0,
            next: now,
        }
    }

    /// It means nothing any more.
    fn is_over(&self, now: Timestamp) -> bool {
        now.as_millis() - self.since.max(self.next).as_millis() >= WINDOW_MILLIS
    }

    /// Milliseconds until the next one counts.
    fn wait(&self, now: Timestamp) -> i64 {
        (self.next.as_millis() - now.as_millis()).max(0)
    }

    /// From the failure number `allowed` on the next has to wait, twice as long each time.
    fn add(&mut self, allowed: u32, now: Timestamp) {
        self.failures = self.failures.saturating_add(1);
        if let Some(more) = self.failures.checked_sub(allowed) {
            let wait = 1000_i64 << more.min(10);
            self.next = now.plus_millis(wait.min(WINDOW_MILLIS));
        }
    }

    fn take_back(&mut self, allowed: u32) {
        self.failures = self.failures.saturating_sub(1);
        if self.failures < allowed {
            self.next = self.since;
        }
    }
}

/// The count of that key; one that is over begins anew.
fn count(map: &mut HashMap<u64, Count>, key: u64, now: Timestamp) -> &mut Count {
    if map.len() >= REMEMBERED && !map.contains_key(&key) {
        make_room(map, now);
    }
    let count = map.entry(key).or_insert_with(|| Count::at(now));
    if count.is_over(now) {
        *count = Count::at(now);
    }
    count
}

/// Forgets what is over; if that is little, who failed once; and only then everybody.
fn make_room(map: &mut HashMap<u64, Count>, now: Timestamp) {
    map.retain(|_, count| !count.is_over(now));
    if map.len() >= REMEMBERED / 2 {
        map.retain(|_, count| count.failures > 1);
    }
    if map.len() >= REMEMBERED {
        map.clear();
    }
}

impl Limiter {
    /// Counts a guess, or says in how many seconds the next one counts. The address is unknown where another service asks.
    pub(crate) fn begin(&self, name: &str, address: Option<IpAddr>, now: Timestamp) -> Result<Guess, u64> {
        let address = address.map(network);
        let pair = address.map(|address| self.hasher.hash_one((name, address)));
        let address = address.map(|address| self.hasher.hash_one(address));
        let name = self.hasher.hash_one(name);
        let mut counts = self.counts.lock();
        let of_pair = pair.map_or(0, |key| count(&mut counts.pairs, key, now).wait(now));
        let of_address = address.map_or(0, |key| count(&mut counts.addresses, key, now).wait(now));
        let wait = of_pair.max(of_address);
        if wait > 0 {
            return Err(u64::try_from(wait).unwrap_or_default().div_ceil(1000));
        }
        if let Some(key) = pair {
            count(&mut counts.pairs, key, now).add(OF_PAIR, now);
        }
        if let Some(key) = address {
            count(&mut counts.addresses, key, now).add(OF_ADDRESS, now);
        }
        let of_name = count(&mut counts.names, name, now);
        let delay = delay(of_name.failures);
        of_name.failures = of_name.failures.saturating_add(1);
        Ok(Guess {
            delay,
            pair,
            address,
            name,
        })
    }

    /// The guess was right: there were none before. Other names that failed from there are still counted.
    pub(crate) fn succeeded(&self, guess: &Guess) {
        self.withdraw(guess);
        if let Some(pair) = guess.pair {
            self.counts.lock().pairs.remove(&pair);
        }
    }

    /// The guess was not evaluated, or right: it is not counted.
    pub(crate) fn withdraw(&self, guess: &Guess) {
        let mut counts = self.counts.lock();
        if let Some(count) = guess.pair.and_then(|key| counts.pairs.get_mut(&key)) {
            count.take_back(OF_PAIR);
        }
        if let Some(count) = guess.address.and_then(|key| counts.addresses.get_mut(&key)) {
            count.take_back(OF_ADDRESS);
        }
        if let Some(count) = counts.names.get_mut(&guess.name) {
            count.take_back(u32::MAX);
        }
    }
}

/// How long a guess is held back at a name that failed so often.
fn delay(failures: u32) -> Duration {
    let millis = match failures.checked_sub(OF_NAME) {
        None => 0,
        Some(more) => (100_u64 << more.min(10)).min(MAX_DELAY_MILLIS),
    };
    Duration::from_millis(millis)
}

/// Who has one address of version 6 has as many as they like of its network.
fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address) >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[expect(clippy::unnecessary_wraps, reason = "that is what the limiter takes")]
    fn from(address: &str) -> Option<IpAddr> {
        Some(address.parse().unwrap())
    }

    #[test]
    fn of_many_guesses_at_once_few_are_evaluated() {
        let limiter = Limiter::default();
        let evaluated = (0..300).filter(|_| limiter.begin("a", from("10.0.0.1"), at(0)).is_ok());
        assert_eq!(evaluated.count(), 10);
    }

    #[test]
    fn who_fails_again_waits_longer_there_and_nowhere_else() {
        let limiter = Limiter::default();
        let here = from("10.0.0.1");
        for _ in 0..10 {
            assert!(limiter.begin("a", here, at(0)).is_ok());
        }
        assert_eq!(limiter.begin("a", here, at(0)).err(), Some(1));
        assert!(limiter.begin("a", here, at(1000)).is_ok());
        assert_eq!(limiter.begin("a", here, at(1001)).err(), Some(2));
        let mut now = 1000;
        for _ in 0..20 {
            let seconds = limiter.begin("a", here, at(now)).err().unwrap_or_default();
            assert!(seconds <= 900);
            now += i64::try_from(seconds).unwrap() * 1000;
            assert!(limiter.begin("a", here, at(now)).is_ok());
        }
        assert_eq!(limiter.begin("a", here, at(now)).err(), Some(900));
        // Neither somebody else from there nor the same name from elsewhere is locked out.
        assert!(limiter.begin("b", here, at(now)).is_ok());
        assert!(limiter.begin("a", from("10.0.0.2"), at(now)).is_ok());
    }

    #[test]
    fn a_name_is_slowed_down_and_never_more_than_two_seconds() {
        let limiter = Limiter::default();
        let delay = || limiter.begin("a", None, at(0)).unwrap().delay.as_millis();
        let delays: Vec<u128> = (0..100).map(|_| delay()).collect();
        assert_eq!(delays[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100, 200]);
        assert_eq!(delays.last(), Some(&2000));
    }

    #[test]
    fn who_is_right_has_failed_never() {
        let limiter = Limiter::default();
        for _ in 0..1000 {
            let guess = limiter.begin("a", from("10.0.0.1"), at(0)).unwrap();
            assert_eq!(guess.delay, Duration::ZERO);
            limiter.succeeded(&guess);
        }
    }

    #[test]
    fn an_address_has_a_hundred_failures_and_a_network_is_one_address() {
        let limiter = Limiter::default();
        for number in 0..100 {
            let address = from(&format!("2001:db8::{number}"));
            assert!(limiter.begin(&number.to_string(), address, at(0)).is_ok());
        }
        assert!(limiter.begin("x", from("2001:db8::ffff"), at(0)).is_err());
        assert!(limiter.begin("x", from("2001:db9::1"), at(0)).is_ok());
        assert!(
            limiter
                .begin("x", from("2001:db8::ffff"), at(WINDOW_MILLIS + 1000))
                .is_ok()
        );
    }

    #[test]
    fn what_is_remembered_is_bounded_and_who_fails_often_is_not_forgotten() {
        let limiter = Limiter::default();
        for _ in 0..10 {
            assert!(limiter.begin("a", from("10.0.0.1"), at(0)).is_ok());
        }
        for number in 0..250_000_u32 {
            let address = IpAddr::from((0x0b00_0000 + number).to_be_bytes());
            let _ = limiter.begin("b", Some(address), at(0));
        }
        assert!(limiter.counts.lock().pairs.len() <= REMEMBERED);
        assert!(limiter.begin("a", from("10.0.0.1"), at(0)).is_err());
    }
}
