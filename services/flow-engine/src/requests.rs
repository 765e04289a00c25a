//! Takes execution requests off the bus. Those whose turn is not soon keep only their position and are read again: whoever
//! is behind a flow with very much to do is found, whatever that flow sends.

use std::{collections::HashMap, sync::Arc};

use flowmate_bus::{
    Start,
    inbox::{Ack, Inbox, Job as Delivered, Prepare},
};
use flowmate_common::{
    EventType, Failure, Topic,
    ids::{ExecutionId, FlowId},
    model::{ExecutionOf, FlowBacklogged, FlowExecute, FlowResume},
};
use flowmate_retry::{Backoff, until_passes};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::{
    State,
    claims::{Claim, Claims},
    ended::{self, Done},
    execution,
    flows::{Found, Running, Wanted},
    journal::Journal,
    positions::Positions,
    suspects::{self, Arriving, Suspicion},
    waker,
    work::{self, Held, Job, Place, What, Worker},
};

const GROUP: &str = "flow-engine";
/// Requests taken at once.
const BATCH: usize = 256;
/// Requests of one flow that wait in memory, and their bytes.
const FLOW_WAITING: Room = Room {
    count: 256,
    bytes: 1 << 20,
};
/// The same for all flows.
const ALL_WAITING: Room = Room {
    count: 4_096,
    bytes: 16 << 20,
};
/// How many bytes an execution takes for each byte of its request, about: the message, what steps make of it, and what is
/// said of them.
const GROWTH: usize = 4;
/// The least that an execution takes.
const LEAST: usize = 16 << 10;

#[derive(Clone, Copy, Default)]
struct Room {
    count: usize,
    bytes: usize,
}

/// The requests that wait in memory.
#[derive(Default)]
pub(crate) struct Waiting(Mutex<(Room, HashMap<FlowId, Room>)>);

/// A request that waits in memory; gives its room back when dropped.
pub(crate) struct InMemory {
    waiting: Arc<Waiting>,
    flow: FlowId,
    bytes: usize,
}

impl Waiting {
    /// Room for a request, if its flow and all flows together have some.
    fn take(self: &Arc<Self>, flow: &FlowId, bytes: usize) -> Option<InMemory> {
        let mut inner = self.0.lock();
        let (all, flows) = &mut *inner;
        let of_flow = flows.get(flow).copied().unwrap_or_default();
        let fits = |used: Room, limit: Room| used.count < limit.count && used.bytes + bytes <= limit.bytes;
        if !fits(of_flow, FLOW_WAITING) || !fits(*all, ALL_WAITING) {
            return None;
        }
        for room in [all, flows.entry(flow.clone()).or_default()] {
            room.count += 1;
            room.bytes += bytes;
        }
        Some(InMemory {
            waiting: Arc::clone(self),
            flow: flow.clone(),
            bytes,
        })
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        let mut inner = self.waiting.0.lock();
        let (all, flows) = &mut *inner;
        all.count -= 1;
        all.bytes -= self.bytes;
        if let Some(room) = flows.get_mut(&self.flow) {
            room.count -= 1;
            room.bytes -= self.bytes;
            if room.count == 0 {
                flows.remove(&self.flow);
            }
        }
    }
}

/// What taking a request needs.
struct Intake {
    state: Arc<State>,
    journal: Arc<Journal>,
    claims: Arc<Claims>,
    waiting: Arc<Waiting>,
    positions: Arc<Positions>,
    ended: mpsc::Sender<Done>,
}

/// Reads the journal and begins to work.
pub(crate) async fn start(
    state: Arc<State>,
    (ended, endings): (mpsc::Sender<Done>, mpsc::Receiver<Done>),
    arriving: Arriving,
) -> Result<(), Failure> {
    let context = state.context.clone();
    let journal = Arc::new(Journal::new(context.clock.clone()));
    let prepare: Prepare = {
        let (bus, journal) = (Arc::clone(&context.bus), Arc::clone(&journal));
        Arc::new(move |partition| {
            let (bus, journal) = (Arc::clone(&bus), Arc::clone(&journal));
            Box::pin(async move { journal.read(&*bus, GROUP, partition).await })
        })
    };
    let (topic, window) = (Topic::ExecutionRequests, state.config.window);
    let inbox = Inbox::prepared(&*context.bus, topic, GROUP, Start::Beginning, window, prepare)
        .await
        .map_err(Failure::internal)?
        // What a fault of ours drops comes again.
        .redelivers();
    // Ends by itself when nothing is left that could end.
    context.tasks.spawn(ended::publish(Arc::clone(&state), endings));
    let worker = Arc::new(Worker {
        state: Arc::clone(&state),
        journal: Arc::clone(&journal),
        ended: ended.clone(),
    });
    let (shutdown, first) = (
        context.shutdown.clone(),
        suspects::run(Arc::clone(&worker), arriving),
    );
    context
        .tasks
        .spawn(async move { shutdown.run_until_cancelled(first).await });
    context.spawn("execution worker", work::run(worker));
    context.spawn("waking executions", waker::run(Arc::clone(&state)));
    let intake = Intake {
        positions: Positions::new(state.config.waiting_requests),
        state,
        journal,
        claims: Arc::default(),
        waiting: Arc::default(),
        ended,
    };
    context.spawn("execution requests", async move { intake.run(inbox).await });
    Ok(())
}

