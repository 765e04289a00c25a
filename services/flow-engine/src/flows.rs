//! The flows that run: compiled in memory, and stored for the next start.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
};

use flowmate_common::{
    Event, EventType, Failure, Topic,
    auth::Visibility,
    ids::{ExecutionId, FlowId, TenantId, UserId},
    model::{ExecutionOf, Flow, FlowFailed, FlowStarted, FlowStarting, FlowStopped, FlowStopping, OwnerKind},
};
use flowmate_connectors::{Function, Registry};
use flowmate_flow_model::{Plan, webhooks};
use flowmate_runtime::Context;
use flowmate_storage::{Change, Collection, CollectionSpec, Document, Error, Field, Filter, Query};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::fair::Whose;

/// A flow as the engine stores it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct RunningRecord {
    id: FlowId,
    /// The start or stop that this is the state after.
    activation: u64,
    /// As it ran last. `None`: it never did.
    flow: Option<Flow>,
    #[serde(default)]
    state: FlowState,
}

/// Whether a flow runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FlowState {
    /// It does, if there is a flow.
    #[default]
    Runs,
    /// It does not, but executions of it have still to end.
    Stopping,
    /// It does not.
    Stopped,
}

impl Document for RunningRecord {
    const SPEC: &'static CollectionSpec = &CollectionSpec {
        name: "engine_flows",
        fields: &[Field {
            name: "state",
            path: "$.state",
        }],
        unique: &[],
    };

    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn owners(&self) -> Vec<String> {
        let owners = self.flow.iter().flat_map(|flow| &flow.body.owners);
        owners.map(|owner| owner.id.clone()).collect()
    }
}

/// A compiled flow.
pub(crate) struct Running {
    pub(crate) plan: Plan<Function>,
    /// For each step whether its expressions took long once; then they run where they hold up nobody.
    pub(crate) slow: Vec<AtomicBool>,
    /// Rings when the flow is stopped: nothing more of this start begins.
    pub(crate) stopped: CancellationToken,
    /// The executions that are at work.
    pub(crate) at_work: TaskTracker,
    /// The start that it was compiled for.
    activation: u64,
    id: FlowId,
    name: Option<String>,
    user: Option<UserId>,
    tenant: Option<TenantId>,
}

impl Running {
    fn compile(flow: &Flow, activation: u64, registry: &Registry) -> Result<Self, String> {
        let settings = flow.body.flow_settings.as_ref();
        // A flow that was stored before this was asked at its creation.
        if let Some(reason) = settings.and_then(|settings| webhooks::errors(settings).into_iter().next()) {
            return Err(reason);
        }
        let protection = settings.and_then(|settings| settings.get("webhooks"));
        if protection
            .and_then(|protection| protection.get("hmacAuthSecret"))
            .is_some_and(|secret| !secret.is_null())
        {
            return Err("flowSettings.webhooks.hmacAuthSecret needs the secret store, which this version does not have yet.".into());
        }
        if flow.body.cron.is_some() {
            return Err("Scheduled flows (cron) cannot run in this version yet.".into());
        }
        let plan = Plan::compile(flow, registry)?;
        let at_work = TaskTracker::new();
        at_work.close();
        Ok(Self {
            stopped: CancellationToken::new(),
            at_work,
            slow: plan.steps().iter().map(|_| AtomicBool::new(false)).collect(),
            plan,
            activation,
            id: flow.id.clone(),
            name: flow.body.name.clone(),
            user: flow.body.owner(OwnerKind::User).map(UserId::from),
            tenant: flow.body.owner(OwnerKind::Tenant).map(TenantId::from),
        })
    }

    /// The start that it was compiled for.
    pub(crate) fn activation(&self) -> u64 {
        self.activation
    }

    /// Whose its executions are.
    pub(crate) fn whose(&self) -> Whose {
        Whose {
            flow: self.id.clone(),
            tenant: self.tenant.clone(),
        }
    }

    /// What is said of an execution of this flow.
    pub(crate) fn execution(&self, id: ExecutionId) -> ExecutionOf {
        ExecutionOf {
            execution_id: id,
            flow_id: self.id.clone(),
            flow_name: self.name.clone(),
            user: self.user.clone(),
            tenant: self.tenant.clone(),
        }
    }
}

