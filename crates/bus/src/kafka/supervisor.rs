//! Looks whether the clients of a bus live. One of librdkafka can be dead for good while the broker answers: it was told
//! of a cluster without brokers, believed it, and has nobody left to ask (confluentinc/librdkafka#5301). So each has to
//! prove that it lives: it answers what it is asked, and what it is for happens. One that does not, although a fresh client
//! gets the same answers for a while, is replaced. Where that does not help either, the process says that it is dead.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::Options;

/// How often clients are looked at.
const LOOK: Duration = Duration::from_secs(3);
/// In how many looks, one after the other, a fresh client has to do better before a client is replaced. Looks and no time:
/// a process that was stopped for a while has seen nothing meanwhile.
const DOUBTS: u32 = 5;
/// Replacements in a row that did not help, each of them within such a time of the one before.
const HOPELESS: u32 = 3;
const RECENT: Duration = Duration::from_secs(600);

/// What a client shows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// It does what it is for.
    Lives,
    /// Nothing is seen of it, for now.
    Unknown,
    /// What it does not do.
    Fails(String),
}

/// A client as its supervisor sees it.
pub(super) trait Client: Send + Sync {
    /// What it is for.
    fn name(&self) -> String;
    /// Whether it does what it is for. Takes some seconds at most.
    fn prove(&self) -> Proof;
    /// Whether a fresh client gets what this one may not get. Takes some seconds at most.
    fn asks_afresh(&self, options: &Options) -> bool;
    /// It is to be replaced.
    fn replace(&self);
}

#[derive(Default)]
struct Seen {
    /// Looks in which a fresh client did better, since the last in which it did not.
    doubts: u32,
    /// Replacements since the last proof, and when the last was.
    replaced: u32,
    last: Option<Instant>,
}

/// Looks after all clients of one bus, as long as that is there.
pub(super) struct Supervisor {
    options: Options,
    /// By name: a client and its successors have one.
    clients: Mutex<BTreeMap<u64, Weak<dyn Client>>>,
    seen: Mutex<BTreeMap<u64, Seen>>,
}

impl Supervisor {
    pub(super) fn start(options: Options) -> std::io::Result<Arc<Self>> {
        let supervisor = Arc::new(Self {
            options,
            clients: Mutex::default(),
            seen: Mutex::default(),
        });
        let looking = Arc::downgrade(&supervisor);
        std::thread::Builder::new()
            .name("kafka-watch".into())
            .spawn(move || {
                loop {
                    std::thread::sleep(LOOK);
                    let Some(supervisor) = looking.upgrade() else {
                        return;
                    };
                    supervisor.look(Instant::now());
                }
            })?;
        Ok(supervisor)
    }

    /// Looks after this one, too, until it is dropped.
    pub(super) fn watch(&self, client: &Arc<impl Client + 'static>) {
        let client: Arc<dyn Client> = Arc::clone(client) as Arc<dyn Client>;
        let mut clients = self.clients.lock();
        let id = clients.last_key_value().map_or(0, |(id, _)| id + 1);
        clients.insert(id, Arc::downgrade(&client));
    }

    /// Fails with what cannot be helped by replacing it.
    pub(super) fn alive(&self) -> Result<(), String> {
        let seen = self.seen.lock();
        let hopeless = seen.iter().find(|(_, seen)| seen.replaced >= HOPELESS);
        let Some((id, seen)) = hopeless else {
            return Ok(());
        };
        let clients = self.clients.lock();
        let name = clients
            .get(id)
            .and_then(Weak::upgrade)
            .map(|client| client.name());
        let name = name.unwrap_or_default();
        Err(format!(
            "{name} was replaced {} times and does not work, although Kafka answers others",
            seen.replaced
        ))
    }

    fn look(&self, now: Instant) {
        let clients: Vec<(u64, Option<Arc<dyn Client>>)> = {
            let clients = self.clients.lock();
            clients
                .iter()
                .map(|(id, client)| (*id, client.upgrade()))
                .collect()
        };
        for (id, client) in clients {
            let Some(client) = client else {
                self.clients.lock().remove(&id);
                self.seen.lock().remove(&id);
                continue;
            };
            let proof = client.prove();
            // Nobody knows better while no fresh client gets an answer.
            let is_doubtful = matches!(proof, Proof::Fails(_)) && client.asks_afresh(&self.options);
            self.judge(id, &*client, proof, is_doubtful, now);
        }
    }

