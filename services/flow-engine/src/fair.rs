//! Whose turn it is: flows take turns, and neither a flow nor a tenant takes what others need.
//!
//! A flow or tenant gets another place only while it has fewer than are free, so that however many are greedy, some are
//! left for who comes next (dynamic thresholds, Choudhury and Hahne 1998). The same holds for the bytes at work.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use flowmate_common::{
    Clock, Timestamp,
    ids::{FlowId, TenantId},
};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Places of a flow that does not have much to do.
const MODEST: usize = 2;

/// How much may be at work at the same time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) total: usize,
    pub(crate) tenant: usize,
    pub(crate) flow: usize,
    pub(crate) bytes: usize,
}

/// Whose a job is.
#[derive(Clone, Debug)]
pub(crate) struct Whose {
    pub(crate) flow: FlowId,
    pub(crate) tenant: Option<TenantId>,
}

/// Places and bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    places: usize,
    bytes: usize,
}

impl Use {
    fn add(&mut self, bytes: usize) {
        self.places += 1;
        self.bytes += bytes;
    }

    fn subtract(&mut self, bytes: usize) {
        self.places = self.places.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    fn is_none(self) -> bool {
        self.places == 0
    }
}

/// A queue for each flow.
pub(crate) struct Fair<J> {
    inner: Mutex<Inner<J>>,
    bell: Notify,
    limits: Limits,
    clock: Clock,
}

struct Inner<J> {
    flows: HashMap<FlowId, Lane<J>>,
    /// Flows with waiting jobs, in the order of their turns.
    turns: VecDeque<FlowId>,
    tenants: HashMap<TenantId, Use>,
    at_work: Use,
}

struct Lane<J> {
    tenant: Option<TenantId>,
    waiting: VecDeque<(J, usize)>,
    at_work: Use,
    pace: Pace,
}

/// How fast a flow may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    Full,
    /// Nothing of it begins before this, and then one job, to see whether its receiver is well.
    Rest(Timestamp),
}

impl<J> Fair<J> {
    pub(crate) fn new(limits: Limits, clock: Clock) -> Arc<Self> {
        let inner = Inner {
            flows: HashMap::new(),
            turns: VecDeque::new(),
            tenants: HashMap::new(),
            at_work: Use::default(),
        };
        Arc::new(Self {
            inner: Mutex::new(inner),
            bell: Notify::new(),
            limits,
            clock,
        })
    }

    /// Adds a job at the end of its flow's queue. `bytes`: what it takes while it is at work, about.
    pub(crate) fn push(&self, whose: &Whose, bytes: usize, job: J) {
        {
            let mut inner = self.inner.lock();
            let lane = inner.flows.entry(whose.flow.clone()).or_insert_with(|| Lane {
                tenant: whose.tenant.clone(),
                waiting: VecDeque::new(),
                at_work: Use::default(),
                pace: Pace::Full,
            });
            lane.waiting.push_back((job, bytes));
            if lane.waiting.len() == 1 {
                inner.turns.push_back(whose.flow.clone());
            }
        }
        self.bell.notify_one();
    }

    /// Nothing more of the flow begins before `until`, and then one job at a time until [`Fair::go_on`]. Who calls this
    /// calls [`Fair::ring`] then.
    pub(crate) fn rest(&self, flow: &FlowId, until: Timestamp) {
        if let Some(lane) = self.inner.lock().flows.get_mut(flow) {
            lane.pace = Pace::Rest(until);
        }
    }

    /// The flow needs no rest any more.
    pub(crate) fn go_on(&self, flow: &FlowId) {
        let mut inner = self.inner.lock();
        if let Some(lane) = inner.flows.get_mut(flow).filter(|lane| lane.pace != Pace::Full) {
            lane.pace = Pace::Full;
            drop(inner);
            self.bell.notify_one();
        }
    }

