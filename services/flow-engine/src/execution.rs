//! One execution: steps run as their input arrives, effects a few at a time, until nothing is left or all that is left has
//! to wait. What happens is published in as few batches as durability allows.

mod cancel;
mod publish;
mod record;
mod told;
mod tries;
mod wait;

use std::{borrow::Cow, collections::VecDeque, sync::Arc, time::Duration};

use flowmate_bus::{inbox::Ack, lease::Lease};
use flowmate_common::{
    Event, Timestamp,
    ids::ExecutionId,
    mask::masked_text,
    model::{ExecutionOf, FlowExecute, Outcome, StepRun},
};
use flowmate_connectors::{Action, Pure, StepError};
use flowmate_flow_model::{Moment, plan::step_run_id};
use futures_util::{StreamExt, stream::FuturesUnordered};

use self::tries::{Answer, Tried, Trying};
pub(crate) use self::{
    cancel::{STOPPED, cancelled, failed},
    publish::publish,
};
use crate::{
    State,
    compute::Place,
    flows::Running,
    journal::{Effects, Recorded},
    step::{self, StepOutput, Task},
};

/// How long an execution runs before it shows as running.
const QUIET: Duration = Duration::from_millis(100);
/// Bytes of messages that one execution may hold.
const MAX_HELD: usize = 64 << 20;
/// Who is told when an execution begins to wait for another system (`true`), and when it goes on.
pub(crate) type Waits = Arc<dyn Fn(bool) + Send + Sync>;

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
    /// When the execution was asked for: the time that expressions see.
    asked: Timestamp,
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
    /// Which wait was the last.
    turn: u32,
    is_known: bool,
    /// Told when it begins to wait for another system, and when it goes on.
    waits: Option<Waits>,
}

/// A step whose input is there.
struct Queued {
    task: Task,
    /// The tries that were made before the execution was stored.
    tried: Option<Tried>,
    /// Bytes that it alone holds.
    bytes: usize,
}

impl Run {
    /// An execution that begins; with when it was asked for.
    pub(crate) fn begin(
        state: Arc<State>,
        running: Arc<Running>,
        (request, asked): (FlowExecute, Timestamp),
        effects: Effects,
    ) -> Self {
        let mut run = Self::empty(state, running, request.execution_id, asked, effects);
        let root = run.running.plan.root();
        if let Some(first) = run.running.plan.step(root) {
            let id = step_run_id(None, 0, &first.node.id, 0);
            run.enqueue(vec![Task {
                step: root,
                run: id,
                message: request.message,
            }]);
        }
        run
    }

    fn empty(
        state: Arc<State>,
        running: Arc<Running>,
        id: ExecutionId,
        asked: Timestamp,
        effects: Effects,
    ) -> Self {
        Self {
            asked,
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
            waits: None,
        }
    }

    /// From now on `waits` is told when it begins to wait for another system, and when it goes on.
    pub(crate) fn tell_waits(&mut self, waits: Option<Waits>) {
        self.waits = waits;
    }

    /// Which execution of which flow.
    pub(crate) fn of(&self) -> &ExecutionOf {
        &self.of
    }

    /// When it began.
    pub(crate) fn started(&self) -> Timestamp {
        self.started
    }

    /// The flow as it was when the execution began.
    pub(crate) fn flow(&self) -> &Arc<Running> {
        &self.running
    }

    /// Runs until nothing is left or all that is left waits. `ack` tells whether the execution is still ours.
    pub(crate) async fn run(&mut self, ack: &Ack) -> Ran {
        let (lost, lease) = (ack.lost(), ack.lease());
        tokio::select! {
            ran = self.steps(&lease) => ran,
            () = lost.cancelled() => Ran::Lost,
        }
    }

    async fn steps(&mut self, lease: &Lease) -> Ran {
        let state = Arc::clone(&self.state);
        let mut trying = FuturesUnordered::new();
        let mut is_quiet = !self.is_known;
        loop {
            while !self.is_stopped()
                && let Some(queued) = self.queue.pop_front()
            {
                self.held = self.held.saturating_sub(queued.bytes);
                self.step(queued).await;
            }
            let now = state.context.clock.now();
            self.end_if_late(now);
            self.wake_due(now);
            while !self.is_stopped()
                && trying.len() < state.config.branch_concurrency
                && let Some(next) = self.ready.pop_front()
            {
                if let Some(next) = self.unless_it_rests(next, now) {
                    trying.push(self.attempt(next, lease.clone()));
                }
            }
            let next_due = self.later.iter().map(|one| one.tried.due).min();
            if trying.is_empty() {
                return match next_due {
                    Some(due) if !self.is_stopped() => Ran::Waits(due),
                    _ => Ran::Ended(self.finish()),
                };
            }
            let nap = if is_quiet {
                Some(QUIET)
            } else {
                next_due.map(|due| between(now, due))
            };
            self.is_waiting(true);
            tokio::select! {
                Some((tried, answer)) = trying.next() => {
                    self.is_waiting(false);
                    if matches!(answer, Answer::Lost) {
                        return Ran::Lost;
                    }
                    let is_last = trying.is_empty() && self.ready.is_empty() && self.later.is_empty();
                    self.answered(tried, answer, is_last).await;
                }
                () = tokio::time::sleep(nap.unwrap_or(QUIET)), if nap.is_some() => {
                    if std::mem::take(&mut is_quiet) {
                        self.flush().await;
                    }
                }
            }
        }
    }

    fn is_waiting(&self, is_waiting: bool) {
        if let Some(waits) = &self.waits {
            waits(is_waiting);
        }
    }

