//! Which flows are live: in memory for the requests, in a collection for the next start.

use std::{collections::HashMap, sync::Arc, time::Duration};

use flowmate_common::{Failure, auth::Visibility, ids::FlowId, model::Owner};
use flowmate_runtime::Context;
use flowmate_storage::{Change, Collection, CollectionSpec, Document, Error, Filter, Query};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::Notify;

/// A flow as this service knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LiveFlow {
    pub(crate) id: FlowId,
    /// The start or stop that this is the state after.
    pub(crate) activation: u64,
    pub(crate) is_live: bool,
    pub(crate) owners: Vec<Owner>,
    pub(crate) settings: Option<Map<String, Value>>,
}

impl Document for LiveFlow {
    const SPEC: &'static CollectionSpec = &CollectionSpec {
        name: "webhook_flows",
        fields: &[],
        unique: &[],
    };

    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn owners(&self) -> Vec<String> {
        self.owners.iter().map(|owner| owner.id.clone()).collect()
    }
}

pub(crate) struct View {
    flows: RwLock<HashMap<FlowId, Arc<LiveFlow>>>,
    changed: Notify,
    stored: Collection<LiveFlow>,
}

impl View {
    pub(crate) async fn load(context: &Context) -> Result<Self, Failure> {
        let stored = Collection::<LiveFlow>::open(&context.storage)
            .await
            .map_err(Failure::internal)?;
        let everything = Query::new(Filter::All, u64::from(u32::MAX));
        let flows = stored
            .find(&Visibility::All, &everything)
            .await
            .map_err(Failure::internal)?;
        let flows = flows
            .into_iter()
            .map(|flow| (flow.id.clone(), Arc::new(flow)))
            .collect();
        Ok(Self {
            flows: RwLock::new(flows),
            changed: Notify::new(),
            stored,
        })
    }

    /// The flow, if it takes webhooks.
    pub(crate) fn live(&self, id: &FlowId) -> Option<Arc<LiveFlow>> {
        self.flows.read().get(id).filter(|flow| flow.is_live).cloned()
    }

    /// The flow as soon as it is live, if that is within `patience`.
    pub(crate) async fn wait_live(&self, id: &FlowId, patience: Duration) -> Option<Arc<LiveFlow>> {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(flow) = self.live(id) {
                    return flow;
                }
                changed.await;
            }
        };
        tokio::time::timeout(patience, wait).await.ok()
    }

    /// Takes over `flow` unless something newer is known. Memory first: a flow that is being stopped takes no more
    /// webhooks from now on.
    pub(crate) async fn set(&self, flow: LiveFlow) -> Result<(), Error> {
        {
            let mut flows = self.flows.write();
            if flows
                .get(&flow.id)
                .is_some_and(|known| known.activation > flow.activation)
            {
                return Ok(());
            }
            flows.insert(flow.id.clone(), Arc::new(flow.clone()));
        }
        self.changed.notify_waiters();
        let updated = self.stored.update(
            &Visibility::All,
            flow.id.as_str(),
            |known| -> Result<Change, Error> {
                if known.activation > flow.activation {
                    return Ok(Change::Keep);
                }
                known.clone_from(&flow);
                Ok(Change::Write(Vec::new()))
            },
        );
        if updated.await?.is_none() {
            self.stored.insert(&flow, Vec::new()).await?;
        }
        Ok(())
    }

    /// The flow takes no webhooks from this stop on.
    pub(crate) async fn stop(&self, id: &FlowId, activation: u64) -> Result<(), Error> {
        let known = self.flows.read().get(id).cloned();
        match known {
            Some(known) => {
                self.set(LiveFlow {
                    activation,
                    is_live: false,
                    ..(*known).clone()
                })
                .await
            }
            None => Ok(()),
        }
    }

    /// The flow was deleted.
    pub(crate) async fn forget(&self, id: &FlowId) -> Result<(), Error> {
        self.flows.write().remove(id);
        self.stored
            .delete(&Visibility::All, id.as_str(), |_| Ok::<_, Error>(Vec::new()))
            .await?;
        Ok(())
    }
}
