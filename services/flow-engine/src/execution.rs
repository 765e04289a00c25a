//! One execution: steps run as their input arrives, effects a few at a time, until nothing is left or all that is left has
//! to wait. What happens is published in as few batches as durability allows.

mod cancel;
mod publish;
mod record;
mod wait;

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use flowmate_bus::inbox::Ack;
use flowmate_common::{
    Event, EventType, Timestamp,
    ids::ExecutionId,
    model::{
        ExecutionFinished, ExecutionOf, ExecutionResumed, ExecutionStarted, FlowExecute, Outcome,
        StepFinished, StepRun,
    },
    thread_time,
};
use flowmate_connectors::{Action, Attempt, Call, Effect, Emitted, Failure, RetryPolicy, StepError};
use flowmate_flow_model::plan::step_run_id;
use futures_util::{StreamExt, stream::FuturesUnordered};
use serde::Serialize;

pub(crate) use self::{cancel::cancelled, publish::publish};
use self::record::{Ended, step_run};
use crate::{
    State,
    flows::Running,
    journal::{Effects, Recorded},
    step::{self, Followed, Task},
};

/// How long an execution runs before it shows as running.
const QUIET: Duration = Duration::from_millis(100);
/// An expression that takes longer than this does not run on the threads that everything else runs on.
const SLOW: Duration = Duration::from_millis(5);
/// Bytes of step runs that are told at once.
const MAX_UNSAID: usize = 256 << 10;
/// Bytes of messages that one execution may hold.
const MAX_HELD: usize = 64 << 20;
/// Bytes of one step's output that are kept for going on behind it: what fits into one event on every bus.
const MAX_JOURNAL: usize = 12 << 20;
/// How much longer than its own limit a try may take before it is given up.
const SLACK: Duration = Duration::from_secs(330);
/// How long what is on its way may still take when the flow was stopped.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// What came of running an execution for a while.
pub(crate) enum Ran {
    /// It ended; what is left to publish of it.
    Ended(Vec<Event>),
    /// Nothing of it can run before this time.
    Waits(Timestamp),
    /// Another replica has the request now, and goes on behind the last recorded effect.
    Lost,
}

/// An execution.
pub(crate) struct Run {
    state: Arc<State>,
    of: ExecutionOf,
    running: Arc<Running>,
    effects: Effects,
    started: Timestamp,
    /// Steps whose input is there.
    queue: VecDeque<Queued>,
    /// Effects that may be tried now.
    ready: VecDeque<Trying>,
    /// Effects that are to be tried again later.
    later: Vec<Trying>,
    /// Runs that were not told of yet, and their bytes.
    unsaid: Vec<StepRun>,
    unsaid_bytes: usize,
    /// Bytes of messages in `queue`.
    held: usize,
    first_error: Option<String>,
    step_runs: usize,
    steps_ended: u32,
    /// The waits that are over.
    turn: u32,
    is_known: bool,
}

/// A step whose input is there.
struct Queued {
    task: Task,
    /// The tries that were made before the execution was stored.
    tried: Option<Tried>,
    /// Bytes that it alone holds.
    bytes: usize,
}

/// What is known of an effect that was not done yet.
#[derive(Clone)]
struct Tried {
    tries: u32,
    began: Timestamp,
    due: Timestamp,
    reason: String,
}

/// An effect with what it takes to do it.
struct Trying {
    task: Task,
    attempt: Box<dyn Attempt>,
    retry: RetryPolicy,
    tried: Tried,
}

/// What came of one try.
enum Answer {
    Given(Result<Vec<Emitted>, Failure>),
    /// The flow was stopped while it was on its way.
    Abandoned,
}

impl Run {
    /// An execution that begins.
    pub(crate) fn begin(
        state: Arc<State>,
        running: Arc<Running>,
        request: FlowExecute,
        effects: Effects,
    ) -> Self {
        let mut run = Self::empty(state, running, request.execution_id, effects);
        let root = run.running.plan.root();
        if let Some(first) = run.running.plan.step(root) {
            let task = Task {
                step: root,
                run: step_run_id(None, 0, &first.node.id, 0),
                message: request.message,
            };
            run.enqueue(vec![task]);
        }
        run
    }

    fn empty(state: Arc<State>, running: Arc<Running>, id: ExecutionId, effects: Effects) -> Self {
        Self {
            started: state.context.clock.now(),
            of: running.execution(id),
            state,
            running,
            effects,
            queue: VecDeque::new(),
            ready: VecDeque::new(),
            later: Vec::new(),
            unsaid: Vec::new(),
            unsaid_bytes: 0,
            held: 0,
            first_error: None,
            step_runs: 0,
            steps_ended: 0,
            turn: 0,
            is_known: false,
        }
    }