    /// Looks again whether something may begin.
    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }

    /// Takes away all that waits of a flow.
    pub(crate) fn drain(&self, flow: &FlowId) -> Vec<J> {
        let mut inner = self.inner.lock();
        inner.turns.retain(|one| one != flow);
        let Some(lane) = inner.flows.get_mut(flow) else {
            return Vec::new();
        };
        let jobs = std::mem::take(&mut lane.waiting);
        if lane.at_work.is_none() {
            inner.flows.remove(flow);
        }
        jobs.into_iter().map(|(job, _)| job).collect()
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
        if inner.at_work.places >= self.limits.total {
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
            let of_tenant = lane.tenant.as_ref().and_then(|tenant| tenants.get(tenant));
            let of_tenant = of_tenant.copied().unwrap_or_default();
            let bytes = lane.waiting.front().map_or(0, |(_, bytes)| *bytes);
            let is_rested = match lane.pace {
                Pace::Full => true,
                Pace::Rest(until) => lane.at_work.is_none() && self.clock.now() >= until,
            };
            let may = is_rested && self.may(*at_work, of_tenant, lane.at_work, bytes);
            let job = if may { lane.waiting.pop_front() } else { None };
            if !lane.waiting.is_empty() {
                turns.push_back(flow.clone());
            }
            let Some((job, bytes)) = job else { continue };
            let is_modest = lane.waiting.is_empty() && lane.at_work.places < MODEST;
            lane.at_work.add(bytes);
            at_work.add(bytes);
            if let Some(tenant) = &lane.tenant {
                tenants.entry(tenant.clone()).or_default().add(bytes);
            }
            let slot = Slot {
                fair: Arc::clone(self),
                flow,
                bytes,
                is_modest,
            };
            return Some((job, slot));
        }
        None
    }

    /// Whether one more job of `bytes` may be at work.
    fn may(&self, all: Use, of_tenant: Use, of_flow: Use, bytes: usize) -> bool {
        let free = self.limits.total.saturating_sub(all.places);
        let has_place =
            of_flow.places < self.limits.flow.min(free) && of_tenant.places < self.limits.tenant.min(free);
        // What alone is larger than all there is runs when nothing else does.
        let free = self.limits.bytes.saturating_sub(all.bytes);
        let has_room = all.is_none()
            || (bytes <= free && (of_flow.is_none() || of_flow.bytes.max(of_tenant.bytes) + bytes <= free));
        has_place && has_room
    }

    fn release(&self, flow: &FlowId, bytes: usize) {
        {
            let mut inner = self.inner.lock();
            let Inner {
                flows,
                tenants,
                at_work,
                ..
            } = &mut *inner;
            at_work.subtract(bytes);
            let Some(lane) = flows.get_mut(flow) else { return };
            lane.at_work.subtract(bytes);
            if let Some(tenant) = &lane.tenant
                && let Some(of_tenant) = tenants.get_mut(tenant)
            {
                of_tenant.subtract(bytes);
                if of_tenant.is_none() {
                    tenants.remove(tenant);
                }
            }
            if lane.at_work.is_none() && lane.waiting.is_empty() {
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
    bytes: usize,
    is_modest: bool,
}

impl<J> Slot<J> {
    /// Whether its flow had little to do when it was given.
    pub(crate) fn is_modest(&self) -> bool {
        self.is_modest
    }
}

impl<J> Drop for Slot<J> {
    fn drop(&mut self) {
        self.fair.release(&self.flow, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fair(total: usize, tenant: usize, flow: usize) -> Arc<Fair<u32>> {
        let limits = Limits {
            total,
            tenant,
            flow,
            bytes: 1_000,
        };
        Fair::new(limits, Clock::manual(Timestamp::from_millis(0)))
    }

    fn whose(flow: &str, tenant: Option<&str>) -> Whose {
        Whose {
            flow: flow.into(),
            tenant: tenant.map(TenantId::from),
        }
    }

    fn all(fair: &Arc<Fair<u32>>) -> Vec<(u32, Slot<u32>)> {
        std::iter::from_fn(|| fair.take()).collect()
    }

    #[test]
    fn a_flow_of_which_more_waits_or_runs_is_not_modest() {
        let fair = fair(10, 10, 10);
        for job in 0..3 {
            fair.push(&whose("busy", None), 1, job);
        }
        fair.push(&whose("quiet", None), 1, 3);
        let mut slots = all(&fair);
        let modest = |slots: &[(u32, Slot<u32>)]| -> Vec<u32> {
            let modest = slots.iter().filter(|(_, slot)| slot.is_modest());
            modest.map(|(job, _)| *job).collect()
        };
        assert_eq!(modest(&slots), [3]);
        fair.push(&whose("busy", None), 1, 4);
        slots.extend(all(&fair));
        assert_eq!(modest(&slots), [3], "three of it are at work");
        slots.clear();
        fair.push(&whose("busy", None), 1, 5);
        assert_eq!(modest(&all(&fair)), [5]);
    }

    #[test]
    fn a_flow_with_much_to_do_does_not_hold_up_another() {
        let fair = fair(10, 10, 2);
        for job in 0..100 {
            fair.push(&whose("busy", None), 1, job);
        }
        fair.push(&whose("other", None), 1, 1000);
        let slots = all(&fair);
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
        let shared = fair(10, 3, 2);
        for flow in ["a", "b"] {
            for job in 0..4 {
                shared.push(&whose(flow, Some("t")), 1, job);
            }
        }
        assert_eq!(all(&shared).len(), 3);
        let whole = fair(1, 3, 2);
        whole.push(&whose("a", None), 1, 0);
        whole.push(&whose("b", None), 1, 1);
        let first = whole.take().unwrap();
        assert!(whole.take().is_none());
        drop(first);
        assert_eq!(whole.take().unwrap().0, 1);
    }

    #[test]
    fn however_many_are_greedy_some_places_are_left() {
        let fair = fair(120, 96, 64);
        for flow in ["hangs", "slow", "floods"] {
            for job in 0..1_000 {
                fair.push(&whose(flow, Some(flow)), 0, job);
            }
        }
        let slots = all(&fair);
        assert!(slots.len() >= 80 && slots.len() <= 96, "{}", slots.len());
        fair.push(&whose("quiet", Some("quiet")), 0, 7);
        assert_eq!(fair.take().unwrap().0, 7, "at once");
    }

    #[test]
    fn bytes_are_shared_as_places_are() {
        let fair = fair(100, 100, 100);
        for job in 0..10 {
            fair.push(&whose("large", None), 200, job);
        }
        let slots = all(&fair);
        assert_eq!(slots.len(), 3, "no more than is left for others");
        fair.push(&whose("other", None), 300, 77);
        assert_eq!(fair.take().unwrap().0, 77);
        drop(slots);
        drop(all(&fair));
        fair.drain(&"large".into());
        fair.push(&whose("huge", None), 5_000, 99);
        assert_eq!(fair.take().unwrap().0, 99, "what is larger than all runs alone");
    }

    #[test]
    fn a_flow_at_rest_waits_and_then_tries_with_one() {
        let fair = fair(10, 10, 10);
        for job in 0..5 {
            fair.push(&whose("ill", None), 1, job);
        }
        fair.rest(&"ill".into(), Timestamp::from_millis(50));
        fair.push(&whose("well", None), 1, 9);
        assert_eq!(all(&fair).len(), 1, "of the one that is well");
        fair.clock.advance(50);
        let trial = all(&fair);
        assert_eq!(trial.len(), 1);
        fair.go_on(&"ill".into());
        assert_eq!(all(&fair).len(), 4);
    }

    #[test]
    fn what_waits_of_a_flow_can_be_taken_away() {
        let fair = fair(10, 10, 1);
        for job in 0..3 {
            fair.push(&whose("a", Some("t")), 1, job);
        }
        fair.push(&whose("b", None), 1, 9);
        let first = fair.take().unwrap();
        assert_eq!(first.0, 0);
        assert_eq!(fair.drain(&"a".into()), [1, 2]);
        drop(first);
        assert_eq!(fair.take().unwrap().0, 9);
        assert!(fair.take().is_none());
        assert!(fair.inner.lock().flows.len() <= 1, "nothing is left behind");
    }
}
