//! Flows as documents.

use flowmate_common::{
    Event, EventType, Failure, Kind, Timestamp,
    auth::{Caller, Visibility},
    ids::FlowId,
    model::{Flow, FlowChanged, FlowStarting, FlowStatus, FlowStopping},
};
use flowmate_runtime::Context;
use flowmate_storage::{Change, Collection, CollectionSpec, Document, Error, Field, Filter, Query};
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

/// Flows that a sweep takes at a time.
const SWEEP: u64 = 200;

pub(crate) struct Store {
    flows: Collection<FlowRecord>,
}

/// So that `?` works on faults of the store and refusals of the domain alike.
pub(crate) struct Refused(pub(crate) Failure);

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self(fault(error))
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

pub(crate) fn fault(error: Error) -> Failure {
    match error {
        Error::VersionConflict => Failure::conflict("The flow is being changed by others. Please try again."),
        Error::Unavailable(_) => Failure::new(Kind::Unavailable, error.to_string()),
        other => Failure::internal(other),
    }
}

impl Store {
    pub(crate) async fn open(context: &Context) -> Result<Self, Failure> {
        Ok(Self {
            flows: Collection::open(&context.storage).await.map_err(fault)?,
        })
    }

    pub(crate) async fn visible_to(&self, caller: &Caller, id: &str) -> Result<Option<FlowRecord>, Failure> {
        self.flows.get(&caller.visibility(), id).await.map_err(fault)
    }

    /// The flow, whosever it is.
    pub(crate) async fn flow(&self, id: &str) -> Result<Option<FlowRecord>, Failure> {
        self.flows.get(&Visibility::All, id).await.map_err(fault)
    }

    /// A page of flows, and how many there are in all.
    pub(crate) async fn page(&self, caller: &Caller, query: &Query) -> Result<(Vec<Flow>, u64), Failure> {
        let see = caller.visibility();
        let records = self.flows.find(&see, query).await.map_err(fault)?;
        let total = self.flows.count(&see, &query.filter).await.map_err(fault)?;
        Ok((records.into_iter().map(|record| record.flow).collect(), total))
    }

    pub(crate) async fn add(&self, record: &FlowRecord, event: Event) -> Result<(), Failure> {
        self.flows.insert(record, vec![event]).await.map_err(fault)
    }

    /// A few of the flows that this user or tenant owns.
    pub(crate) async fn some_owned_by(&self, owner: &str) -> Result<Vec<FlowId>, Failure> {
        let see = Visibility::OwnedBy(vec![owner.to_owned()]);
        self.some(&see, Filter::All, 0).await
    }

    /// A few of the flows that this tenant owns and that run, after the first `skip`.
    pub(crate) async fn some_running_of(&self, tenant: &str, skip: u64) -> Result<Vec<FlowId>, Failure> {
        let see = Visibility::OwnedBy(vec![tenant.to_owned()]);
        let runs = status_is(&[FlowStatus::Starting, FlowStatus::Active]);
        self.some(&see, runs, skip).await
    }

    /// A few of the flows whose answer is overdue; also those that a version asked for which did not note when.
    pub(crate) async fn overdue(&self, now: Timestamp) -> Result<Vec<FlowId>, Failure> {
        let due = Filter::AtMost("askAgain", now.to_string().into());
        let ids = self.some(&Visibility::All, due, 0).await?;
        if !ids.is_empty() {
            return Ok(ids);
        }
        let asking = status_is(&[FlowStatus::Starting, FlowStatus::Stopping]);
        let unnoted = Filter::And(vec![asking, Filter::Empty("askAgain")]);
        self.some(&Visibility::All, unnoted, 0).await
    }

    async fn some(&self, see: &Visibility, filter: Filter, skip: u64) -> Result<Vec<FlowId>, Failure> {
        let query = Query {
            skip,
            ..Query::new(filter, SWEEP)
        };
        let records = self.flows.find(see, &query).await;
        let records = records.map_err(fault)?.into_iter();
        Ok(records.map(|record| record.flow.id).collect())
    }

    /// Changes what the caller may see; `None` where there is nothing.
    pub(crate) async fn change(
        &self,
        see: &Visibility,
        id: &str,
        mut change: impl FnMut(&mut FlowRecord) -> Result<Change, Refused>,
    ) -> Result<Option<FlowRecord>, Failure> {
        self.flows
            .update(see, id, |record| change(record))
            .await
            .map_err(|Refused(failure)| failure)
    }

    pub(crate) async fn delete(
        &self,
        caller: &Caller,
        id: &str,
        mut check: impl FnMut(&FlowRecord) -> Result<Vec<Event>, Refused>,
    ) -> Result<Option<()>, Failure> {
        let see = caller.visibility();
        let deleted = self.flows.delete(&see, id, |record| check(record));
        deleted.await.map_err(|Refused(failure)| failure)
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

fn status_is(statuses: &[FlowStatus]) -> Filter {
    let statuses = statuses.iter().map(|status| status.as_str().into());
    Filter::In("status", statuses.collect())
}

/// Which flows `GET /flows` is about.
pub(crate) fn all_of(filters: Vec<Filter>) -> Filter {
    if filters.is_empty() {
        Filter::All
    } else {
        Filter::And(filters)
    }
}
