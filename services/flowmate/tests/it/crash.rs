//! `kill -9` while work is under way: what was acknowledged is done, and what was recorded as done is not done again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use flowmate_testkit::{Receiver, Reply, eventually};
use parking_lot::Mutex;
use serde_json::json;

use crate::{chain, forward, receive, request, server, transform};

#[tokio::test]
async fn every_acknowledged_webhook_completes_after_kill_9_during_load() {
    let mut server = server().await;
    let receiver = Receiver::start().unwrap();
    let flow = {
        let admin = server.admin().await.unwrap();
        let body = chain(&[
            receive(),
            transform("map", "{\"number\": n, \"twice\": n * 2}"),
            request("out", &receiver.url),
        ]);
        admin.active_flow(&body).await.unwrap()
    };
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let mut next = 0;
    for _ in 0..3 {
        let anonymous = server.anonymous().unwrap();
        let mut senders = tokio::task::JoinSet::new();
        for lane in 0..8_u64 {
            let (client, path) = (anonymous.clone(), format!("/webhooks/{flow}"));
            let (acknowledged, first) = (Arc::clone(&acknowledged), next + lane * 1_000);
            senders.spawn(async move {
                for number in first..first + 1_000 {
                    match client.post(&path, &json!({"n": number})).await {
                        Ok(answer) if answer.status == 200 => acknowledged.lock().insert(number),
                        // The connection broke: this one may or may not have been taken.
                        _ => return,
                    };
                }
            });
        }
        let before = acknowledged.lock().len();
        eventually("some webhooks to be acknowledged", async || {
            Ok((acknowledged.lock().len() > before + 150).then_some(()))
        })
        .await
        .unwrap();
        server.kill().await.unwrap();
        senders.join_all().await;
        next += 8_000;
        server = server.restart().await.unwrap();
    }
    let expected = acknowledged.lock().clone();
    assert!(expected.len() > 450);
    let arrived = || -> BTreeSet<u64> {
        receiver
            .received()
            .iter()
            .map(|request| request.body["number"].as_u64().unwrap())
            .collect()
    };
    eventually("all acknowledged webhooks at the receiver", async || {
        Ok(expected.is_subset(&arrived()).then_some(()))
    })
    .await
    .unwrap();

    // Each is logged, and counted once, however often it was delivered.
    let admin = server.admin().await.unwrap();
    // What was taken without an answer is logged too, perhaps later than the rest.
    eventually(
        "all executions to be logged, and their three steps counted",
        async || {
            let running = admin.get("/executions?filter[status]=running").await?;
            let all = admin.get("/executions").await?;
            let usage = admin.get("/icenter/executions?groupby=flow").await?;
            let total = all.at("/meta/total").as_u64().unwrap_or_default();
            let counted = usage.at("/data/0/executions").as_u64().unwrap_or_default();
            let is_all = running.at("/meta/total") == &json!(0) && total >= expected.len() as u64;
            Ok((is_all && counted == total * 3).then_some(()))
        },
    )
    .await
    .unwrap();
    // A repeated request bears the same key, so that the receiver can tell.
    let mut keys = BTreeMap::<u64, BTreeSet<String>>::new();
    for request in receiver.received() {
        keys.entry(request.body["number"].as_u64().unwrap())
            .or_default()
            .insert(request.key);
    }
    assert!(keys.values().all(|keys| keys.len() == 1));
}

#[tokio::test]
async fn a_recorded_effect_is_not_repeated_and_the_rest_goes_on() {
    let mut server = server().await;
    let first = Receiver::responding(|_, _| Reply::json(200, r#"{"ticket":7}"#)).unwrap();
    // Holds the execution in its second effect until the process is killed.
    let second = Receiver::responding(|_, before| Reply {
        after: if before == 0 {
            Duration::from_secs(60)
        } else {
            Duration::ZERO
        },
        ..Reply::json(200, "{}")
    })
    .unwrap();
    let admin = server.admin().await.unwrap();
    let flow = chain(&[
        receive(),
        request("one", &first.url),
        transform("take", "{\"ticket\": body.ticket}"),
        request("two", &second.url),
    ]);
    let flow = admin.active_flow(&flow).await.unwrap();
    let execution = admin.webhook(&flow, &json!({"n": 1})).await.unwrap();
    second.wait_for(1).await.unwrap();
    let running = eventually("the execution to show as running", async || {
        let answer = admin.get(&format!("/executions/{execution}")).await?;
        Ok((answer.status == 200).then_some(answer))
    });
    assert_eq!(running.await.unwrap().text("/data/status"), "running");
    server.kill().await.unwrap();

    let server = server.restart().await.unwrap();
    let admin = server.admin().await.unwrap();
    let ended = admin.ended(&execution).await.unwrap();
    assert_eq!(ended.text("/data/status"), "success", "{}", ended.body);
    assert_eq!(
        first.received().len(),
        1,
        "the first effect was recorded and is not repeated"
    );
    let repeated = second.received();
    assert_eq!(repeated.len(), 2, "the second was in flight");
    assert_eq!(repeated[0].key, repeated[1].key);
    assert_eq!(repeated[1].body, json!({"ticket": 7}), "from the journal");
    let nodes: Vec<&str> = ended
        .at("/data/steps")
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["nodeId"].as_str().unwrap())
        .collect();
    assert_eq!(nodes.len(), 4, "{nodes:?}");
}

#[tokio::test]
async fn a_start_survives_kill_9() {
    let mut server = server().await;
    let receiver = Receiver::start().unwrap();
    let admin = server.admin().await.unwrap();
    let flow = admin.create_flow(&forward(&receiver.url)).await.unwrap();
    admin
        .post(&format!("/flows/{flow}/start"), &json!(null))
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    server.kill().await.unwrap();
    let server = server.restart().await.unwrap();
    let admin = server.admin().await.unwrap();
    assert_eq!(admin.settled(&flow).await.unwrap().text("/data/status"), "active");
    let execution = admin.webhook(&flow, &json!({})).await.unwrap();
    assert_eq!(
        admin.ended(&execution).await.unwrap().text("/data/status"),
        "success"
    );
}
