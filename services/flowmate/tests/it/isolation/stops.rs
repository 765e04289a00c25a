//! Stop means stop.

use std::collections::BTreeSet;

use flowmate_testkit::{Client, Receiver, Reply, eventually};
use serde_json::{Value, json};

use super::{is_success, patient, steps};
use crate::{calls::get, forward, server, start};

fn hangs() -> Receiver {
    Receiver::responding(|_, _| Reply::json(200, "{}").held()).unwrap()
}

/// Asks for the flow to stop, and waits for nothing.
async fn ask_to_stop(admin: &Client, flow: &str) {
    let stopping = admin.post(&format!("/flows/{flow}/stop"), &Value::Null).await;
    stopping.unwrap().expect(200).unwrap();
}

#[tokio::test]
async fn a_stop_ends_what_waits_for_its_turn() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let (hangs, answers) = (hangs(), Receiver::start().unwrap());
    let flow = admin.active_flow(&patient(&hangs.url)).await.unwrap();
    let other = admin.active_flow(&forward(&answers.url)).await.unwrap();
    admin.webhooks(&flow, 300).await.unwrap();
    hangs.wait_for(1).await.unwrap();
    admin.stop_flow(&flow).await.unwrap();
    let asked = hangs.count();
    assert!(asked < 300, "{asked}");
    admin.all_are(&flow, "cancelled", 300).await.unwrap();
    let execution = admin.webhook(&other, &json!({})).await.unwrap();
    is_success(&admin.ended(&execution).await.unwrap());
    hangs.release();
    admin.start_flow(&flow).await.unwrap();
    let execution = admin.webhook(&flow, &json!({"n": "new"})).await.unwrap();
    is_success(&admin.ended(&execution).await.unwrap());
    assert_eq!(
        hangs.count(),
        asked + 1,
        "none of the old ones came after the stop"
    );
    assert_eq!(admin.executions(&flow, "cancelled").await.unwrap(), 300);
}

#[tokio::test]
async fn a_stop_cancels_what_waits_for_another_try() {
    let mut server = server().await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::responding(|_, before| match before {
        0 => Reply::busy(1_000),
        _ => Reply::json(200, "{}"),
    })
    .unwrap();
    let flow = admin.active_flow(&forward(&receiver.url)).await.unwrap();
    let execution = admin.webhook(&flow, &json!({})).await.unwrap();
    admin.waits(&execution).await.unwrap();
    admin.stop_flow(&flow).await.unwrap();
    let ended = admin.ended(&execution).await.unwrap();
    assert_eq!(ended.text("/data/status"), "cancelled", "{}", ended.body);
    assert!(
        ended.text("/data/error").contains("answered 429"),
        "{}",
        ended.body
    );
    assert!(ended.at("/data/waitingUntil").is_null());

    admin.start_flow(&flow).await.unwrap();
    server.kill().await.unwrap();
    let server = server.restart().await.unwrap();
    let admin = server.admin().await.unwrap();
    let next = admin.webhook(&flow, &json!({})).await.unwrap();
    is_success(&admin.ended(&next).await.unwrap());
    let keys: Vec<String> = receiver.received().into_iter().map(|one| one.key).collect();
    assert_eq!(keys.len(), 2, "{keys:?}");
    assert!(keys[1].starts_with(&next), "nothing more of the cancelled one");
    let still = get(&admin, &format!("/executions/{execution}"), 200).await;
    assert_eq!(still.text("/data/status"), "cancelled");
}

#[tokio::test]
async fn a_stop_ends_what_went_on_after_a_wait() {
    let mut server = server().await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::responding(|_, before| match before {
        0 => Reply::busy(2),
        _ => Reply::json(200, "{}").held(),
    })
    .unwrap();
    let flow = admin.active_flow(&patient(&receiver.url)).await.unwrap();
    let execution = admin.webhook(&flow, &json!({})).await.unwrap();
    receiver.wait_for(2).await.unwrap();
    admin.stop_flow(&flow).await.unwrap();
    let ended = admin.ended(&execution).await.unwrap();
    assert_eq!(ended.text("/data/status"), "cancelled", "{}", ended.body);
    let out = &steps(&ended, "out")[0];
    assert_eq!(
        (&out["status"], &out["attempts"]),
        (&json!("cancelled"), &json!(2)),
        "{out}"
    );
    server.kill().await.unwrap();
    let server = server.restart().await.unwrap();
    let admin = server.admin().await.unwrap();
    admin.start_flow(&flow).await.unwrap();
    receiver.release();
    let next = admin.webhook(&flow, &json!({})).await.unwrap();
    is_success(&admin.ended(&next).await.unwrap());
    assert_eq!(receiver.count(), 3, "nothing more of the cancelled one");
    let still = get(&admin, &format!("/executions/{execution}"), 200).await;
    assert_eq!(still.text("/data/status"), "cancelled");
}

