//! Requests that are held by their position only, counted by whose they are: a flow that has very much to do takes no more
//! webhooks until some of it is done, so that there is room for the requests of others behind it.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use flowmate_common::{
    Timestamp,
    ids::{FlowId, TenantId},
};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::fair::Whose;

/// How long webhooks of a flow are refused at a time, in milliseconds; it is said again while it has too much to do.
const REFUSED: i64 = 3_000;
/// How long before the end of that it is said again.
const AGAIN: i64 = 2_000;

/// The positions that are held.
pub(crate) struct Positions {
    /// More are not read until some are done.
    free: Semaphore,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    flows: HashMap<FlowId, usize>,
    tenants: HashMap<TenantId, usize>,
    /// Flows whose webhooks are refused, until when.
    refused: HashMap<FlowId, Timestamp>,
}

/// A position that is held; given back when dropped.
pub(crate) struct Position {
    positions: Arc<Positions>,
    whose: Whose,
}

impl Positions {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Semaphore::new(most),
            counts: Mutex::default(),
        })
    }

    /// Holds one more; waits where all are taken.
    pub(crate) async fn hold(self: &Arc<Self>, whose: &Whose) -> Option<Position> {
        self.free.acquire().await.ok()?.forget();
        {
            let mut counts = self.counts.lock();
            *counts.flows.entry(whose.flow.clone()).or_default() += 1;
            if let Some(tenant) = &whose.tenant {
                *counts.tenants.entry(tenant.clone()).or_default() += 1;
            }
        }
        Some(Position {
            positions: Arc::clone(self),
            whose: whose.clone(),
        })
    }

    /// Until when the flow's webhooks are to be refused from now on: it or its tenant holds more than are free. `None`: they
    /// are not, or that was said already.
    pub(crate) fn refuse(&self, whose: &Whose, now: Timestamp) -> Option<Timestamp> {
        let mut counts = self.counts.lock();
        let of_flow = counts.flows.get(&whose.flow).copied();
        let of_tenant = whose
            .tenant
            .as_ref()
            .and_then(|tenant| counts.tenants.get(tenant).copied());
        let held = of_flow.max(of_tenant).unwrap_or_default();
        if held < self.free.available_permits() {
            return None;
        }
        let said = counts.refused.get(&whose.flow);
        if said.is_some_and(|until| *until > now.plus_millis(REFUSED - AGAIN)) {
            return None;
        }
        counts.refused.retain(|_, until| *until > now);
        let until = now.plus_millis(REFUSED);
        counts.refused.insert(whose.flow.clone(), until);
        Some(until)
    }
}

impl Drop for Position {
    fn drop(&mut self) {
        self.positions.free.add_permits(1);
        let mut counts = self.positions.counts.lock();
        take_one(&mut counts.flows, &self.whose.flow);
        if let Some(tenant) = &self.whose.tenant {
            take_one(&mut counts.tenants, tenant);
        }
    }
}

fn take_one<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    let Some(count) = counts.get_mut(key) else { return };
    *count -= 1;
    if *count == 0 {
        counts.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whose(flow: &str, tenant: Option<&str>) -> Whose {
        Whose {
            flow: flow.into(),
            tenant: tenant.map(TenantId::from),
        }
    }

    async fn hold(positions: &Arc<Positions>, whose: &Whose, count: usize) -> Vec<Position> {
        let mut held = Vec::new();
        for _ in 0..count {
            held.push(positions.hold(whose).await.unwrap());
        }
        held
    }

    #[tokio::test]
    async fn who_holds_more_than_are_free_is_refused_from_time_to_time_and_others_are_not() {
        let positions = Positions::new(100);
        let (busy, quiet) = (whose("busy", None), whose("quiet", None));
        let at = Timestamp::from_millis;
        let mut held = hold(&positions, &busy, 49).await;
        assert_eq!(positions.refuse(&busy, at(0)), None);
        held.extend(hold(&positions, &busy, 1).await);
        assert_eq!(positions.refuse(&busy, at(0)), Some(at(REFUSED)));
        assert_eq!(positions.refuse(&busy, at(AGAIN - 1)), None, "it was said");
        assert_eq!(positions.refuse(&busy, at(AGAIN)), Some(at(AGAIN + REFUSED)));
        let _one = hold(&positions, &quiet, 1).await;
        assert_eq!(positions.refuse(&quiet, at(0)), None);
        held.truncate(10);
        assert_eq!(
            positions.refuse(&busy, at(10 * REFUSED)),
            None,
            "there is room again"
        );
    }

    #[tokio::test]
    async fn many_flows_of_a_tenant_hold_together() {
        let positions = Positions::new(10);
        let flows = ["a", "b", "c", "d", "e"].map(|flow| whose(flow, Some("tenant")));
        let mut held = Vec::new();
        for flow in &flows {
            held.extend(hold(&positions, flow, 1).await);
        }
        assert!(positions.refuse(&flows[0], Timestamp::from_millis(0)).is_some());
        let counts = || {
            let counts = positions.counts.lock();
            counts.flows.len() + counts.tenants.len()
        };
        assert_eq!(counts(), 6);
        drop(held);
        assert_eq!(counts(), 0);
    }
}
