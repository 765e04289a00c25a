//! What all operations have in common: an example for everything, and the faults that are ours.

#![expect(
    clippy::indexing_slicing,
    reason = "reading a JSON value at a missing place yields null; what is written to are objects made by utoipa"
)]

use std::collections::HashMap;

use flowmate_web::Styles;
use serde_json::{Value, json};

use super::{example, shared};

/// Examples of parameters by their names. A test sees to it that none is missing.
const PARAMETERS: [(&str, &str); 24] = [
    ("id", "6762e154616e91cb8d8b1aaf"),
    ("userId", "636d0762bd257a7eb2373d6c"),
    ("flowId", "6762e154616e91cb8d8b1aaf"),
    ("stepId", "step_1"),
    ("suffix", "orders"),
    ("meta", "true"),
    ("username", "ada@example.com"),
    ("page[size]", "10"),
    ("page[number]", "1"),
    ("filter[status]", "1"),
    ("filter[type]", "ordinary"),
    ("filter[user]", "636d0762bd257a7eb2373d6c"),
    ("filter[fromTemplate]", "5c99ec7e5ed40d3e7512cffa"),
    ("filter[flowId]", "6762e154616e91cb8d8b1aaf"),
    ("filter[stepId]", "step_1"),
    ("filter[tenant]", "636d0762bd257a7eb2373d6a"),
    ("sort", "-updatedAt"),
    ("search", "orders"),
    ("tags", "premium,dev"),
    ("showErrors", "true"),
    ("pageSize", "100"),
    ("pageToken", "0192f0c4a0b07c3d8e5f60718293a4b5.3"),
    ("start", "2026-11-01"),
    ("end", "2026-11-30"),
];
const MORE_PARAMETERS: [(&str, &str); 6] = [
    ("filter[group]", "flow-engine"),
    ("filter[topic]", "flows"),
    ("filter[eventType]", "flow.starting"),
    ("groupby", "user"),
    ("filter[from]", "2026-11-01T00:00:00.000Z"),
    ("filter[until]", "2026-12-01T00:00:00.000Z"),
];

/// Forms of parameters that every operation takes alike.
const FORMATS: [(&str, &str); 4] = [
    ("start", "date"),
    ("end", "date"),
    ("filter[from]", "date-time"),
    ("filter[until]", "date-time"),
];
/// Paths whose `id` has to look like one; elsewhere what does not is 404.
const WITH_ID: [&str; 3] = ["/flows/{id}", "/templates/{id}", "/components/{id}"];
/// An id of a document: 24 hexadecimal digits, or 12 characters as in the reference (contract 2).
const DOCUMENT_ID: &str = "^([0-9a-fA-F]{24}|[0-9A-Za-z]{12})$";
/// Numbers of pages and their sizes at the most.
const MAX_NUMBER: u64 = 1_000_000_000_000;

/// Bodies that failures have, by the name of their schema.
const STYLES: [&str; 3] = ["Errors", "ErrorMessage", "ErrorText"];

/// Completes a specification.
pub(super) fn complete(document: &mut Value, told: &Styles) {
    refer(document);
    open_objects(document);
    let schemas = json!({ "components": { "schemas": document["components"]["schemas"] } });
    let mut styles_used = Vec::new();
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    for (path, operation) in paths.flat_map(|(path, item)| {
        let operations = item.as_object_mut().into_iter().flatten();
        operations.map(move |(_, operation)| (path, operation))
    }) {
        let has_ids = WITH_ID.iter().any(|prefix| path.starts_with(prefix));
        list(operation, "parameters").for_each(|one| parameter(one, has_ids));
        tell_meta(operation);
        let body = operation
            .pointer_mut("/requestBody/content")
            .and_then(Value::as_object_mut);
        for media in body.into_iter().flatten().map(|(_, media)| media) {
            let schema = media["schema"].clone();
            add_example(media, || example::of(&schema, &schemas));
        }
        shared::add(operation, path, told.of(path));
        responses(operation, &schemas);
        if let Some(style) = style(operation) {
            styles_used.push(style);
            for (status, name) in [("500", "Fault"), ("503", "Unavailable")] {
                let reference = format!("#/components/responses/{name}{style}");
                operation["responses"][status] = json!({ "$ref": reference });
            }
        }
        // No security at all is said as well.
        if operation.get("security").is_none() {
            operation["security"] = json!([]);
        }
    }
    styles_used.sort_unstable();
    styles_used.dedup();
    for style in styles_used {
        document["components"]["responses"][format!("Fault{style}")] =
            response(500, "Something went wrong on our side.", style);
        document["components"]["responses"][format!("Unavailable{style}")] = response(
            503,
            "The service is not available right now. Please try again later.",
            style,
        );
    }
}