    /// Whether nothing more of it may begin.
    fn is_stopped(&self) -> bool {
        self.running.stopped.is_cancelled()
    }

    /// An execution that takes too long begins nothing more; nor does one that would wait beyond its end.
    fn end_if_late(&mut self, now: Timestamp) {
        let seconds = self.state.config.execution_seconds;
        let end = self.started.plus_millis(i64::from(seconds) * 1_000);
        let first_due = self.later.iter().map(|one| one.tried.due).min();
        if now < end && first_due.is_none_or(|due| due < end) {
            return;
        }
        let last = self
            .later
            .first()
            .map(|one| format!(" The last try: {}", one.tried.reason));
        self.fail(format!(
            "The execution takes longer than {seconds} s; the rest was not run.{}",
            last.unwrap_or_default()
        ));
        self.queue.clear();
        self.ready.clear();
        self.later.clear();
    }

    /// Does a step without effects at once. For one with effects: makes it ready to be tried, unless the journal has it
    /// done.
    async fn step(&mut self, queued: Queued) {
        let Queued { task, tried, .. } = queued;
        if tried.is_none() && !self.count_step() {
            return;
        }
        let started = self.state.context.clock.now();
        let running = Arc::clone(&self.running);
        let Some(step) = running.plan.step(task.step) else {
            return;
        };
        match &step.function.action {
            Action::Effect(effect) => {
                if let Some(recorded) = self.effects.remove(&task.run) {
                    return self.follow_recorded(&task, recorded).await;
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
                let (task, followed) = self.compute_step(Arc::clone(function), task).await;
                self.ended(&task, started, followed, 1).await;
            }
        }
    }

    /// Whether one more step may run.
    fn count_step(&mut self) -> bool {
        let limit = self.state.config.max_step_runs;
        self.step_runs += 1;
        if self.step_runs == limit + 1 {
            self.fail(format!(
                "The execution has more than {limit} step runs; the rest was not run."
            ));
        }
        self.step_runs <= limit
    }

    /// What a step without effects leads to, and its task with the input that the function got.
    async fn compute_step(
        &self,
        function: Arc<dyn Pure>,
        mut task: Task,
    ) -> (Task, Result<StepOutput, StepError>) {
        let (running, again) = (Arc::clone(&self.running), task.clone());
        let work = move |moment: &Moment<'_>| {
            let step = running.plan.step(again.step).ok_or_else(not_there)?;
            let mut task = again.clone();
            task.message = step::prepare(step, &again.message, moment)?;
            let emitted = step::compute(&*function, &task.message, moment)?;
            let followed = step::follow(&running.plan, &task, emitted, moment)?;
            Ok((task.message, followed))
        };
        match self.compute(&task, work).await {
            Ok((message, followed)) => {
                task.message = message;
                (task, Ok(followed))
            }
            Err(error) => (task, Err(error)),
        }
    }

    /// Goes on behind an effect that the journal has.
    async fn follow_recorded(&mut self, task: &Task, recorded: Recorded) {
        // What ends from now on counts on: the log's pages are told apart by these numbers.
        self.steps_ended = self.steps_ended.max(recorded.sequence);
        match recorded.status {
            Outcome::Success => {
                let (running, again) = (Arc::clone(&self.running), task.clone());
                let work = move |moment: &Moment<'_>| {
                    step::follow_journal(&running.plan, &again, recorded.messages.clone(), moment)
                };
                match self.compute(task, work).await {
                    Ok(followed) => self.enqueue(followed.next),
                    Err(error) => self.fail(error.message),
                }
            }
            Outcome::Error | Outcome::Cancelled => self.fail(recorded.error.unwrap_or_default()),
        }
    }

    /// Steps that are to run, as far as there is room for their messages.
    fn enqueue(&mut self, tasks: Vec<Task>) {
        let mut before: Option<*const u8> = None;
        for task in tasks {
            // Edges that do not map pass on the same data, which is held once.
            let data = task.message.data.get();
            let bytes = if before == Some(data.as_ptr()) {
                0
            } else {
                data.len()
            };
            before = Some(data.as_ptr());
            if self.held + bytes > MAX_HELD {
                self.fail(format!(
                    "The execution holds more than {MAX_HELD} bytes of messages; the rest was not run."
                ));
                return;
            }
            self.held += bytes;
            self.queue.push_back(Queued {
                task,
                tried: None,
                bytes,
            });
        }
    }

    fn fail(&mut self, reason: String) {
        // Others repeat in their answers what they were sent.
        let shown = match masked_text(&reason) {
            Cow::Owned(masked) => masked,
            Cow::Borrowed(_) => reason,
        };
        self.first_error.get_or_insert(shown);
    }

    /// Runs expressions: here where they are cheap, see [`crate::compute`].
    async fn compute<T: Send + 'static>(
        &self,
        task: &Task,
        work: impl Fn(&Moment<'_>) -> Result<T, StepError> + Send + Sync + 'static,
    ) -> Result<T, StepError> {
        let place = Place {
            asked: self.asked,
            execution: self.of.execution_id.clone(),
            run: task.run.clone(),
        };
        let of_step = (self.running.slow.get(task.step), || self.running.whose());
        self.state.elsewhere.compute(place, of_step, work).await
    }
}

fn not_there() -> StepError {
    StepError::new("the step is not in the plan")
}

/// How long it is from `now` to `due`.
pub(crate) fn between(now: Timestamp, due: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(due.as_millis() - now.as_millis()).unwrap_or_default())
}
