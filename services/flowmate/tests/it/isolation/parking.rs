//! Executions that wait: stored, with what is left to do.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use flowmate_common::{Clock, Timestamp};
use flowmate_testkit::{Answer, Receiver, Reply, eventually};
use serde_json::json;

use super::{is_success, steps};
use crate::{chain, receive, request, server, start, transform};

/// Two requests: of the first all is well, of the second the first try is asked to come again after some seconds.
fn receivers(seconds: u64) -> (Receiver, Receiver) {
    let second = Receiver::responding(move |_, before| match before {
        0 => Reply::busy(seconds),
        _ => Reply::json(200, "{}"),
    });
    let first = Receiver::responding(|_, _| Reply::json(200, r#"{"ticket":7}"#));
    (first.unwrap(), second.unwrap())
}

fn flow(first: &Receiver, second: &Receiver) -> serde_json::Value {
    chain(&[
        receive(),
        request("one", &first.url),
        transform("take", "{\"ticket\": body.ticket}"),
        request("two", &second.url),
        transform("after", "statusCode"),
    ])
}

/// It went on where it waited: nothing before is repeated, and tries are counted on.
fn went_on(ended: &Answer, first: &Receiver, second: &Receiver) {
    is_success(ended);
    assert_eq!(first.count(), 1, "what was done before the wait is not repeated");
    let tries = second.received();
    assert_eq!(tries.len(), 2);
    assert_eq!(tries[0].key, tries[1].key);
    assert_eq!(tries[1].body, json!({"ticket": 7}));
    for node in ["in", "one", "take", "two", "after"] {
        assert_eq!(steps(ended, node).len(), 1, "{node}: {}", ended.body);
    }
    assert_eq!(steps(ended, "two")[0]["attempts"], 2);
    assert_eq!(steps(ended, "after")[0]["output"], json!([200]));
    assert!(ended.at("/data/waitingUntil").is_null());
}

#[tokio::test]
async fn an_execution_that_waits_survives_kill_9_and_goes_on() {
    let mut server = server().await;
    let admin = server.admin().await.unwrap();
    let (first, second) = receivers(3);
    let flow = admin.active_flow(&flow(&first, &second)).await.unwrap();
    let execution = admin.webhook(&flow, &json!({"n": 1})).await.unwrap();
    let waits = admin.waits(&execution).await.unwrap();
    assert!(
        waits.text("/data/waitingReason").contains("Node \"two\""),
        "{}",
        waits.body
    );
    server.kill().await.unwrap();
    let server = server.restart().await.unwrap();
    let admin = server.admin().await.unwrap();
    let ended = admin.ended(&execution).await.unwrap();
    went_on(&ended, &first, &second);
    let received = second.received();
    assert!(received[1].at.as_millis() - received[0].at.as_millis() >= 3_000);
}

#[tokio::test]
async fn an_execution_that_is_due_when_the_server_comes_back_goes_on() {
    let mut server = server().await;
    let admin = server.admin().await.unwrap();
    let (first, second) = receivers(2);
    let flow = admin.active_flow(&flow(&first, &second)).await.unwrap();
    let execution = admin.webhook(&flow, &json!({"n": 1})).await.unwrap();
    let waits = admin.waits(&execution).await.unwrap();
    let until: Timestamp = waits.text("/data/waitingUntil").parse().unwrap();
    assert!(server.terminate().await.unwrap(), "all ended well");
    eventually("the wait to be over", async || {
        Ok((Clock::System.now() > until).then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(second.count(), 1, "nobody runs it");
    let server = server.restart().await.unwrap();
    let admin = server.admin().await.unwrap();
    let ended = admin.ended(&execution).await.unwrap();
    went_on(&ended, &first, &second);
}

#[tokio::test]
async fn kill_9_while_executions_go_on_loses_and_repeats_no_wait() {
    let mut server = server().await;
    let admin = server.admin().await.unwrap();
    let recovers = Arc::new(AtomicBool::new(false));
    let recovered = Arc::clone(&recovers);
    let receiver = Receiver::responding(move |_, _| {
        if recovered.load(Ordering::Acquire) {
            Reply::json(200, "{}")
        } else {
            Reply::busy(2)
        }
    })
    .unwrap();
    let flow = admin
        .active_flow(&chain(&[receive(), request("out", &receiver.url)]))
        .await
        .unwrap();
    admin.webhooks(&flow, 8).await.unwrap();
    // Some went on after their wait, others wait. Once only: what is at work at two such ends is held to be their cause.
    receiver.wait_for(9).await.unwrap();
    server.kill().await.unwrap();
    recovers.store(true, Ordering::Release);
    let server = server.restart().await.unwrap();
    let admin = server.admin().await.unwrap();
    admin.all_are(&flow, "success", 8).await.unwrap();
    super::each_once_by_key(&receiver, 8);
}

#[tokio::test]
async fn an_execution_that_would_wait_beyond_its_end_ends_as_an_error() {
    let server = start(&[("FLOWMATE__ENGINE__EXECUTION_SECONDS", "60")]).await;
    let admin = server.admin().await.unwrap();
    let (first, second) = receivers(120);
    let flow = admin.active_flow(&flow(&first, &second)).await.unwrap();
    let execution = admin.webhook(&flow, &json!({"n": 1})).await.unwrap();
    let ended = admin.ended(&execution).await.unwrap();
    assert_eq!(ended.text("/data/status"), "error");
    let error = ended.text("/data/error");
    assert!(
        error.contains("takes longer than 60 s") && error.contains("429"),
        "the bound, and what it waited for: {error}"
    );
    assert_eq!((first.count(), second.count()), (1, 1));
}