impl Intake {
    async fn run(&self, mut inbox: Inbox) {
        let standing = self
            .state
            .context
            .consumers
            .register(Topic::ExecutionRequests, GROUP);
        standing.runs();
        let mut backoff = Backoff::new("taking execution requests");
        loop {
            match inbox.next(BATCH).await {
                Ok(jobs) => {
                    backoff.passed();
                    standing.runs();
                    self.admit_all(jobs).await;
                }
                Err(error) => {
                    standing.fails(&error);
                    backoff.wait(&error).await;
                }
            }
        }
    }

    async fn admit_all(&self, jobs: Vec<Delivered>) {
        let stored = self.stored(&jobs).await;
        for job in jobs {
            match job.event.kind {
                EventType::FlowExecute => self.admit(job, &stored).await,
                EventType::FlowResume => self.admit_again(job).await,
                _ => job.ack.done(),
            }
        }
    }

    /// Of requests that may have come before: the executions that are stored and go on by themselves.
    async fn stored(&self, jobs: &[Delivered]) -> Vec<String> {
        let may_be = |job: &&Delivered| {
            job.event.kind == EventType::FlowExecute
                && self.journal.is_of_before(job.partition, job.event.time)
        };
        let ids: Vec<String> = jobs
            .iter()
            .filter(may_be)
            .map(|job| job.event.key.to_string())
            .collect();
        if ids.is_empty() {
            return ids;
        }
        self.insist("looking up executions that wait", || {
            self.state.parked.known(ids.clone())
        })
        .await
        .unwrap_or_default()
    }

    async fn admit(&self, job: Delivered, stored: &[String]) {
        let suspicion = self.state.suspects.suspicion(&ExecutionId::from(&*job.event.key));
        if suspicion.is_convicted() {
            return self.convict(job).await;
        }
        let Asked {
            execution_id: id,
            flow_id,
            activation,
        } = match job.event.body() {
            Ok(asked) => asked,
            Err(error) => return self.give_up(job, &error.to_string()).await,
        };
        // What does not wait in memory is not read as a whole before its turn.
        let memory = self.waiting.take(&flow_id, job.event.size());
        let request: Option<FlowExecute> = match memory.as_ref().map(|_| job.event.body()).transpose() {
            Ok(request) => request,
            Err(error) => return self.give_up(job, &error.to_string()).await,
        };
        let (bytes, asked) = (job.event.size(), job.event.time);
        let (place, mut ack) = taken(job);
        if self.journal.had_finished(place.partition, &id) || stored.iter().any(|one| *one == *id.as_str()) {
            self.claims.remember(&id);
            return ack.done();
        }
        let Some(claim) = self.claims.claim(&id, place.position) else {
            tracing::info!(execution.id = %id, "a request came twice");
            return ack.done();
        };
        let wanted = Wanted {
            flow: &flow_id,
            activation,
            execution: &id,
        };
        let running = match self.find(&wanted).await {
            Found::Runs(running) => running,
            Found::Stopped(of) => return self.cancel(of, claim, ack, None).await,
            Found::Unknown => {
                let of = work::of_unknown(id, flow_id);
                return self.cancel(of, claim, ack, None).await;
            }
        };
        // What waits has bounds of its own: those who come behind it are to be read.
        ack.release_room();
        let (what, held) = match request {
            Some(request) => {
                let held = Held {
                    _memory: memory,
                    ..Held::default()
                };
                (What::Begin(Box::new(request), asked), held)
            }
            None => (What::Read, self.position(&running).await),
        };
        self.push(
            bytes,
            Job {
                what,
                running,
                id,
                place,
                claim,
                ack,
                held,
            },
            suspicion,
        );
    }

    /// An execution that waited and is to go on.
    async fn admit_again(&self, job: Delivered) {
        let suspicion = self.state.suspects.suspicion(&ExecutionId::from(&*job.event.key));
        if suspicion.is_convicted() {
            return self.convict(job).await;
        }
        let resume: FlowResume = match job.event.body() {
            Ok(resume) => resume,
            Err(error) => return self.give_up(job, &error.to_string()).await,
        };
        let (place, mut ack) = taken(job);
        let FlowResume {
            execution_id: id,
            flow_id,
            activation,
            turn,
        } = resume;
        // Each turn is claimed for itself: the request of the execution was done when it was stored.
        let turn_id = ExecutionId::from(format!("{id}#{turn}"));
        let Some(claim) = self.claims.claim(&turn_id, place.position) else {
            return ack.done();
        };
        if self.journal.had_finished(place.partition, &id) {
            let done = Done {
                events: Vec::new(),
                claim,
                ack,
                parked: Some(id),
            };
            return drop(self.ended.send(done).await);
        }
        let wanted = Wanted {
            flow: &flow_id,
            activation,
            execution: &id,
        };
        let running = match self.find(&wanted).await {
            Found::Runs(running) => running,
            Found::Stopped(of) => return self.cancel(of, claim, ack, Some(id)).await,
            Found::Unknown => {
                let parked = self.insist("looking up an execution that waits", || {
                    self.state.parked.resumed(&id, turn)
                });
                let Some(parked) = parked.await.flatten() else {
                    claim.done();
                    return ack.done();
                };
                return self.cancel(parked.of, claim, ack, Some(id)).await;
            }
        };
        ack.release_room();
        let held = self.position(&running).await;
        self.push(
            LEAST,
            Job {
                what: What::Resume(turn),
                running,
                id,
                place,
                claim,
                ack,
                held,
            },
            suspicion,
        );
    }

