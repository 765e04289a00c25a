//! Functions without effects: receive, map, route, split, log.

use flowmate_common::{
    ids::NodeId,
    mask,
    model::{Json, Message, Node, json},
};
use flowmate_flow_model::{Expression, Moment, template_text::Fill};
use serde_json::{Value, json as value, value::RawValue};

use crate::{
    Emitted, Pure, StepError,
    fields::{Fields, parse},
    object_schema,
};

/// Items that one split may make.
const MAX_ITEMS: usize = 10_000;

/// The schema of a function that takes no fields.
pub(crate) fn no_fields() -> Value {
    object_schema(&value!({}), &[])
}

/// `webhook`.`receive`.
pub(crate) struct Receive;

impl Pure for Receive {
    fn run(&self, message: &Message, _: &Moment<'_>) -> Result<Vec<Emitted>, StepError> {
        Ok(vec![message.clone().into()])
    }
}

/// `transform`.`jsonata`.
pub(crate) struct Transform {
    expression: Expression,
}

impl Transform {
    pub(crate) fn schema() -> Value {
        let expression = value!({"type": "string", "description": "JSONata, evaluated on the message's data.",
            "examples": ["{\"name\": customer.first & \" \" & customer.last}"]});
        object_schema(&value!({"expression": expression}), &["expression"])
    }

    pub(crate) fn compile(node: &Node) -> Result<Self, String> {
        let fields = Fields::of(node, &["expression"])?;
        let expression = fields
            .expression("expression")?
            .ok_or("field \"expression\" is missing.")?;
        Ok(Self { expression })
    }
}

impl Pure for Transform {
    fn run(&self, message: &Message, moment: &Moment<'_>) -> Result<Vec<Emitted>, StepError> {
        let result = self
            .expression
            .evaluate(&message.data, moment)
            .map_err(StepError::new)?;
        let data = result.ok_or_else(|| {
            StepError::new(format!(
                "the expression {} yields nothing on this data",
                self.expression.source()
            ))
        })?;
        Ok(vec![message.followed_by(data).into()])
    }
}

/// `gateway`.`route`.
pub(crate) struct Route {
    rules: Vec<(Expression, NodeId)>,
    otherwise: Option<NodeId>,
}

impl Route {
    pub(crate) fn schema() -> Value {
        let rule = value!({"type": "object", "properties": {
            "when": {"type": "string", "description": "JSONata on the message; the rule holds where it is truthy.", "examples": ["data.total > 100"]},
            "to": {"type": "string", "description": "Id of a node that an edge leads to from here."}},
            "required": ["when", "to"], "additionalProperties": false});
        let rules =
            value!({"type": "array", "items": rule, "description": "The first rule that holds decides."});
        let otherwise = value!({"type": "string", "description": "Node for messages that no rule holds for; without it they end here."});
        object_schema(&value!({"rules": rules, "otherwise": otherwise}), &["rules"])
    }

    pub(crate) fn compile(node: &Node, successors: &[&NodeId]) -> Result<Self, String> {
        let fields = Fields::of(node, &["rules", "otherwise"])?;
        let target = |to: &str| {
            let id = NodeId::from(to);
            if successors.contains(&&id) {
                Ok(id)
            } else {
                Err(format!("a rule leads to \"{to}\", but no edge does."))
            }
        };
        let list = fields
            .get("rules")
            .and_then(Value::as_array)
            .ok_or("field \"rules\" has to be a list.")?;
        let mut rules = Vec::with_capacity(list.len());
        for rule in list {
            let text = |key: &str| {
                rule.get(key).and_then(Value::as_str).ok_or_else(|| {
                    format!("a rule has to be {{\"when\": <JSONata>, \"to\": <node id>}}, not {rule}.")
                })
            };
            rules.push((parse("when", text("when")?)?, target(text("to")?)?));
        }
        let otherwise = fields.text("otherwise")?.map(target).transpose()?;
        Ok(Self { rules, otherwise })
    }
}

