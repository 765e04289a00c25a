//! Flows as documents.

use flowmate_common::{
    Event, EventType, Failure, Timestamp,
    auth::{Caller, Visibility},
    ids::FlowId,
    model::{Flow, FlowChanged, FlowStatus, FlowStopping},
};
use flowmate_runtime::Context;
use flowmate_storage::{Change, Collection, CollectionSpec, Document, Error, Field, Filter, Query};
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

/// Flows that a sweep takes at a time.
const SWEEP: u64 = 200;

pub(crate) struct Store {
    flows: Collection<FlowRecord>,
}

impl Store {
    pub(crate) async fn open(context: &Context) -> Result<Self, Failure> {
        Ok(Self {
            flows: Collection::open(&context.storage).await?,
        })
    }

    pub(crate) async fn visible_to(&self, caller: &Caller, id: &str) -> Result<Option<FlowRecord>, Failure> {
        self.flows
            .get(&caller.visibility(), id)
            .await
            .map_err(Failure::from)
    }

    /// A page of flows, and how many there are in all.
    pub(crate) async fn page(&self, caller: &Caller, query: &Query) -> Result<(Vec<Flow>, u64), Failure> {
        let see = caller.visibility();
        let records = self.flows.find(&see, query).await?;
        let total = self.flows.count(&see, &query.filter).await?;
        Ok((records.into_iter().map(|record| record.flow).collect(), total))
    }

    pub(crate) async fn add(&self, record: &FlowRecord, event: Event) -> Result<(), Failure> {
        self.flows
            .insert(record, vec![event])
            .await
            .map_err(Failure::from)
    }

    /// A few of the flows that this user or tenant owns.
    pub(crate) async fn some_owned_by(&self, owner: &str) -> Result<Vec<FlowId>, Failure> {
        let see = Visibility::OwnedBy(vec![owner.to_owned()]);
        let query = Query::new(Filter::All, SWEEP);
        let records = self.flows.find(&see, &query).await?;
        Ok(records.into_iter().map(|record| record.flow.id).collect())
    }

    /// Changes what the caller may see; `None` where there is nothing.
    pub(crate) async fn change(
        &self,
        see: &Visibility,
        id: &str,
        mut change: impl FnMut(&mut FlowRecord) -> Result<Change, Failure>,
    ) -> Result<Option<FlowRecord>, Failure> {
        self.flows.update(see, id, |record| change(record)).await
    }

    pub(crate) async fn delete(
        &self,
        caller: &Caller,
        id: &str,
        mut check: impl FnMut(&FlowRecord) -> Result<Vec<Event>, Failure>,
    ) -> Result<Option<()>, Failure> {
        let see = caller.visibility();
        let deleted = self.flows.delete(&see, id, |record| check(record));
        deleted.await
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

/// Which flows `GET /flows` is about.
pub(crate) fn all_of(filters: Vec<Filter>) -> Filter {
    if filters.is_empty() {
        Filter::All
    } else {
        Filter::And(filters)
    }
}