#[tokio::test]
async fn a_stop_survives_kill_9() {
    let mut server = server().await;
    let admin = server.admin().await.unwrap();
    let hangs = hangs();
    let flow = admin.active_flow(&patient(&hangs.url)).await.unwrap();
    admin.webhooks(&flow, 100).await.unwrap();
    hangs.wait_for(1).await.unwrap();
    // What is on its way is waited for longer than what waits for its turn: the stop is not over when the process ends.
    ask_to_stop(&admin, &flow).await;
    eventually("the first to be cancelled", async || {
        Ok((admin.executions(&flow, "cancelled").await? > 0).then_some(()))
    })
    .await
    .unwrap();
    server.kill().await.unwrap();
    let asked = hangs.count();
    let server = server.restart().await.unwrap();
    let admin = server.admin().await.unwrap();
    let settled = admin.settled(&flow).await.unwrap();
    assert_eq!(settled.text("/data/status"), "inactive", "{}", settled.body);
    admin.all_are(&flow, "cancelled", 100).await.unwrap();
    assert_eq!(hangs.count(), asked, "nothing of it ran after the restart");
}

#[tokio::test]
async fn a_stop_that_nobody_heard_before_kill_9_is_heard_after_it() {
    let mut server = server().await;
    let admin = server.admin().await.unwrap();
    let hangs = hangs();
    let flow = admin.active_flow(&patient(&hangs.url)).await.unwrap();
    admin.webhooks(&flow, 100).await.unwrap();
    hangs.wait_for(1).await.unwrap();
    ask_to_stop(&admin, &flow).await;
    server.kill().await.unwrap();
    let server = server.restart().await.unwrap();
    let admin = server.admin().await.unwrap();
    let settled = admin.settled(&flow).await.unwrap();
    assert_eq!(settled.text("/data/status"), "inactive", "{}", settled.body);
    let asked = hangs.count();
    admin.all_are(&flow, "cancelled", 100).await.unwrap();
    assert_eq!(hangs.count(), asked, "nothing of it runs when it is inactive");
}

#[tokio::test]
async fn an_execution_never_runs_on_what_the_flow_became_since() {
    let mut server = start(&[("FLOWMATE__ENGINE__FLOW_CONCURRENCY", "2")]).await;
    let admin = server.admin().await.unwrap();
    // Version 1 hangs, version 2 answers.
    let receiver = Receiver::responding(|request, _| {
        let answer = Reply::json(200, "{}");
        if request.path == "/v1-refund" {
            answer.held()
        } else {
            answer
        }
    })
    .unwrap();
    let to = |path: &str| patient(&format!("{}/{path}", receiver.url));
    let flow = admin.active_flow(&to("v1-refund")).await.unwrap();
    admin.webhooks(&flow, 20).await.unwrap();
    receiver.wait_for(2).await.unwrap();

    ask_to_stop(&admin, &flow).await;
    let settled = admin.settled(&flow).await.unwrap();
    assert_eq!(settled.text("/data/status"), "inactive");
    let second = json!({"graph": to("v2-charge")["graph"]});
    let changed = admin.patch(&format!("/flows/{flow}"), &second).await.unwrap();
    changed.expect(200).unwrap();
    admin.start_flow(&flow).await.unwrap();
    server.kill().await.unwrap();

    let server = server.restart().await.unwrap();
    let admin = server.admin().await.unwrap();
    let execution = admin.webhook(&flow, &json!({"n": "new"})).await.unwrap();
    is_success(&admin.ended(&execution).await.unwrap());
    admin.all_are(&flow, "cancelled", 20).await.unwrap();
    let received = receiver.received();
    let of = |path: &str| -> BTreeSet<&str> {
        let keys = received.iter().filter(|one| one.path == path);
        keys.map(|one| one.key.as_str()).collect()
    };
    let (refunds, charges) = (of("/v1-refund"), of("/v2-charge"));
    assert_eq!(refunds.len(), 2);
    assert_eq!(charges.len(), 1);
    assert!(
        charges.iter().all(|key| key.starts_with(&execution)),
        "{charges:?}"
    );
}
