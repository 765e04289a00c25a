//! How far a consumer has read, so that its supervisor sees one that reads nothing although there is something.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaResult,
};

use super::{
    Lag, Options,
    contact::Contact,
    producer::bury,
    supervisor::{Client, Proof},
};

/// How long a partition may be quiet before it is asked whether there is something to read.
const QUIET: Duration = Duration::from_secs(6);
/// How long a group may not answer.
const SILENT: Duration = Duration::from_secs(20);
/// How long a question waits for its answer.
const ASKED: Duration = Duration::from_secs(3);

/// The questions that a client is asked, whatever else it is told.
pub(super) trait Broker: Send + Sync {
    fn watermarks(&self, topic: &str, partition: i32) -> KafkaResult<(i64, i64)>;
    fn brokers(&self, topic: &str) -> KafkaResult<usize>;
}

impl<C: ConsumerContext + 'static> Broker for BaseConsumer<C> {
    fn watermarks(&self, topic: &str, partition: i32) -> KafkaResult<(i64, i64)> {
        self.fetch_watermarks(topic, partition, ASKED)
    }

    fn brokers(&self, topic: &str) -> KafkaResult<usize> {
        Ok(self.fetch_metadata(Some(topic), ASKED)?.brokers().len())
    }
}

struct Place {
    /// What comes next.
    next: i64,
    /// When something last came.
    moved: Instant,
}

/// A partition, what comes next in it, and whether it was quiet.
type QuietPartition = (i32, i64, bool);

struct Now {
    client: Weak<dyn Broker>,
    contact: Option<Arc<Contact>>,
    places: BTreeMap<i32, Place>,
}

/// A consumer and its successors.
pub(super) struct Reading {
    topic: String,
    /// Of a member.
    group: Option<String>,
    now: Mutex<Now>,
    /// Which client it is; increased when it is to be replaced.
    number: AtomicU64,
    /// Nothing comes for a reason: nobody takes it, or partitions come and go.
    pub(super) is_busy: AtomicBool,
    /// Where the group's lag is told, which is not known while this one is in doubt.
    lag: Option<(Lag, (flowmate_common::Topic, String))>,
}

impl Reading {
    pub(super) fn new(
        topic: String,
        group: Option<String>,
        lag: Option<(Lag, (flowmate_common::Topic, String))>,
    ) -> Arc<Self> {
        let nobody: Weak<dyn Broker> = Weak::<BaseConsumer>::new();
        Arc::new(Self {
            topic,
            group,
            now: Mutex::new(Now {
                client: nobody,
                contact: None,
                places: BTreeMap::new(),
            }),
            number: AtomicU64::new(0),
            is_busy: AtomicBool::new(false),
            lag,
        })
    }

    /// Another client reads from now on.
    pub(super) fn reads(&self, client: &Arc<impl Broker + 'static>, contact: Option<Arc<Contact>>) {
        let client: Arc<dyn Broker> = Arc::clone(client) as Arc<dyn Broker>;
        let mut now = self.now.lock();
        now.client = Arc::downgrade(&client);
        now.contact = contact;
        now.places.clear();
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// The present client, as a number.
    pub(super) fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// In this partition `next` comes next.
    pub(super) fn at(&self, partition: i32, next: i64) {
        let moved = Instant::now();
        self.now.lock().places.insert(partition, Place { next, moved });
    }

    /// Everything before `next` came, where it is still read here.
    pub(super) fn passed(&self, partition: i32, next: i64) {
        if let Some(place) = self.now.lock().places.get_mut(&partition) {
            *place = Place {
                next,
                moved: Instant::now(),
            };
        }
    }

    /// The partition is read by somebody else.
    pub(super) fn forget(&self, partition: i32) {
        self.now.lock().places.remove(&partition);
    }

    /// Where it is, for its successor.
    pub(super) fn places(&self) -> BTreeMap<i32, i64> {
        let now = self.now.lock();
        let places = now.places.iter();
        places
            .map(|(partition, place)| (*partition, place.next))
            .collect()
    }

    /// What there is to know of the partitions without asking: where each is, and whether it was quiet.
    fn known(&self) -> (Option<Arc<dyn Broker>>, Vec<QuietPartition>, bool) {
        let now = self.now.lock();
        let places = now
            .places
            .iter()
            .map(|(partition, place)| (*partition, place.next, place.moved.elapsed() > QUIET));
        let is_silent = now.contact.as_ref().is_some_and(|one| one.age() > SILENT);
        (now.client.upgrade(), places.collect(), is_silent)
    }

    fn look(&self) -> Proof {
        let is_busy = || self.is_busy.load(Ordering::Acquire);
        let (Some(client), places, is_silent) = self.known() else {
            return Proof::Unknown;
        };
        if places.is_empty() {
            return match client.brokers(&self.topic) {
                Ok(0) => Proof::Fails("it knows no broker".into()),
                Ok(_) => Proof::Unknown,
                Err(error) => Proof::Fails(error.to_string()),
            };
        }
        if is_silent && !is_busy() {
            return Proof::Fails("its group does not answer".into());
        }
        let mut proof = Proof::Lives;
        for (partition, next, is_quiet) in places {
            if !is_quiet {
                continue;
            }
            match client.watermarks(&self.topic, partition) {
                Err(error) => return Proof::Fails(format!("partition {partition}: {error}")),
                // What was there before may be gone.
                Ok((low, high)) if high > next.max(low) => {
                    if is_busy() || self.places().get(&partition) != Some(&next) {
                        proof = Proof::Unknown;
                        continue;
                    }
                    return Proof::Fails(format!(
                        "partition {partition}: {} events are there and none comes",
                        high - next.max(low)
                    ));
                }
                Ok(_) => {}
            }
        }
        proof
    }
}

impl Client for Reading {
    fn name(&self) -> String {
        match &self.group {
            Some(group) => format!("the member of {group}"),
            None => format!("a reader of {}", self.topic),
        }
    }

