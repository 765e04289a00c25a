//! One execution: steps run as their input arrives, effects a few at a time, until nothing is left. What happens is
//! published in as few batches as durability allows.

mod record;

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use flowmate_common::{
    Event, EventType, Timestamp,
    model::{
        ExecutionFinished, ExecutionOf, ExecutionStarted, FlowExecute, Message, Outcome, StepFinished,
        StepRun,
    },
    thread_time,
};
use flowmate_connectors::{Action, Call, Effect, Emitted, StepError};
use flowmate_flow_model::{Moment, plan::step_run_id};
use flowmate_runtime::Context;
use futures_util::{StreamExt, stream::FuturesUnordered};
use serde::Serialize;

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
/// The longest wait between tries to publish.
const LONGEST: Duration = Duration::from_secs(5);

/// Runs the execution to its end; returns what is left to publish of it, its end in any case.
pub(crate) async fn run(
    state: &State,
    running: Arc<Running>,
    request: FlowExecute,
    effects: Effects,
) -> Vec<Event> {
    let context = &state.context;
    let of = running.execution(request.execution_id);
    let mut run = Run {
        state,
        of,
        running,
        effects,
        started: context.clock.now(),
        queue: VecDeque::new(),
        unsaid: Vec::new(),
        first_error: None,
        step_runs: 0,
        steps_ended: 0,
        is_known: false,
    };
    run.steps(request.message).await;
    let status = if run.first_error.is_some() {
        Outcome::Error
    } else {
        Outcome::Success
    };
    metrics::counter!("flowmate_executions_total", "status" => status.as_str()).increment(1);
    let finished = ExecutionFinished {
        of: run.of.clone(),
        status,
        error: run.first_error.take(),
        started_at: run.started,
        finished_at: context.clock.now(),
        steps: std::mem::take(&mut run.unsaid),
    };
    run.event(EventType::ExecutionFinished, &finished)
        .into_iter()
        .collect()
}

/// What there is to publish of an execution that does not begin.
pub(crate) fn cancelled(context: &Context, of: ExecutionOf, reason: &str) -> Vec<Event> {
    let now = context.clock.now();
    let execution = of.execution_id.clone();
    let body = ExecutionFinished {
        of,
        status: Outcome::Cancelled,
        error: Some(reason.to_owned()),
        started_at: now,
        finished_at: now,
        steps: Vec::new(),
    };
    metrics::counter!("flowmate_executions_total", "status" => "cancelled").increment(1);
    context
        .event(EventType::ExecutionFinished, execution.as_str(), &body)
        .into_iter()
        .collect()
}

struct Run<'a> {
    state: &'a State,
    of: ExecutionOf,
    running: Arc<Running>,
    effects: Effects,
    started: Timestamp,
    queue: VecDeque<Task>,
    /// Runs that were not told of yet.
    unsaid: Vec<StepRun>,
    first_error: Option<String>,
    step_runs: usize,
    steps_ended: u32,
    is_known: bool,
}

/// The end of an effect.
struct Effected {
    task: Task,
    started: Timestamp,
    result: Result<(Vec<Emitted>, u32), StepError>,
}