impl Pure for Route {
    fn run(&self, message: &Message, moment: &Moment<'_>) -> Result<Vec<Emitted>, StepError> {
        let whole = whole(message)?;
        for (index, (when, to)) in self.rules.iter().enumerate() {
            if when
                .is_truthy(&whole, &moment.item(index))
                .map_err(StepError::new)?
            {
                return Ok(vec![Emitted {
                    message: message.clone(),
                    to: Some(to.clone()),
                }]);
            }
        }
        let otherwise = self.otherwise.iter();
        Ok(otherwise
            .map(|to| Emitted {
                message: message.clone(),
                to: Some(to.clone()),
            })
            .collect())
    }
}

/// `split`.`array`.
pub(crate) struct Split {
    path: Option<Expression>,
}

impl Split {
    pub(crate) fn schema() -> Value {
        let path = value!({"type": "string", "description": "JSONata on the message's data that yields the array; without it the data itself is the array.",
            "examples": ["items"]});
        object_schema(&value!({"path": path}), &[])
    }

    pub(crate) fn compile(node: &Node) -> Result<Self, String> {
        let fields = Fields::of(node, &["path"])?;
        Ok(Self {
            path: fields.expression("path")?,
        })
    }
}

impl Pure for Split {
    fn run(&self, message: &Message, moment: &Moment<'_>) -> Result<Vec<Emitted>, StepError> {
        let found = match &self.path {
            None => Some(message.data.clone()),
            Some(path) => path.evaluate(&message.data, moment).map_err(StepError::new)?,
        };
        let Some(found) = found else { return Ok(Vec::new()) };
        let items: Vec<Json> = match serde_json::from_str::<Vec<Box<RawValue>>>(found.get()) {
            Ok(items) => items.into_iter().map(Json::from).collect(),
            // JSONata yields a list of one as its one item.
            Err(_) if found.get() == "null" => Vec::new(),
            Err(_) => vec![found],
        };
        if items.len() > MAX_ITEMS {
            return Err(StepError::new(format!(
                "the array has {} items, {MAX_ITEMS} are allowed",
                items.len()
            )));
        }
        Ok(items
            .into_iter()
            .map(|item| message.followed_by(item).into())
            .collect())
    }
}

/// `log`.`write`.
pub(crate) struct Log {
    node: NodeId,
    level: tracing::Level,
    text: Option<Fill>,
}

impl Log {
    pub(crate) fn schema() -> Value {
        let message = value!({"type": "string", "description": "The line; without it the message's data, secrets masked.", "examples": ["Order {{ data.id }} arrived"]});
        let level = value!({"type": "string", "enum": ["debug", "info", "warn", "error"], "default": "info"});
        object_schema(&value!({"message": message, "level": level}), &[])
    }

    pub(crate) fn compile(node: &Node) -> Result<Self, String> {
        let fields = Fields::of(node, &["message", "level"])?;
        let level = match fields.text("level")? {
            None | Some("info") => tracing::Level::INFO,
            Some("debug") => tracing::Level::DEBUG,
            Some("warn") => tracing::Level::WARN,
            Some("error") => tracing::Level::ERROR,
            Some(other) => {
                return Err(format!(
                    "field \"level\" is \"{other}\"; it may be debug, info, warn or error."
                ));
            }
        };
        Ok(Self {
            node: node.id.clone(),
            level,
            text: fields.fill("message")?,
        })
    }
}

