//! Execution events into the store.

use std::sync::Arc;

use flowmate_bus::dispatch::Refusal;
use flowmate_common::{
    Event, EventType,
    model::{ExecutionFinished, ExecutionStarted, StepFinished},
};
use flowmate_storage::{
    Error, ExecutionStore,
    executions::{Record, StepRow},
};

/// Records a batch. Recording is idempotent, so a redelivered batch changes nothing.
pub(crate) async fn record(store: &Arc<dyn ExecutionStore>, events: Vec<Event>) -> Result<(), Refusal> {
    let records = events
        .iter()
        .map(read)
        .collect::<Result<Vec<_>, _>>()
        .map_err(Refusal::permanent)?;
    store
        .record(records.into_iter().flatten().collect())
        .await
        .map_err(|error| match error {
            Error::Unavailable(_) => Refusal::transient(error),
            other => Refusal::permanent(other),
        })
}

fn read(event: &Event) -> Result<Option<Record>, serde_json::Error> {
    Ok(match event.kind {
        EventType::ExecutionStarted => {
            let ExecutionStarted { of, started_at } = event.body()?;
            Some(Record::Started { of, at: started_at })
        }
        EventType::StepFinished => {
            let step: StepFinished = event.body()?;
            Some(Record::Step(Box::new(StepRow {
                of: step.of,
                run: step.step_run_id,
                sequence: step.sequence,
                node: step.node_id,
                component_id: step.component_id,
                component: step.component,
                function: step.function,
                counted: step.counted,
                status: step.status,
                input: step.input,
                output: step.output,
                unchanged: step.unchanged,
                error: step.error,
                attempts: step.attempts,
                started: step.started_at,
                finished: step.finished_at,
            })))
        }
        EventType::ExecutionFinished => {
            let ExecutionFinished {
                of,
                status,
                error,
                started_at,
                finished_at,
            } = event.body()?;
            Some(Record::Finished {
                of,
                status,
                error,
                started: started_at,
                at: finished_at,
            })
        }
        _ => None,
    })
}
