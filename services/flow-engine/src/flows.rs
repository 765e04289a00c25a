//! The flows that run: compiled in memory, and stored for the next start.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
};

use flowmate_common::{
    Event, EventType, Failure, Topic,
    auth::Visibility,
    ids::{ExecutionId, FlowId, TenantId, UserId},
    model::{
        ExecutionOf, Flow, FlowExecute, FlowFailed, FlowStarted, FlowStarting, FlowStopped, FlowStopping,
        OwnerKind,
    },
};
use flowmate_connectors::{Function, Registry};
use flowmate_flow_model::Plan;
use flowmate_runtime::Context;
use flowmate_storage::{Change, Collection, CollectionSpec, Document, Error};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

/// A flow as the engine stores it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct RunningRecord {
    id: FlowId,
    /// The start or stop that this is the state after.
    activation: u64,
    /// `None`: it does not run.
    flow: Option<Flow>,
}

impl Document for RunningRecord {
    const SPEC: &'static CollectionSpec = &CollectionSpec {
        name: "engine_flows",
        fields: &[],
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
        let webhooks = settings.and_then(|settings| settings.get("webhooks"));
        if webhooks
            .and_then(|webhooks| webhooks.get("hmacAuthSecret"))
            .is_some_and(|secret| !secret.is_null())
        {
            return Err("flowSettings.webhooks.hmacAuthSecret needs the secret store, which this version does not have yet.".into());
        }
        if flow.body.cron.is_some() {
            return Err("Scheduled flows (cron) cannot run in this version yet.".into());
        }
        let plan = Plan::compile(flow, registry)?;
        Ok(Self {
            slow: plan.steps().iter().map(|_| AtomicBool::new(false)).collect(),
            plan,
            activation,
            id: flow.id.clone(),
            name: flow.body.name.clone(),
            user: flow.body.owner(OwnerKind::User).map(UserId::from),
            tenant: flow.body.owner(OwnerKind::Tenant).map(TenantId::from),
        })
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

/// What is known of a flow.
#[derive(Clone)]
pub(crate) enum Known {
    /// It runs.
    Runs(Arc<Running>),
    /// It was stopped; who it belongs to.
    Stopped(ExecutionOf),
    /// It was never seen, or deleted.
    Unknown,
}

pub(crate) struct Flows {
    running: RwLock<HashMap<FlowId, Arc<Running>>>,
    /// Of flows stopped in this run of the process, for requests that come too late.
    stopped: RwLock<HashMap<FlowId, Arc<Running>>>,
    stored: Collection<RunningRecord>,
}

/// Stopped flows remembered.
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
            stored,
        });
        // Of several replicas one stores that a flow stops; the others have to hear of it.
        let following = Arc::clone(&flows);
        let watch = context.watch(Topic::Flows, "flow-engine", move |event| {
            if event.kind == EventType::FlowStopping
                && let Ok(FlowStopping { id, activation }) = event.body()
            {
                following.drop_running(&id, activation);
            }
        });
        watch.await.map_err(Failure::internal)?;
        Ok(flows)
    }

    /// What is known of the request's flow: here, or in storage where another replica started it.
    pub(crate) async fn find(&self, request: &FlowExecute, registry: &Registry) -> Result<Known, Error> {
        let id = &request.flow_id;
        let is_recent = |running: &&Arc<Running>| running.activation >= request.activation;
        if let Some(running) = self.running.read().get(id).filter(is_recent) {
            return Ok(Known::Runs(Arc::clone(running)));
        }
        if let Some(stopped) = self.stopped.read().get(id).filter(is_recent) {
            return Ok(Known::Stopped(stopped.execution(request.execution_id.clone())));
        }
        let Some(RunningRecord {
            flow: Some(flow),
            activation,
            ..
        }) = self.stored.get(&Visibility::All, id.as_str()).await?
        else {
            return Ok(Known::Unknown);
        };
        match Running::compile(&flow, activation, registry) {
            Ok(compiled) => Ok(Known::Runs(self.keep(compiled))),
            Err(reason) => {
                tracing::error!(flow.id = %id, reason, "a flow that ran cannot run any more");
                Ok(Known::Unknown)
            }
        }
    }

    /// Keeps a compiled flow unless a later one is known; returns the later.
    fn keep(&self, compiled: Running) -> Arc<Running> {
        let mut running = self.running.write();
        if let Some(known) = running.get(&compiled.id)
            && known.activation > compiled.activation
        {
            return Arc::clone(known);
        }
        let compiled = Arc::new(compiled);
        running.insert(compiled.id.clone(), Arc::clone(&compiled));
        compiled
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
        };
        let (Some(compiled), true) = (compiled.ok(), self.is_newer(&id, activation).await?) else {
            return self.store(record, answer).await.map(|_| ());
        };
        // Before the answer is on its way: whoever learns that the flow runs can rely on it.
        self.keep(compiled);
        self.store(record, answer).await?;
        Ok(())
    }

    /// Forgets a flow that is to stop, with the answer to that in the same write. What runs of it runs to its end.
    pub(crate) async fn stop(&self, context: &Context, id: &FlowId, activation: u64) -> Result<(), Error> {
        let answer = FlowStopped {
            id: id.clone(),
            activation,
        };
        let answer = context.event(EventType::FlowStopped, id.as_str(), &answer)?;
        self.drop_running(id, activation);
        self.store(
            RunningRecord {
                id: id.clone(),
                activation,
                flow: None,
            },
            answer,
        )
        .await?;
        Ok(())
    }

    pub(crate) async fn forget(&self, id: &FlowId) -> Result<(), Error> {
        self.drop_running(id, u64::MAX);
        self.stored
            .delete(&Visibility::All, id.as_str(), |_| Ok::<_, Error>(Vec::new()))
            .await?;
        Ok(())
    }

    /// Nothing more runs of what was started before this stop.
    fn drop_running(&self, id: &FlowId, activation: u64) {
        let mut running = self.running.write();
        let is_over = running
            .get(id)
            .is_some_and(|known| known.activation <= activation);
        if is_over && let Some(stopping) = running.remove(id) {
            let mut stopped = self.stopped.write();
            if stopped.len() >= STOPPED {
                stopped.clear();
            }
            stopped.insert(id.clone(), stopping);
        }
    }

    async fn is_newer(&self, id: &FlowId, activation: u64) -> Result<bool, Error> {
        let known = self.stored.get(&Visibility::All, id.as_str()).await?;
        Ok(known.is_none_or(|known| known.activation < activation))
    }

    /// Writes the record and its event, unless this or something newer was written before.
    async fn store(&self, record: RunningRecord, event: Event) -> Result<bool, Error> {
        let mut written = false;
        let updated = self.stored.update(
            &Visibility::All,
            record.id.as_str(),
            |known| -> Result<Change, Error> {
                if known.activation >= record.activation {
                    return Ok(Change::Keep);
                }
                known.clone_from(&record);
                written = true;
                Ok(Change::Write(vec![event.clone()]))
            },
        );
        if updated.await?.is_none() {
            self.stored.insert(&record, vec![event]).await?;
            written = true;
        }
        Ok(written)
    }
}
