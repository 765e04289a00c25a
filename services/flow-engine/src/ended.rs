//! Ends of executions: published in groups, and what is done is done only after that.

use std::{sync::Arc, time::Duration};

use flowmate_bus::inbox::Ack;
use flowmate_common::{
    Event,
    ids::ExecutionId,
    model::{ExecutionFinished, Outcome},
};
use flowmate_retry::until_passes;
use tokio::sync::mpsc;

use crate::{State, claims::Claim, execution};

/// How long an end waits for others. Nobody waits for it, while each append of its own would make the webhooks that
/// come meanwhile wait for one more sync.
const LINGER: Duration = Duration::from_millis(2);
/// Ended executions that wait for the publisher; more make executions wait.
pub(crate) const WAITING: usize = 1024;

/// An execution that has ended: what is left to publish of it, and the request that is done when that is durable.
pub(crate) struct Done {
    pub(crate) events: Vec<Event>,
    pub(crate) claim: Claim,
    pub(crate) ack: Ack,
    /// It had waited: what is stored of it goes.
    pub(crate) parked: Option<ExecutionId>,
}

/// Publishes ends in groups: one append, and one wait for the disk, for all that ended meanwhile. Ends by itself when
/// nothing is left that could end.
pub(crate) async fn publish(state: Arc<State>, mut endings: mpsc::Receiver<Done>) {
    let mut group = Vec::with_capacity(WAITING);
    while endings.recv_many(&mut group, WAITING).await > 0 {
        tokio::time::sleep(LINGER).await;
        while group.len() < WAITING
            && let Ok(done) = endings.try_recv()
        {
            group.push(done);
        }
        let events = group.iter_mut().flat_map(|done| std::mem::take(&mut done.events));
        let refused = execution::publish(&state.context, events.collect()).await;
        let shorter = refused.iter().filter_map(without_steps).collect::<Vec<_>>();
        if !shorter.is_empty() {
            execution::publish(&state.context, shorter).await;
        }
        forget(&state, &group).await;
        for Done { claim, ack, .. } in group.drain(..) {
            claim.done();
            ack.done();
        }
    }
}

/// The end of an execution whose steps are more than the bus takes: an error that says so.
fn without_steps(event: &Event) -> Option<Event> {
    let finished: ExecutionFinished = event.body().ok()?;
    let bytes = event.data.len();
    let finished = ExecutionFinished {
        status: Outcome::Error,
        error: Some(format!(
            "The record of the execution has {bytes} bytes, more than the event bus takes; its last steps are not recorded."
        )),
        steps: Vec::new(),
        ..finished
    };
    let data = serde_json::to_vec(&finished).ok()?;
    Some(Event {
        data: data.into(),
        ..event.clone()
    })
}

/// Removes what is stored of executions that ended, before their requests are done: what comes again finds that they ended.
async fn forget(state: &State, group: &[Done]) {
    let ended = group.iter().filter_map(|done| done.parked.as_ref());
    let removals = ended.map(|id| async move {
        let forgotten = until_passes("forgetting executions that ended", || state.parked.forget(id)).await;
        if let Err(error) = forgotten {
            tracing::error!(execution.id = %id, %error, "an execution that ended is still stored");
        }
    });
    futures_util::future::join_all(removals).await;
}
