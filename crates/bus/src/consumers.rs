//! How consumers are: told by what consumes, asked by the health of services.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use flowmate_common::Topic;
use parking_lot::Mutex;
use tokio::time::Instant;

/// A consumer that has failed for that long is a reason not to be ready.
const PATIENCE: Duration = Duration::from_secs(3);

/// The consumers of a process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Consumers(Arc<Registry>);

#[derive(Default)]
struct Registry {
    next: AtomicU64,
    standings: Mutex<BTreeMap<u64, Entry>>,
}

struct Entry {
    name: String,
    state: State,
}

enum State {
    Runs,
    /// It cannot take events, since when and why.
    Fails(Instant, String),
    /// It takes events, and what it needs for one refuses for now.
    Waits(Instant, String),
    Ended(String),
}

impl Consumers {
    /// A consumer that is about to begin. It has failed until it says that it runs.
    pub fn register(&self, topic: Topic, group: &str) -> Standing {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let entry = Entry {
            name: format!("{group} on {}", topic.name()),
            state: State::Fails(Instant::now(), "it has not begun yet".into()),
        };
        self.0.standings.lock().insert(number, entry);
        let held = Held {
            registry: Arc::clone(&self.0),
            number,
        };
        Standing(Some(Arc::new(held)))
    }

    /// Why the process cannot do its work: consumers that ended, or that have failed for more than a few seconds.
    pub fn failed(&self) -> Option<String> {
        self.tell(|state| match state {
            State::Ended(reason) => Some(reason),
            State::Fails(since, reason) => (since.elapsed() > PATIENCE).then_some(reason),
            State::Runs | State::Waits(..) => None,
        })
    }

    /// What is tried again and again: consumers whose handlers are refused for now. That is no reason to take the process
    /// out of service: what they need says so itself, and taking events would not help.
    pub fn waiting(&self) -> Option<String> {
        self.tell(|state| match state {
            State::Waits(since, reason) => (since.elapsed() > PATIENCE).then_some(reason),
            _ => None,
        })
    }

    fn tell<'a>(&self, why: impl Fn(&State) -> Option<&String> + 'a) -> Option<String> {
        let standings = self.0.standings.lock();
        let reasons: Vec<String> = standings
            .values()
            .filter_map(|entry| why(&entry.state).map(|reason| format!("consumer {}: {reason}", entry.name)))
            .collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }
}

/// What one consumer tells of itself. When the last copy goes without [`Standing::leaves`], it has ended on its own.
#[derive(Clone, Default)]
pub struct Standing(Option<Arc<Held>>);

struct Held {
    registry: Arc<Registry>,
    number: u64,
}

impl Standing {
    /// It takes events: after a failure, or for the first time.
    pub(crate) fn joined(&self) {
        self.set(|state| matches!(state, State::Fails(..)).then_some(State::Runs));
    }

    /// It takes events, and nothing is refused.
    pub fn runs(&self) {
        self.set(|_| Some(State::Runs));
    }

    /// It cannot take events, and tries again.
    pub fn fails(&self, reason: &impl std::fmt::Display) {
        self.set(|state| match state {
            State::Fails(since, _) => Some(State::Fails(*since, reason.to_string())),
            _ => Some(State::Fails(Instant::now(), reason.to_string())),
        });
    }

    /// An event is refused for now, and tried again.
    pub fn waits(&self, reason: &impl std::fmt::Display) {
        self.set(|state| match state {
            State::Waits(since, _) => Some(State::Waits(*since, reason.to_string())),
            State::Runs => Some(State::Waits(Instant::now(), reason.to_string())),
            State::Fails(..) | State::Ended(_) => None,
        });
    }

    /// The event that was refused is done.
    pub fn passes(&self) {
        self.set(|state| matches!(state, State::Waits(..)).then_some(State::Runs));
    }

    /// It ends because it is meant to.
    pub fn leaves(&self) {
        if let Some(held) = &self.0 {
            held.registry.standings.lock().remove(&held.number);
        }
    }

    fn set(&self, next: impl FnOnce(&State) -> Option<State>) {
        if let Some(held) = &self.0
            && let Some(entry) = held.registry.standings.lock().get_mut(&held.number)
            && let Some(state) = next(&entry.state)
        {
            entry.state = state;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(entry) = self.registry.standings.lock().get_mut(&self.number) {
            entry.state = State::Ended("it has ended".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_consumer_that_fails_for_seconds_or_ends_is_named_with_its_reason() {
        let consumers = Consumers::default();
        let standing = consumers.register(Topic::Flows, "webhook");
        standing.runs();
        assert_eq!(consumers.failed(), None);
        standing.fails(&"no file descriptors");
        assert_eq!(consumers.failed(), None, "a hiccup");
        tokio::time::sleep(2 * PATIENCE).await;
        standing.fails(&"still none");
        let failed = consumers.failed().unwrap();
        assert_eq!(failed, "consumer webhook on flows: still none");
        standing.passes();
        standing.waits(&"the store is away");
        assert!(
            consumers.failed().is_some(),
            "only who takes events again has recovered"
        );
        standing.runs();
        standing.waits(&"the store is away");
        tokio::time::sleep(2 * PATIENCE).await;
        assert_eq!(consumers.failed(), None);
        let waiting = consumers.waiting().unwrap();
        assert_eq!(waiting, "consumer webhook on flows: the store is away");
        standing.passes();
        assert_eq!(consumers.waiting(), None);
        let copy = standing.clone();
        drop(standing);
        assert_eq!(consumers.failed(), None, "a copy is left");
        drop(copy);
        assert!(consumers.failed().unwrap().contains("it has ended"));
        let standing = consumers.register(Topic::Iam, "webhook");
        standing.leaves();
        drop(standing);
        assert!(!consumers.failed().unwrap().contains("iam"), "meant to end");
    }
}
