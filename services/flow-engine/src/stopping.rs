//! Stop means stop: what waits of a flow is cancelled, what runs ends at its next step, and the flow is said to be stopped
//! after that.

use std::{sync::Arc, time::Duration};

use flowmate_common::ids::FlowId;
use flowmate_retry::until_passes;
use flowmate_storage::Error;

use crate::{
    State,
    execution::{self, STOPPED},
    flows::Running,
    work,
};

/// How long what runs is waited for. It ends within half a second, but for what computes without a pause.
const PATIENCE: Duration = Duration::from_secs(2);

/// Nothing more begins of the flow. The rest happens in the background: no other flow's start or stop waits for it.
pub(crate) async fn stop(state: &Arc<State>, id: FlowId, activation: u64) -> Result<(), Error> {
    let running = state.flows.stop(&id, activation).await?;
    let finishing = Arc::clone(state);
    let work = async move { finish(finishing, id, activation, running).await };
    // Told after a restart where this does not come to its end: see `resume`.
    let shutdown = state.context.shutdown.clone();
    state
        .context
        .tasks
        .spawn(async move { shutdown.run_until_cancelled(work).await });
    Ok(())
}

/// Goes on with stops that somebody began who ended before they were told.
pub(crate) async fn resume(state: &Arc<State>) -> Result<(), Error> {
    for (id, activation) in state.flows.stopping().await? {
        stop(state, id, activation).await?;
    }
    Ok(())
}

async fn finish(state: Arc<State>, id: FlowId, activation: u64, running: Option<Arc<Running>>) {
    state.fair.go_on(&id);
    for job in state.fair.drain(&id) {
        work::cancel(&state, *job).await;
    }
    let cancelled = until_passes("cancelling executions that wait", || {
        cancel_parked(&state, &id, activation)
    });
    if let Err(error) = cancelled.await {
        tracing::error!(flow.id = %id, %error, "executions that wait cannot be cancelled");
    }
    if let Some(running) = running
        && tokio::time::timeout(PATIENCE, running.at_work.wait())
            .await
            .is_err()
    {
        let count = running.at_work.len();
        tracing::warn!(flow.id = %id, count, "executions of a stopped flow are still at work");
    }
    let told = until_passes("telling that a flow stopped", || {
        state.flows.stopped(&state.context, &id, activation)
    });
    if let Err(error) = told.await {
        tracing::error!(flow.id = %id, %error, "it cannot be told that a flow stopped");
    }
}

/// Ends what waits of the flow and began before this stop.
pub(crate) async fn cancel_parked(state: &State, id: &FlowId, activation: u64) -> Result<usize, Error> {
    let end = |parked: &crate::parked::ParkedExecution| {
        let reason = format!("{STOPPED} It waited: {}", parked.reason);
        let started = Some(parked.progress.started);
        execution::cancelled(&state.context, parked.of.clone(), started, &reason)
    };
    state.parked.cancel(id, activation, end).await
}
