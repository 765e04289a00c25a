//! Executions that wait: stored with what is left to run, so that they hold no place, no memory and no request meanwhile.
//!
//! ```text
//! runs -- store: due -----------------> waits          the request is done
//!      <- flow.resume of that turn ---- claimed        due is cleared and the event is in the outbox of the same write
//! ends -- execution.finished is durable, then the document goes, then the request is done
//! ```
//! Whoever comes to an end in between finds the way by the document: a request of an execution that is stored is done, and
//! a `flow.resume` of an earlier turn means nothing.

use flowmate_common::{
    Event, EventType, Timestamp,
    auth::Visibility,
    ids::{ExecutionId, FlowId, NodeId, StepRunId},
    model::{ExecutionOf, ExecutionWaiting, FlowResume, Message},
};
use flowmate_runtime::Context;
use flowmate_storage::{Change, Collection, CollectionSpec, Document, Error, Field, Filter, Query, Sort};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};

/// Documents that are cancelled in one go.
const PAGE: u64 = 500;
/// Ids that are read in one go: all that is due within seconds, as a rule.
const DUE: u64 = 20_000;
/// Writes under way at the same time: they share their syncs.
const AT_ONCE: usize = 256;
/// Bytes of a stored execution. MongoDB takes documents of 16 MiB.
pub(crate) const MAX_BYTES: usize = 12 << 20;

/// An execution that waits, as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ParkedExecution {
    pub(crate) of: ExecutionOf,
    /// The start of the flow that it runs under.
    pub(crate) activation: u64,
    /// Which wait this is, counted from 1.
    pub(crate) turn: u32,
    /// When it goes on. `None`: `flow.resume` of this turn is on its way, or runs.
    pub(crate) due: Option<Timestamp>,
    /// Why it waits.
    pub(crate) reason: String,
    pub(crate) progress: Progress,
}

/// What an execution has done and what is left to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Progress {
    /// When the execution was asked for.
    pub(crate) asked: Timestamp,
    pub(crate) started: Timestamp,
    pub(crate) step_runs: usize,
    pub(crate) steps_ended: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) first_error: Option<String>,
    /// Steps with effects that are to be tried again.
    pub(crate) steps: Vec<ParkedStep>,
}

/// A step that is to be tried again.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ParkedStep {
    pub(crate) node: NodeId,
    pub(crate) run: StepRunId,
    /// As the function gets it.
    pub(crate) message: Message,
    /// How often it was tried.
    pub(crate) tries: u32,
    /// When it was tried first.
    pub(crate) began: Timestamp,
    /// Why the last try failed.
    pub(crate) reason: String,
    /// When it is to be tried again.
    pub(crate) due: Timestamp,
}

impl Document for ParkedExecution {
    const SPEC: &'static CollectionSpec = &CollectionSpec {
        name: "parked_executions",
        fields: &[
            Field {
                name: "due",
                path: "$.due",
            },
            Field {
                name: "flow",
                path: "$.of.flowId",
            },
        ],
        unique: &[],
    };

    fn id(&self) -> &str {
        self.of.execution_id.as_str()
    }

    fn owners(&self) -> Vec<String> {
        let user = self.of.user.iter().map(ToString::to_string);
        user.chain(self.of.tenant.iter().map(ToString::to_string))
            .collect()
    }
}

/// The executions that wait.
#[derive(Clone)]
pub(crate) struct Parked {
    context: Context,
    stored: Collection<ParkedExecution>,
}

const ALL: &Visibility = &Visibility::All;

impl Parked {
    pub(crate) async fn open(context: &Context) -> Result<Self, Error> {
        Ok(Self {
            context: context.clone(),
            stored: Collection::open(&context.storage).await?,
        })
    }

    /// Stores that the execution waits, and tells of it in the same write. `Ok(false)`: it is too large to be stored, or
    /// the wait of a later turn is stored already.
    pub(crate) async fn store(&self, parked: &ParkedExecution, mut said: Vec<Event>) -> Result<bool, Error> {
        let waiting = ExecutionWaiting {
            of: parked.of.clone(),
            started_at: parked.progress.started,
            turn: parked.turn,
            due: parked.due.unwrap_or_default(),
            reason: parked.reason.clone(),
        };
        let id = parked.id();
        said.push(self.context.event(EventType::ExecutionWaiting, id, &waiting)?);
        let mut is_stored = true;
        let updated = self.stored.update(ALL, id, |known| {
            is_stored = known.turn < parked.turn;
            if !is_stored {
                return Ok(Change::Keep);
            }
            known.clone_from(parked);
            Ok::<_, Error>(Change::Write(said.clone()))
        });
        if updated.await?.is_none() {
            self.stored.insert(parked, said).await?;
        }
        Ok(is_stored)
    }

