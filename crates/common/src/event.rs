//! Events on the bus: CloudEvents 1.0 attributes with a JSON body.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned, ser::Error as _};
use serde_json::value::RawValue;

use crate::{
    Clock, Timestamp,
    ids::IdGenerator,
    model::{TenantChanged, UserChanged},
};

/// A stream of events that keeps the order of events with the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// Life cycle of flows; key: flow id.
    Flows,
    /// Life cycle of templates; key: template id.
    Templates,
    /// Users, tenants, roles and tokens; key: their id.
    Iam,
    /// Executions to run; key: execution id.
    ExecutionRequests,
    /// What executions did; key: execution id.
    ExecutionEvents,
    /// Events that could not be processed; key: the original key.
    DeadLetters,
}

impl Topic {
    /// All topics.
    pub const ALL: [Self; 6] = [
        Self::Flows,
        Self::Templates,
        Self::Iam,
        Self::ExecutionRequests,
        Self::ExecutionEvents,
        Self::DeadLetters,
    ];

    /// The name on the bus, without prefix.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flows => "flows",
            Self::Templates => "templates",
            Self::Iam => "iam",
            Self::ExecutionRequests => "execution-requests",
            Self::ExecutionEvents => "execution-events",
            Self::DeadLetters => "dead-letters",
        }
    }

    /// The topic of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.name() == name)
    }
}

