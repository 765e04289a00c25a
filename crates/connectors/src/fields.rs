//! Reading a node's `fields` when a flow starts.

use flowmate_common::model::Node;
use flowmate_flow_model::{Expression, template_text::Fill};
use serde_json::{Map, Value};

/// A node's fields; every key has to be asked for or allowed, so that a misspelt one is not ignored.
pub(crate) struct Fields<'a> {
    map: Option<&'a Map<String, Value>>,
}

impl<'a> Fields<'a> {
    /// The fields of `node`, which may hold these keys and no others.
    pub(crate) fn of(node: &'a Node, known: &[&str]) -> Result<Self, String> {
        let map = node.fields.as_ref();
        match map
            .into_iter()
            .flat_map(Map::keys)
            .find(|key| !known.contains(&key.as_str()))
        {
            Some(unknown) if known.is_empty() => Err(format!("unknown field \"{unknown}\"; it takes none.")),
            Some(unknown) => Err(format!(
                "unknown field \"{unknown}\"; it takes {}.",
                known.join(", ")
            )),
            None => Ok(Self { map }),
        }
    }

    /// The value, unless it is absent or null.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map
            .and_then(|map| map.get(key))
            .filter(|value| !value.is_null())
    }

    /// A text.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(format!("field \"{key}\" has to be a text, not {other}.")),
        }
    }

    /// An expression; around it `{{ }}` may stand, as in other fields.
    pub(crate) fn expression(&self, key: &str) -> Result<Option<Expression>, String> {
        self.text(key)?.map(|source| parse(key, source)).transpose()
    }

    /// A value with expressions inside.
    pub(crate) fn fill(&self, key: &str) -> Result<Option<Fill>, String> {
        self.get(key)
            .map(|value| Fill::parse(value).map_err(|error| format!("field \"{key}\": {error}.")))
            .transpose()
    }
}

/// Parses the expression in field `key`.
pub(crate) fn parse(key: &str, source: &str) -> Result<Expression, String> {
    let bare = source
        .trim()
        .strip_prefix("{{")
        .and_then(|rest| rest.strip_suffix("}}"));
    // `{{"a": 1}}` with an object inside is JSONata already only without the outer braces.
    let expression = match bare {
        Some(inner) => Expression::parse(inner.trim()),
        None => Expression::parse(source),
    };
    expression.map_err(|error| format!("field \"{key}\": {error}."))
}
