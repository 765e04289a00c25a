//! Failures that operations share, so that none of them has to state them. What an operation states itself stays.

use flowmate_web::ErrorStyle;
use serde_json::{Map, Value, json};

/// Marks an operation that everybody with a token may call: `extensions(("x-any-caller" = json!(true)))`. It is not
/// in the specification that clients see.
const ANY_CALLER: &str = "x-any-caller";

/// Adds 401, 403, 404 and 413 where they can happen. 500 and 503 can happen everywhere: see `complete`.
pub(super) fn add(operation: &mut Value, path: &str, style: ErrorStyle) {
    let Some(operation) = operation.as_object_mut() else {
        return;
    };
    let is_for_all = operation.shift_remove(ANY_CALLER).is_some();
    let has_body = operation.contains_key("requestBody");
    let schemes = operation.get("security").and_then(Value::as_array);
    let is_secured = schemes.is_some_and(|schemes| !schemes.is_empty());
    let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else {
        return;
    };
    if !is_secured {
        return;
    }
    let (schema, unknown) = match style {
        ErrorStyle::Errors => ("Errors", "Missing authorization header."),
        ErrorStyle::Message => ("ErrorMessage", "NOT_LOGGED_IN"),
        ErrorStyle::Error => ("ErrorText", "Missing authorization header."),
    };
    let schema = json!({ "$ref": format!("#/components/schemas/{schema}") });
    let mut add = |status: &str, text: &str| state(responses, status, text, "application/json", &schema);
    add("401", unknown);
    if !is_for_all {
        add("403", "MISSING_PERMISSION");
    }
    if has_body {
        add("413", "The body is larger than allowed.");
    }
    if style == ErrorStyle::Message && path.contains('{') {
        state(
            responses,
            "404",
            "Not Found",
            "text/plain",
            &json!({ "type": "string" }),
        );
    }
    responses.sort_keys();
}

fn state(responses: &mut Map<String, Value>, status: &str, text: &str, media: &str, schema: &Value) {
    let response = || json!({ "description": text, "content": { media: { "schema": schema } } });
    responses.entry(status).or_insert_with(response);
}