    fn push(&self, bytes: usize, job: Job, suspicion: Suspicion<'_>) {
        if let Some(suspect) = suspicion.keep() {
            return self.state.suspects.arrives(job, suspect);
        }
        let whose = job.running.whose();
        if job.running.stopped.is_cancelled() {
            // What is only to be cancelled waits for nobody's rest.
            self.state.fair.go_on(&whose.flow);
        }
        self.state
            .fair
            .push(&whose, (bytes * GROWTH).max(LEAST), Box::new(job));
    }

    /// Holds the request by its position. Where its flow has more of them than are free, its webhooks are refused for a
    /// while.
    async fn position(&self, running: &Running) -> Held {
        let (whose, context) = (running.whose(), &self.state.context);
        let position = self.positions.hold(&whose).await;
        if let Some(until) = self.positions.refuse(&whose, context.clock.now()) {
            tracing::warn!(flow.id = %whose.flow, %until, "a flow has too much to do; its webhooks are refused");
            metrics::counter!("flowmate_flows_backlogged_total").increment(1);
            let context = context.clone();
            // Nothing waits for it, and it is said again.
            context.tasks.clone().spawn(async move {
                let backlogged = FlowBacklogged {
                    id: whose.flow,
                    until,
                };
                let event = context.event(EventType::FlowBacklogged, backlogged.id.as_str(), &backlogged);
                if let Ok(event) = event
                    && let Err(error) = context.bus.publish(vec![event]).await
                {
                    tracing::warn!(%error, "that a flow has too much to do was not told");
                }
            });
        }
        Held {
            _position: position,
            ..Held::default()
        }
    }

    /// What is known of the request's flow, as soon as storage says it.
    async fn find(&self, wanted: &Wanted<'_>) -> Found {
        let find = || self.state.flows.find(wanted, &self.state.registry);
        self.insist("looking up a flow", find)
            .await
            .unwrap_or(Found::Unknown)
    }

    /// What the store says, as soon as it does. `None`: it cannot say it of this one.
    async fn insist<T, F>(&self, what: &'static str, ask: impl FnMut() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, flowmate_storage::Error>>,
    {
        until_passes(what, ask)
            .await
            .inspect_err(|error| tracing::error!(%error, "{what} cannot be read"))
            .ok()
    }

    /// Ends an execution that ended the process twice, and keeps its request as a dead letter.
    async fn convict(&self, job: Delivered) {
        const REASON: &str =
            "The execution ended the process twice, the second time while it ran alone; it is not run again.";
        let id = ExecutionId::from(&*job.event.key);
        tracing::error!(execution.id = %id, REASON);
        let asked: Option<Asked> = job.event.body().ok();
        if let Some(Asked {
            flow_id, activation, ..
        }) = asked
        {
            let wanted = Wanted {
                flow: &flow_id,
                activation,
                execution: &id,
            };
            let of = match self.find(&wanted).await {
                Found::Runs(running) => running.execution(id.clone()),
                Found::Stopped(of) => of,
                Found::Unknown => work::of_unknown(id.clone(), flow_id),
            };
            execution::publish(
                &self.state.context,
                execution::failed(&self.state.context, of, None, REASON),
            )
            .await;
        }
        let _ = self
            .insist("forgetting an execution that ended", || {
                self.state.parked.forget(&id)
            })
            .await;
        self.claims.remember(&id);
        self.give_up(job, REASON).await;
    }

    async fn give_up(&self, job: Delivered, reason: &str) {
        let consumer = self.state.context.consumer(Topic::ExecutionRequests, GROUP);
        consumer.give_up(job, reason).await;
    }

    async fn cancel(&self, of: ExecutionOf, claim: Claim, ack: Ack, parked: Option<ExecutionId>) {
        let events = execution::cancelled(&self.state.context, of, None, execution::STOPPED);
        let done = Done {
            events,
            claim,
            ack,
            parked,
        };
        let _ = self.ended.send(done).await;
    }
}

/// What a request for the first or for a later turn of an execution says of its flow.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    execution_id: ExecutionId,
    flow_id: FlowId,
    #[serde(default)]
    activation: u64,
}

fn taken(job: Delivered) -> (Place, Ack) {
    let place = Place {
        partition: job.partition,
        position: job.position,
    };
    (place, job.ack)
}
