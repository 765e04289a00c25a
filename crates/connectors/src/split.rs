//! `split`: makes many messages of one.

use flowmate_common::model::{Json, Message, Node};
use flowmate_flow_model::{Expression, Moment};
use serde_json::{Value, json as value, value::RawValue};

use crate::{
    Action, Emitted, Pure, StepError,
    component::{BuiltIn, BuiltInFunction, object_schema},
    fields::Fields,
};

/// Items that one split may make.
const MAX_ITEMS: usize = 10_000;

pub(crate) const COMPONENT: BuiltIn = BuiltIn {
    id: "666c6f776d61746500000005",
    name: "split",
    description: "Makes many messages of one.",
    is_control: false,
    functions: &[BuiltInFunction {
        name: "array",
        kind: "action",
        description: "Emits one message for each item of an array.",
        schema: Split::schema,
        compile: |_, node, _| Split::compile(node).map(Action::pure),
    }],
};

/// `split`.`array`.
struct Split {
    path: Option<Expression>,
}

impl Split {
    fn schema() -> Value {
        let path = value!({"type": "string", "description": "JSONata on the message's data that yields the array; without it the data itself is the array.",
            "examples": ["items"]});
        object_schema(&value!({"path": path}), &[])
    }

    fn compile(node: &Node) -> Result<Self, String> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MOMENT, data, message, node};

    #[test]
    fn split_emits_each_item_in_order() {
        let split = Split::compile(&node("array", &value!({"path": "items"}))).unwrap();
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
        let itself = Split::compile(&node("array", &value!({}))).unwrap();
        assert_eq!(
            data(&itself.run(&message(&value!([1, 2])), &MOMENT).unwrap()).len(),
            2
        );
    }
}
