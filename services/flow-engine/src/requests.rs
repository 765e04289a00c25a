//! Takes execution requests off the bus and runs them, fairly and a bounded number at a time.

use std::{sync::Arc, time::Duration};

use flowmate_bus::{
    Start,
    inbox::{Ack, Inbox, Job, Prepare},
};
use flowmate_common::{
    Event, Failure, Topic,
    model::{ExecutionOf, FlowExecute},
};
use flowmate_runtime::Context;
use tokio::{runtime::Handle, sync::mpsc};

use crate::{
    State,
    claims::{Claim, Claims},
    execution,
    fair::{Fair, Limits},
    flows::{Known, Running},
    journal::{Effects, Journal},
};

const GROUP: &str = "flow-engine";
/// Requests taken at once.
const BATCH: usize = 256;

/// How long an end waits for others. Nobody waits for it, while each append of its own would make the webhooks that
/// come meanwhile wait for one more sync.
const LINGER: Duration = Duration::from_millis(2);
/// Ended executions that wait for the publisher; more make executions wait.
const ENDED: usize = 1024;

/// An execution whose turn is to come.
struct Ready {
    request: FlowExecute,
    running: Arc<Running>,
    effects: Effects,
    claim: Claim,
    ack: Ack,
}

/// An execution that has ended: what is left to publish of it, and the request that is done when that is durable.
struct Ended {
    events: Vec<Event>,
    claim: Claim,
    ack: Ack,
}

/// What taking a request needs.
struct Intake {
    state: Arc<State>,
    journal: Arc<Journal>,
    claims: Arc<Claims>,
    fair: Arc<Fair<Ready>>,
    ended: mpsc::Sender<Ended>,
}

/// Reads the journal and begins to work.
pub(crate) async fn start(state: Arc<State>) -> Result<(), Failure> {
    let journal = Arc::new(Journal::default());
    let prepare: Prepare = {
        let (bus, journal) = (Arc::clone(&state.context.bus), Arc::clone(&journal));
        Arc::new(move |partition| {
            let (bus, journal) = (Arc::clone(&bus), Arc::clone(&journal));
            Box::pin(async move { journal.read(&*bus, GROUP, partition).await })
        })
    };
    let (bus, topic, window) = (&*state.context.bus, Topic::ExecutionRequests, state.config.window);
    let inbox = Inbox::prepared(bus, topic, GROUP, Start::Beginning, window, prepare)
        .await
        .map_err(Failure::internal)?;
    let limits = Limits {
        total: state.config.concurrency,
        tenant: state.config.tenant_concurrency,
        flow: state.config.flow_concurrency,
    };
    let fair = Fair::new(limits);
    let (ended, endings) = mpsc::channel(ENDED);
    let context = state.context.clone();
    let publishing = context.clone();
    // Ends by itself when nothing is left that could end.
    context
        .tasks
        .spawn(async move { publish_ends(&publishing, endings).await });
    let (worker, turns, ends) = (Arc::clone(&state), Arc::clone(&fair), ended.clone());
    context.spawn("execution worker", async move { work(worker, turns, ends).await });
    let intake = Intake {
        state,
        journal,
        claims: Arc::default(),
        fair,
        ended,
    };
    context.spawn("execution requests", async move { intake.run(inbox).await });
    Ok(())
}

/// Publishes ends in groups: one append, and one wait for the disk, for all that ended meanwhile.
async fn publish_ends(context: &Context, mut endings: mpsc::Receiver<Ended>) {
    let mut group = Vec::with_capacity(ENDED);
    while endings.recv_many(&mut group, ENDED).await > 0 {
        tokio::time::sleep(LINGER).await;
        while group.len() < ENDED
            && let Ok(ended) = endings.try_recv()
        {
            group.push(ended);
        }
        let events = group
            .iter_mut()
            .flat_map(|ended| std::mem::take(&mut ended.events));
        execution::publish(context, events.collect()).await;
        for Ended { claim, ack, .. } in group.drain(..) {
            claim.done();
            ack.done();
        }
    }
}

impl Intake {
    async fn run(&self, mut inbox: Inbox) {
        loop {
            match inbox.next(BATCH).await {
                Ok(jobs) => {
                    for job in jobs {
                        self.admit(job).await;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "execution requests cannot be read");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn admit(&self, job: Job) {
        let request: FlowExecute = match job.event.body() {
            Ok(request) => request,
            Err(error) => {
                let consumer = self.state.context.consumer(Topic::ExecutionRequests, GROUP);
                consumer.give_up(job, &error.to_string()).await;
                return;
            }
        };
        let Job {
            ack,
            partition,
            position,
            ..
        } = job;
        if self.journal.had_finished(partition, &request.execution_id) {
            self.claims.remember(&request.execution_id);
            ack.done();
            return;
        }
        let Some(claim) = self.claims.claim(&request.execution_id, position) else {
            tracing::info!(execution.id = %request.execution_id, "a request came twice");
            ack.done();
            return;
        };
        match self.known(&request).await {
            Known::Runs(running) => {
                let effects = self.journal.effects(&request.execution_id);
                let of = running.execution(request.execution_id.clone());
                self.fair.push(
                    &of.flow_id,
                    of.tenant.as_ref(),
                    Ready {
                        request,
                        running,
                        effects,
                        claim,
                        ack,
                    },
                );
            }
            Known::Stopped(of) => self.cancel(of, claim, ack).await,
            Known::Unknown => {
                let of = ExecutionOf {
                    execution_id: request.execution_id,
                    flow_id: request.flow_id,
                    flow_name: None,
                    user: None,
                    tenant: None,
                };
                self.cancel(of, claim, ack).await;
            }
        }
    }

    /// What is known of the request's flow, as soon as storage says it.
    async fn known(&self, request: &FlowExecute) -> Known {
        loop {
            match self.state.flows.find(request, &self.state.registry).await {
                Ok(known) => return known,
                Err(error) => {
                    tracing::warn!(flow.id = %request.flow_id, %error, "a flow cannot be looked up");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn cancel(&self, of: ExecutionOf, claim: Claim, ack: Ack) {
        let reason = "The flow was stopped before the execution began.";
        let events = execution::cancelled(&self.state.context, of, reason);
        let _ = self.ended.send(Ended { events, claim, ack }).await;
    }
}

/// Starts executions as places become free. They run to their end even when the process is to end; what does not make
/// it within the grace period is taken up again after the next start.
async fn work(state: Arc<State>, fair: Arc<Fair<Ready>>, ended: mpsc::Sender<Ended>) {
    let running_now = metrics::gauge!("flowmate_executions_running");
    loop {
        let (ready, slot) = fair.next().await;
        let (state, ended, gauge) = (Arc::clone(&state), ended.clone(), running_now.clone());
        let tasks = state.context.tasks.clone();
        let threads = if state.context.pressure.is_high() {
            state.spare.clone()
        } else {
            Handle::current()
        };
        let execution = async move {
            gauge.increment(1.0);
            let Ready {
                request,
                running,
                effects,
                claim,
                ack,
            } = ready;
            let lost = ack.lost();
            let events = tokio::select! {
                events = execution::run(&state, running, request, effects) => Some(events),
                // Another replica has the request now, and goes on behind the last recorded effect.
                () = lost.cancelled() => None,
            };
            drop(slot);
            gauge.decrement(1.0);
            if let Some(events) = events {
                let _ = ended.send(Ended { events, claim, ack }).await;
            }
        };
        tasks.spawn_on(execution, &threads);
    }
}