    /// Of these executions those that are stored here.
    pub(crate) async fn known(&self, ids: Vec<String>) -> Result<Vec<String>, Error> {
        let query = Query::new(Filter::Ids(ids), u64::MAX >> 1);
        let heads = self.stored.heads(ALL, &query).await?;
        Ok(heads.into_iter().map(|(id, _)| id).collect())
    }

    /// The execution, if its wait of this turn is over.
    pub(crate) async fn resumed(
        &self,
        id: &ExecutionId,
        turn: u32,
    ) -> Result<Option<ParkedExecution>, Error> {
        let stored = self.stored.get(ALL, id.as_str()).await?;
        Ok(stored.filter(|parked| parked.turn == turn && parked.due.is_none()))
    }

    /// The execution ended: nothing of it is left to run.
    pub(crate) async fn forget(&self, id: &ExecutionId) -> Result<(), Error> {
        let deleted = self
            .stored
            .delete(ALL, id.as_str(), |_| Ok::<_, Error>(Vec::new()));
        deleted.await.map(|_| ())
    }

    /// Those that are due at `until` or before, the earliest first, some at a time.
    pub(crate) async fn due(&self, until: Timestamp) -> Result<Vec<(Timestamp, ExecutionId)>, Error> {
        let query = Query {
            sort: Some(Sort {
                field: "due",
                descending: false,
            }),
            ..Query::new(Filter::AtMost("due", until.to_string().into()), DUE)
        };
        let heads = self.stored.heads(ALL, &query).await?;
        let read = |(id, due): (String, serde_json::Value)| {
            Some((due.as_str()?.parse().ok()?, ExecutionId::from(id)))
        };
        Ok(heads.into_iter().filter_map(read).collect())
    }

    /// Asks for these executions to go on, where they are due at `now` and nobody else asked before.
    pub(crate) async fn claim(&self, ids: Vec<ExecutionId>, now: Timestamp) -> Result<(), Error> {
        let mut claims = stream::iter(ids)
            .map(|id| self.claim_one(id, now))
            .buffer_unordered(AT_ONCE);
        let mut result = Ok(());
        while let Some(claimed) = claims.next().await {
            result = result.and(claimed);
        }
        result
    }

    async fn claim_one(&self, id: ExecutionId, now: Timestamp) -> Result<(), Error> {
        let updated = self.stored.update(ALL, id.as_str(), |parked| {
            if parked.due.is_none_or(|due| due > now) {
                return Ok(Change::Keep);
            }
            parked.due = None;
            let resume = FlowResume {
                execution_id: parked.of.execution_id.clone(),
                flow_id: parked.of.flow_id.clone(),
                activation: parked.activation,
                turn: parked.turn,
            };
            let event = self.context.event(EventType::FlowResume, parked.id(), &resume)?;
            Ok::<_, Error>(Change::Write(vec![event]))
        });
        updated.await.map(|_| ())
    }

    /// Ends what waits of this flow and began under `activation` or before; `end` makes the events that tell of it.
    /// Returns how many there were.
    pub(crate) async fn cancel(
        &self,
        flow: &FlowId,
        activation: u64,
        end: impl Fn(&ParkedExecution) -> Vec<Event>,
    ) -> Result<usize, Error> {
        // What is not due any more is on its way, and is cancelled there.
        let waits = Filter::AtMost("due", Timestamp::from_millis(i64::MAX).to_string().into());
        let filter = Filter::And(vec![Filter::eq("flow", flow.as_str()), waits]);
        let query = Query::new(filter, PAGE);
        let mut cancelled = 0;
        loop {
            let heads = self.stored.heads(ALL, &query).await?;
            let (found, before) = (heads.len(), cancelled);
            let mut deletions = stream::iter(heads)
                .map(|(id, _)| self.cancel_one(id, activation, &end))
                .buffer_unordered(AT_ONCE);
            while let Some(deleted) = deletions.next().await {
                cancelled += usize::from(deleted?);
            }
            drop(deletions);
            // What is left of a full page began later: a flow that was started again has nothing old left.
            if (found as u64) < PAGE || cancelled == before {
                return Ok(cancelled);
            }
        }
    }

    async fn cancel_one(
        &self,
        id: String,
        activation: u64,
        end: &impl Fn(&ParkedExecution) -> Vec<Event>,
    ) -> Result<bool, Error> {
        let mut is_meant = false;
        let deleted = self.stored.delete(ALL, &id, |parked| {
            is_meant = parked.activation <= activation && parked.due.is_some();
            if is_meant {
                Ok(end(parked))
            } else {
                Err(Cancel::Later)
            }
        });
        match deleted.await {
            Ok(found) => Ok(found.is_some() && is_meant),
            Err(Cancel::Later) => Ok(false),
            Err(Cancel::Failed(error)) => Err(error),
        }
    }
}

/// Why an execution was not cancelled.
enum Cancel {
    /// It goes on, or began after what was stopped.
    Later,
    Failed(Error),
}

impl From<Error> for Cancel {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}