impl Pure for Log {
    fn run(&self, message: &Message, moment: &Moment<'_>) -> Result<Vec<Emitted>, StepError> {
        let line = match &self.text {
            None => mask::masked(message.data.get()).unwrap_or_else(|| message.data.get().to_owned()),
            Some(fill) => match fill.fill(&whole(message)?, moment).map_err(StepError::new)? {
                Value::String(text) => text,
                other => other.to_string(),
            },
        };
        let line: String = line.chars().take(4096).collect();
        let node = self.node.as_str();
        match self.level {
            tracing::Level::ERROR => tracing::error!(target: "flowmate::flow_log", node, "{line}"),
            tracing::Level::WARN => tracing::warn!(target: "flowmate::flow_log", node, "{line}"),
            tracing::Level::DEBUG => tracing::debug!(target: "flowmate::flow_log", node, "{line}"),
            _ => tracing::info!(target: "flowmate::flow_log", node, "{line}"),
        }
        Ok(vec![message.clone().into()])
    }
}

/// The whole message as JSON, for expressions on it.
pub(crate) fn whole(message: &Message) -> Result<Json, StepError> {
    json(message).map_err(StepError::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Moment<'static> = Moment::new(flowmate_common::Timestamp::from_millis(0), 7);

    fn node(function: &str, fields: Value) -> Node {
        serde_json::from_value(
            value!({"id": "n", "componentId": "c", "function": function, "fields": fields}),
        )
        .unwrap()
    }

    fn message(data: &Value) -> Message {
        Message::new(json(data).unwrap())
    }

    fn data(emitted: &[Emitted]) -> Vec<Value> {
        emitted
            .iter()
            .map(|one| serde_json::from_str(one.message.data.get()).unwrap())
            .collect()
    }

    #[test]
    fn transform_makes_new_data_and_says_when_there_is_none() {
        let transform =
            Transform::compile(&node("jsonata", value!({"expression": "{\"n\": a + 1}"}))).unwrap();
        assert_eq!(
            data(&transform.run(&message(&value!({"a": 1})), &MOMENT).unwrap()),
            [value!({"n": 2})]
        );
        let nothing = Transform::compile(&node("jsonata", value!({"expression": "missing"}))).unwrap();
        assert!(
            nothing
                .run(&message(&value!({})), &MOMENT)
                .unwrap_err()
                .message
                .contains("yields nothing")
        );
        assert!(Transform::compile(&node("jsonata", value!({"expresion": "a"}))).is_err());
        assert!(Transform::compile(&node("jsonata", value!({"expression": "a +"}))).is_err());
    }

    #[test]
    fn route_takes_the_first_rule_that_holds() {
        let rules = value!({"rules": [{"when": "data.n > 10", "to": "big"}, {"when": "data.n > 1", "to": "small"}], "otherwise": "none"});
        let ids = [NodeId::from("big"), NodeId::from("small"), NodeId::from("none")];
        let route = Route::compile(&node("route", rules), &ids.iter().collect::<Vec<_>>()).unwrap();
        for (n, to) in [(11, "big"), (2, "small"), (0, "none")] {
            let emitted = route.run(&message(&value!({"n": n})), &MOMENT).unwrap();
            assert_eq!(emitted[0].to, Some(to.into()));
        }
        let dangling = value!({"rules": [{"when": "true", "to": "elsewhere"}]});
        assert!(Route::compile(&node("route", dangling), &[]).is_err());
    }

    #[test]
    fn split_emits_each_item_in_order() {
        let split = Split::compile(&node("array", value!({"path": "items"}))).unwrap();
        assert_eq!(
            data(
                &split
                    .run(&message(&value!({"items": [1, {"a": 2}]})), &MOMENT)
                    .unwrap()
            ),
            [value!(1), value!({"a": 2})]
        );
        assert_eq!(
            data(&split.run(&message(&value!({"items": [1]})), &MOMENT).unwrap()),
            [value!(1)]
        );
        assert!(split.run(&message(&value!({})), &MOMENT).unwrap().is_empty());
        let itself = Split::compile(&node("array", value!({}))).unwrap();
        assert_eq!(
            data(&itself.run(&message(&value!([1, 2])), &MOMENT).unwrap()).len(),
            2
        );
    }
}
