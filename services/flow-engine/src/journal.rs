//! What had been recorded of unfinished requests: read from the execution events since the oldest of them, for each
//! partition before its requests come.

use std::collections::{HashMap, HashSet};

use flowmate_bus::{Bus, Error};
use flowmate_common::{
    Event, EventType, Topic,
    ids::{ExecutionId, StepRunId},
    model::{ExecutionFinished, Message, Outcome, StepFinished, StepRun},
};
use parking_lot::Mutex;

/// A recorded effect.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
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
#[derive(Default)]
pub(crate) struct Journal {
    /// By partition, as it was read last.
    finished: Mutex<HashMap<u32, HashSet<ExecutionId>>>,
    effects: Mutex<HashMap<ExecutionId, Effects>>,
}

impl Journal {
    /// Reads what is said of the partition's requests.
    pub(crate) async fn read(&self, bus: &dyn Bus, group: &str, partition: u32) -> Result<(), Error> {
        let (said, of) = (Topic::ExecutionEvents, Topic::ExecutionRequests);
        let mut history = bus.since_commit(said, of, group, partition).await?;
        self.finished.lock().insert(partition, HashSet::new());
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
                    status,
                    error,
                    journal: Some(messages),
                    ..
                } = step
                else {
                    return;
                };
                let recorded = Recorded {
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
                    let mut finished = self.finished.lock();
                    finished.entry(partition).or_default().insert(of.execution_id);
                }
            }
            _ => {}
        }
    }

    /// Whether the execution had finished when the partition came; says so once.
    pub(crate) fn had_finished(&self, partition: u32, execution: &ExecutionId) -> bool {
        let mut finished = self.finished.lock();
        finished
            .get_mut(&partition)
            .is_some_and(|known| known.remove(execution))
    }

    /// The effects that the execution had recorded.
    pub(crate) fn effects(&self, execution: &ExecutionId) -> Effects {
        self.effects.lock().remove(execution).unwrap_or_default()
    }
}
