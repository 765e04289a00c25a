//! Validation of flows and templates as they come from a client, with the contract's messages (section 3.9), all of
//! them at once. What passes has the form of [`flowmate_common::model::MutableFlow`] or `MutableFlowTemplate`.

use std::collections::HashSet;

use flowmate_common::ids::is_document_id;
use serde_json::{Map, Value};

use crate::{cron, webhooks};

/// What is being validated; the messages and some limits differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A flow.
    Flow,
    /// A template.
    Template,
}

/// Nodes in one graph.
pub const MAX_NODES: usize = 1_000;
/// Edges in one graph.
pub const MAX_EDGES: usize = 5_000;

impl Subject {
    fn plural(self) -> &'static str {
        match self {
            Self::Flow => "Flows",
            Self::Template => "Flow Templates",
        }
    }

    fn singular(self) -> &'static str {
        match self {
            Self::Flow => "Flow",
            Self::Template => "Flow Template",
        }
    }

    fn limits(self) -> bool {
        self == Self::Flow
    }
}

/// Everything that is wrong with `body`; empty if nothing is.
pub fn validate(subject: Subject, body: &Value) -> Vec<String> {
    let mut errors = Errors {
        subject,
        messages: Vec::new(),
    };
    let Some(body) = body.as_object() else {
        return vec![format!("{} has to be a JSON object.", subject.singular())];
    };
    errors.texts(body, "", &["name", "description", "tenant", "type"]);
    errors.graph(body);
    errors.owners(body);
    errors.cron(body);
    errors.status(body);
    errors.objects(body, "", &["flowSettings"]);
    if let Some(settings) = body.get("flowSettings").and_then(Value::as_object) {
        errors.messages.extend(webhooks::errors(settings));
    }
    errors.object_id(body, "", "fromTemplate");
    if let Some(tags) = body.get("tags") {
        let texts = tags
            .as_array()
            .is_some_and(|tags| tags.iter().all(Value::is_string));
        errors.require(texts, || cast("[string]", tags, "tags"));
    }
    errors.messages
}

struct Errors {
    subject: Subject,
    messages: Vec<String>,
}

impl Errors {
    fn require(&mut self, holds: bool, message: impl FnOnce() -> String) {
        if !holds {
            self.messages.push(message());
        }
    }

    fn graph(&mut self, body: &Map<String, Value>) {
        let (plural, singular) = (self.subject.plural(), self.subject.singular());
        let Some(graph) = present(body, "graph") else {
            return self.messages.push(format!("{plural} require a graph."));
        };
        let Some(graph) = graph.as_object() else {
            return self.messages.push(cast("Object", graph, "graph"));
        };
        let Some(nodes) = self.list(graph, "graph", "nodes") else {
            return;
        };
        let Some(edges) = self.list(graph, "graph", "edges") else {
            return;
        };
        if nodes.is_empty() {
            self.messages.push(format!("{plural} require at least one node."));
        }
        if nodes.len() > 1 && edges.is_empty() {
            self.messages
                .push(format!("{plural} with more than one node require edges."));
        }
        if nodes.len() > MAX_NODES || edges.len() > MAX_EDGES {
            return self.messages.push(format!(
                "{plural} have at most {MAX_NODES} nodes and {MAX_EDGES} edges."
            ));
        }
        let mut ids = HashSet::new();
        for (index, node) in nodes.iter().enumerate() {
            let path = format!("graph.nodes.{index}");
            let Some(node) = node.as_object() else {
                self.messages.push(cast("Object", node, &path));
                continue;
            };
            self.node(node, &path);
            if let Some(id) = node.get("id").and_then(Value::as_str)
                && !ids.insert(id)
            {
                self.messages.push(format!(
                    "{singular} nodes require unique ids. \"{id}\" is used more than once."
                ));
            }
        }
        for (index, edge) in edges.iter().enumerate() {
            let path = format!("graph.edges.{index}");
            match edge.as_object() {
                Some(edge) => self.edge(edge, &path, &ids),
                None => self.messages.push(cast("Object", edge, &path)),
            }
        }
    }

    fn node(&mut self, node: &Map<String, Value>, path: &str) {
        let singular = self.subject.singular();
        self.require(filled(node, "function"), || {
            format!("{singular} nodes require a function.")
        });
        self.require(filled(node, "componentId"), || {
            format!("{singular} nodes require a componentId.")
        });
        self.require(filled(node, "id"), || format!("{singular} nodes require an id."));
        self.texts(node, path, &["id", "function", "name", "description", "tenant"]);
        self.object_id(node, path, "componentId");
        self.object_id(node, path, "credentials_id");
        self.objects(node, path, &["fields", "nodeSettings", "authorization"]);
        self.length(node, "id", 30);
    }

    fn edge(&mut self, edge: &Map<String, Value>, path: &str, ids: &HashSet<&str>) {
        let singular = self.subject.singular();
        for (end, article) in [("source", "source"), ("target", "target")] {
            self.require(filled(edge, end), || {
                format!("{singular} edges require a {article}.")
            });
        }
        for (end, label) in [("source", "source"), ("target", "target")] {
            let named = present(edge, end);
            if !named.and_then(Value::as_str).is_some_and(|id| ids.contains(id)) {
                let shown = named.map_or("undefined".into(), shown);
                self.messages.push(format!(
                    "Edge {label} with id \"{shown}\" could not be found among nodes."
                ));
            }
        }
        self.texts(edge, path, &["id"]);
        self.length(edge, "id", 10);
        if let Some(config) = present(edge, "config") {
            let path = format!("{path}.config");
            match config.as_object() {
                Some(config) => {
                    self.texts(config, &path, &["condition"]);
                    self.length(config, "condition", 30);
                    if let Some(mapper) = present(config, "mapper") {
                        let fits = mapper.is_string() || mapper.is_object();
                        self.require(fits, || cast("Object", mapper, &join(&path, "mapper")));
                    }
                }
                None => self.messages.push(cast("Object", config, &path)),
            }
        }
    }

