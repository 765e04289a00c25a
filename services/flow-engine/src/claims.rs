//! Which requests are in hand or were done lately, so that a request that is on the bus twice is executed once.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use flowmate_common::ids::ExecutionId;
use parking_lot::Mutex;

/// Requests that were done and are remembered. Copies of a request follow it closely: whoever sends one again does so
/// because no answer came.
const REMEMBERED: usize = 16_384;

/// The requests of this replica. All copies of one come to the same: they have the same key.
#[derive(Default)]
pub(crate) struct Claims(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    in_hand: HashMap<ExecutionId, Holder>,
    done: HashSet<ExecutionId>,
    /// The same, the oldest first.
    order: VecDeque<ExecutionId>,
    claims: u64,
}

/// Who holds a request.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Holder {
    /// Where the request is.
    position: u64,
    /// Which claim it is.
    number: u64,
}

/// A request in hand; given back when dropped.
#[must_use]
pub(crate) struct Claim {
    claims: Arc<Claims>,
    execution: ExecutionId,
    holder: Holder,
}

impl Claims {
    /// The execution had ended: copies of its request are not executed.
    pub(crate) fn remember(&self, execution: &ExecutionId) {
        let mut inner = self.0.lock();
        if inner.done.insert(execution.clone()) {
            inner.order.push_back(execution.clone());
        }
        if inner.order.len() > REMEMBERED
            && let Some(oldest) = inner.order.pop_front()
        {
            inner.done.remove(&oldest);
        }
    }

    /// Takes the request at `position`. `None` if another copy of it is in hand, or one was done. The same copy is taken
    /// anew: its partition was taken away and came back.
    pub(crate) fn claim(self: &Arc<Self>, execution: &ExecutionId, position: u64) -> Option<Claim> {
        let mut inner = self.0.lock();
        if inner.done.contains(execution) {
            return None;
        }
        let holder = Holder {
            position,
            number: inner.claims,
        };
        let held = inner.in_hand.get(execution);
        if held.is_some_and(|held| held.position != position) {
            return None;
        }
        inner.claims += 1;
        inner.in_hand.insert(execution.clone(), holder);
        Some(Claim {
            claims: Arc::clone(self),
            execution: execution.clone(),
            holder,
        })
    }
}

impl Claim {
    /// The execution's end is durable.
    pub(crate) fn done(self) {
        self.claims.remember(&self.execution);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut inner = self.claims.0.lock();
        if inner.in_hand.get(&self.execution) == Some(&self.holder) {
            inner.in_hand.remove(&self.execution);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_waits_for_nothing_and_a_redelivery_is_no_copy() {
        let (claims, id) = (Arc::<Claims>::default(), ExecutionId::from("e"));
        let first = claims.claim(&id, 1).unwrap();
        assert!(claims.claim(&id, 2).is_none(), "a copy");
        let again = claims.claim(&id, 1).unwrap();
        drop(first);
        assert!(
            claims.claim(&id, 2).is_none(),
            "the redelivered one is still in hand"
        );
        drop(again);
        let copy = claims.claim(&id, 2).unwrap();
        copy.done();
        assert!(claims.claim(&id, 1).is_none() && claims.claim(&id, 3).is_none());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let claims = Arc::<Claims>::default();
        for number in 0..=REMEMBERED {
            claims
                .claim(&ExecutionId::from(number.to_string()), 1)
                .unwrap()
                .done();
        }
        assert!(claims.claim(&ExecutionId::from("0"), 2).is_some());
        assert!(claims.claim(&ExecutionId::from("1"), 2).is_none());
    }
}
