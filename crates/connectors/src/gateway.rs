//! `gateway`: chooses which way a message goes.

use flowmate_common::{
    ids::NodeId,
    model::{Message, Node},
};
use flowmate_flow_model::{Expression, Moment};
use serde_json::{Value, json as value};

use crate::{
    Action, Emitted, Pure, StepError,
    component::{BuiltIn, BuiltInFunction, object_schema},
    fields::{Fields, parse},
    whole,
};

pub(crate) const COMPONENT: BuiltIn = BuiltIn {
    id: "666c6f776d61746500000004",
    name: "gateway",
    description: "Chooses which way a message goes. Not counted as an execution.",
    is_control: true,
    functions: &[BuiltInFunction {
        name: "route",
        kind: "action",
        description: "Sends the message to the node of the first rule that holds.",
        schema: Route::schema,
        compile: |_, node, successors| Route::compile(node, successors).map(Action::pure),
    }],
};

/// `gateway`.`route`.
struct Route {
    rules: Vec<(Expression, NodeId)>,
    otherwise: Option<NodeId>,
}

impl Route {
    fn schema() -> Value {
        let rule = value!({"type": "object", "properties": {
            "when": {"type": "string", "description": "JSONata on the message; the rule holds where it is truthy.", "examples": ["data.total > 100"]},
            "to": {"type": "string", "description": "Id of a node that an edge leads to from here."}},
            "required": ["when", "to"], "additionalProperties": false});
        let rules =
            value!({"type": "array", "items": rule, "description": "The first rule that holds decides."});
        let otherwise = value!({"type": "string", "description": "Node for messages that no rule holds for; without it they end here."});
        object_schema(&value!({"rules": rules, "otherwise": otherwise}), &["rules"])
    }

    fn compile(node: &Node, successors: &[&NodeId]) -> Result<Self, String> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MOMENT, message, node};

    #[test]
    fn route_takes_the_first_rule_that_holds() {
        let rules = value!({"rules": [{"when": "data.n > 10", "to": "big"}, {"when": "data.n > 1", "to": "small"}], "otherwise": "none"});
        let ids = [NodeId::from("big"), NodeId::from("small"), NodeId::from("none")];
        let route = Route::compile(&node("route", &rules), &ids.iter().collect::<Vec<_>>()).unwrap();
        for (n, to) in [(11, "big"), (2, "small"), (0, "none")] {
            let emitted = route.run(&message(&value!({"n": n})), &MOMENT).unwrap();
            assert_eq!(emitted[0].to, Some(to.into()));
        }
        let dangling = value!({"rules": [{"when": "true", "to": "elsewhere"}]});
        assert!(Route::compile(&node("route", &dangling), &[]).is_err());
    }
}
