//! What is said of a step: bounded, secrets masked.

use std::sync::Arc;

use flowmate_common::{
    Timestamp,
    mask::{self, MASK, masked_text},
    model::{Json, Outcome, StepRun, json},
};
use flowmate_connectors::{Function, StepError};
use flowmate_flow_model::Step;
use serde_json::{json as value, value::RawValue};

use crate::step::{StepOutput, Task, is_effect};

/// Bytes of a recorded input or output.
const MAX_RECORDED: usize = 16 << 10;
/// Bytes of data that is looked through for secrets; of larger data only the size is recorded.
const MAX_MASKED: usize = 1 << 20;
/// Characters that stand for larger data.
const PREVIEW: usize = 1_000;
/// Characters of an error.
const MAX_ERROR: usize = 2_000;

/// A step that ended.
pub(crate) struct EndedStep<'a> {
    pub(crate) step: &'a Step<Function>,
    pub(crate) task: &'a Task,
    pub(crate) started: Timestamp,
    pub(crate) finished: Timestamp,
    pub(crate) attempts: u32,
    pub(crate) sequence: u32,
}

/// Whether the step's output is kept in full, so that the execution can go on behind it: effects with successors.
pub(crate) fn is_journalled(step: &Step<Function>) -> bool {
    is_effect(step) && !step.edges.is_empty()
}

/// What is said of a step that was not done since the flow was stopped.
pub(crate) fn cancelled_run(ended: &EndedStep<'_>, reason: &str) -> StepRun {
    let failed = Err(StepError::new(reason));
    StepRun {
        status: Outcome::Cancelled,
        journal: None,
        ..step_run(ended, &failed)
    }
}

/// What is said of it. Effects are journalled, those with successors with their output in full.
pub(crate) fn step_run(ended: &EndedStep<'_>, result: &Result<StepOutput, StepError>) -> StepRun {
    let EndedStep {
        step,
        task,
        started,
        finished,
        attempts,
        sequence,
    } = ended;
    let (status, output, error) = match result {
        Ok(followed) if is_unchanged(task, followed) => (Outcome::Success, None, None),
        Ok(followed) => (Outcome::Success, Some(outputs(followed)), None),
        Err(error) => (
            Outcome::Error,
            None,
            Some(masked_text(&error.message).chars().take(MAX_ERROR).collect()),
        ),
    };
    // Of an effect that nothing follows it is enough to know that it was done.
    let journal = is_effect(step).then(|| match result {
        Ok(followed) if is_journalled(step) => followed.messages.clone(),
        _ => Vec::new(),
    });
    StepRun {
        step_run_id: task.run.clone(),
        sequence: *sequence,
        node_id: step.node.id.clone(),
        component_id: step.node.component_id.clone(),
        component: step.function.component.to_owned(),
        function: step.node.function.clone(),
        counted: step.function.counted,
        status,
        input: recorded(&task.message.data),
        unchanged: status == Outcome::Success && output.is_none(),
        output,
        error,
        attempts: *attempts,
        started_at: *started,
        finished_at: *finished,
        journal,
    }
}

fn is_unchanged(task: &Task, followed: &StepOutput) -> bool {
    matches!(followed.messages.as_slice(), [only] if Arc::ptr_eq(&only.data, &task.message.data))
}

/// The data of the emitted messages as one list.
fn outputs(followed: &StepOutput) -> Json {
    let total: usize = followed
        .messages
        .iter()
        .map(|message| message.data.get().len())
        .sum();
    if total > MAX_MASKED {
        return omitted(total, None);
    }
    let mut text = String::with_capacity(total + followed.messages.len() + 2);
    text.push('[');
    for (index, message) in followed.messages.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(message.data.get());
    }
    text.push(']');
    match RawValue::from_string(text) {
        Ok(list) => recorded(&Arc::from(list)),
        Err(_) => omitted(total, None),
    }
}

/// The data as it may be recorded.
fn recorded(data: &Json) -> Json {
    let size = data.get().len();
    if size > MAX_MASKED {
        return omitted(size, None);
    }
    let masked = mask::masked(data.get());
    let text = masked.as_deref().unwrap_or_else(|| data.get());
    if size > MAX_RECORDED {
        return omitted(size, Some(text.chars().take(PREVIEW).collect()));
    }
    match masked.map(RawValue::from_string) {
        None => data.clone(),
        Some(Ok(masked)) => masked.into(),
        Some(Err(_)) => omitted(size, Some(MASK.to_owned())),
    }
}

fn omitted(size: usize, preview: Option<String>) -> Json {
    let note = value!({ "truncated": true, "bytes": size, "preview": preview });
    json(&note).unwrap_or_else(|_| RawValue::NULL.to_owned().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_data_is_recorded_as_it_is_and_large_data_by_its_beginning() {
        let small = json(&value!({"a": 1})).unwrap();
        assert!(Arc::ptr_eq(&recorded(&small), &small), "without a copy");
        let large = json(&value!({"password": "p", "text": "x".repeat(MAX_RECORDED)})).unwrap();
        let note: serde_json::Value = serde_json::from_str(recorded(&large).get()).unwrap();
        assert_eq!(
            (&note["truncated"], note["bytes"].as_u64()),
            (&value!(true), Some(large.get().len() as u64))
        );
        assert!(
            note["preview"]
                .as_str()
                .unwrap()
                .starts_with(r#"{"password":"***","text":"xxx"#)
        );
    }
}
