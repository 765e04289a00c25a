//! One step: what happens around its function. Everything here computes and waits for nothing.

use flowmate_common::{
    ids::StepRunId,
    model::{Json, Message, json},
};
use flowmate_connectors::{Action, Emitted, Function, Pure, StepError};
use flowmate_flow_model::{
    Expression, Moment, Plan, Step,
    plan::{Mapper, PlanEdge, step_run_id},
};
use serde_json::{Map, Value};

/// A step that is to run.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    /// Index in the plan.
    pub(crate) step: usize,
    /// Which run of it.
    pub(crate) run: StepRunId,
    /// What it gets.
    pub(crate) message: Message,
}

/// What a step's output leads to.
#[derive(Debug)]
pub(crate) struct StepOutput {
    /// The emitted messages as they leave the step.
    pub(crate) messages: Vec<Message>,
    /// The steps to run next.
    pub(crate) next: Vec<Task>,
}

/// The message as the function gets it.
pub(crate) fn prepare(
    step: &Step<Function>,
    message: &Message,
    moment: &Moment<'_>,
) -> Result<Message, StepError> {
    match &step.settings.before {
        None => Ok(message.clone()),
        Some(expression) => transform(
            expression,
            message,
            "nodeSettings.transformFunction",
            &moment.within("before"),
        ),
    }
}

/// The output of a function without effects.
pub(crate) fn compute(
    function: &dyn Pure,
    message: &Message,
    moment: &Moment<'_>,
) -> Result<Vec<Emitted>, StepError> {
    function.run(message, &moment.within("function"))
}

/// Whether the step's end has to be journalled before anything follows it.
pub(crate) fn is_effect(step: &Step<Function>) -> bool {
    matches!(step.function.action, Action::Effect(_))
}

/// What follows when `task`'s function emitted `emitted`.
pub(crate) fn follow(
    plan: &Plan<Function>,
    task: &Task,
    emitted: Vec<Emitted>,
    moment: &Moment<'_>,
) -> Result<StepOutput, StepError> {
    let Some(step) = plan.step(task.step) else {
        return Err(StepError::new("the step is not in the plan"));
    };
    let after = moment.within("after");
    let leave = |(index, Emitted { message, to })| {
        Ok(Emitted {
            message: finish(step, &task.message, message, &after.item(index))?,
            to,
        })
    };
    let left = emitted.into_iter().enumerate().map(leave);
    edges(plan, step, task, left.collect::<Result<_, StepError>>()?, moment)
}

/// The same for messages that had left the step before, as the journal has them.
pub(crate) fn follow_journal(
    plan: &Plan<Function>,
    task: &Task,
    messages: Vec<Message>,
    moment: &Moment<'_>,
) -> Result<StepOutput, StepError> {
    let Some(step) = plan.step(task.step) else {
        return Err(StepError::new("the step is not in the plan"));
    };
    edges(
        plan,
        step,
        task,
        messages.into_iter().map(Emitted::from).collect(),
        moment,
    )
}

fn edges(
    plan: &Plan<Function>,
    step: &Step<Function>,
    task: &Task,
    emitted: Vec<Emitted>,
    moment: &Moment<'_>,
) -> Result<StepOutput, StepError> {
    let edges = moment.within("edge");
    let mut output = StepOutput {
        messages: Vec::with_capacity(emitted.len()),
        next: Vec::new(),
    };
    for (index, Emitted { message, to }) in emitted.into_iter().enumerate() {
        for (number, edge) in step.edges.iter().enumerate() {
            let Some(target) = plan.step(edge.target) else {
                continue;
            };
            if to.as_ref().is_some_and(|only| *only != target.node.id) {
                continue;
            }
            let failed = |error: StepError| {
                StepError::new(format!("the edge to \"{}\": {}", target.node.id, error.message))
            };
            if let Some(message) = pass(edge, &message, &edges.item(index).item(number)).map_err(failed)? {
                let run = step_run_id(Some(&task.run), index, &target.node.id, edge.parallel);
                output.next.push(Task {
                    step: edge.target,
                    run,
                    message,
                });
            }
        }
        output.messages.push(message);
    }
    Ok(output)
}

/// The message on its way along an edge, or `None` if the edge is not taken.
fn pass(edge: &PlanEdge, message: &Message, moment: &Moment<'_>) -> Result<Option<Message>, StepError> {
    if let Some(condition) = &edge.condition
        && !condition
            .is_truthy(&whole(message)?, &moment.within("condition"))
            .map_err(StepError::new)?
    {
        return Ok(None);
    }
    match &edge.mapper {
        None => Ok(Some(message.clone())),
        Some(Mapper::Message(expression)) => {
            transform(expression, message, "config.mapper", moment).map(Some)
        }
        Some(Mapper::Data(mapper)) => {
            let data = mapper
                .evaluate(&whole(message)?, moment)
                .map_err(StepError::new)?;
            Ok(Some(message.followed_by(
                json(&data.unwrap_or(Value::Null)).map_err(StepError::new)?,
            )))
        }
    }
}

/// A message as it leaves the step: mapped, and with what it passes through.
fn finish(
    step: &Step<Function>,
    input: &Message,
    message: Message,
    moment: &Moment<'_>,
) -> Result<Message, StepError> {
    let mut message = match &step.settings.after {
        None => message,
        Some(expression) => transform(
            expression,
            &message,
            "nodeSettings.secondTransformFunction",
            moment,
        )?,
    };
    if step.settings.passthrough {
        let mut passed: Map<String, Value> = match &input.passthrough {
            None => Map::new(),
            Some(passed) => serde_json::from_str(passed.get()).unwrap_or_default(),
        };
        message.passthrough = None;
        let own = serde_json::to_value(&message).map_err(StepError::new)?;
        passed.insert(step.node.id.to_string(), own);
        message.passthrough = Some(json(&passed).map_err(StepError::new)?);
    }
    Ok(message)
}

/// The message that `expression` makes of `message`: an object with `data`; what it leaves out stays.
fn transform(
    expression: &Expression,
    message: &Message,
    place: &str,
    moment: &Moment<'_>,
) -> Result<Message, StepError> {
    let result = expression
        .evaluate(&whole(message)?, moment)
        .map_err(StepError::new)?;
    let nothing = || {
        StepError::new(format!(
            "{place} yields nothing; it has to make an object with \"data\""
        ))
    };
    let result = result.ok_or_else(nothing)?;
    let has_data =
        serde_json::from_str::<Map<String, Value>>(result.get()).is_ok_and(|map| map.contains_key("data"));
    if !has_data {
        return Err(StepError::new(format!(
            "{place} has to make an object with \"data\""
        )));
    }
    let made: Message = serde_json::from_str(result.get()).map_err(StepError::new)?;
    Ok(Message {
        metadata: made.metadata.or_else(|| message.metadata.clone()),
        attachments: made.attachments.or_else(|| message.attachments.clone()),
        headers: made.headers.or_else(|| message.headers.clone()),
        passthrough: made.passthrough.or_else(|| message.passthrough.clone()),
        ..Message::new(made.data)
    })
}

fn whole(message: &Message) -> Result<Json, StepError> {
    json(message).map_err(StepError::new)
}