impl Run<'_> {
    async fn steps(&mut self, message: Message) {
        let root = self.running.plan.root();
        let Some(first) = self.running.plan.step(root) else {
            return;
        };
        let run = step_run_id(None, 0, &first.node.id);
        self.queue.push_back(Task {
            step: root,
            run,
            message,
        });
        let mut effects = FuturesUnordered::new();
        let mut waiting = VecDeque::new();
        loop {
            while let Some(task) = self.queue.pop_front() {
                if let Some((task, effect)) = self.begin(task).await {
                    waiting.push_back((task, effect));
                }
            }
            while effects.len() < self.state.config.branch_concurrency
                && let Some((task, effect)) = waiting.pop_front()
            {
                effects.push(self.effect(task, effect));
            }
            let ended = match tokio::time::timeout(QUIET, effects.next()).await {
                Ok(Some(ended)) => ended,
                Ok(None) => return,
                Err(_) => {
                    self.flush().await;
                    match effects.next().await {
                        Some(ended) => ended,
                        None => return,
                    }
                }
            };
            let is_last = effects.is_empty() && waiting.is_empty();
            self.end_effect(ended, is_last).await;
        }
    }

    /// Does a step without effects at once. For one with effects: what to do, unless the journal has it done.
    async fn begin(&mut self, task: Task) -> Option<(Task, Arc<dyn Effect>)> {
        let started = self.state.context.clock.now();
        self.step_runs += 1;
        if self.step_runs > self.state.config.max_step_runs {
            if self.step_runs == self.state.config.max_step_runs + 1 {
                let limit = self.state.config.max_step_runs;
                self.fail(format!(
                    "The execution has more than {limit} step runs; the rest was not run."
                ));
            }
            return None;
        }
        let running = Arc::clone(&self.running);
        let step = running.plan.step(task.step)?;
        let prepared = {
            let (running, message) = (Arc::clone(&running), task.message.clone());
            let index = task.step;
            let prepare = move |moment: &Moment<'_>| match running.plan.step(index) {
                Some(step) => step::prepare(step, &message, moment),
                None => Err(StepError::new("the step is not in the plan")),
            };
            if step.settings.before.is_some() {
                self.compute(&task, prepare).await
            } else {
                Ok(task.message.clone())
            }
        };
        let task = match prepared {
            Ok(message) => Task { message, ..task },
            Err(error) => {
                self.ended(&task, started, Err(error), 1);
                return None;
            }
        };
        match &step.function.action {
            Action::Effect(effect) => {
                if let Some(recorded) = self.effects.remove(&task.run) {
                    self.resume(&task, recorded).await;
                    return None;
                }
                Some((task, Arc::clone(effect)))
            }
            Action::Pure(function) => {
                let (function, again, plan) = (Arc::clone(function), task.clone(), Arc::clone(&running));
                let work = move |moment: &Moment<'_>| {
                    let emitted = step::compute(&*function, &again.message, moment)?;
                    step::follow(&plan.plan, &again, emitted, moment)
                };
                let followed = self.compute(&task, work).await;
                self.ended(&task, started, followed, 1);
                None
            }
        }
    }

    fn effect(&self, task: Task, effect: Arc<dyn Effect>) -> impl Future<Output = Effected> + use<> {
        let (clock, execution) = (self.state.context.clock.clone(), self.of.execution_id.clone());
        let at = self.started;
        async move {
            let started = clock.now();
            let call = Call {
                message: &task.message,
                execution: &execution,
                step_run: &task.run,
                moment: Moment::of(at, &execution, &task.run).within("function"),
            };
            let result = effect.run(call).await;
            Effected {
                task,
                started,
                result,
            }
        }
    }

    /// Records an effect. Unless it is the last thing that this execution does, that has to be durable before anything
    /// else happens.
    async fn end_effect(&mut self, ended: Effected, is_last: bool) {
        let Effected {
            task,
            started,
            result,
        } = ended;
        let (result, attempts) = match result {
            Ok((emitted, attempts)) => {
                let (running, again) = (Arc::clone(&self.running), task.clone());
                let work =
                    move |moment: &Moment<'_>| step::follow(&running.plan, &again, emitted.clone(), moment);
                (self.compute(&task, work).await, attempts)
            }
            Err(error) => {
                let attempts = error.attempts;
                (Err(error), attempts)
            }
        };
        self.ended(&task, started, result, attempts);
        if !is_last || !self.queue.is_empty() {
            self.flush().await;
        }
    }

    /// Goes on behind an effect that the journal has.
    async fn resume(&mut self, task: &Task, recorded: Recorded) {
        match recorded.status {
            Outcome::Success => {
                let (running, again) = (Arc::clone(&self.running), task.clone());
                let work = move |moment: &Moment<'_>| {
                    step::follow_journal(&running.plan, &again, recorded.messages.clone(), moment)
                };
                match self.compute(task, work).await {
                    Ok(followed) => self.queue.extend(followed.next),
                    Err(error) => self.fail(error.message),
                }
            }
            Outcome::Error | Outcome::Cancelled => self.fail(recorded.error.unwrap_or_default()),
        }
    }

    fn ended(&mut self, task: &Task, started: Timestamp, result: Result<Followed, StepError>, attempts: u32) {
        let running = Arc::clone(&self.running);
        let Some(step) = running.plan.step(task.step) else {
            return;
        };
        if let Err(error) = &result {
            self.fail(format!("Node \"{}\": {}", step.node.id, error.message));
        }
        let finished = self.state.context.clock.now();
        metrics::histogram!("flowmate_step_seconds", "component" => step.function.component).record(
            Duration::from_millis(
                u64::try_from(finished.as_millis() - started.as_millis()).unwrap_or_default(),
            ),
        );
        self.steps_ended += 1;
        let sequence = self.steps_ended;
        let ended = Ended {
            step,
            task,
            started,
            finished,
            attempts,
            sequence,
        };
        self.unsaid.push(step_run(&ended, &result));
        if let Ok(followed) = result {
            self.queue.extend(followed.next);
        }
    }

    fn fail(&mut self, reason: String) {
        self.first_error.get_or_insert(reason);
    }

    /// Runs expressions: here, as long as those of this step were quick so far, else on a thread of their own.
    async fn compute<T: Send + 'static>(
        &self,
        task: &Task,
        work: impl Fn(&Moment<'_>) -> Result<T, StepError> + Send + Sync + 'static,
    ) -> Result<T, StepError> {
        let slow = self.running.slow.get(task.step);
        let (at, execution, run) = (self.started, self.of.execution_id.clone(), task.run.clone());
        if slow.is_some_and(|slow| slow.load(Ordering::Relaxed)) {
            let work = move || work(&Moment::of(at, &execution, &run));
            return tokio::task::spawn_blocking(work).await.map_err(StepError::new)?;
        }
        // Not the time that passed: where the cores are full, that is mostly others'.
        let began = thread_time();
        let result = work(&Moment::of(at, &execution, &run));
        if thread_time().saturating_sub(began) > SLOW
            && let Some(slow) = slow
        {
            slow.store(true, Ordering::Relaxed);
        }
        result
    }

    fn event<T: Serialize>(&self, kind: EventType, body: &T) -> Option<Event> {
        let event = self.state.context.event(kind, &self.of.execution_id, body);
        event
            .inspect_err(|error| tracing::error!(%error, "an execution event could not be written"))
            .ok()
    }

    /// Publishes what was not told yet by an execution that goes on. Only such executions are said to have started: the
    /// end of the others says when they began.
    async fn flush(&mut self) {
        let mut events = Vec::with_capacity(self.unsaid.len() + 1);
        if !self.is_known {
            self.is_known = true;
            let started = ExecutionStarted {
                of: self.of.clone(),
                started_at: self.started,
            };
            events.extend(self.event(EventType::ExecutionStarted, &started));
        }
        for step in std::mem::take(&mut self.unsaid) {
            events.extend(self.event(
                EventType::StepFinished,
                &StepFinished {
                    of: self.of.clone(),
                    step,
                },
            ));
        }
        if !events.is_empty() {
            publish(&self.state.context, events).await;
        }
    }
}

/// Publishes, however long it takes: what an execution did is never given up.
pub(crate) async fn publish(context: &Context, events: Vec<Event>) {
    let mut wait = Duration::from_millis(50);
    while let Err(error) = context.bus.publish(events.clone()).await {
        tracing::warn!(%error, "execution events wait");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST);
    }
}
