//! Flows as documents.

use flowmate_common::{
    Event, EventType, Timestamp,
    auth::Caller,
    model::{Flow, FlowChanged, FlowStatus, FlowStopping},
};
use flowmate_runtime::Context;
use flowmate_storage::{CollectionSpec, Document, Error, Field};
use serde::{Deserialize, Serialize};

/// A flow as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FlowRecord {
    pub(crate) flow: Flow,
    /// Grows with every start and stop; tells answers of the engine from late ones.
    pub(crate) activation: u64,
}

impl FlowRecord {
    pub(crate) fn turn(&mut self, status: FlowStatus, now: Timestamp) {
        self.flow.status = status;
        self.flow.updated_at = now;
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
