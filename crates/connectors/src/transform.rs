//! `transform`: maps data with JSONata.

use flowmate_common::model::{Message, Node};
use flowmate_flow_model::{Expression, Moment};
use serde_json::{Value, json as value};

use crate::{
    Action, Emitted, Pure, StepError,
    component::{BuiltIn, BuiltInFunction, object_schema},
    fields::Fields,
};

pub(crate) const COMPONENT: BuiltIn = BuiltIn {
    id: "666c6f776d61746500000003",
    name: "transform",
    description: "Maps data.",
    is_control: false,
    functions: &[BuiltInFunction {
        name: "jsonata",
        kind: "action",
        description: "Evaluates JSONata on the message's data; the result is the new data.",
        schema: Transform::schema,
        compile: |_, node, _| Transform::compile(node).map(Action::pure),
    }],
};

/// `transform`.`jsonata`.
struct Transform {
    expression: Expression,
}

impl Transform {
    fn schema() -> Value {
        let expression = value!({"type": "string", "description": "JSONata, evaluated on the message's data.",
            "examples": ["{\"name\": customer.first & \" \" & customer.last}"]});
        object_schema(&value!({"expression": expression}), &["expression"])
    }

    fn compile(node: &Node) -> Result<Self, String> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MOMENT, data, message, node};

    #[test]
    fn transform_makes_new_data_and_says_when_there_is_none() {
        let transform =
            Transform::compile(&node("jsonata", &value!({"expression": "{\"n\": a + 1}"}))).unwrap();
        assert_eq!(
            data(&transform.run(&message(&value!({"a": 1})), &MOMENT).unwrap()),
            [value!({"n": 2})]
        );
        let nothing = Transform::compile(&node("jsonata", &value!({"expression": "missing"}))).unwrap();
        assert!(
            nothing
                .run(&message(&value!({})), &MOMENT)
                .unwrap_err()
                .message
                .contains("yields nothing")
        );
        assert!(Transform::compile(&node("jsonata", &value!({"expresion": "a"}))).is_err());
        assert!(Transform::compile(&node("jsonata", &value!({"expression": "a +"}))).is_err());
    }
}