    fn prove(&self) -> Proof {
        let proof = self.look();
        if let (Proof::Fails(reason), Some((lag, of))) = (&proof, &self.lag) {
            tracing::debug!(client = self.name(), reason, "in doubt");
            lag.lock().remove(of);
        }
        proof
    }

    /// The leaders of the partitions in question, and the group's coordinator.
    fn asks_afresh(&self, options: &Options) -> bool {
        let mut config = options.client();
        if let Some(group) = &self.group {
            config.set("group.id", group);
        }
        let Ok(fresh) = options.make::<BaseConsumer>(config) else {
            return false;
        };
        let places = self.places();
        let mut list = TopicPartitionList::new();
        for partition in places.keys() {
            list.add_partition(&self.topic, *partition);
        }
        let leads = places
            .keys()
            .all(|one| fresh.watermarks(&self.topic, *one).is_ok());
        let is_asked =
            self.group.is_none() || list.count() == 0 || fresh.committed_offsets(list, ASKED).is_ok();
        let answers = leads && is_asked && fresh.brokers(&self.topic).is_ok_and(|count| count > 0);
        // It has no partitions, and nothing to leave; still its end may take long.
        bury(move || drop(fresh));
        answers
    }

    fn replace(&self) {
        self.number.fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::error::{KafkaError, RDKafkaErrorCode};

    use super::*;

    /// A partition that ends at `.0`, where it answers.
    struct Partition(Mutex<Option<i64>>);

    impl Broker for Partition {
        fn watermarks(&self, _: &str, _: i32) -> KafkaResult<(i64, i64)> {
            let end = *self.0.lock();
            end.map(|end| (0, end)).ok_or(KafkaError::MetadataFetch(
                RDKafkaErrorCode::BrokerTransportFailure,
            ))
        }

        fn brokers(&self, topic: &str) -> KafkaResult<usize> {
            self.watermarks(topic, 0).map(|_| 1)
        }
    }

    fn quiet(reading: &Reading, next: i64) {
        let moved = Instant::now().checked_sub(QUIET * 2).unwrap();
        reading.now.lock().places.insert(0, Place { next, moved });
    }

    #[test]
    fn a_reader_lives_while_it_moves_or_there_is_nothing_and_not_when_nothing_comes() {
        let partition = Arc::new(Partition(Mutex::new(Some(10))));
        let reading = Reading::new("t".into(), None, None);
        assert_eq!(reading.prove(), Proof::Unknown, "nobody reads yet");
        reading.reads(&partition, None);
        assert_eq!(reading.prove(), Proof::Unknown, "no partition is its own");
        quiet(&reading, 10);
        assert_eq!(reading.prove(), Proof::Lives, "there is nothing");
        quiet(&reading, 9);
        let failed = reading.prove();
        assert!(
            matches!(&failed, Proof::Fails(reason) if reason.contains("1 events are there")),
            "{failed:?}"
        );
        reading.is_busy.store(true, Ordering::Release);
        assert_eq!(reading.prove(), Proof::Unknown, "nobody takes it");
        reading.is_busy.store(false, Ordering::Release);
        reading.passed(0, 10);
        assert_eq!(reading.prove(), Proof::Lives, "it moves");
        quiet(&reading, 10);
        *partition.0.lock() = None;
        assert!(
            matches!(reading.prove(), Proof::Fails(_)),
            "the leader does not answer"
        );
        reading.forget(0);
        reading.passed(0, 11);
        assert!(reading.places().is_empty(), "what is somebody else's stays so");
    }

    #[test]
    fn a_group_that_is_silent_is_in_doubt_and_its_lag_is_not_known() {
        let lag: Lag = Arc::default();
        let of = (flowmate_common::Topic::Flows, "g".to_owned());
        let told = Some((Arc::clone(&lag), of.clone()));
        let reading = Reading::new("t".into(), Some("p.g.flows".into()), told);
        let partition = Arc::new(Partition(Mutex::new(Some(10))));
        let contact = Arc::new(Contact::new(Duration::from_secs(10)));
        reading.reads(&partition, Some(Arc::clone(&contact)));
        quiet(&reading, 10);
        lag.lock().insert(of.clone(), 0);
        assert_eq!(reading.prove(), Proof::Lives);
        assert_eq!(lag.lock().get(&of), Some(&0));
        let old = Arc::new(Contact::aged(SILENT * 2));
        reading.reads(&partition, Some(old));
        quiet(&reading, 10);
        assert!(matches!(reading.prove(), Proof::Fails(_)));
        assert_eq!(lag.lock().get(&of), None, "0 would be a lie");
    }
}