/// What is known of the flow that a request is for.
#[derive(Clone)]
pub(crate) enum Found {
    /// It runs, as the request wants it.
    Runs(Arc<Running>),
    /// It was stopped since; who it belongs to.
    Stopped(ExecutionOf),
    /// It was never seen, or deleted.
    Unknown,
}

/// Which start of which flow a request is for.
pub(crate) struct Wanted<'a> {
    pub(crate) flow: &'a FlowId,
    /// 0: whichever runs.
    pub(crate) activation: u64,
    pub(crate) execution: &'a ExecutionId,
}

pub(crate) struct Flows {
    running: RwLock<HashMap<FlowId, Arc<Running>>>,
    /// Of flows stopped in this run of the process, for requests that come too late.
    stopped: RwLock<HashMap<FlowId, Arc<Running>>>,
    /// The last stop that was heard of: who looked a flow up before it must not keep it after it.
    stops: RwLock<HashMap<FlowId, u64>>,
    stored: Collection<RunningRecord>,
}

/// Stopped flows remembered, and stops.
const STOPPED: usize = 1_000;

impl Flows {
    /// None is compiled before it is needed.
    pub(crate) async fn open(context: &Context) -> Result<Arc<Self>, Failure> {
        let stored = Collection::<RunningRecord>::open(&context.storage)
            .await
            .map_err(Failure::internal)?;
        let flows = Arc::new(Self {
            running: RwLock::default(),
            stopped: RwLock::default(),
            stops: RwLock::default(),
            stored,
        });
        // Of several replicas one stores that a flow stops; the others have to hear of it.
        let following = Arc::clone(&flows);
        let watch = context.watch(Topic::Flows, "flow-engine", move |event| {
            if event.kind == EventType::FlowStopping
                && let Ok(FlowStopping { id, activation }) = event.body()
            {
                following.halt(&id, activation);
            }
        });
        watch.await.map_err(Failure::internal)?;
        Ok(flows)
    }

    /// The flow as the request wants it: here, or in storage where another replica started it. An execution runs on the
    /// very start that it was taken under: what was stopped and started again since is another flow.
    pub(crate) async fn find(&self, wanted: &Wanted<'_>, registry: &Registry) -> Result<Found, Error> {
        let &Wanted {
            flow,
            activation,
            execution,
        } = wanted;
        if let Some(running) = self.running.read().get(flow) {
            if activation == 0 || running.activation == activation {
                return Ok(Found::Runs(Arc::clone(running)));
            }
            if running.activation > activation {
                return Ok(Found::Stopped(running.execution(execution.clone())));
            }
        }
        let is_this = |stopped: &&Arc<Running>| stopped.activation >= activation;
        if let Some(stopped) = self.stopped.read().get(flow).filter(is_this) {
            return Ok(Found::Stopped(stopped.execution(execution.clone())));
        }
        let Some(record) = self.stored.get(&Visibility::All, flow.as_str()).await? else {
            return Ok(Found::Unknown);
        };
        if record.activation < activation {
            // Whoever took the request knew of the start, and that is stored before it is told.
            return Err(Error::Unavailable(format!(
                "start {activation} of flow {flow} is not there yet"
            )));
        }
        let is_same = activation == 0 || record.activation == activation;
        let RunningRecord {
            flow: Some(source),
            activation,
            state,
            ..
        } = record
        else {
            return Ok(Found::Unknown);
        };
        match Running::compile(&source, activation, registry) {
            Ok(compiled) => {
                let of = compiled.execution(execution.clone());
                let runs = is_same && state == FlowState::Runs;
                let kept = if runs { self.keep(compiled) } else { None };
                Ok(kept.map_or(Found::Stopped(of), Found::Runs))
            }
            Err(reason) => {
                tracing::error!(flow.id = %flow, reason, "a flow that ran cannot run any more");
                Ok(Found::Unknown)
            }
        }
    }