    /// Which execution of which flow.
    pub(crate) fn of(&self) -> &ExecutionOf {
        &self.of
    }

    /// The flow as it was when the execution began.
    pub(crate) fn flow(&self) -> &Arc<Running> {
        &self.running
    }

    /// Runs until nothing is left or all that is left waits. `ack` tells whether the execution is still ours.
    pub(crate) async fn run(&mut self, ack: &Ack) -> Ran {
        let lost = ack.lost();
        tokio::select! {
            ran = self.steps() => ran,
            () = lost.cancelled() => Ran::Lost,
        }
    }

    async fn steps(&mut self) -> Ran {
        let state = Arc::clone(&self.state);
        let mut trying = FuturesUnordered::new();
        let mut is_quiet = !self.is_known;
        loop {
            while let Some(queued) = self.queue.pop_front() {
                if self.is_over() {
                    break;
                }
                self.held = self.held.saturating_sub(queued.bytes);
                self.step(queued).await;
                if self.unsaid_bytes > MAX_UNSAID {
                    self.flush().await;
                }
            }
            let now = state.context.clock.now();
            self.due(now);
            while !self.is_over()
                && trying.len() < state.config.branch_concurrency
                && let Some(next) = self.ready.pop_front()
            {
                if let Some(next) = self.rested(next, now) {
                    trying.push(self.attempt(next));
                }
            }
            if trying.is_empty() {
                return match self.later.iter().map(|one| one.tried.due).min() {
                    _ if self.is_over() => Ran::Ended(self.finish()),
                    Some(due) => Ran::Waits(due),
                    None => Ran::Ended(self.finish()),
                };
            }
            let next_due = self.later.iter().map(|one| one.tried.due).min();
            let next_due = next_due.map(|due| until(now, due));
            tokio::select! {
                Some((tried, answer)) = trying.next() => {
                    let is_last = trying.is_empty() && self.ready.is_empty() && self.later.is_empty();
                    self.answered(tried, answer, is_last).await;
                }
                () = tokio::time::sleep(next_due.unwrap_or(QUIET)), if next_due.is_some() || is_quiet => {
                    if is_quiet {
                        is_quiet = false;
                        self.flush().await;
                    }
                }
            }
        }
    }

    /// Whether nothing more of it may begin: the flow was stopped, or it takes too long.
    fn is_over(&self) -> bool {
        self.running.stopped.is_cancelled()
    }

    /// Moves what is due to what may be tried.
    fn due(&mut self, now: Timestamp) {
        if self.later.is_empty() {
            return;
        }
        let (due, later) = std::mem::take(&mut self.later)
            .into_iter()
            .partition(|one: &Trying| one.tried.due <= now);
        self.later = later;
        self.ready.extend::<Vec<_>>(due);
    }

    /// The effect, unless its target rests; then it waits.
    fn rested(&mut self, mut next: Trying, now: Timestamp) -> Option<Trying> {
        match self.state.breakers.ask(&self.of.flow_id, next.attempt.target(), now) {
            Ok(()) => Some(next),
            Err(until) => {
                let target = next.attempt.target();
                next.tried.due = until;
                next.tried.reason = format!("{target} failed again and again and is given rest");
                self.later.push(next);
                None
            }
        }
    }

    /// Does a step without effects at once. For one with effects: makes it ready to be tried, unless the journal has it
    /// done.
    async fn step(&mut self, queued: Queued) {
        let Queued { task, tried, .. } = queued;
        let started = self.state.context.clock.now();
        if tried.is_none() && !self.count_step() {
            return;
        }
        let running = Arc::clone(&self.running);
        let Some(step) = running.plan.step(task.step) else {
            return;
        };
        match &step.function.action {
            Action::Effect(effect) => {
                if let Some(recorded) = self.effects.remove(&task.run) {
                    return self.resume(&task, recorded);
                }
                let tried = tried.unwrap_or(Tried {
                    tries: 0,
                    began: started,
                    due: started,
                    reason: String::new(),
                });
                self.prepare(effect, task, tried).await;
            }
            Action::Pure(function) => {
                let (function, plan, mut task) = (Arc::clone(function), Arc::clone(&running), task);
                let work = move || {
                    let prepared = plan.plan.step(task.step).map(|step| step::prepare(step, task.message.clone()));
                    let followed = match prepared {
                        Some(Ok(message)) => {
                            task.message = message;
                            step::compute(&*function, &task.message)
                                .and_then(|emitted| step::follow(&plan.plan, &task, emitted))
                        }
                        Some(Err(error)) => Err(error),
                        None => Err(StepError::new("the step is not in the plan")),
                    };
                    (task, followed)
                };
                let index = task_index(&work);
                let _ = index;
                unreachable!()
            }
        }
    }
}
