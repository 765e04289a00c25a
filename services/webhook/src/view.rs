//! Which flows are live: in memory for the requests, in a collection for the next start.

use std::{collections::HashMap, sync::Arc, time::Duration};

use flowmate_common::{Failure, Timestamp, Topic, auth::Visibility, ids::FlowId};
use flowmate_runtime::Context;
use flowmate_storage::{Change as Write, Collection, Error, Filter, Query};
use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::{
    events::{self, Change},
    record::LiveFlow,
};

/// The longest time that webhooks of a flow are refused at once, in milliseconds.
const LONGEST: i64 = 10_000;

pub(crate) struct View {
    flows: RwLock<HashMap<FlowId, Arc<LiveFlow>>>,
    /// Flows of which too much waits, until when they take no webhooks.
    backlogged: RwLock<HashMap<FlowId, Timestamp>>,
    changed: Notify,
    stored: Collection<LiveFlow>,
}

impl View {
    /// Loads what is stored, and follows what happens from there on: every replica its own.
    pub(crate) async fn open(context: &Context) -> Result<Arc<Self>, Failure> {
        let stored = Collection::<LiveFlow>::open(&context.storage)
            .await
            .map_err(Failure::internal)?;
        let view = Arc::new(Self {
            flows: RwLock::default(),
            backlogged: RwLock::default(),
            changed: Notify::new(),
            stored,
        });
        let (following, clock) = (Arc::clone(&view), context.clock.clone());
        let watch = context.watch(Topic::Flows, "webhook", move |event| {
            match events::change(&event) {
                Ok(Some(change)) => following.apply(change, clock.now()),
                Ok(None) => {}
                // The group that stores the view complains about it.
                Err(refusal) => tracing::debug!(%refusal, "an event that cannot be read"),
            }
        });
        watch.await.map_err(Failure::internal)?;
        let everything = Query::new(Filter::All, u64::from(u32::MAX));
        let stored = view.stored.find(&Visibility::All, &everything).await;
        for flow in stored.map_err(Failure::internal)? {
            view.apply(Change::Live(flow), context.clock.now());
        }
        Ok(view)
    }

    /// The flow, if it takes webhooks.
    pub(crate) fn live(&self, id: &FlowId) -> Option<Arc<LiveFlow>> {
        self.flows.read().get(id).filter(|flow| flow.is_live).cloned()
    }

    /// Whether so much of the flow waits that it takes no webhooks now.
    pub(crate) fn is_backlogged(&self, id: &FlowId, now: Timestamp) -> bool {
        let backlogged = self.backlogged.read();
        backlogged.get(id).is_some_and(|until| *until > now)
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

    /// Takes over a change unless something newer is known.
    pub(crate) fn apply(&self, change: Change, now: Timestamp) {
        {
            let mut flows = self.flows.write();
            match change {
                Change::Live(flow) => {
                    let known = flows.get(&flow.id);
                    if known.is_none_or(|known| known.activation <= flow.activation) {
                        flows.insert(flow.id.clone(), Arc::new(flow));
                    }
                }
                Change::Stopped(id, activation) => {
                    if let Some(known) = flows.get_mut(&id)
                        && known.activation <= activation
                    {
                        *known = Arc::new(known.stopped(activation));
                    }
                }
                Change::Gone(id) => drop(flows.remove(&id)),
                Change::Backlogged(id, until) => {
                    let mut backlogged = self.backlogged.write();
                    backlogged.retain(|_, until| *until > now);
                    // Another machine's clock may be wrong.
                    backlogged.insert(id, until.min(now.plus_millis(LONGEST)));
                }
            }
        }
        self.changed.notify_waiters();
    }

    /// Stores a change for replicas that start later; of the group one does.
    pub(crate) async fn store(&self, change: Change) -> Result<(), Error> {
        let all = &Visibility::All;
        match change {
            Change::Live(flow) => {
                let updated = self.stored.update(all, flow.id.as_str(), |known| {
                    Ok::<_, Error>(replaced(known, flow.clone()))
                });
                if updated.await?.is_none() {
                    self.stored.insert(&flow, Vec::new()).await?;
                }
            }
            Change::Stopped(id, activation) => {
                let updated = self.stored.update(all, id.as_str(), |known| {
                    let stopped = known.stopped(activation);
                    Ok::<_, Error>(replaced(known, stopped))
                });
                updated.await?;
            }
            Change::Gone(id) => {
                let deleted = self
                    .stored
                    .delete(all, id.as_str(), |_| Ok::<_, Error>(Vec::new()));
                deleted.await?;
            }
            // It is over before a replica has started.
            Change::Backlogged(..) => {}
        }
        Ok(())
    }
}

fn replaced(known: &mut LiveFlow, flow: LiveFlow) -> Write {
    if known.activation > flow.activation {
        return Write::Keep;
    }
    *known = flow;
    Write::Write(Vec::new())
}
