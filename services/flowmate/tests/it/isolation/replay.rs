//! What an execution decided it decides again after a crash.

use std::collections::{BTreeMap, BTreeSet};

use flowmate_testkit::{Client, Receiver, Reply};
use serde_json::{Value, json};

use super::{each_once_by_key, is_success, patient_request, steps};
use crate::{GATEWAY, SPLIT, calls::get, chain, node, receive, server, transform};

/// Steps with effects that run at once in one execution.
const AT_ONCE: usize = 8;

/// Answers this many, and holds the next.
fn answers_at_first(count: usize) -> Receiver {
    Receiver::responding(move |_, before| {
        let answer = Reply::json(200, "{}");
        if before < count { answer } else { answer.held() }
    })
    .unwrap()
}

fn split() -> Value {
    node("split", SPLIT, "array", &json!({"path": "items"}))
}

fn items(count: u64) -> Value {
    let items: Vec<Value> = (0..count).map(|n| json!({ "n": n })).collect();
    json!({ "items": items })
}

#[tokio::test]
async fn what_was_shuffled_before_a_crash_is_sent_once_each() {
    let mut server = server().await;
    let admin = server.admin().await.unwrap();
    let receiver = answers_at_first(20);
    let flow = chain(&[
        receive(),
        transform("mix", "{\"items\": $shuffle(items)}"),
        split(),
        patient_request("out", &receiver.url),
    ]);
    let flow = admin.active_flow(&flow).await.unwrap();
    let execution = admin.webhook(&flow, &items(60)).await.unwrap();
    // Each further one begins when the end of one before is durable.
    receiver.wait_for(20 + AT_ONCE).await.unwrap();
    let order: Vec<Value> = receiver.received().into_iter().map(|one| one.body).collect();
    server.kill().await.unwrap();
    let server = server.restart().await.unwrap();
    receiver.release();
    let admin = server.admin().await.unwrap();
    let ended = admin.ended(&execution).await.unwrap();
    is_success(&ended);
    each_once_by_key(&receiver, 60);
    let in_order: Vec<Value> = (0..order.len()).map(|n| json!({ "n": n })).collect();
    assert_ne!(order, in_order, "shuffled");
    let repeated = receiver.count() - 60;
    assert_eq!(repeated, AT_ONCE, "only what was in flight is sent again");
    let lines = log(&admin, &flow).await;
    assert_eq!(lines.len(), 60, "each run of the step is found, page by page");
}

/// The log of the step, in small pages.
async fn log(client: &Client, flow: &str) -> Vec<Value> {
    let mut lines = Vec::new();
    let mut path = format!("/flows/{flow}/steps/out/logs?pageSize=7");
    loop {
        let page = get(client, &path, 200).await;
        lines.extend(page.at("/data").as_array().unwrap().iter().cloned());
        let next = page.text("/meta/nextPageToken");
        if next.is_empty() {
            return lines;
        }
        path = format!("/flows/{flow}/steps/out/logs?pageSize=7&pageToken={next}");
    }
}

#[tokio::test]
async fn a_gateway_takes_the_same_branch_after_a_crash() {
    let mut server = server().await;
    let admin = server.admin().await.unwrap();
    let receiver = answers_at_first(20);
    let rules = json!({"rules": [
        {"when": "($millis() + data.n) % 2 = 0", "to": "time"},
        {"when": "$random() > 0.5", "to": "chance"}], "otherwise": "rest"});
    let mut nodes = vec![receive(), split(), node("route", GATEWAY, "route", &rules)];
    let mut edges = vec![
        json!({"source": "in", "target": "split"}),
        json!({"source": "split", "target": "route"}),
    ];
    for id in ["time", "chance", "rest"] {
        nodes.push(patient_request(id, &format!("{}/{id}", receiver.url)));
        edges.push(json!({"source": "route", "target": id}));
    }
    let flow = json!({"graph": {"nodes": nodes, "edges": edges}});
    let flow = admin.active_flow(&flow).await.unwrap();
    let execution = admin.webhook(&flow, &items(40)).await.unwrap();
    receiver.wait_for(20 + AT_ONCE).await.unwrap();
    server.kill().await.unwrap();
    let server = server.restart().await.unwrap();
    receiver.release();
    let admin = server.admin().await.unwrap();
    let ended = admin.ended(&execution).await.unwrap();
    is_success(&ended);
    each_once_by_key(&receiver, 40);
    let mut branches = BTreeMap::<u64, BTreeSet<String>>::new();
    for request in receiver.received() {
        let number = request.body["n"].as_u64().unwrap();
        branches.entry(number).or_default().insert(request.path);
    }
    assert!(branches.values().all(|paths| paths.len() == 1), "{branches:?}");
    let by_time = branches.values().filter(|paths| paths.contains("/time")).count();
    assert_eq!(by_time, 20, "all items see the same time: {branches:?}");
}

#[tokio::test]
async fn two_edges_between_the_same_nodes_are_two_runs() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::start().unwrap();
    let flow = json!({"graph": {"nodes": [receive(), patient_request("out", &receiver.url)], "edges": [
        {"source": "in", "target": "out", "config": {"mapper": {"n": "0"}}},
        {"source": "in", "target": "out", "config": {"mapper": {"n": "1"}}}]}});
    let flow = admin.active_flow(&flow).await.unwrap();
    let execution = admin.webhook(&flow, &json!({})).await.unwrap();
    let ended = admin.ended(&execution).await.unwrap();
    is_success(&ended);
    assert_eq!(receiver.count(), 2);
    each_once_by_key(&receiver, 2);
    assert_eq!(steps(&ended, "out").len(), 2, "{}", ended.body);
    let usage = get(&admin, "/icenter/executions?groupby=component", 200).await;
    let counted = usage.at("/data").as_array().unwrap().iter();
    let counted: Vec<(&str, u64)> = counted
        .map(|one| {
            (
                one["component"].as_str().unwrap(),
                one["executions"].as_u64().unwrap(),
            )
        })
        .collect();
    assert!(counted.contains(&(crate::HTTP, 2)), "{counted:?}");
}
