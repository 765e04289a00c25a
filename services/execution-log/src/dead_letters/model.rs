//! How dead letters are stored.

use flowmate_common::{Event, Failure, Timestamp};
use flowmate_storage::{CollectionSpec, Document, Field};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// Bytes of an event that is kept with its letter: MongoDB takes documents of 16 MiB.
const LARGEST_EVENT: usize = 12 * 1024 * 1024;
/// Bytes of each text that a letter repeats: what a stranger can make long is not kept whole.
const LONGEST_TEXT: usize = 4096;

/// What is said of a dead letter, as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct KeptLetter {
    /// Where the event was and whose it is: the same whenever it is given up.
    pub(crate) id: String,
    /// When it was given up.
    pub(crate) at: Timestamp,
    #[serde(default)]
    pub(crate) status: Status,
    pub(crate) letter: About,
    /// What could be read of the event's head.
    pub(crate) event: Option<Head>,
    /// Bytes of the event that is kept beside.
    #[serde(default)]
    pub(crate) bytes: u64,
    #[serde(default)]
    pub(crate) is_replayable: bool,
    /// Why it is not.
    pub(crate) obstacle: Option<String>,
    pub(crate) replayed_at: Option<Timestamp>,
}

/// What became of a letter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = DeadLetterStatus)]
pub(crate) enum Status {
    /// Nobody did anything about it yet.
    #[default]
    Waiting,
    /// It was asked for and is published soon.
    Replaying,
    /// Its event was published again.
    Replayed,
}

impl Status {
    /// Its wire name.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Replaying => "replaying",
            Self::Replayed => "replayed",
        }
    }
}

/// Who gave up what, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) group: String,
    pub(crate) topic: String,
    pub(crate) position: u64,
    pub(crate) reason: String,
    pub(crate) attempts: u32,
}

/// Which event it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) id: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) key: String,
}

impl KeptLetter {
    /// It is to be replayed.
    pub(crate) fn ask(&mut self) -> Result<(), Failure> {
        match self.status {
            Status::Waiting if self.is_replayable => self.status = Status::Replaying,
            Status::Waiting => return Err(Failure::conflict(self.refusal())),
            Status::Replaying => {}
            Status::Replayed => return Err(Failure::conflict("The letter was replayed already.")),
        }
        Ok(())
    }

    fn refusal(&self) -> String {
        let why = self.obstacle.as_deref().unwrap_or("its event was not kept");
        format!("The letter cannot be replayed: {why}.")
    }

    /// It cannot be replayed after all.
    pub(crate) fn refuse(&mut self, obstacle: &str) {
        self.status = Status::Waiting;
        self.is_replayable = false;
        self.obstacle = Some(shortened(obstacle.to_owned()));
    }
}

impl Document for KeptLetter {
    const SPEC: &'static CollectionSpec = &CollectionSpec {
        name: "dead_letters",
        fields: &[
            Field {
                name: "at",
                path: "$.at",
            },
            Field {
                name: "group",
                path: "$.letter.group",
            },
            Field {
                name: "topic",
                path: "$.letter.topic",
            },
            Field {
                name: "status",
                path: "$.status",
            },
            Field {
                name: "type",
                path: "$.event.type",
            },
            Field {
                name: "isReplayable",
                path: "$.isReplayable",
            },
        ],
        unique: &[],
    };

    fn id(&self) -> &str {
        &self.id
    }

    /// Nobody's: only system administrators see them.
    fn owners(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The event of a letter, as it was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KeptEvent {
    /// The letter's id.
    id: String,
    event: Box<RawValue>,
}

impl KeptEvent {
    /// The event, to be published.
    pub(crate) fn parsed(&self) -> Result<Event, serde_json::Error> {
        serde_json::from_str(self.event.get())
    }

    /// Its JSON text.
    pub(crate) fn text(&self) -> &str {
        self.event.get()
    }
}

impl Document for KeptEvent {
    const SPEC: &'static CollectionSpec = &CollectionSpec {
        name: "dead_letter_events",
        fields: &[],
        unique: &[],
    };

    fn id(&self) -> &str {
        &self.id
    }

    fn owners(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The body of `event.dead-lettered`, read without building what may be megabytes of values:
/// [`flowmate_common::model::DeadLetter`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Arrived {
    group: String,
    topic: String,
    position: u64,
    reason: String,
    attempts: u32,
    #[serde(default)]
    event: Option<Box<RawValue>>,
}

/// A letter as versions before kept it: the event inside, no status.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Unsplit {
    pub(super) id: String,
    pub(super) at: Timestamp,
    pub(super) letter: Arrived,
}

impl Document for Unsplit {
    const SPEC: &'static CollectionSpec = KeptLetter::SPEC;

    fn id(&self) -> &str {
        &self.id
    }

    fn owners(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A letter as it is kept, and its event.
pub(super) fn split(id: String, at: Timestamp, arrived: Arrived) -> (KeptLetter, Option<KeptEvent>) {
    let Arrived {
        group,
        topic,
        position,
        reason,
        attempts,
        event,
    } = arrived;
    let head = event.as_deref().and_then(head);
    let obstacle = obstacle(event.as_deref(), &topic);
    let event = event.filter(|event| event.get().len() <= LARGEST_EVENT);
    let letter = KeptLetter {
        id: id.clone(),
        at,
        status: Status::Waiting,
        letter: About {
            group,
            topic,
            position,
            reason: shortened(reason),
            attempts,
        },
        event: head,
        bytes: event.as_ref().map_or(0, |event| event.get().len() as u64),
        is_replayable: obstacle.is_none(),
        obstacle,
        replayed_at: None,
    };
    (letter, event.map(|event| KeptEvent { id, event }))
}

/// What stands for an event that was too large for its letter.
#[derive(Deserialize)]
struct Omitted {
    omitted: String,
}

/// Why the event cannot be published as it was.
fn obstacle(event: Option<&RawValue>, topic: &str) -> Option<String> {
    let Some(event) = event else {
        return Some("its event was not kept".into());
    };
    let size = event.get().len();
    if size > LARGEST_EVENT {
        return Some(format!(
            "its event has {size} bytes, more than the {LARGEST_EVENT} that are kept"
        ));
    }
    if let Ok(Omitted { omitted }) = serde_json::from_str(event.get()) {
        return Some(shortened(omitted));
    }
    match serde_json::from_str::<Event>(event.get()) {
        Ok(event) if event.topic().name() == topic => None,
        Ok(event) => Some(format!("{} does not belong on topic {topic}", event.kind.name())),
        Err(error) => Some(shortened(format!("it is no event of ours ({error})"))),
    }
}

fn head(event: &RawValue) -> Option<Head> {
    let Head { id, kind, key } = serde_json::from_str(event.get()).ok()?;
    Some(Head {
        id: shortened(id),
        kind: shortened(kind),
        key: shortened(key),
    })
}

/// The text by its beginning, where it is long.
fn shortened(mut text: String) -> String {
    if text.len() > LONGEST_TEXT {
        text.truncate(text.floor_char_boundary(LONGEST_TEXT));
        text.push('…');
    }
    text
}
