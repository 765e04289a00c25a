//! The flows that run: compiled in memory, and stored for the next start.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
};

use flowmate_common::{
    Event, EventType, Failure,
    auth::Visibility,
    ids::{ExecutionId, FlowId, TenantId, UserId},
    model::{ExecutionOf, Flow, FlowFailed, FlowStarted, FlowStarting, FlowStopped, OwnerKind},
};
use flowmate_connectors::{Function, Registry};
use flowmate_flow_model::Plan;
use flowmate_runtime::Context;
use flowmate_storage::{Change, Collection, CollectionSpec, Document, Error, Filter, Query};
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
    id: FlowId,
    name: Option<String>,
    user: Option<UserId>,
    tenant: Option<TenantId>,
}

impl Running {
    fn compile(flow: &Flow, registry: &Registry) -> Result<Self, String> {
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
    /// Compiles what ran when the process ended.
    pub(crate) async fn load(context: &Context, registry: &Registry) -> Result<Self, Failure> {
        let stored = Collection::<RunningRecord>::open(&context.storage)
            .await
            .map_err(Failure::internal)?;
        let everything = Query::new(Filter::All, u64::from(u32::MAX));
        let mut running = HashMap::new();
        for record in stored
            .find(&Visibility::All, &everything)
            .await
            .map_err(Failure::internal)?
        {
            let Some(flow) = record.flow else { continue };
            match Running::compile(&flow, registry) {
                Ok(compiled) => {
                    running.insert(record.id, Arc::new(compiled));
                }
                Err(reason) => {
                    tracing::error!(flow.id = %record.id, reason, "a flow that ran cannot run any more");
                }
            }
        }
        Ok(Self {
            running: RwLock::new(running),
            stopped: RwLock::default(),
            stored,
        })
    }

    pub(crate) fn find(&self, id: &FlowId, execution: &ExecutionId) -> Known {
        if let Some(running) = self.running.read().get(id) {
            return Known::Runs(Arc::clone(running));
        }
        match self.stopped.read().get(id) {
            Some(stopped) => Known::Stopped(stopped.execution(execution.clone())),
            None => Known::Unknown,
        }
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
        let compiled = Running::compile(&flow, registry);
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
        self.running.write().insert(id.clone(), Arc::new(compiled));
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
        if self.is_newer(id, activation).await? {
            self.drop_running(id);
        }
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
        self.drop_running(id);
        self.stored
            .delete(&Visibility::All, id.as_str(), |_| Ok::<_, Error>(Vec::new()))
            .await?;
        Ok(())
    }

    fn drop_running(&self, id: &FlowId) {
        if let Some(running) = self.running.write().remove(id) {
            let mut stopped = self.stopped.write();
            if stopped.len() >= STOPPED {
                stopped.clear();
            }
            stopped.insert(id.clone(), running);
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
