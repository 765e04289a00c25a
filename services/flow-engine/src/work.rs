//! Jobs: executions that wait for their turn, and what becomes of them when it comes.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use flowmate_bus::inbox::Ack;
use flowmate_common::{
    Event, Timestamp, Topic,
    ids::{ExecutionId, FlowId},
    model::{ExecutionOf, FlowExecute},
};
use flowmate_retry::until_passes;
use futures_util::FutureExt;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, mpsc},
};

use crate::{
    State,
    claims::Claim,
    ended::Done,
    execution::{self, Ran, Run, Waits, between},
    fair::Slot,
    flows::Running,
    journal::Journal,
    parked::{MAX_BYTES, ParkedExecution},
    positions::Position,
    stopping,
};

/// What waits longer than this is stored; what waits shorter keeps its memory, but no place.
const SHORT: Duration = Duration::from_secs(1);

/// An execution that waits for its turn.
pub(crate) struct Job {
    pub(crate) what: What,
    pub(crate) running: Arc<Running>,
    pub(crate) id: ExecutionId,
    pub(crate) place: Place,
    pub(crate) claim: Claim,
    pub(crate) ack: Ack,
    /// Of those that are held at the same time.
    pub(crate) held: Held,
}

/// Where the job's request is on the bus.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) partition: u32,
    pub(crate) position: u64,
}

/// What is to be done.
pub(crate) enum What {
    /// Begin, with this request, which came then.
    Begin(Box<FlowExecute>, Timestamp),
    /// Begin; the request is read again.
    Read,
    /// Go on after this wait, with what is stored.
    Resume(u32),
    /// Go on with what is in memory.
    GoOn(Box<Run>),
}

/// Room that a waiting job takes; given back when dropped.
#[derive(Default)]
pub(crate) struct Held {
    /// Of the requests in memory.
    pub(crate) _memory: Option<crate::requests::InMemory>,
    /// Of the positions.
    pub(crate) _position: Option<Position>,
    /// Of the short waits.
    pub(crate) _short: Option<OwnedSemaphorePermit>,
}

/// What doing a job needs.
pub(crate) struct Worker {
    pub(crate) state: Arc<State>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) ended: mpsc::Sender<Done>,
}

/// Starts executions as places become free. They run to their end even when the process is to end; what does not make
/// it within the grace period is taken up again after the next start.
pub(crate) async fn run(worker: Arc<Worker>) {
    worker.state.suspects.cleared().await;
    loop {
        let (job, slot) = worker.state.fair.next().await;
        let context = &worker.state.context;
        // What comes in goes before executing, but not before the first executions of a flow: who sends little is not to
        // wait for what others send.
        let threads = if context.pressure.is_high() && !slot.is_modest() {
            worker.state.spare.clone()
        } else {
            Handle::current()
        };
        let at_work = job.running.at_work.clone();
        let doing = Arc::clone(&worker);
        // On the heap before it is handed on: it is large, and each hand would move it.
        let work = Box::pin(async move {
            let _mark = doing.state.suspects.mark(&job.id);
            doing.work(*job, Some(slot), None).await;
        });
        context.tasks.spawn_on(at_work.track_future(work), &threads);
    }
}

/// What a job is told as when its flow was stopped before its turn came.
pub(crate) async fn cancel(state: &State, job: Job) {
    let Some(ended) = state.ended.upgrade() else {
        return;
    };
    let of = job.running.execution(job.id.clone());
    let (started, parked) = match &job.what {
        What::GoOn(run) => (Some(run.started()), None),
        // The stored execution is cancelled where it is stored.
        What::Resume(_) => (None, Some(job.id.clone())),
        What::Begin(..) | What::Read => (None, None),
    };
    let events = execution::cancelled(&state.context, of, started, execution::STOPPED);
    let Job { claim, ack, .. } = job;
    let done = Done {
        events,
        claim,
        ack,
        parked,
    };
    let _ = ended.send(done).await;
}

impl Worker {
    /// Does the job. `waits` is told when it begins to wait for another system, and when it goes on.
    pub(crate) async fn work(&self, job: Job, slot: Option<Slot<Box<Job>>>, waits: Option<Waits>) {
        let Job {
            what,
            running,
            id,
            place,
            claim,
            ack,
            held,
        } = job;
        drop(held);
        let parked = matches!(what, What::Resume(_)).then(|| id.clone());
        let of = running.execution(id.clone());
        let run = match self.prepare(what, &running, &id, place).await {
            Ok(Some(mut run)) => {
                run.tell_waits(waits);
                run
            }
            // What was stored of it is gone: it has ended.
            Ok(None) => return done(claim, ack),
            Err(reason) => {
                let events = execution::failed(&self.state.context, of, None, &reason);
                return self.end(events, claim, ack, parked).await;
            }
        };
        self.go_on(run, claim, ack, slot).await;
    }

    /// The execution; `None` if it has ended. The error says why it cannot run.
    async fn prepare(
        &self,
        what: What,
        running: &Arc<Running>,
        id: &ExecutionId,
        place: Place,
    ) -> Result<Option<Box<Run>>, String> {
        let state = Arc::clone(&self.state);
        let begin = |request: FlowExecute, asked: Timestamp| {
            let effects = self.journal.effects(id);
            Some(Box::new(Run::begin(
                state,
                Arc::clone(running),
                (request, asked),
                effects,
            )))
        };
        match what {
            What::GoOn(run) => Ok(Some(run)),
            What::Begin(request, asked) => Ok(begin(*request, asked)),
            What::Read => {
                let event = self.read(place).await?;
                let request = event.body().map_err(|error| error.to_string())?;
                Ok(begin(request, event.time))
            }
            What::Resume(turn) => {
                let Some(parked) = self.stored(id, turn).await? else {
                    return Ok(None);
                };
                let effects = self.journal.effects(id);
                let state = Arc::clone(&self.state);
                Ok(Some(Box::new(Run::resume(
                    state,
                    Arc::clone(running),
                    parked,
                    effects,
                ))))
            }
        }
    }