    /// Keeps a compiled flow unless it was stopped meanwhile, or this very start is known already.
    fn keep(&self, compiled: Running) -> Option<Arc<Running>> {
        let mut running = self.running.write();
        if let Some(known) = running.get(&compiled.id)
            && known.activation >= compiled.activation
        {
            return (known.activation == compiled.activation).then(|| Arc::clone(known));
        }
        let stop = self.stops.read().get(&compiled.id).copied();
        if stop.is_some_and(|stop| stop >= compiled.activation) {
            return None;
        }
        let compiled = Arc::new(compiled);
        running.insert(compiled.id.clone(), Arc::clone(&compiled));
        Some(compiled)
    }

    /// Compiles and stores a flow that is to start, with the answer to that in the same write.
    pub(crate) async fn start(
        &self,
        context: &Context,
        registry: &Registry,
        body: FlowStarting,
    ) -> Result<(), Error> {
        let FlowStarting { flow, activation } = body;
        let id = flow.id.clone();
        let compiled = Running::compile(&flow, activation, registry);
        let answer = match &compiled {
            Ok(_) => context.event(
                EventType::FlowStarted,
                id.as_str(),
                &FlowStarted {
                    id: id.clone(),
                    activation,
                    cron: flow.body.cron.clone(),
                    owners: flow.body.owners.clone(),
                    flow_settings: flow.body.flow_settings.clone(),
                },
            )?,
            Err(reason) => {
                tracing::info!(flow.id = %id, reason, "a flow was refused");
                let failed = FlowFailed {
                    id: id.clone(),
                    activation,
                    reason: reason.clone(),
                };
                context.event(EventType::FlowFailed, id.as_str(), &failed)?
            }
        };
        let record = RunningRecord {
            id: id.clone(),
            activation,
            flow: compiled.is_ok().then_some(flow),
            state: FlowState::Runs,
        };
        let (Some(compiled), true) = (compiled.ok(), self.is_newer(&id, activation).await?) else {
            return self.store(record, vec![answer]).await;
        };
        // Before the answer is on its way: whoever learns that the flow runs can rely on it.
        self.keep(compiled);
        self.store(record, vec![answer]).await
    }

    /// Nothing more begins of a flow that is to stop. That it stopped is told by [`Flows::stopped`], when nothing of it is
    /// at work any more. Returns what runs of it here.
    pub(crate) async fn stop(&self, id: &FlowId, activation: u64) -> Result<Option<Arc<Running>>, Error> {
        let running = self.halt(id, activation);
        let known = self.stored.get(&Visibility::All, id.as_str()).await?;
        let record = RunningRecord {
            id: id.clone(),
            activation,
            flow: known.and_then(|known| known.flow),
            state: FlowState::Stopping,
        };
        self.store(record, Vec::new()).await?;
        Ok(running)
    }

    /// Nothing of the flow is at work any more: tells so, unless it was started again since.
    pub(crate) async fn stopped(&self, context: &Context, id: &FlowId, activation: u64) -> Result<(), Error> {
        let answer = FlowStopped {
            id: id.clone(),
            activation,
        };
        let answer = context.event(EventType::FlowStopped, id.as_str(), &answer)?;
        let updated = self.stored.update(&Visibility::All, id.as_str(), |known| {
            if known.activation != activation || known.state == FlowState::Runs {
                return Ok::<_, Error>(Change::Keep);
            }
            known.state = FlowState::Stopped;
            Ok(Change::Write(vec![answer.clone()]))
        });
        updated.await.map(|_| ())
    }

    /// The flows whose stop was begun and not told: by whoever ended in between.
    pub(crate) async fn stopping(&self) -> Result<Vec<(FlowId, u64)>, Error> {
        let query = Query::new(Filter::eq("state", "stopping"), 1_000);
        let found = self.stored.find(&Visibility::All, &query).await?;
        Ok(found.into_iter().map(|one| (one.id, one.activation)).collect())
    }

    pub(crate) async fn forget(&self, id: &FlowId) -> Result<(), Error> {
        self.drop_running(id, u64::MAX);
        self.stored
            .delete(&Visibility::All, id.as_str(), |_| Ok::<_, Error>(Vec::new()))
            .await?;
        Ok(())
    }

    /// Nothing more begins of what was started before this stop, whoever is looking it up; returns what was running.
    fn halt(&self, id: &FlowId, activation: u64) -> Option<Arc<Running>> {
        {
            let mut stops = self.stops.write();
            if stops.len() >= STOPPED {
                stops.clear();
            }
            let last = stops.entry(id.clone()).or_default();
            *last = activation.max(*last);
        }
        self.drop_running(id, activation)
    }

