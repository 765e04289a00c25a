//! Wakes executions that wait: near ones are kept in memory, far ones are only stored.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use flowmate_common::{Timestamp, ids::ExecutionId};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{State, execution::between};

/// How far ahead the store is looked at, in milliseconds.
const HORIZON: i64 = 3_000;
/// How often it is looked at: another replica may have stored what is due soon.
const LOOK: Duration = Duration::from_secs(1);
/// Executions kept in memory; later ones are found in the store when they are due.
const NEAR: usize = 20_000;

/// The executions that are due soon.
#[derive(Default)]
pub(crate) struct Waker {
    near: Mutex<BTreeSet<(Timestamp, ExecutionId)>>,
    bell: Notify,
}

impl Waker {
    /// An execution waits until `due`.
    pub(crate) fn add(&self, now: Timestamp, due: Timestamp, id: ExecutionId) {
        if due > now.plus_millis(HORIZON) {
            return;
        }
        let mut near = self.near.lock();
        let is_first = near.first().is_none_or(|(first, _)| due < *first);
        if near.len() < NEAR {
            near.insert((due, id));
        }
        if is_first {
            self.bell.notify_one();
        }
    }

    fn take_due(&self, now: Timestamp) -> Vec<ExecutionId> {
        let mut near = self.near.lock();
        let mut due = Vec::new();
        while near.first().is_some_and(|(first, _)| *first <= now) {
            due.extend(near.pop_first().map(|(_, id)| id));
        }
        due
    }

    fn next(&self) -> Option<Timestamp> {
        self.near.lock().first().map(|(due, _)| *due)
    }
}

/// Asks for executions to go on as they become due, for ever.
pub(crate) async fn run(state: Arc<State>) {
    let (waker, clock) = (&state.waker, &state.context.clock);
    let mut looked = None;
    loop {
        let bell = waker.bell.notified();
        let now = clock.now();
        if looked.is_none_or(|at: Timestamp| between(at, now) >= LOOK) {
            looked = Some(now);
            match state.parked.due(now.plus_millis(HORIZON)).await {
                Ok(found) => {
                    let is_late = found.iter().filter(|(due, _)| *due <= now).count();
                    if is_late > 0 && is_late == found.len() {
                        // There may be more that is due already.
                        looked = None;
                    }
                    waker.near.lock().extend(found.into_iter().take(NEAR));
                }
                Err(error) => tracing::warn!(%error, "executions that wait cannot be looked up"),
            }
        }
        let due = waker.take_due(now);
        if !due.is_empty() {
            metrics::counter!("flowmate_executions_woken_total").increment(due.len() as u64);
            if let Err(error) = state.parked.claim(due, now).await {
                // They stay stored, and are found again.
                tracing::warn!(%error, "executions that are due cannot be asked to go on");
                tokio::time::sleep(LOOK).await;
            }
            continue;
        }
        let nap = waker.next().map_or(LOOK, |due| between(now, due).min(LOOK));
        let nap = if looked.is_none() { Duration::ZERO } else { nap };
        let _ = tokio::time::timeout(nap, bell).await;
    }
}
