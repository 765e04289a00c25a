//! Flows as documents.

use flowmate_common::{
    Event, EventType, Timestamp,
    auth::Caller,
    model::{Flow, FlowChanged, FlowStarting, FlowStatus, FlowStopping},
};
use flowmate_runtime::Context;
use flowmate_storage::{CollectionSpec, Document, Error, Field, Filter};
use serde::{Deserialize, Serialize};

use crate::domain::PATIENCE;

/// A flow as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FlowRecord {
    pub(crate) flow: Flow,
    /// Grows with every start and stop; tells answers of the engine from late ones.
    pub(crate) activation: u64,
    /// When the engine is asked again, where it did not answer until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ask_again: Option<Timestamp>,
    /// How often it was asked again.
    #[serde(default)]
    pub(crate) asked_again: u32,
}

impl FlowRecord {
    pub(crate) fn turn(&mut self, status: FlowStatus, now: Timestamp) {
        self.flow.status = status;
        self.flow.updated_at = now;
        self.ask_again = self.is_asking().then(|| now.plus_millis(PATIENCE));
        self.asked_again = 0;
    }

    /// Whether something is asked of the engine.
    pub(crate) fn is_asking(&self) -> bool {
        matches!(self.flow.status, FlowStatus::Starting | FlowStatus::Stopping)
    }

    /// Whether it runs, or is to.
    pub(crate) fn runs(&self) -> bool {
        matches!(self.flow.status, FlowStatus::Starting | FlowStatus::Active)
    }
}

impl Document for FlowRecord {
    const SPEC: &'static CollectionSpec = &CollectionSpec {
        name: "flows",
        fields: &[
            Field {
                name: "status",
                path: "$.flow.status",
            },
            Field {
                name: "type",
                path: "$.flow.type",
            },
            Field {
                name: "name",
                path: "$.flow.name",
            },
            Field {
                name: "description",
                path: "$.flow.description",
            },
            Field {
                name: "fromTemplate",
                path: "$.flow.fromTemplate",
            },
            Field {
                name: "createdAt",
                path: "$.flow.createdAt",
            },
            Field {
                name: "updatedAt",
                path: "$.flow.updatedAt",
            },
            Field {
                name: "askAgain",
                path: "$.ask_again",
            },
        ],
        unique: &[],
    };

    fn id(&self) -> &str {
        self.flow.id.as_str()
    }

    fn owners(&self) -> Vec<String> {
        self.flow
            .body
            .owners
            .iter()
            .map(|owner| owner.id.clone())
            .collect()
    }
}

/// `flowrepo.flow.*` by this caller.
pub(crate) fn changed(
    context: &Context,
    kind: EventType,
    record: &FlowRecord,
    caller: &Caller,
) -> Result<Event, Error> {
    let body = FlowChanged {
        flow_id: record.flow.id.clone(),
        user: caller.user.clone(),
        tenant: caller.tenant.clone(),
    };
    context.event(kind, record.flow.id.as_str(), &body)
}

/// `flow.stopping` of this flow.
pub(crate) fn stopping(context: &Context, record: &FlowRecord) -> Result<Event, Error> {
    let body = FlowStopping {
        id: record.flow.id.clone(),
        activation: record.activation,
    };
    context.event(EventType::FlowStopping, record.flow.id.as_str(), &body)
}

/// `flow.starting` of this flow.
pub(crate) fn starting(context: &Context, record: &FlowRecord) -> Result<Event, Error> {
    let body = FlowStarting {
        flow: record.flow.clone(),
        activation: record.activation,
    };
    context.event(EventType::FlowStarting, record.flow.id.as_str(), &body)
}

/// What is asked of the engine.
pub(crate) fn asking(context: &Context, record: &FlowRecord) -> Result<Event, Error> {
    match record.flow.status {
        FlowStatus::Starting => starting(context, record),
        _ => stopping(context, record),
    }
}

/// Flows in one of these statuses.
pub(crate) fn status_is(statuses: &[FlowStatus]) -> Filter {
    let statuses = statuses.iter().map(|status| status.as_str().into());
    Filter::In("status", statuses.collect())
}
