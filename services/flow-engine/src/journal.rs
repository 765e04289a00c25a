//! What had been recorded of unfinished requests: read from the execution events since the oldest of them, for each
//! partition before its requests come.

use std::collections::{HashMap, HashSet};

use flowmate_bus::{Bus, Error};
use flowmate_common::{
    Clock, Event, EventType, Timestamp, Topic,
    ids::{ExecutionId, StepRunId},
    model::{ExecutionFinished, Message, Outcome, StepFinished, StepRun},
};
use parking_lot::Mutex;

/// A recorded effect.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    /// Which end of a step it was in its execution.
    pub(crate) sequence: u32,
    /// What it emitted.
    pub(crate) messages: Vec<Message>,
    /// How it ended.
    pub(crate) status: Outcome,
    /// Why it failed.
    pub(crate) error: Option<String>,
}

/// The recorded effects of one execution.
pub(crate) type Effects = HashMap<StepRunId, Recorded>;

/// The journal as it was when the requests came.
pub(crate) struct Journal {
    clock: Clock,
    /// By partition, as it was read last.
    finished: Mutex<HashMap<u32, Finished>>,
    effects: Mutex<HashMap<ExecutionId, Effects>>,
}

/// The executions that had finished when a partition came.
struct Finished {
    read_at: Timestamp,
    executions: HashSet<ExecutionId>,
}

/// How much another machine's clock may differ, in milliseconds.
const SKEW: i64 = 2_000;

impl Journal {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            finished: Mutex::default(),
            effects: Mutex::default(),
        }
    }

    /// Whether what came at `time` may have come before this process had the partition.
    pub(crate) fn is_of_before(&self, partition: u32, time: Timestamp) -> bool {
        let finished = self.finished.lock();
        finished
            .get(&partition)
            .is_none_or(|finished| time <= finished.read_at.plus_millis(SKEW))
    }

    /// Reads what is said of the partition's requests.
    pub(crate) async fn read(&self, bus: &dyn Bus, group: &str, partition: u32) -> Result<(), Error> {
        let (said, of) = (Topic::ExecutionEvents, Topic::ExecutionRequests);
        let mut history = bus.since_commit(said, of, group, partition).await?;
        let fresh = Finished {
            read_at: self.clock.now(),
            executions: HashSet::new(),
        };
        self.finished.lock().insert(partition, fresh);
        loop {
            let events = history.next().await?;
            if events.is_empty() {
                return Ok(());
            }
            for event in &events {
                self.add(partition, event);
            }
        }
    }

    fn add(&self, partition: u32, event: &Event) {
        match event.kind {
            EventType::StepFinished => {
                let Ok(StepFinished { of, step }) = event.body() else {
                    return;
                };
                let StepRun {
                    step_run_id,
                    sequence,
                    status,
                    error,
                    journal: Some(messages),
                    ..
                } = step
                else {
                    return;
                };
                let recorded = Recorded {
                    sequence,
                    messages,
                    status,
                    error,
                };
                let mut effects = self.effects.lock();
                effects
                    .entry(of.execution_id)
                    .or_default()
                    .insert(step_run_id, recorded);
            }
            EventType::ExecutionFinished => {
                if let Ok(ExecutionFinished { of, .. }) = event.body() {
                    self.effects.lock().remove(&of.execution_id);
                    if let Some(finished) = self.finished.lock().get_mut(&partition) {
                        finished.executions.insert(of.execution_id);
                    }
                }
            }
            _ => {}
        }
    }

    /// Whether the execution had finished when the partition came.
    pub(crate) fn had_finished(&self, partition: u32, execution: &ExecutionId) -> bool {
        let finished = self.finished.lock();
        finished
            .get(&partition)
            .is_some_and(|finished| finished.executions.contains(execution))
    }

    /// The effects that the execution had recorded.
    pub(crate) fn effects(&self, execution: &ExecutionId) -> Effects {
        self.effects.lock().remove(execution).unwrap_or_default()
    }
}
