//! Execution events into the store.

use std::sync::Arc;

use flowmate_bus::dispatch::Refusal;
use flowmate_common::{
    Event, EventType,
    model::{
        ExecutionFinished, ExecutionOf, ExecutionResumed, ExecutionStarted, ExecutionWaiting, StepFinished,
        StepRun,
    },
};
use flowmate_storage::{
    ExecutionStore,
    executions::{Record, StepRow, Waiting},
};

/// Records a batch. Recording is idempotent, so a redelivered batch changes nothing.
pub(crate) async fn record(store: &Arc<dyn ExecutionStore>, events: Vec<Event>) -> Result<(), Refusal> {
    let mut records = Vec::with_capacity(events.len() * 4);
    for event in &events {
        read(event, &mut records).map_err(Refusal::permanent)?;
    }
    Ok(store.record(records).await?)
}

fn read(event: &Event, records: &mut Vec<Record>) -> Result<(), serde_json::Error> {
    match event.kind {
        EventType::ExecutionStarted => {
            let ExecutionStarted { of, started_at } = event.body()?;
            records.push(Record::Started { of, at: started_at });
        }
        EventType::ExecutionWaiting => {
            let ExecutionWaiting {
                of,
                started_at,
                turn,
                due,
                reason,
            } = event.body()?;
            records.push(Record::Waiting {
                of,
                started: started_at,
                wait: Waiting { turn, due, reason },
            });
        }
        EventType::ExecutionResumed => {
            let ExecutionResumed { of, started_at, turn } = event.body()?;
            records.push(Record::Resumed {
                of,
                started: started_at,
                turn,
            });
        }
        EventType::StepFinished => {
            let StepFinished { of, step } = event.body()?;
            records.push(step_row(of, step));
        }
        EventType::ExecutionFinished => {
            let ExecutionFinished {
                of,
                status,
                error,
                started_at,
                finished_at,
                steps,
            } = event.body()?;
            records.extend(steps.into_iter().map(|step| step_row(of.clone(), step)));
            records.push(Record::Finished {
                of,
                status,
                error,
                started: started_at,
                at: finished_at,
            });
        }
        _ => {}
    }
    Ok(())
}

fn step_row(of: ExecutionOf, step: StepRun) -> Record {
    Record::Step(Box::new(StepRow {
        of,
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
    }))
}

#[cfg(test)]
mod tests {
    use flowmate_common::{Clock, Timestamp, ids::IdGenerator};

    use super::*;

    #[test]
    fn a_wait_and_its_end_are_recorded_with_their_turn() {
        let (ids, clock) = (IdGenerator::counting(), Clock::manual(Timestamp::from_millis(0)));
        let of = ExecutionOf {
            execution_id: "e".into(),
            flow_id: "f".into(),
            flow_name: None,
            user: None,
            tenant: None,
        };
        let started_at = Timestamp::from_millis(1);
        let waiting = ExecutionWaiting {
            of: of.clone(),
            started_at,
            turn: 3,
            due: Timestamp::from_millis(9),
            reason: "503".into(),
        };
        let resumed = ExecutionResumed {
            of,
            started_at,
            turn: 3,
        };
        let events = [
            Event::new(&ids, &clock, EventType::ExecutionWaiting, "e", &waiting).unwrap(),
            Event::new(&ids, &clock, EventType::ExecutionResumed, "e", &resumed).unwrap(),
        ];
        let mut records = Vec::new();
        for event in &events {
            read(event, &mut records).unwrap();
        }
        let [
            Record::Waiting { started, wait, .. },
            Record::Resumed { turn: 3, .. },
        ] = &*records
        else {
            panic!("{records:?}");
        };
        assert_eq!(*started, started_at);
        let expected = Waiting {
            turn: 3,
            due: Timestamp::from_millis(9),
            reason: "503".into(),
        };
        assert_eq!(*wait, expected);
    }
}