    fn judge(&self, id: u64, client: &dyn Client, proof: Proof, is_doubtful: bool, now: Instant) {
        let mut all = self.seen.lock();
        let seen = all.entry(id).or_default();
        let reason = match proof {
            Proof::Lives => {
                *seen = Seen::default();
                return;
            }
            Proof::Fails(reason) if is_doubtful => reason,
            Proof::Unknown | Proof::Fails(_) => {
                seen.doubts = 0;
                return;
            }
        };
        seen.doubts += 1;
        if seen.doubts < DOUBTS {
            return;
        }
        let is_long_ago = seen.last.is_some_and(|last| now.duration_since(last) > RECENT);
        let before = if is_long_ago { 0 } else { seen.replaced };
        *seen = Seen {
            doubts: 0,
            replaced: before.saturating_add(1),
            last: Some(now),
        };
        let (name, replaced) = (client.name(), seen.replaced);
        drop(all);
        tracing::error!(
            client = name,
            reason,
            replaced,
            "a client of Kafka is dead, and is replaced"
        );
        metrics::counter!("flowmate_kafka_clients_replaced_total").increment(1);
        client.replace();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::*;

    #[derive(Default)]
    struct Played {
        is_dead: AtomicBool,
        is_away: AtomicBool,
        replaced: AtomicU32,
    }

    impl Client for Played {
        fn name(&self) -> String {
            "the producer".into()
        }
        fn prove(&self) -> Proof {
            match self.is_dead.load(Ordering::Acquire) {
                true => Proof::Fails("it does not answer".into()),
                false => Proof::Lives,
            }
        }
        fn asks_afresh(&self, _: &Options) -> bool {
            !self.is_away.load(Ordering::Acquire)
        }
        fn replace(&self) {
            self.replaced.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// A client, its supervisor, and what looking `count` times from `now` on, a [`LOOK`] apart, makes of them.
    struct Story(Arc<Played>, Supervisor, Instant);

    impl Story {
        fn new() -> Self {
            let options = Options {
                brokers: String::new(),
                prefix: String::new(),
                settings: BTreeMap::new(),
            };
            let supervisor = Supervisor {
                options,
                clients: Mutex::default(),
                seen: Mutex::default(),
            };
            let client = Arc::new(Played::default());
            supervisor.watch(&client);
            Self(client, supervisor, Instant::now())
        }

        fn looks(&mut self, count: u32) -> u32 {
            for _ in 0..count {
                self.2 += LOOK;
                self.1.look(self.2);
            }
            self.0.replaced.load(Ordering::Acquire)
        }
    }

    #[test]
    fn a_client_is_replaced_when_a_fresh_one_does_better_for_a_while_and_not_before() {
        let mut story = Story::new();
        assert_eq!(story.looks(100), 0, "it lives");
        story.0.is_dead.store(true, Ordering::Release);
        story.0.is_away.store(true, Ordering::Release);
        assert_eq!(story.looks(100), 0, "the broker is away: nobody does better");
        story.0.is_away.store(false, Ordering::Release);
        assert_eq!(story.looks(4), 0, "it may come back by itself");
        story.0.is_dead.store(false, Ordering::Release);
        assert_eq!(story.looks(1), 0);
        story.0.is_dead.store(true, Ordering::Release);
        assert_eq!(story.looks(4), 0, "counted from its last proof");
        assert_eq!(story.looks(1), 1);
    }

    #[test]
    fn a_process_whose_replacements_do_not_help_is_dead_and_one_that_recovers_is_not() {
        let mut story = Story::new();
        story.0.is_dead.store(true, Ordering::Release);
        assert_eq!(story.looks(10), 2);
        assert!(story.1.alive().is_ok());
        assert_eq!(story.looks(5), 3);
        let dead = story.1.alive().unwrap_err();
        assert!(dead.contains("the producer was replaced 3 times"), "{dead}");
        story.0.is_dead.store(false, Ordering::Release);
        story.looks(1);
        assert!(story.1.alive().is_ok());
    }

    #[test]
    fn a_client_that_is_gone_is_forgotten() {
        let mut story = Story::new();
        story.0.is_dead.store(true, Ordering::Release);
        story.looks(20);
        assert!(story.1.alive().is_err());
        story.0 = Arc::new(Played::default());
        story.looks(1);
        assert!(story.1.alive().is_ok() && story.1.clients.lock().is_empty());
    }
}