    /// Nothing more begins of what was started at `activation` or before; returns what was running.
    fn drop_running(&self, id: &FlowId, activation: u64) -> Option<Arc<Running>> {
        let mut running = self.running.write();
        let is_over = running
            .get(id)
            .is_some_and(|known| known.activation <= activation);
        if !is_over {
            return self.stopped.read().get(id).cloned();
        }
        let stopping = running.remove(id)?;
        stopping.stopped.cancel();
        let mut stopped = self.stopped.write();
        if stopped.len() >= STOPPED {
            stopped.clear();
        }
        stopped.insert(id.clone(), Arc::clone(&stopping));
        Some(stopping)
    }

    async fn is_newer(&self, id: &FlowId, activation: u64) -> Result<bool, Error> {
        let known = self.stored.get(&Visibility::All, id.as_str()).await?;
        Ok(known.is_none_or(|known| known.activation <= activation))
    }

    /// Writes the record and its events, unless something newer was written before. The same again is told again: whoever
    /// asks twice missed the answer.
    async fn store(&self, record: RunningRecord, events: Vec<Event>) -> Result<(), Error> {
        let updated = self.stored.update(
            &Visibility::All,
            record.id.as_str(),
            |known| -> Result<Change, Error> {
                if known.activation > record.activation {
                    return Ok(Change::Keep);
                }
                if known.activation < record.activation {
                    known.clone_from(&record);
                } else if record.state == FlowState::Runs {
                    // What failed to start before may start now, as an answer says.
                    known.flow.clone_from(&record.flow);
                }
                Ok(Change::Write(events.clone()))
            },
        );
        if updated.await?.is_none() {
            self.stored.insert(&record, events).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use flowmate_connectors::{HttpSettings, RetryPolicy};
    use flowmate_storage::sqlite;
    use serde_json::{Value, json};

    use super::*;

    fn compiled(activation: u64) -> Running {
        compile(activation, &json!({})).unwrap()
    }

    fn compile(activation: u64, flow_settings: &Value) -> Result<Running, String> {
        let settings = HttpSettings {
            private_targets: flowmate_connectors::PrivateTargets::allow(),
            retry: RetryPolicy::default(),
            budget: flowmate_common::Budget::new(1 << 20),
            clock: flowmate_common::Clock::System,
        };
        let flow = json!({"id": "5c99ec7e5ed40d3e7512cffa", "status": "starting", "createdAt": "2026-01-01T00:00:00.000Z",
            "flowSettings": flow_settings, "updatedAt": "2026-01-01T00:00:00.000Z", "graph": {"edges": [],
            "nodes": [{"id": "in", "componentId": "666c6f776d61746500000001", "function": "receive"}]}});
        let flow = serde_json::from_value(flow).unwrap();
        Running::compile(&flow, activation, &Registry::new(settings).unwrap())
    }

    #[test]
    fn a_stored_flow_whose_protection_is_not_understood_does_not_start() {
        let refused = compile(1, &json!({"webhooks": {"requireWebhookAuth": "true"}}));
        assert!(
            refused
                .err()
                .unwrap()
                .contains("flowSettings.webhooks.requireWebhookAuth")
        );
    }

    #[tokio::test]
    async fn a_flow_that_is_stopped_while_it_is_looked_up_is_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        let storage = sqlite::open(directory.path()).unwrap();
        let flows = Flows {
            running: RwLock::default(),
            stopped: RwLock::default(),
            stops: RwLock::default(),
            stored: Collection::open(&storage).await.unwrap(),
        };
        let looked_up = compiled(1);
        let id = looked_up.id.clone();
        assert!(flows.halt(&id, 2).is_none(), "nothing runs yet");
        assert!(flows.keep(looked_up).is_none(), "it was stopped meanwhile");
        let started_again = flows.keep(compiled(3)).unwrap();
        assert!(flows.keep(compiled(1)).is_none(), "another start");
        assert!(Arc::ptr_eq(&flows.keep(compiled(3)).unwrap(), &started_again));
        assert!(flows.halt(&id, 4).is_some_and(|one| one.stopped.is_cancelled()));
    }
}
