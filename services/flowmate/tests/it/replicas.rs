//! Several replicas of a service, and what can go wrong between them, in the distributed shape. `make chaos` does the same
//! and more for longer, and lets broker and database die too.

use std::time::Duration;

use flowmate_testkit::{Client, Load, Receiver, Replica, Reply, Server, Shape, never_after_its_end};
use serde_json::json;

use crate::{HTTP, calls::get, chain, forward, node, receive, server, shape, start};

/// A server, and a flow on it that passes on what webhooks bring. `None` in the embedded shape, which has one process and
/// crash stories of its own, in `crash`.
async fn distributed() -> Option<(Server, Client, Receiver, String)> {
    if shape() == Shape::Embedded {
        return None;
    }
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::start().unwrap();
    let flow = admin.active_flow(&forward(&receiver.url)).await.unwrap();
    Some((server, admin, receiver, flow))
}

/// Everything that was acknowledged is done, logged and counted once, and the flow goes on.
async fn nothing_is_lost(load: Load, admin: &Client, receiver: &Receiver, flow: &str) {
    let verdict = load.settle(admin, receiver).await.unwrap();
    assert!(verdict.acknowledged > 50, "{verdict:?}");
    let flow = get(admin, &format!("/flows/{flow}"), 200).await;
    assert_eq!(flow.text("/data/status"), "active");
}

#[tokio::test]
async fn services_are_killed_in_turn_and_nothing_is_lost() {
    let Some((mut server, admin, receiver, flow)) = distributed().await else {
        return;
    };
    let load = Load::start(&admin, &flow, 4, Duration::from_millis(5));
    for victims in [
        &["flow-engine"][..],
        &["webhook"],
        &["execution-log"],
        &["flow-repository"],
        &["user-iam"],
        &["template-repository"],
        &["api-gateway"],
        &["flow-engine", "execution-log"],
    ] {
        server.kill_and_restart(victims).await.unwrap();
        load.pass(20).await.unwrap();
    }
    nothing_is_lost(load, &admin, &receiver, &flow).await;
}

#[tokio::test]
async fn replicas_come_and_go_and_nothing_finished_runs_again() {
    let Some((server, admin, receiver, flow)) = distributed().await else {
        return;
    };
    let load = Load::start(&admin, &flow, 4, Duration::from_millis(5));
    for name in [
        "flow-engine",
        "execution-log",
        "webhook",
        "flow-repository",
        "user-iam",
        "template-repository",
    ] {
        let first = server.replica(name).await.unwrap();
        load.pass(50).await.unwrap();
        let second = server.replica(name).await.unwrap();
        load.pass(50).await.unwrap();
        first.leave().await.unwrap();
        load.pass(50).await.unwrap();
        second.kill().await.unwrap();
        load.pass(50).await.unwrap();
    }
    nothing_is_lost(load, &admin, &receiver, &flow).await;
}

#[tokio::test]
async fn an_engine_that_was_stopped_does_nothing_that_another_has_finished() {
    let Some((server, admin, _, _)) = distributed().await else {
        return;
    };
    // What the engine asks for is refused while it is stopped, so that it would ask again as soon as it goes on.
    let receiver = Receiver::responding(|_, before| {
        if before < 8 {
            Reply::json(503, "{}").held()
        } else {
            Reply::json(200, "{}")
        }
    })
    .unwrap();
    let patient = node(
        "out",
        HTTP,
        "request",
        &json!({"url": receiver.url, "timeoutMs": 300_000}),
    );
    let flow = admin.active_flow(&chain(&[receive(), patient])).await.unwrap();
    admin.webhooks(&flow, 8).await.unwrap();
    receiver.wait_for(8).await.unwrap();

    server.pause("flow-engine", true).await.unwrap();
    receiver.release();
    let _second = server.replica("flow-engine").await.unwrap();
    admin.all_are(&flow, "success", 8).await.unwrap();
    server.pause("flow-engine", false).await.unwrap();

    // Meanwhile the engine that was stopped sees that it was refused, and what it lost.
    admin.webhooks(&flow, 100).await.unwrap();
    admin.all_are(&flow, "success", 108).await.unwrap();
    never_after_its_end(&admin, &receiver).await.unwrap();
    let requests = receiver.received();
    assert_eq!(requests.len(), 116, "those that were refused, and each once");
}

