//! What a built-in component says of itself, in the module that has its code.

use flowmate_common::{
    ids::{ComponentId, NodeId},
    model::{Access, Component, ComponentFunction, MutableComponent, Node},
};
use serde_json::{Value, json};

use crate::{Action, Registry};

/// A component that can be run without anything being installed.
pub(crate) struct BuiltIn {
    /// Stays for ever: flows name it.
    pub(crate) id: &'static str,
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
    /// It only directs messages: its runs do not count as executions.
    pub(crate) is_control: bool,
    pub(crate) functions: &'static [BuiltInFunction],
}

/// A function of it.
pub(crate) struct BuiltInFunction {
    pub(crate) name: &'static str,
    /// `trigger` or `action`.
    pub(crate) kind: &'static str,
    pub(crate) description: &'static str,
    /// The JSON Schema of its fields.
    pub(crate) schema: fn() -> Value,
    /// What it does at this node, which leads to these; or what is wrong with the node.
    pub(crate) compile: fn(&Registry, &Node, &[&NodeId]) -> Result<Action, String>,
}

impl BuiltIn {
    /// As `GET /components` shows it.
    pub(crate) fn described(&self) -> Component {
        let functions = self.functions.iter().map(BuiltInFunction::described);
        Component {
            id: ComponentId::from(self.id),
            body: MutableComponent {
                name: self.name.to_owned(),
                description: self.description.to_owned(),
                access: Access::Public,
                is_global: true,
                functions: functions.collect(),
                ..MutableComponent::default()
            },
            is_control: self.is_control,
            created_at: None,
            updated_at: None,
        }
    }

    pub(crate) fn function(&self, name: &str) -> Result<&BuiltInFunction, String> {
        let found = self.functions.iter().find(|function| function.name == name);
        found.ok_or_else(|| {
            let known: Vec<String> = self
                .functions
                .iter()
                .map(|one| format!("\"{}\"", one.name))
                .collect();
            let (component, known) = (self.name, known.join(", "));
            format!("unknown function \"{name}\" of component \"{component}\"; it has {known}.")
        })
    }
}

impl BuiltInFunction {
    fn described(&self) -> ComponentFunction {
        ComponentFunction {
            name: self.name.to_owned(),
            kind: self.kind.to_owned(),
            description: self.description.to_owned(),
            fields: (self.schema)().as_object().cloned().unwrap_or_default(),
        }
    }
}

/// A JSON Schema of fields.
pub(crate) fn object_schema(properties: &Value, required: &[&str]) -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false
    })
}

/// The schema of a function that takes no fields.
pub(crate) fn no_fields() -> Value {
    object_schema(&json!({}), &[])
}