macro_rules! event_types {
    ($($(#[$doc:meta])* $name:ident = $wire:literal on $topic:ident),+ $(,)?) => {
        /// What happened. The names are the wire names; those that OIH defines are OIH's.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum EventType { $($(#[$doc])* $name),+ }

        impl EventType {
            /// The name on the wire.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $wire),+ }
            }
            /// The topic it is published on.
            pub const fn topic(self) -> Topic {
                match self { $(Self::$name => Topic::$topic),+ }
            }
            /// The type of that wire name.
            pub fn parse(name: &str) -> Option<Self> {
                match name { $($wire => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

event_types! {
    /// A flow is to be started; body: [`crate::model::FlowStarting`].
    FlowStarting = "flow.starting" on Flows,
    /// The engine runs the flow; body: [`crate::model::FlowStarted`].
    FlowStarted = "flow.started" on Flows,
    /// A flow is to be stopped; body: [`crate::model::FlowStopping`].
    FlowStopping = "flow.stopping" on Flows,
    /// The engine no longer runs the flow; body: [`crate::model::FlowStopped`].
    FlowStopped = "flow.stopped" on Flows,
    /// The flow cannot run; body: [`crate::model::FlowFailed`].
    FlowFailed = "flow.failed" on Flows,
    /// More of the flow waits to be executed than may; body: [`crate::model::FlowBacklogged`].
    FlowBacklogged = "flow.backlogged" on Flows,
    /// Body: [`crate::model::FlowChanged`].
    FlowCreated = "flowrepo.flow.created" on Flows,
    /// Body: [`crate::model::FlowChanged`].
    FlowModified = "flowrepo.flow.modified" on Flows,
    /// Body: [`crate::model::FlowChanged`].
    FlowDeleted = "flowrepo.flow.deleted" on Flows,
    /// Body: [`crate::model::TemplateChanged`].
    TemplateCreated = "templaterepo.template.created" on Templates,
    /// Body: [`crate::model::TemplateChanged`].
    TemplateModified = "templaterepo.template.modified" on Templates,
    /// Body: [`crate::model::TemplateChanged`].
    TemplateDeleted = "templaterepo.template.deleted" on Templates,
    /// Body: [`crate::model::UserChanged`].
    UserCreated = "iam.user.created" on Iam,
    /// Body: [`crate::model::UserChanged`].
    UserModified = "iam.user.modified" on Iam,
    /// Body: [`crate::model::UserChanged`]. What the user owned alone goes on without an owner, stopped.
    UserDeleted = "iam.user.deleted" on Iam,
    /// Body: [`crate::model::TenantChanged`].
    TenantCreated = "iam.tenant.created" on Iam,
    /// Body: [`crate::model::TenantChanged`].
    TenantModified = "iam.tenant.modified" on Iam,
    /// Body: [`crate::model::TenantChanged`]. Its users and roles go with it.
    TenantDeleted = "iam.tenant.deleted" on Iam,
    /// A token was made; body: [`crate::model::TokenChanged`].
    TokenCreated = "iam.token.created" on Iam,
    /// A token is no longer valid; body: [`crate::model::TokenChanged`].
    TokenDeleted = "iam.token.deleted" on Iam,
    /// What an account may do has changed; body: [`crate::auth::AccessChange`].
    AccessChanged = "iam.access.changed" on Iam,
    /// A flow is to be executed; body: [`crate::model::FlowExecute`].
    FlowExecute = "flow.execute" on ExecutionRequests,
    /// An execution that waited is to go on; body: [`crate::model::FlowResume`].
    FlowResume = "flow.resume" on ExecutionRequests,
    /// Body: [`crate::model::ExecutionStarted`].
    ExecutionStarted = "execution.started" on ExecutionEvents,
    /// The execution waits, and holds nothing meanwhile; body: [`crate::model::ExecutionWaiting`].
    ExecutionWaiting = "execution.waiting" on ExecutionEvents,
    /// The execution goes on; body: [`crate::model::ExecutionResumed`].
    ExecutionResumed = "execution.resumed" on ExecutionEvents,
    /// Body: [`crate::model::StepFinished`].
    StepFinished = "step.finished" on ExecutionEvents,
    /// Body: [`crate::model::ExecutionFinished`].
    ExecutionFinished = "execution.finished" on ExecutionEvents,
    /// Body: [`crate::model::DeadLetter`].
    DeadLetter = "event.dead-lettered" on DeadLetters,
}

/// Bytes set aside for the body of a new event.
const BODY_BYTES: usize = 2048;

/// One event. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Unique id; a redelivery bears the same.
    pub id: Arc<str>,
    /// What happened.
    pub kind: EventType,
    /// Events with the same key on the same topic are delivered in order.
    pub key: Arc<str>,
    /// When it happened.
    pub time: Timestamp,
    /// W3C `traceparent`, where the cause had one.
    pub trace: Option<String>,
    /// The JSON body.
    pub data: Bytes,
}

/// Whom nothing can belong to any more, where `event` tells of a deleted user or tenant: the id that owners have.
pub fn deleted_owner(event: &Event) -> Result<Option<String>, serde_json::Error> {
    Ok(match event.kind {
        EventType::UserDeleted => Some(event.body::<UserChanged>()?.id.to_string()),
        EventType::TenantDeleted => Some(event.body::<TenantChanged>()?.id.to_string()),
        _ => None,
    })
}

impl Event {
    /// An event with `body` as JSON.
    pub fn new<T: Serialize>(
        ids: &IdGenerator,
        clock: &Clock,
        kind: EventType,
        key: impl Into<Arc<str>>,
        body: &T,
    ) -> Result<Self, serde_json::Error> {
        // Most bodies fit: growing step by step would copy them several times.
        let mut data = Vec::with_capacity(BODY_BYTES);
        serde_json::to_writer(&mut data, body)?;
        let data = data.into();
        Ok(Self {
            id: ids.long().into(),
            kind,
            key: key.into(),
            time: clock.now(),
            trace: None,
            data,
        })
    }

    /// The topic it belongs to.
    pub const fn topic(&self) -> Topic {
        self.kind.topic()
    }

    /// The body as `T`.
    pub fn body<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.data)
    }

    /// Bytes it holds, for limits on memory.
    pub fn size(&self) -> usize {
        self.data.len() + self.id.len() + self.key.len() + 64
    }
}

/// The form in which an event waits inside the document that it tells of.
#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    key: &'a str,
    time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<&'a str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let data: &RawValue = serde_json::from_slice(&self.data).map_err(S::Error::custom)?;
        Stored {
            id: &self.id,
            kind: self.kind.name(),
            key: &self.key,
            time: self.time,
            trace: self.trace.as_deref(),
            data,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Owned {
            id: Arc<str>,
            #[serde(rename = "type")]
            kind: String,
            key: Arc<str>,
            time: Timestamp,
            trace: Option<String>,
            data: Box<RawValue>,
        }
        let Owned {
            id,
            kind,
            key,
            time,
            trace,
            data,
        } = Owned::deserialize(deserializer)?;
        let kind = EventType::parse(&kind)
            .ok_or_else(|| serde::de::Error::custom(format!("unknown event type {kind}")))?;
        let data = String::from(Box::<str>::from(data)).into_bytes().into();
        Ok(Self {
            id,
            kind,
            key,
            time,
            trace,
            data,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_survives_the_outbox_form() {
        let clock = Clock::manual(Timestamp::from_millis(5));
        let event = Event::new(
            &IdGenerator::counting(),
            &clock,
            EventType::FlowStarting,
            "f",
            &serde_json::json!({"a": [1, 2]}),
        )
        .unwrap();
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
    }

    #[test]
    fn every_event_type_reads_back_by_its_name() {
        for kind in [
            EventType::FlowExecute,
            EventType::DeadLetter,
            EventType::UserCreated,
        ] {
            assert_eq!(EventType::parse(kind.name()), Some(kind));
        }
    }
}
