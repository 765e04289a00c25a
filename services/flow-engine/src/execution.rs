//! One execution: steps run as their input arrives, effects a few at a time, until nothing is left or all that is left has
//! to wait. What happens is published in as few batches as durability allows.

mod cancel;
mod publish;
mod record;
mod told;
mod wait;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use flowmate_bus::{inbox::Ack, lease::Lease};
use flowmate_common::{
    Event, Timestamp,
    ids::ExecutionId,
    model::{ExecutionOf, FlowExecute, Message, Outcome, StepRun},
};
use flowmate_connectors::{Action, Attempt, Call, Effect, Emitted, Failure, Pure, RetryPolicy, StepError};
use flowmate_flow_model::{Moment, plan::step_run_id};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::Notify;

pub(crate) use self::{
    cancel::{STOPPED, cancelled, failed},
    publish::publish,
};
use crate::{
    State,
    compute::Place,
    flows::Running,
    journal::{Effects, Recorded},
    step::{self, Followed, Task},
};

/// How long an execution runs before it shows as running.
const QUIET: Duration = Duration::from_millis(100);
/// Bytes of messages that one execution may hold.
const MAX_HELD: usize = 64 << 20;
/// How long one try may take, whatever the step's own limit is.
const MAX_TRY: Duration = Duration::from_secs(330);
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
    /// Rings when it waits for another system.
    waits: Option<Arc<Notify>>,
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
    /// Somebody else has the execution, or will: it was not tried.
    Lost,
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

    /// From now on `waits` rings when it waits for another system.
    pub(crate) fn tell_waits(&mut self, waits: Option<Arc<Notify>>) {
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
            if let Some(waits) = &self.waits {
                waits.notify_one();
            }
            tokio::select! {
                Some((tried, answer)) = trying.next() => {
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

    /// Moves what is due to what may be tried.
    fn wake_due(&mut self, now: Timestamp) {
        if self.later.iter().any(|one| one.tried.due <= now) {
            let all = std::mem::take(&mut self.later);
            let (due, later): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| one.tried.due <= now);
            self.later = later;
            self.ready.extend(due);
        }
    }

    /// The effect, unless its target is given rest; then it waits.
    fn unless_it_rests(&mut self, mut next: Trying, now: Timestamp) -> Option<Trying> {
        let target = next.attempt.target();
        match self.state.breakers.ask(&self.of.flow_id, target, now) {
            Ok(()) => Some(next),
            Err(until) => {
                next.tried.reason = format!("{target} failed again and again and is given rest");
                next.tried.due = until;
                self.later.push(next);
                None
            }
        }
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
    ) -> (Task, Result<Followed, StepError>) {
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

    /// Makes an effect ready: evaluates what its node says.
    async fn prepare(&mut self, effect: &Arc<dyn Effect>, mut task: Task, tried: Tried) {
        let running = Arc::clone(&self.running);
        let step = running.plan.step(task.step);
        // What was stored is as the function gets it.
        let is_first = tried.tries == 0 && tried.reason.is_empty();
        let maps = is_first && step.is_some_and(|step| step.settings.before.is_some());
        let (doing, again, execution) = (Arc::clone(effect), task.clone(), self.of.execution_id.clone());
        let plan = Arc::clone(&running);
        let work = move |moment: &Moment<'_>| {
            let step = plan.plan.step(again.step).ok_or_else(not_there)?;
            let message = if maps {
                step::prepare(step, &again.message, moment)?
            } else {
                again.message.clone()
            };
            let attempt = doing.prepare(&Call {
                message: &message,
                execution: &execution,
                step_run: &again.run,
                moment: moment.within("function"),
            })?;
            Ok((message, attempt))
        };
        let prepared: Result<(Message, Box<dyn Attempt>), StepError> = if maps || effect.has_expressions() {
            self.compute(&task, work).await
        } else {
            work(&Moment::of(self.asked, &self.of.execution_id, &task.run))
        };
        match prepared {
            Ok((message, attempt)) => {
                task.message = message;
                self.ready.push_back(Trying {
                    task,
                    attempt,
                    retry: effect.retry(),
                    tried,
                });
            }
            Err(error) => self.ended(&task, tried.began, Err(error), 1).await,
        }
    }

    /// One try.
    fn attempt(
        &self,
        mut trying: Trying,
        lease: Lease,
    ) -> impl Future<Output = (Trying, Answer)> + Send + use<> {
        let stopped = self.running.stopped.clone();
        trying.tried.tries += 1;
        async move {
            let abandoned = async {
                stopped.cancelled().await;
                tokio::time::sleep(STOP_GRACE).await;
            };
            // Not a moment earlier: a process that was stopped meanwhile may have lost it.
            if !lease.held().await {
                return (trying, Answer::Lost);
            }
            let answer = tokio::select! {
                result = tokio::time::timeout(MAX_TRY, trying.attempt.run()) => {
                    Answer::Given(result.unwrap_or_else(|_| Err(took_too_long())))
                }
                () = abandoned => Answer::Abandoned,
            };
            (trying, answer)
        }
    }

    /// What a try leads to: the steps behind it, another try, or the step's failure. Unless it is the last thing that this
    /// execution does, the end of an effect has to be durable before anything else happens.
    async fn answered(&mut self, mut trying: Trying, answer: Answer, is_last: bool) {
        let (tries, began) = (trying.tried.tries, trying.tried.began);
        let result = match answer {
            Answer::Lost => return,
            Answer::Abandoned => {
                return self.cancelled_step(&trying.task, &trying.tried, cancel::ON_ITS_WAY);
            }
            Answer::Given(Ok(emitted)) => {
                self.state.worked(&self.of.flow_id, trying.attempt.target());
                self.follow(&trying.task, emitted).await
            }
            Answer::Given(Err(failure)) => {
                let now = self.state.context.clock.now();
                if failure.transient {
                    let (flow, target) = (&self.of.flow_id, trying.attempt.target());
                    self.state.failed(flow, target, now);
                } else {
                    self.state.worked(&self.of.flow_id, trying.attempt.target());
                }
                if failure.transient && tries <= trying.retry.retries {
                    let wait = trying.retry.wait(tries, failure.after, rand::random());
                    trying.tried.due = now.plus_millis(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX));
                    trying.tried.reason = failure.message;
                    self.later.push(trying);
                    return;
                }
                Err(StepError {
                    message: failure.message,
                    attempts: tries,
                })
            }
        };
        self.ended(&trying.task, began, result, tries).await;
        if !is_last || !self.queue.is_empty() {
            self.flush().await;
        }
    }

    /// What follows an effect.
    async fn follow(&self, task: &Task, emitted: Vec<Emitted>) -> Result<Followed, StepError> {
        let (running, again) = (Arc::clone(&self.running), task.clone());
        let work = move |moment: &Moment<'_>| step::follow(&running.plan, &again, emitted.clone(), moment);
        self.compute(task, work).await
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
        self.first_error.get_or_insert(reason);
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
        let of_step = (self.running.slow.get(task.step), &self.running.turns);
        self.state.elsewhere.compute(place, of_step, work).await
    }
}

fn not_there() -> StepError {
    StepError::new("the step is not in the plan")
}

fn took_too_long() -> Failure {
    Failure {
        message: format!("a try took longer than {} s", MAX_TRY.as_secs()),
        transient: true,
        after: None,
    }
}

/// How long it is from `now` to `due`.
pub(crate) fn between(now: Timestamp, due: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(due.as_millis() - now.as_millis()).unwrap_or_default())
}
