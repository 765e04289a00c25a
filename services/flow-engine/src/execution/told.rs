//! What an execution tells of itself.

use std::{sync::Arc, time::Duration};

use flowmate_common::{
    Event, EventType, Timestamp,
    model::{ExecutionFinished, ExecutionResumed, ExecutionStarted, Outcome, StepFinished, StepRun},
};
use flowmate_connectors::StepError;
use serde::Serialize;

use super::{
    Run, Tried, publish,
    record::{EndedStep, cancelled_run, is_journalled, step_run},
};
use crate::step::{StepOutput, Task};

/// Bytes of step runs that are told at once.
const MAX_UNSAID: usize = 256 << 10;
/// Bytes of one step's output that are kept for going on behind it: what fits into one event on every bus.
const MAX_JOURNAL: usize = 12 << 20;

impl Run {
    /// Records the end of a step, and queues what follows it.
    pub(super) async fn ended(
        &mut self,
        task: &Task,
        started: Timestamp,
        result: Result<StepOutput, StepError>,
        attempts: u32,
    ) {
        let running = Arc::clone(&self.running);
        let Some(step) = running.plan.step(task.step) else {
            return;
        };
        let result = result.and_then(|followed| {
            let bytes = if is_journalled(step) { bytes(&followed) } else { 0 };
            if bytes > MAX_JOURNAL {
                return Err(StepError::new(format!(
                    "the output has {bytes} bytes, {MAX_JOURNAL} can be kept for going on behind it"
                )));
            }
            Ok(followed)
        });
        if let Err(error) = &result {
            self.fail(format!("Node \"{}\": {}", step.node.id, error.message));
        }
        let finished = self.state.context.clock.now();
        let took = u64::try_from(finished.as_millis() - started.as_millis()).unwrap_or_default();
        metrics::histogram!("flowmate_step_seconds", "component" => step.function.component)
            .record(Duration::from_millis(took));
        self.steps_ended += 1;
        let ended = EndedStep {
            step,
            task,
            started,
            finished,
            attempts,
            sequence: self.steps_ended,
        };
        let said = step_run(&ended, &result);
        self.say(said);
        if let Ok(followed) = result {
            self.enqueue(followed.next);
        }
        self.flush_if_much().await;
    }

    /// Records that a step was not done since the flow was stopped.
    pub(super) fn cancelled_step(&mut self, task: &Task, tried: &Tried, reason: &str) {
        let running = Arc::clone(&self.running);
        let Some(step) = running.plan.step(task.step) else {
            return;
        };
        self.steps_ended += 1;
        let ended = EndedStep {
            step,
            task,
            started: tried.began,
            finished: self.state.context.clock.now(),
            attempts: tried.tries,
            sequence: self.steps_ended,
        };
        let said = cancelled_run(&ended, reason);
        self.say(said);
    }

    fn say(&mut self, run: StepRun) {
        self.unsaid_bytes +=
            run.input.get().len() + run.output.as_ref().map_or(0, |output| output.get().len());
        self.unsaid.push(run);
    }

    /// What is left to publish of an execution that ends.
    pub(super) fn finish(&mut self) -> Vec<Event> {
        let (status, error) = if self.is_stopped() && self.is_unfinished() {
            self.cancel_rest();
            (Outcome::Cancelled, Some(super::STOPPED.to_owned()))
        } else {
            match self.first_error.take() {
                Some(error) => (Outcome::Error, Some(error)),
                None => (Outcome::Success, None),
            }
        };
        metrics::counter!("flowmate_executions_total", "status" => status.as_str()).increment(1);
        let finished = ExecutionFinished {
            of: self.of.clone(),
            status,
            error,
            started_at: self.started,
            finished_at: self.state.context.clock.now(),
            steps: std::mem::take(&mut self.unsaid),
        };
        self.event(EventType::ExecutionFinished, &finished)
            .into_iter()
            .collect()
    }

    /// The same for one that cannot go on.
    pub(crate) fn give_up(&mut self, reason: String) -> Vec<Event> {
        self.fail(reason);
        self.queue.clear();
        self.ready.clear();
        self.later.clear();
        self.finish()
    }

    /// Whether a step that was to run did not.
    fn is_unfinished(&self) -> bool {
        let was_cancelled = |run: &StepRun| run.status == Outcome::Cancelled;
        !(self.queue.is_empty() && self.ready.is_empty() && self.later.is_empty())
            || self.unsaid.iter().any(was_cancelled)
    }

    /// Publishes what was not told yet if there is much of it: one event holds so much only.
    pub(super) async fn flush_if_much(&mut self) {
        if self.unsaid_bytes > MAX_UNSAID {
            self.flush().await;
        }
    }

    /// Publishes what was not told yet by an execution that goes on.
    pub(super) async fn flush(&mut self) {
        let events = self.tell();
        if events.is_empty() {
            return;
        }
        if !publish(&self.state.context, events).await.is_empty() {
            self.fail("A step's record is larger than the event bus takes.".into());
        }
    }

    /// What was not told yet of an execution that goes on. Only such executions are said to have started, or to go on after
    /// a wait: the end of the others says when they began.
    pub(crate) fn tell(&mut self) -> Vec<Event> {
        let mut events = Vec::with_capacity(self.unsaid.len() + 1);
        if !self.is_known {
            self.is_known = true;
            let (of, started_at, turn) = (self.of.clone(), self.started, self.turn);
            events.extend(if turn == 0 {
                self.event(EventType::ExecutionStarted, &ExecutionStarted { of, started_at })
            } else {
                let resumed = ExecutionResumed { of, started_at, turn };
                self.event(EventType::ExecutionResumed, &resumed)
            });
        }
        self.unsaid_bytes = 0;
        for step in std::mem::take(&mut self.unsaid) {
            let of = self.of.clone();
            events.extend(self.event(EventType::StepFinished, &StepFinished { of, step }));
        }
        events
    }

    fn event<T: Serialize>(&self, kind: EventType, body: &T) -> Option<Event> {
        let event = self.state.context.event(kind, &self.of.execution_id, body);
        event
            .inspect_err(|error| tracing::error!(%error, "an execution event could not be written"))
            .ok()
    }
}

/// Bytes of the messages that a step emitted, about.
fn bytes(followed: &StepOutput) -> usize {
    let parts = followed.messages.iter().flat_map(|message| {
        let more = [
            &message.metadata,
            &message.attachments,
            &message.headers,
            &message.passthrough,
        ];
        std::iter::once(&message.data).chain(more.into_iter().flatten())
    });
    parts.map(|part| part.get().len() + 16).sum()
}
