//! An execution as it is stored while it waits, and as it goes on.

use std::sync::Arc;

use flowmate_common::{Timestamp, mask::masked_text};

use super::{Queued, Run, Tried, Trying};
use crate::{
    State,
    flows::Running,
    journal::Effects,
    parked::{ParkedExecution, ParkedStep, Progress},
    step::Task,
};

/// Bytes of an execution that waits shortly in memory.
const SMALL: usize = 64 << 10;

impl Run {
    /// Whether it waited before, so that something of it is stored.
    pub(crate) fn is_stored(&self) -> bool {
        self.turn > 0
    }

    /// Bytes of the messages that it holds while it waits.
    pub(crate) fn bytes(&self) -> usize {
        self.later
            .iter()
            .map(|one| one.task.message.data.get().len())
            .sum()
    }

    /// Whether it may wait in memory.
    pub(crate) fn is_small(&self) -> bool {
        self.bytes() <= SMALL
    }

    /// What is to be stored while it waits until `due`. Only for an execution of which nothing runs.
    pub(crate) fn parked(&self, due: Timestamp) -> ParkedExecution {
        let first = self.later.iter().min_by_key(|one| one.tried.due);
        ParkedExecution {
            of: self.of.clone(),
            activation: self.running.activation(),
            turn: self.turn + 1,
            due: Some(due),
            reason: first
                .map(|one| masked_text(&self.reason(one)).into_owned())
                .unwrap_or_default(),
            progress: Progress {
                asked: self.asked,
                started: self.started,
                step_runs: self.step_runs,
                steps_ended: self.steps_ended,
                first_error: self.first_error.clone(),
                steps: self
                    .later
                    .iter()
                    .filter_map(|one| self.step_to_store(one))
                    .collect(),
            },
        }
    }

    fn step_to_store(&self, one: &Trying) -> Option<ParkedStep> {
        let Tried {
            tries,
            began,
            due,
            reason,
        } = one.tried.clone();
        Some(ParkedStep {
            node: self.running.plan.step(one.task.step)?.node.id.clone(),
            run: one.task.run.clone(),
            message: one.task.message.clone(),
            tries,
            began,
            reason,
            due,
        })
    }

    fn reason(&self, one: &Trying) -> String {
        let node = self.running.plan.step(one.task.step).map(|step| &step.node.id);
        let node = node.map(ToString::to_string).unwrap_or_default();
        format!("Node \"{node}\": {}", one.tried.reason)
    }

    /// The execution as it goes on. What the journal has done since is not done again.
    pub(crate) fn resume(
        state: Arc<State>,
        running: Arc<Running>,
        parked: ParkedExecution,
        effects: Effects,
    ) -> Self {
        let ParkedExecution {
            of, turn, progress, ..
        } = parked;
        let mut run = Self::empty(state, running, of.execution_id, progress.asked, effects);
        run.turn = turn;
        run.started = progress.started;
        run.step_runs = progress.step_runs;
        run.steps_ended = progress.steps_ended;
        run.first_error = progress.first_error;
        for step in progress.steps {
            let index = run
                .running
                .plan
                .steps()
                .iter()
                .position(|one| one.node.id == step.node);
            let Some(index) = index else { continue };
            let tried = Tried {
                tries: step.tries,
                began: step.began,
                due: step.due,
                reason: step.reason,
            };
            let task = Task {
                step: index,
                run: step.run,
                message: step.message,
            };
            let bytes = task.message.data.get().len();
            run.held += bytes;
            run.queue.push_back(Queued {
                task,
                tried: Some(tried),
                bytes,
            });
        }
        run
    }
}
