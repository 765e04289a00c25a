//! Stories against the real binary and real receivers.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    reason = "tests"
)]

mod access;
mod accounts;
mod apart;
mod bad_input;
mod bodies;
mod calls;
mod clients;
mod concurrency;
mod configuration;
mod crash;
mod dead_letters;
mod expressions;
mod hostile;
mod intake;
mod isolation;
mod kubernetes;
mod many;
mod matrix;
mod moving;
mod outside;
mod owners;
mod records;
mod registry;
mod replicas;
mod rights;
mod specification;
mod steps;
mod story;
mod tenants;
mod tools;
mod webhooks;

use flowmate_testkit::{Server, Shape};
use serde_json::{Value, json};

pub(crate) const WEBHOOK: &str = "666c6f776d61746500000001";
pub(crate) const HTTP: &str = "666c6f776d61746500000002";
pub(crate) const TRANSFORM: &str = "666c6f776d61746500000003";
pub(crate) const GATEWAY: &str = "666c6f776d61746500000004";
pub(crate) const SPLIT: &str = "666c6f776d61746500000005";

/// A server with quick retries and a short wait before a webhook's 404.
pub(crate) async fn server() -> Server {
    start(&[]).await
}

pub(crate) fn quick() -> Vec<(&'static str, &'static str)> {
    // Apart, the webhook service may hear later than a client that a flow runs; that is what the wait is for.
    let wait = match shape() {
        Shape::Embedded => "50",
        Shape::Distributed => "1000",
    };
    vec![
        ("FLOWMATE__CONNECTORS__RETRY__BASE_MS", "5"),
        ("FLOWMATE__CONNECTORS__RETRY__MAX_MS", "50"),
        ("FLOWMATE__WEBHOOK__NOT_FOUND_DELAY_MS", wait),
    ]
}

pub(crate) async fn start(variables: &[(&str, &str)]) -> Server {
    let variables = [&quick()[..], variables].concat();
    Server::shaped(shape(), env!("CARGO_BIN_EXE_flowmate"), &variables)
        .await
        .unwrap()
}

/// The stories are the same in both shapes: `FLOWMATE_TEST_SHAPE=distributed` has them played in the other.
pub(crate) fn shape() -> Shape {
    match std::env::vars().find(|(name, _)| name == "FLOWMATE_TEST_SHAPE") {
        Some((_, shape)) if shape == "distributed" => Shape::Distributed,
        _ => Shape::Embedded,
    }
}

pub(crate) fn node(id: &str, component: &str, function: &str, fields: &Value) -> Value {
    json!({"id": id, "componentId": component, "function": function, "fields": fields})
}

pub(crate) fn receive() -> Value {
    node("in", WEBHOOK, "receive", &json!({}))
}

pub(crate) fn transform(id: &str, expression: &str) -> Value {
    node(id, TRANSFORM, "jsonata", &json!({"expression": expression}))
}

pub(crate) fn request(id: &str, url: &str) -> Value {
    node(id, HTTP, "request", &json!({"url": url}))
}

/// A flow whose nodes follow one another.
pub(crate) fn chain(nodes: &[Value]) -> Value {
    let edges: Vec<Value> = nodes
        .windows(2)
        .map(|pair| json!({"source": pair[0]["id"], "target": pair[1]["id"]}))
        .collect();
    json!({"name": "a chain", "type": "ordinary", "graph": {"nodes": nodes, "edges": edges}})
}

/// A flow that sends what the webhook got to `url`.
pub(crate) fn forward(url: &str) -> Value {
    chain(&[receive(), request("out", url)])
}
