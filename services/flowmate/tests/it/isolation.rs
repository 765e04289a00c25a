//! Nothing that one flow, one message or one crash does can stop another (issue 9).

mod hostile;
mod parking;
mod replay;
mod stops;

use std::collections::{BTreeMap, BTreeSet};

use flowmate_testkit::{Answer, Receiver};
use serde_json::{Value, json};

use crate::{HTTP, chain, node, receive};

/// Sends what the webhook got to `url`, and gives the receiver all the time that it takes.
fn patient(url: &str) -> Value {
    chain(&[receive(), patient_request("out", url)])
}

fn patient_request(id: &str, url: &str) -> Value {
    node(id, HTTP, "request", &json!({"url": url, "timeoutMs": 300_000}))
}

/// The keys that each `n` arrived with at the receiver.
fn keys_by_number(receiver: &Receiver) -> BTreeMap<u64, BTreeSet<String>> {
    let mut keys = BTreeMap::<u64, BTreeSet<String>>::new();
    for request in receiver.received() {
        keys.entry(request.body["n"].as_u64().unwrap())
            .or_default()
            .insert(request.key);
    }
    keys
}

/// Each `n` below `count` arrived, with one key that no other has.
fn each_once_by_key(receiver: &Receiver, count: u64) {
    let keys = keys_by_number(receiver);
    assert!(keys.keys().copied().eq(0..count), "{:?}", keys.keys());
    assert!(keys.values().all(|keys| keys.len() == 1), "{keys:?}");
    let all: BTreeSet<&String> = keys.values().flatten().collect();
    assert_eq!(all.len() as u64, count, "no key stands for two");
}

fn is_success(execution: &Answer) {
    assert_eq!(execution.text("/data/status"), "success", "{}", execution.body);
}

/// The steps of this node.
fn steps<'a>(execution: &'a Answer, node: &str) -> Vec<&'a Value> {
    let steps = execution.at("/data/steps").as_array().unwrap().iter();
    steps.filter(|step| step["nodeId"] == node).collect()
}