/// Puts a reference in the place of each copy of a named schema, which is what generics leave behind: generated
/// clients then have one type for it.
fn refer(document: &mut Value) {
    let Some(schemas) = document.pointer("/components/schemas").and_then(Value::as_object) else {
        return;
    };
    let mut names: HashMap<String, String> = HashMap::new();
    for (name, schema) in schemas.iter().filter(|(_, schema)| is_structure(schema)) {
        names.entry(schema.to_string()).or_insert_with(|| name.clone());
    }
    for (_, item) in members(document, "paths") {
        replace(item, &names);
    }
    let schemas = document.pointer_mut("/components/schemas");
    for (_, schema) in schemas.and_then(Value::as_object_mut).into_iter().flatten() {
        inside(schema, &names);
    }
}

/// An object whose members nobody names may have any: without that being said, some generators make it one that is
/// always empty.
fn open_objects(value: &mut Value) {
    let says_more = ["properties", "additionalProperties", "allOf", "oneOf", "anyOf"];
    match value {
        Value::Object(object) => {
            let kind = object.get("type");
            let is_object = kind.is_some_and(|kind| kind == "object" || kind[0] == "object");
            if is_object && !says_more.iter().any(|key| object.contains_key(*key)) {
                object.insert("additionalProperties".into(), Value::Bool(true));
            }
            object.values_mut().for_each(open_objects);
        }
        Value::Array(items) => items.iter_mut().for_each(open_objects),
        _ => {}
    }
}

fn is_structure(schema: &Value) -> bool {
    ["properties", "allOf", "oneOf"]
        .iter()
        .any(|key| schema.get(key).is_some())
}

fn replace(value: &mut Value, names: &HashMap<String, String>) {
    match names.get(&value.to_string()).filter(|_| is_structure(value)) {
        Some(name) => *value = json!({ "$ref": format!("#/components/schemas/{name}") }),
        None => inside(value, names),
    }
}

fn inside(value: &mut Value, names: &HashMap<String, String>) {
    match value {
        Value::Object(object) => object.values_mut().for_each(|value| replace(value, names)),
        Value::Array(items) => items.iter_mut().for_each(|value| replace(value, names)),
        _ => {}
    }
}

fn parameter(parameter: &mut Value, has_ids: bool) {
    let name = parameter["name"].clone();
    let schema = &mut parameter["schema"];
    // Parameters that are left out are left out; there is no null in a query.
    not_null(schema);
    if let Some((_, format)) = FORMATS.iter().find(|(known, _)| name == *known) {
        schema["format"] = json!(format);
    }
    if has_ids && name == "id" {
        schema["pattern"] = json!(DOCUMENT_ID);
    }
    if name == "userId" && schema["type"] == "array" {
        schema["items"]["pattern"] = json!(DOCUMENT_ID);
    }
    if let Some(choices) = choices(schema) {
        schema["enum"] = choices;
        schema
            .as_object_mut()
            .map(|schema| schema.shift_remove("pattern"));
    }
    let is_number = schema["type"] == "integer";
    if is_number {
        (schema["minimum"], schema["maximum"]) = (json!(1), json!(MAX_NUMBER));
    }
    let is_list = schema["type"] == "array";
    let mut known = PARAMETERS.iter().chain(&MORE_PARAMETERS);
    let Some((_, text)) = known.find(|(known, _)| name == *known) else {
        return;
    };
    parameter["example"] = match text.parse::<u64>() {
        Ok(number) if is_number => json!(number),
        _ if is_list => json!([text]),
        _ => match parameter["schema"]["enum"].as_array() {
            // The same name may stand for different choices.
            Some(choices) if !choices.contains(&json!(text)) => choices.first().cloned().unwrap_or_default(),
            _ => json!(text),
        },
    };
}