    /// The request once more.
    async fn read(&self, Place { partition, position }: Place) -> Result<Event, String> {
        let read = until_passes("reading a request again", || {
            let bus = &self.state.context.bus;
            bus.read_at(Topic::ExecutionRequests, partition, position)
        });
        match read.await {
            Ok(Some(event)) => Ok(event),
            Ok(None) => Err("The request was not there any more when its turn came.".into()),
            Err(error) => Err(format!(
                "The request could not be read again when its turn came: {error}"
            )),
        }
    }

    /// What is stored of the execution, if this turn's wait is over.
    async fn stored(&self, id: &ExecutionId, turn: u32) -> Result<Option<ParkedExecution>, String> {
        until_passes("reading executions that waited", || {
            self.state.parked.resumed(id, turn)
        })
        .await
        .map_err(|error| error.to_string())
    }

    /// Runs until it ends or waits.
    async fn go_on(&self, mut run: Box<Run>, claim: Claim, ack: Ack, slot: Option<Slot<Box<Job>>>) {
        let gauge = metrics::gauge!("flowmate_executions_running");
        gauge.increment(1.0);
        let ran = AssertUnwindSafe(run.run(&ack)).catch_unwind().await;
        gauge.decrement(1.0);
        drop(slot);
        let parked = run.is_stored().then(|| run.of().execution_id.clone());
        match ran {
            Ok(Ran::Ended(events)) => self.end(events, claim, ack, parked).await,
            Ok(Ran::Waits(due)) => self.wait(run, due, claim, ack).await,
            Ok(Ran::Lost) => {}
            Err(panic) => {
                let why = reason(&*panic);
                tracing::error!(execution.id = %run.of().execution_id, why, "an execution panicked");
                let started = Some(run.started());
                let reason = format!("An internal fault ended the execution: {why}");
                let events = execution::failed(&self.state.context, run.of().clone(), started, &reason);
                self.end(events, claim, ack, parked).await;
            }
        }
    }

    async fn end(&self, events: Vec<Event>, claim: Claim, ack: Ack, parked: Option<ExecutionId>) {
        let done = Done {
            events,
            claim,
            ack,
            parked,
        };
        let _ = self.ended.send(done).await;
    }

    /// Lets the execution wait: in memory where it is short and small, else stored.
    async fn wait(&self, run: Box<Run>, due: Timestamp, claim: Claim, ack: Ack) {
        let state = Arc::clone(&self.state);
        let wait = between(state.context.clock.now(), due);
        let room = Arc::clone(&state.short_waits).try_acquire_owned();
        let Some(room) = room.ok().filter(|_| wait <= SHORT && run.is_small()) else {
            return self.park(run, due, claim, ack).await;
        };
        let (running, id) = (Arc::clone(run.flow()), run.of().execution_id.clone());
        let stopped = running.stopped.clone();
        let held = Held {
            _short: Some(room),
            ..Held::default()
        };
        let place = Place {
            partition: 0,
            position: 0,
        };
        let whose = running.whose();
        let bytes = run.bytes();
        let job = Box::new(Job {
            what: What::GoOn(run),
            running,
            id,
            place,
            claim,
            ack,
            held,
        });
        state.context.tasks.clone().spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stopped.cancelled() => {}
            }
            if job.running.stopped.is_cancelled() {
                state.fair.go_on(&whose.flow);
            }
            state.fair.push(&whose, bytes, job);
        });
    }

    /// Stores the execution; its request is done then.
    async fn park(&self, mut run: Box<Run>, due: Timestamp, claim: Claim, ack: Ack) {
        let state = &self.state;
        let stored = run.is_stored().then(|| run.of().execution_id.clone());
        let parked = run.parked(due);
        let bytes = serde_json::to_vec(&parked).map_or(usize::MAX, |json| json.len());
        if bytes > MAX_BYTES {
            let events = run.give_up(format!(
                "{} It is not tried again: the execution holds {bytes} bytes, {MAX_BYTES} can wait.",
                parked.reason
            ));
            return self.end(events, claim, ack, stored).await;
        }
        let said = run.tell();
        let store = || state.parked.store(&parked, said.clone());
        match until_passes("storing executions that wait", store).await {
            Ok(true) => {}
            // Another replica went on with it.
            Ok(false) => return done(claim, ack),
            Err(error) => {
                let events = run.give_up(format!("{} It cannot be stored: {error}", parked.reason));
                return self.end(events, claim, ack, stored).await;
            }
        }
        metrics::counter!("flowmate_executions_parked_total").increment(1);
        state
            .waker
            .add(state.context.clock.now(), due, parked.of.execution_id.clone());
        done(claim, ack);
        // A stop that came meanwhile did not see it.
        if run.flow().stopped.is_cancelled() {
            let (flow, activation) = (&parked.of.flow_id, run.flow().activation());
            if let Err(error) = stopping::cancel_parked(state, flow, activation).await {
                tracing::warn!(flow.id = %flow, %error, "an execution of a stopped flow waits until it is due");
            }
        }
    }
}

fn done(claim: Claim, ack: Ack) {
    claim.done();
    ack.done();
}

/// What a panic said.
pub(crate) fn reason(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no reason given".into())
}

/// What is said of an execution of a flow that is not known.
pub(crate) fn of_unknown(execution_id: ExecutionId, flow_id: FlowId) -> ExecutionOf {
    ExecutionOf {
        execution_id,
        flow_id,
        flow_name: None,
        user: None,
        tenant: None,
    }
}
