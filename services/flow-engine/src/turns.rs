//! Whose turn it is to have an expression evaluated that is not cheap: the tenant whose evaluations have taken the least time,
//! and of its flows the one for which the same holds (start-time fair queueing, Goyal, Vin and Cheng 1996). By count, one that
//! takes a thousand times as long would get a thousand times as much.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use flowmate_common::ids::FlowId;
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use crate::fair::Whose;

/// The evaluations that are under way and those that wait.
pub(crate) struct Turns {
    places: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    at_work: usize,
    tenants: HashMap<Arc<str>, Tenant>,
    flows: HashMap<FlowId, Flow>,
    /// What the tenant had used whose turn came last: who comes anew begins there.
    floor: Duration,
}

#[derive(Default)]
struct Tenant {
    at_work: usize,
    used: Duration,
    flows: usize,
    /// The same as for all, among its flows.
    floor: Duration,
}

struct Flow {
    tenant: Arc<str>,
    at_work: usize,
    used: Duration,
    waiting: VecDeque<oneshot::Sender<Turn>>,
}

/// A turn; over when dropped.
pub(crate) struct Turn {
    turns: Arc<Turns>,
    flow: FlowId,
    began: Instant,
}

impl Turns {
    /// So many at the same time. A tenant or flow has another only while it has fewer than are free, so that one is left.
    pub(crate) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self {
            places,
            inner: Mutex::default(),
        })
    }

    /// The next turn of this flow; `None` never comes, but for a fault of ours.
    pub(crate) async fn turn(self: &Arc<Self>, whose: &Whose) -> Option<Turn> {
        let (sender, granted) = oneshot::channel();
        self.inner.lock().wait(whose, sender);
        self.grant();
        granted.await.ok()
    }

    /// Gives turns while there are any. Who does not wait any more drops its turn, which is over then.
    fn grant(self: &Arc<Self>) {
        loop {
            let next = self.inner.lock().next(self.places);
            let Some((flow, sender)) = next else { return };
            let turn = Turn {
                turns: Arc::clone(self),
                flow,
                began: Instant::now(),
            };
            drop(sender.send(turn));
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.inner.lock().over(&self.flow, self.began.elapsed());
        self.turns.grant();
    }
}

impl Inner {
    fn wait(&mut self, whose: &Whose, sender: oneshot::Sender<Turn>) {
        let own = || Arc::<str>::from(&whose.flow);
        let tenant = whose.tenant.as_ref().map_or_else(own, Into::into);
        let floor = self.floor;
        let share = self.tenants.entry(Arc::clone(&tenant)).or_insert_with(|| Tenant {
            used: floor,
            ..Tenant::default()
        });
        let flow = self.flows.entry(whose.flow.clone()).or_insert_with(|| {
            share.flows += 1;
            Flow {
                tenant,
                at_work: 0,
                used: share.floor,
                waiting: VecDeque::new(),
            }
        });
        flow.waiting.push_back(sender);
    }

    fn next(&mut self, places: usize) -> Option<(FlowId, oneshot::Sender<Turn>)> {
        let free = places.saturating_sub(self.at_work);
        let waiting = self.flows.iter().filter(|(_, flow)| !flow.waiting.is_empty());
        let may = waiting.filter_map(|(id, flow)| {
            let tenant = self.tenants.get(&flow.tenant)?;
            let may = flow.at_work < free && tenant.at_work < free;
            may.then_some((tenant.used, flow.used, id))
        });
        let (_, _, id) = may.min_by_key(|(of_tenant, of_flow, _)| (*of_tenant, *of_flow))?;
        let id = id.clone();
        let flow = self.flows.get_mut(&id)?;
        let tenant = self.tenants.get_mut(&flow.tenant)?;
        let sender = flow.waiting.pop_front()?;
        self.at_work += 1;
        tenant.at_work += 1;
        flow.at_work += 1;
        self.floor = self.floor.max(tenant.used);
        tenant.floor = tenant.floor.max(flow.used);
        Some((id, sender))
    }

    fn over(&mut self, id: &FlowId, took: Duration) {
        self.at_work -= 1;
        let Some(flow) = self.flows.get_mut(id) else {
            return;
        };
        let Some(tenant) = self.tenants.get_mut(&flow.tenant) else {
            return;
        };
        flow.at_work -= 1;
        flow.used += took;
        tenant.at_work -= 1;
        tenant.used += took;
        if flow.at_work > 0 || !flow.waiting.is_empty() {
            return;
        }
        tenant.flows -= 1;
        if tenant.flows == 0 {
            self.tenants.remove(&flow.tenant);
        }
        self.flows.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use flowmate_common::ids::TenantId;
    use futures_util::FutureExt;

    use super::*;

    fn whose(flow: &str, tenant: &str) -> Whose {
        Whose {
            flow: flow.into(),
            tenant: Some(TenantId::from(tenant)),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_long_gets_no_more_time_than_who_is_quick() {
        let turns = Turns::new(1);
        let (slow, quick) = (whose("slow", "hostile"), whose("quick", "quiet"));
        let asked = [&slow, &slow, &quick, &quick, &quick];
        let mut waiting: VecDeque<_> = asked
            .into_iter()
            .map(|whose| (Box::pin(turns.turn(whose)), whose))
            .collect();
        let mut next = || {
            let mut granted = None;
            waiting.retain_mut(|(turn, whose)| match turn.as_mut().now_or_never().flatten() {
                Some(turn) => {
                    granted = Some((turn, whose.flow.clone()));
                    false
                }
                None => true,
            });
            granted
        };
        let mut ended = Vec::new();
        while let Some((turn, flow)) = next() {
            let took = if flow == slow.flow { 250 } else { 2 };
            tokio::time::advance(Duration::from_millis(took)).await;
            drop(turn);
            ended.push(flow.as_str().to_owned());
        }
        assert_eq!(ended, ["slow", "quick", "quick", "quick", "slow"]);
        assert!(turns.inner.lock().flows.is_empty() && turns.inner.lock().tenants.is_empty());
    }

    #[tokio::test]
    async fn one_place_is_left_and_who_waits_no_more_takes_none() {
        let turns = Turns::new(3);
        let flows = ["a", "b", "c"].map(|flow| whose(flow, "greedy"));
        let held = [turns.turn(&flows[0]).await, turns.turn(&flows[1]).await];
        assert!(
            turns.turn(&flows[2]).now_or_never().is_none(),
            "its tenant has two"
        );
        let other = turns.turn(&whose("d", "other")).now_or_never().flatten();
        assert!(other.is_some());
        drop((held, other));
        assert_eq!(turns.inner.lock().at_work, 0);
        assert!(turns.inner.lock().flows.is_empty(), "nor does it stay");
    }
}