/// What a pattern of nothing but words, `^(one|other)$`, allows.
fn choices(schema: &Value) -> Option<Value> {
    let words = schema["pattern"]
        .as_str()?
        .strip_prefix("^(")?
        .strip_suffix(")$")?;
    let plain = |word: &str| word.chars().all(|one| one.is_alphanumeric() || one == '_');
    let words: Vec<&str> = words.split('|').collect();
    words.iter().all(|word| plain(word)).then(|| json!(words))
}

/// What is said of operations that take `meta`.
const META: &str =
    "With `?meta=true` the answer is `{\"data\": …}`, a list's with `\"meta\": {\"total\": …}`.";

/// `?meta` wraps the answer (contract 2.3). It is told in words: as a parameter it would make every answer one of two,
/// which generated clients can hardly use; the Java generator's does not even compile.
fn tell_meta(operation: &mut Value) {
    let Some(parameters) = operation.get_mut("parameters").and_then(Value::as_array_mut) else {
        return;
    };
    let before = parameters.len();
    parameters.retain(|one| one["name"] != "meta");
    if parameters.len() == before {
        return;
    }
    let description = operation["description"]
        .as_str()
        .map_or_else(String::new, |text| format!("{text}\n\n"));
    operation["description"] = json!(format!("{description}{META}"));
}

fn not_null(schema: &mut Value) {
    let Some(kinds) = schema["type"].as_array() else {
        return;
    };
    let mut kinds: Vec<Value> = kinds.iter().filter(|kind| **kind != "null").cloned().collect();
    if kinds.len() == 1 {
        schema["type"] = kinds.remove(0);
    }
}

fn responses(operation: &mut Value, schemas: &Value) {
    for (status, response) in members(operation, "responses") {
        let failed = status.parse::<u16>().ok().filter(|status| *status >= 400);
        let description = response["description"].clone();
        for (_, media) in members(response, "content") {
            let schema = media["schema"].clone();
            add_example(media, || match failed {
                Some(status) => failure(status, &description, &schema),
                None if schema["type"] == "string" => description.clone(),
                None => example::of(&schema, schemas),
            });
        }
    }
}

/// The members of that object, none where it is not there.
fn members<'a>(value: &'a mut Value, name: &str) -> impl Iterator<Item = (&'a String, &'a mut Value)> {
    let object = value.get_mut(name).and_then(Value::as_object_mut);
    object.into_iter().flatten()
}

/// The items of that list, none where it is not there.
fn list<'a>(value: &'a mut Value, name: &str) -> impl Iterator<Item = &'a mut Value> {
    value
        .get_mut(name)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

fn add_example(media: &mut Value, example: impl FnOnce() -> Value) {
    if media.get("example").is_none() && media.get("examples").is_none() {
        media["example"] = example();
    }
}

/// The description of a failure is its text.
fn failure(status: u16, text: &Value, schema: &Value) -> Value {
    match schema["$ref"].as_str().and_then(|name| name.rsplit('/').next()) {
        Some("Errors") => json!({ "errors": [{ "message": text, "code": status }] }),
        Some("ErrorMessage") => json!({ "message": text }),
        Some("ErrorText") => json!({ "error": text }),
        Some("InvalidId") => json!({ "errors": "Invalid id" }),
        _ => text.clone(),
    }
}

/// How the operation tells failures.
fn style(operation: &Value) -> Option<&'static str> {
    let responses = operation["responses"].as_object().into_iter().flatten();
    let mut names = responses.filter_map(|(_, response)| {
        let name = response["content"]["application/json"]["schema"]["$ref"].as_str()?;
        let name = name.rsplit('/').next()?;
        STYLES.into_iter().find(|style| *style == name)
    });
    names.next()
}

fn response(status: u16, text: &str, style: &str) -> Value {
    let schema = json!({ "$ref": format!("#/components/schemas/{style}") });
    let example = match style {
        "Errors" => {
            json!({ "errors": [{ "message": text, "code": status, "requestId": "0192f0c4a0b07c3d8e5f60718293a4b5" }] })
        }
        "ErrorMessage" => json!({ "message": "UNKNOWN_ERROR" }),
        _ => json!({ "error": text }),
    };
    json!({ "description": text, "content": { "application/json": { "schema": schema, "example": example } } })
}