    fn owners(&mut self, body: &Map<String, Value>) {
        let singular = self.subject.singular();
        let Some(owners) = self.list(body, "", "owners") else {
            return;
        };
        for (index, owner) in owners.iter().enumerate() {
            let path = format!("owners.{index}");
            let Some(owner) = owner.as_object() else {
                self.messages.push(cast("Object", owner, &path));
                continue;
            };
            self.require(filled(owner, "id"), || {
                format!("{singular} owners require an id.")
            });
            self.require(filled(owner, "type"), || {
                format!("{singular} owners require a type.")
            });
            self.texts(owner, &path, &["id"]);
            if let Some(kind) = present(owner, "type") {
                let known = matches!(kind.as_str(), Some("user" | "tenant" | "USER" | "TENANT"));
                let shown = shown(kind);
                self.require(known, || {
                    format!("`{shown}` is not a valid enum value for path `type`.")
                });
            }
        }
    }

    fn cron(&mut self, body: &Map<String, Value>) {
        if let Some(text) = present(body, "cron") {
            let valid = text
                .as_str()
                .is_some_and(|text| text.is_empty() || cron::is_valid(text));
            self.require(valid, || "Invalid cron expression.".into());
        }
    }

    fn status(&mut self, body: &Map<String, Value>) {
        let Some(status) = body.get("status") else {
            return;
        };
        match self.subject {
            Subject::Flow => self.require(status == "inactive", || {
                "Flow status cannot be set manually. Use the flow start/stop end points instead.".into()
            }),
            Subject::Template => {
                let known = matches!(status.as_str(), Some("draft" | "published"));
                let shown = shown(status);
                self.require(known, || {
                    format!("`{shown}` is not a valid enum value for path `status`.")
                });
            }
        }
    }

    /// The list under `key`, empty where there is none; `None` and a message where it is something else.
    fn list<'a>(&mut self, map: &'a Map<String, Value>, path: &str, key: &str) -> Option<&'a [Value]> {
        match map.get(key) {
            None => Some(&[]),
            Some(Value::Array(items)) => Some(items),
            Some(other) => {
                self.messages.push(cast("Array", other, &join(path, key)));
                None
            }
        }
    }

    fn texts(&mut self, map: &Map<String, Value>, path: &str, keys: &[&str]) {
        for key in keys {
            if let Some(value) = present(map, key) {
                self.require(value.is_string(), || cast("string", value, &join(path, key)));
            }
        }
    }

    fn objects(&mut self, map: &Map<String, Value>, path: &str, keys: &[&str]) {
        for key in keys {
            if let Some(value) = present(map, key) {
                self.require(value.is_object(), || cast("Object", value, &join(path, key)));
            }
        }
    }

    fn object_id(&mut self, map: &Map<String, Value>, path: &str, key: &str) {
        if let Some(value) = present(map, key).filter(|value| *value != "") {
            let valid = value.as_str().is_some_and(is_document_id);
            self.require(valid, || cast("ObjectId", value, &join(path, key)));
        }
    }

    fn length(&mut self, map: &Map<String, Value>, key: &str, limit: usize) {
        if let Some(text) = map.get(key).and_then(Value::as_str)
            && self.subject.limits()
            && text.chars().count() > limit
        {
            self.messages.push(format!(
                "Path `{key}` (`{text}`) is longer than the maximum allowed length ({limit})."
            ));
        }
    }
}

/// The value under `key` unless it is null.
pub(crate) fn present<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    map.get(key).filter(|value| !value.is_null())
}

fn filled(map: &Map<String, Value>, key: &str) -> bool {
    present(map, key).is_some_and(|value| *value != "")
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

pub(crate) fn cast(to: &str, value: &Value, path: &str) -> String {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "Array",
        Value::Object(_) => "Object",
    };
    format!(
        "Cast to {to} failed for value \"{}\" (type {kind}) at path \"{path}\"",
        shown(value)
    )
}

/// A value inside a message: bounded, so that a huge one does not come back whole.
fn shown(value: &Value) -> String {
    let text = value
        .as_str()
        .map_or_else(|| value.to_string(), ToOwned::to_owned);
    if text.chars().count() > 100 {
        text.chars().take(100).chain("…".chars()).collect()
    } else {
        text
    }
}

/// `body` without nulls and without empty texts where the reference takes both for absent.
pub fn clean(mut body: Value) -> Value {
    if let Some(map) = body.as_object_mut() {
        drop_absent(map, &["cron", "fromTemplate"]);
        let graph = map.get_mut("graph").and_then(Value::as_object_mut);
        if let Some(graph) = graph {
            drop_absent(graph, &[]);
            for list in ["nodes", "edges"] {
                let items = graph
                    .get_mut(list)
                    .and_then(Value::as_array_mut)
                    .into_iter()
                    .flatten();
                for item in items.filter_map(Value::as_object_mut) {
                    drop_absent(item, &["credentials_id"]);
                    if let Some(config) = item.get_mut("config").and_then(Value::as_object_mut) {
                        drop_absent(config, &["condition"]);
                    }
                }
            }
        }
    }
    body
}

fn drop_absent(map: &mut Map<String, Value>, empty: &[&str]) {
    map.retain(|key, value| !(value.is_null() || empty.contains(&key.as_str()) && value == ""));
}

#[cfg(test)]
mod tests;
