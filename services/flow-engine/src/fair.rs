//! Whose turn it is: flows take turns, and neither a flow nor a tenant has more than its share at work.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use flowmate_common::ids::{FlowId, TenantId};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// How much may be at work at the same time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) total: usize,
    pub(crate) tenant: usize,
    pub(crate) flow: usize,
}

/// A queue for each flow.
pub(crate) struct Fair<J> {
    inner: Mutex<Inner<J>>,
    bell: Notify,
    limits: Limits,
}

struct Inner<J> {
    flows: HashMap<FlowId, Lane<J>>,
    /// Flows with waiting jobs, in the order of their turns.
    turns: VecDeque<FlowId>,
    tenants: HashMap<TenantId, usize>,
    at_work: usize,
}

struct Lane<J> {
    tenant: Option<TenantId>,
    waiting: VecDeque<J>,
    at_work: usize,
}

impl<J> Fair<J> {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        let inner = Inner {
            flows: HashMap::new(),
            turns: VecDeque::new(),
            tenants: HashMap::new(),
            at_work: 0,
        };
        Arc::new(Self {
            inner: Mutex::new(inner),
            bell: Notify::new(),
            limits,
        })
    }

    /// Adds a job at the end of its flow's queue.
    pub(crate) fn push(&self, flow: &FlowId, tenant: Option<&TenantId>, job: J) {
        {
            let mut inner = self.inner.lock();
            let lane = inner.flows.entry(flow.clone()).or_insert_with(|| Lane {
                tenant: tenant.cloned(),
                waiting: VecDeque::new(),
                at_work: 0,
            });
            lane.waiting.push_back(job);
            if lane.waiting.len() == 1 {
                inner.turns.push_back(flow.clone());
            }
        }
        self.bell.notify_one();
    }

    /// The next job whose turn it is; waits for one. The slot is to be kept until the job is done.
    pub(crate) async fn next(self: &Arc<Self>) -> (J, Slot<J>) {
        loop {
            let bell = self.bell.notified();
            if let Some(taken) = self.take() {
                return taken;
            }
            bell.await;
        }
    }

    fn take(self: &Arc<Self>) -> Option<(J, Slot<J>)> {
        let mut inner = self.inner.lock();
        if inner.at_work >= self.limits.total {
            return None;
        }
        for _ in 0..inner.turns.len() {
            let flow = inner.turns.pop_front()?;
            let Inner {
                flows,
                turns,
                tenants,
                at_work,
            } = &mut *inner;
            let Some(lane) = flows.get_mut(&flow) else {
                continue;
            };
            let of_tenant = lane
                .tenant
                .as_ref()
                .and_then(|tenant| tenants.get(tenant))
                .copied()
                .unwrap_or(0);
            let full = lane.at_work >= self.limits.flow || of_tenant >= self.limits.tenant;
            let job = if full { None } else { lane.waiting.pop_front() };
            if !lane.waiting.is_empty() {
                turns.push_back(flow.clone());
            }
            if let Some(job) = job {
                lane.at_work += 1;
                *at_work += 1;
                if let Some(tenant) = &lane.tenant {
                    *tenants.entry(tenant.clone()).or_insert(0) += 1;
                }
                return Some((
                    job,
                    Slot {
                        fair: Arc::clone(self),
                        flow,
                    },
                ));
            }
        }
        None
    }

    fn release(&self, flow: &FlowId) {
        {
            let mut inner = self.inner.lock();
            let Inner {
                flows,
                tenants,
                at_work,
                ..
            } = &mut *inner;
            *at_work -= 1;
            let Some(lane) = flows.get_mut(flow) else { return };
            lane.at_work -= 1;
            if let Some(tenant) = &lane.tenant
                && let Some(count) = tenants.get_mut(tenant)
            {
                *count -= 1;
                if *count == 0 {
                    tenants.remove(tenant);
                }
            }
            if lane.at_work == 0 && lane.waiting.is_empty() {
                flows.remove(flow);
            }
        }
        self.bell.notify_one();
    }
}

/// A place at work; freed when dropped.
pub(crate) struct Slot<J> {
    fair: Arc<Fair<J>>,
    flow: FlowId,
}

impl<J> Drop for Slot<J> {
    fn drop(&mut self) {
        self.fair.release(&self.flow);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fair(total: usize, tenant: usize, flow: usize) -> Arc<Fair<u32>> {
        Fair::new(Limits { total, tenant, flow })
    }

    #[test]
    fn a_flow_with_much_to_do_does_not_hold_up_another() {
        let fair = fair(10, 10, 2);
        for job in 0..100 {
            fair.push(&"busy".into(), None, job);
        }
        fair.push(&"other".into(), None, 1000);
        let slots: Vec<_> = std::iter::from_fn(|| fair.take()).collect();
        let jobs: Vec<u32> = slots.iter().map(|(job, _)| *job).collect();
        assert_eq!(
            jobs,
            [0, 1000, 1],
            "two of the busy flow, and the other in between"
        );
        drop(slots);
        assert_eq!(fair.take().unwrap().0, 2, "places are free again");
    }

    #[test]
    fn tenants_and_the_whole_have_limits_too() {
        let tenant = TenantId::from("t");
        let shared = fair(10, 3, 2);
        for flow in ["a", "b"] {
            for job in 0..4 {
                shared.push(&flow.into(), Some(&tenant), job);
            }
        }
        assert_eq!(std::iter::from_fn(|| shared.take()).collect::<Vec<_>>().len(), 3);
        let whole = fair(1, 3, 2);
        whole.push(&"a".into(), None, 0);
        whole.push(&"b".into(), None, 1);
        let first = whole.take().unwrap();
        assert!(whole.take().is_none());
        drop(first);
        assert_eq!(whole.take().unwrap().0, 1);
    }
}
