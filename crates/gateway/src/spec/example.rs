//! An example of a schema, from the examples that its parts have.

use serde_json::{Map, Value, json};

/// Deeper than this nothing of ours is nested.
const DEPTH: usize = 48;

/// An example of `schema`; references are looked up in `document`.
pub(super) fn of(schema: &Value, document: &Value) -> Value {
    build(schema, document, DEPTH)
}

fn build(schema: &Value, document: &Value, depth: usize) -> Value {
    let Some(depth) = depth.checked_sub(1) else {
        return Value::Null;
    };
    for key in ["example", "default", "const"] {
        if let Some(value) = schema.get(key).filter(|value| !value.is_null()) {
            return value.clone();
        }
    }
    for key in ["examples", "enum"] {
        if let Some(first) = schema[key].as_array().and_then(|values| values.first()) {
            return first.clone();
        }
    }
    if let Some(name) = schema["$ref"].as_str() {
        let pointer = name.trim_start_matches('#');
        return document
            .pointer(pointer)
            .map_or(Value::Null, |schema| build(schema, document, depth));
    }
    for key in ["oneOf", "anyOf"] {
        if let Some(choices) = schema[key].as_array() {
            let chosen = choices.iter().find(|choice| choice["type"] != "null");
            return chosen.map_or(Value::Null, |choice| build(choice, document, depth));
        }
    }
    if let Some(parts) = schema["allOf"].as_array() {
        let objects = parts.iter().map(|part| build(part, document, depth));
        let whole: Map<String, Value> = objects
            .filter_map(|part| part.as_object().cloned())
            .flatten()
            .collect();
        return Value::Object(whole);
    }
    match kind(schema) {
        "object" => object(schema, document, depth),
        "array" => json!([build(&schema["items"], document, depth)]),
        "integer" | "number" => schema.get("minimum").cloned().unwrap_or(json!(1)),
        "boolean" => json!(true),
        "string" if schema["format"] == "date-time" => json!("2026-11-23T09:41:00.000Z"),
        "string" => json!("text"),
        _ => json!({}),
    }
}

/// The type that is not null.
fn kind(schema: &Value) -> &str {
    match &schema["type"] {
        Value::String(kind) => kind,
        Value::Array(kinds) => kinds
            .iter()
            .filter_map(Value::as_str)
            .find(|kind| *kind != "null")
            .unwrap_or(""),
        _ => "",
    }
}

fn object(schema: &Value, document: &Value, depth: usize) -> Value {
    let properties = schema["properties"].as_object().into_iter().flatten();
    let build = |(name, schema): (&String, &Value)| (name.clone(), build(schema, document, depth));
    Value::Object(properties.map(build).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_the_whole() {
        let document = json!({"components": {"schemas": {"Id": {"type": "string", "example": "5c99"}}}});
        let schema = json!({"allOf": [
            {"type": "object", "properties": {"id": {"$ref": "#/components/schemas/Id"}, "list": {"type": "array", "items": {"type": "integer"}}}},
            {"type": "object", "properties": {"maybe": {"oneOf": [{"type": "null"}, {"type": ["string", "null"], "example": "x"}]}}}]});
        assert_eq!(
            of(&schema, &document),
            json!({"id": "5c99", "list": [1], "maybe": "x"})
        );
    }
}
