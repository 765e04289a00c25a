//! Takes execution requests off the bus and runs them, fairly and a bounded number at a time.

use std::sync::Arc;

use flowmate_bus::{
    Start,
    inbox::{Ack, Inbox, Job},
};
use flowmate_common::{
    Failure, Topic,
    ids::{FlowId, TenantId},
    model::{ExecutionOf, FlowExecute},
};

use crate::{
    State, execution,
    fair::{Fair, Limits},
    flows::{Known, Running},
    journal::{Effects, Journal},
};

const GROUP: &str = "flow-engine";
/// Requests taken at once.
const BATCH: usize = 256;

/// An execution whose turn is to come.
struct Ready {
    request: FlowExecute,
    running: Arc<Running>,
    effects: Effects,
    ack: Ack,
}

/// Reads the journal and begins to work.
pub(crate) async fn start(state: Arc<State>) -> Result<(), Failure> {
    let bus = &state.context.bus;
    let journal = Journal::read(&**bus, GROUP).await.map_err(Failure::internal)?;
    let subscription = bus
        .subscribe(Topic::ExecutionRequests, GROUP, Start::Beginning)
        .await
        .map_err(Failure::internal)?;
    let inbox = Inbox::new(subscription, state.config.window);
    let limits = Limits {
        total: state.config.concurrency,
        tenant: state.config.tenant_concurrency,
        flow: state.config.flow_concurrency,
    };
    let fair = Fair::new(limits);
    let (context, working) = (state.context.clone(), Arc::clone(&fair));
    let worker = Arc::clone(&state);
    context.spawn("execution worker", async move { work(worker, working).await });
    context.spawn("execution requests", async move {
        take(&state, inbox, &journal, &fair).await
    });
    Ok(())
}

async fn take(state: &Arc<State>, mut inbox: Inbox, journal: &Journal, fair: &Arc<Fair<Ready>>) {
    loop {
        match inbox.next(BATCH).await {
            Ok(jobs) => {
                for job in jobs {
                    admit(state, job, journal, fair).await;
                }
            }
            Err(error) => {
                tracing::error!(%error, "execution requests cannot be read");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }
}

async fn admit(state: &Arc<State>, job: Job, journal: &Journal, fair: &Arc<Fair<Ready>>) {
    let request: FlowExecute = match job.event.body() {
        Ok(request) => request,
        Err(error) => {
            let consumer = state.context.consumer(Topic::ExecutionRequests, GROUP);
            consumer.give_up(job, &error.to_string()).await;
            return;
        }
    };
    if journal.had_finished(&request.execution_id) {
        job.ack.done();
        return;
    }
    let effects = journal.effects(&request.execution_id);
    let Job { ack, .. } = job;
    match state.flows.find(&request.flow_id, &request.execution_id) {
        Known::Runs(running) => {
            let of = running.execution(request.execution_id.clone());
            let (flow, tenant): (FlowId, Option<TenantId>) = (of.flow_id, of.tenant);
            fair.push(
                &flow,
                tenant.as_ref(),
                Ready {
                    request,
                    running,
                    effects,
                    ack,
                },
            );
        }
        Known::Stopped(of) => cancel(state, of, ack).await,
        Known::Unknown => {
            let of = ExecutionOf {
                execution_id: request.execution_id,
                flow_id: request.flow_id,
                flow_name: None,
                user: None,
                tenant: None,
            };
            cancel(state, of, ack).await;
        }
    }
}

async fn cancel(state: &State, of: ExecutionOf, ack: Ack) {
    execution::cancel(
        &state.context,
        of,
        "The flow was stopped before the execution began.",
    )
    .await;
    ack.done();
}

/// Starts executions as places become free. They run to their end even when the process is to end; what does not make
/// it within the grace period is taken up again after the next start.
async fn work(state: Arc<State>, fair: Arc<Fair<Ready>>) {
    let running_now = metrics::gauge!("flowmate_executions_running");
    loop {
        let (ready, slot) = fair.next().await;
        let (state, gauge) = (Arc::clone(&state), running_now.clone());
        let tasks = state.context.tasks.clone();
        tasks.spawn(async move {
            gauge.increment(1.0);
            let Ready {
                request,
                running,
                effects,
                ack,
            } = ready;
            execution::run(&state, running, request, effects).await;
            ack.done();
            drop(slot);
            gauge.decrement(1.0);
        });
    }
}