#[tokio::test]
async fn every_event_comes_twice_and_counts_once() {
    let Some((server, admin, receiver, flow)) = distributed().await else {
        return;
    };
    let duplicator = server.broker().unwrap().duplicate().unwrap();
    let load = Load::start(&admin, &flow, 4, Duration::from_millis(5));
    load.pass(300).await.unwrap();
    // What is said of flows, users and templates comes twice too.
    let other = admin.active_flow(&forward(&receiver.url)).await.unwrap();
    admin.stop_flow(&other).await.unwrap();
    let again = admin.active_flow(&forward(&receiver.url)).await.unwrap();
    load.pass(100).await.unwrap();
    assert!(duplicator.copies() > 400, "{}", duplicator.copies());
    let verdict = load.settle(&admin, &receiver).await.unwrap();
    assert_eq!(
        verdict.repeated, 0,
        "a copy of a request was executed: {verdict:?}"
    );
    drop(duplicator);
    for (flow, status) in [(&flow, "active"), (&other, "inactive"), (&again, "active")] {
        assert_eq!(
            get(&admin, &format!("/flows/{flow}"), 200)
                .await
                .text("/data/status"),
            status
        );
    }
}

#[tokio::test]
async fn poison_on_every_topic_stops_nobody() {
    let Some((server, admin, receiver, flow)) = distributed().await else {
        return;
    };
    let load = Load::start(&admin, &flow, 4, Duration::from_millis(5));
    load.pass(20).await.unwrap();
    assert_eq!(server.broker().unwrap().poison().await.unwrap(), 54);
    load.pass(50).await.unwrap();
    // Each service still hears what comes after it.
    let other = admin.active_flow(&forward(&receiver.url)).await.unwrap();
    admin.stop_flow(&other).await.unwrap();
    nothing_is_lost(load, &admin, &receiver, &flow).await;
}

/// The same service at a replica of its own instead of the gateway.
fn at(replica: &Replica, client: &Client) -> Client {
    Client::new(replica.url()).unwrap().with_token(client.token())
}

#[tokio::test]
async fn replicas_that_start_late_know_what_the_others_know() {
    let Some((server, admin, receiver, flow)) = distributed().await else {
        return;
    };
    let stopped = admin.active_flow(&forward(&receiver.url)).await.unwrap();
    admin.stop_flow(&stopped).await.unwrap();

    let late = server.replica("webhook").await.unwrap();
    let webhooks = at(&late, &admin);
    let execution = webhooks.webhook(&flow, &json!({"n": 1})).await.unwrap();
    assert_eq!(
        admin.ended(&execution).await.unwrap().text("/data/status"),
        "success"
    );
    let refused = webhooks
        .post(&format!("/webhooks/{stopped}"), &json!({}))
        .await
        .unwrap();
    assert_eq!(refused.status, 404, "{}", refused.body);
    // And it hears what happens from now on.
    let started = admin.active_flow(&forward(&receiver.url)).await.unwrap();
    let execution = webhooks.webhook(&started, &json!({"n": 2})).await.unwrap();
    assert_eq!(
        admin.ended(&execution).await.unwrap().text("/data/status"),
        "success"
    );

    // An engine that never saw the flow start runs it: it is the only one left.
    let mut server = server;
    let engine = server.replica("flow-engine").await.unwrap();
    server.kill_one("flow-engine").await.unwrap();
    let execution = admin.webhook(&flow, &json!({"n": 3})).await.unwrap();
    assert_eq!(
        admin.ended(&execution).await.unwrap().text("/data/status"),
        "success"
    );
    drop(engine);
}

#[tokio::test]
async fn views_stay_right_in_all_replicas() {
    if shape() == Shape::Embedded {
        return;
    }
    // A webhook's 404 waits this long for the flow to become live; here it is to be told at once.
    let server = start(&[("FLOWMATE__WEBHOOK__NOT_FOUND_DELAY_MS", "0")]).await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::start().unwrap();
    let replicas = [
        server.replica("webhook").await.unwrap(),
        server.replica("webhook").await.unwrap(),
    ];
    let webhooks: Vec<Client> = replicas.iter().map(|replica| at(replica, &admin)).collect();
    for _ in 0..3 {
        let flow = admin.active_flow(&forward(&receiver.url)).await.unwrap();
        let path = format!("/webhooks/{flow}");
        for client in &webhooks {
            flowmate_testkit::eventually("the flow to be live there", async || {
                Ok((client.post(&path, &json!({})).await?.status == 200).then_some(()))
            })
            .await
            .unwrap();
        }
        admin.stop_flow(&flow).await.unwrap();
        for client in &webhooks {
            flowmate_testkit::eventually("the flow to be stopped there", async || {
                Ok((client.post(&path, &json!({})).await?.status == 404).then_some(()))
            })
            .await
            .unwrap();
        }
    }
}
