//! Receivers that hang, fail or ask for time, bodies that are large, and expressions that are slow: each costs its own
//! flow only.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use flowmate_testkit::{Client, Receiver, Reply, eventually};
use serde_json::{Value, json};

use super::{each_once_by_key, is_success, patient, steps};
use crate::{
    HTTP, SPLIT, accounts::tenant, calls::get, chain, forward, node, receive, request, server, start,
    transform,
};

/// One webhook, and its execution when it has ended.
async fn completes(client: &Client, flow: &str) {
    let execution = client.webhook(flow, &json!({"n": 0})).await.unwrap();
    is_success(&client.ended(&execution).await.unwrap());
}

#[tokio::test]
async fn a_receiver_that_hangs_holds_up_no_other_tenant() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let (_, busy) = tenant(&server, &admin, "busy").await;
    let (_, quiet) = tenant(&server, &admin, "quiet").await;
    let hangs = Receiver::responding(|_, _| Reply::json(200, "{}").held()).unwrap();
    let answers = Receiver::start().unwrap();
    let dead = busy.active_flow(&patient(&hangs.url)).await.unwrap();
    let other = quiet.active_flow(&forward(&answers.url)).await.unwrap();

    busy.webhooks(&dead, 1_100).await.unwrap();
    hangs.wait_for(1).await.unwrap();
    completes(&quiet, &other).await;
    for status in ["success", "error", "cancelled"] {
        assert_eq!(
            busy.executions(&dead, status).await.unwrap(),
            0,
            "none was answered"
        );
    }

    // Most of them were kept by their position only, and are read again.
    hangs.release();
    busy.all_are(&dead, "success", 1_100).await.unwrap();
    assert_eq!(hangs.count(), 1_100);
    each_once_by_key(&hangs, 1_100);
}

#[tokio::test]
async fn a_flow_of_which_too_much_waits_takes_no_webhooks_until_it_has_caught_up() {
    let server = start(&[("FLOWMATE__ENGINE__WAITING_REQUESTS", "200")]).await;
    let admin = server.admin().await.unwrap();
    let hangs = Receiver::responding(|_, _| Reply::json(200, "{}").held()).unwrap();
    let answers = Receiver::start().unwrap();
    let busy = admin.active_flow(&patient(&hangs.url)).await.unwrap();
    let quiet = admin.active_flow(&forward(&answers.url)).await.unwrap();
    let mut taken = 0;
    let refused = loop {
        let post = format!("/webhooks/{busy}");
        let answer = admin.post(&post, &json!({"n": taken})).await.unwrap();
        if answer.status == 503 {
            break answer;
        }
        assert_eq!(answer.status, 200, "{}", answer.body);
        taken += 1;
        assert!(taken < 5_000, "none is refused");
    };
    assert!(refused.retry_after.is_some());
    completes(&admin, &quiet).await;

    hangs.release();
    admin.all_are(&busy, "success", taken).await.unwrap();
    eventually("webhooks to be taken again", async || {
        let answer = admin
            .post(&format!("/webhooks/{busy}"), &json!({"n": taken}))
            .await?;
        Ok((answer.status == 200).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn messages_that_a_receiver_asks_to_send_later_hold_up_no_other_flow() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let recovers = Arc::new(AtomicBool::new(false));
    let recovered = Arc::clone(&recovers);
    let limited = Receiver::responding(move |_, _| {
        if recovered.load(Ordering::Acquire) {
            Reply::json(200, "{}")
        } else {
            Reply::busy(6)
        }
    })
    .unwrap();
    let answers = Receiver::start().unwrap();
    let many = admin.active_flow(&forward(&limited.url)).await.unwrap();
    let other = admin.active_flow(&forward(&answers.url)).await.unwrap();

    admin.webhooks(&many, 180).await.unwrap();
    completes(&admin, &other).await;
    eventually("some to wait", async || {
        Ok((admin.executions(&many, "waiting").await? >= 10).then_some(()))
    })
    .await
    .unwrap();
    for status in ["success", "error", "cancelled"] {
        assert_eq!(
            admin.executions(&many, status).await.unwrap(),
            0,
            "all 180 still wait"
        );
    }
    let list = format!("/executions?page[size]=200&filter[flowId]={many}&filter[status]=waiting");
    let list = get(&admin, &list, 200).await;
    let waiting = list.at("/data").as_array().unwrap();
    for one in waiting {
        let until = one["waitingUntil"].as_str().unwrap();
        assert!(until > one["startedAt"].as_str().unwrap(), "{one}");
    }
    let asked_for_time = waiting.iter().filter(|one| {
        let reason = one["waitingReason"].as_str().unwrap();
        reason.contains("Node \"out\"") && reason.contains("answered 429 Too Many Requests")
    });
    assert!(asked_for_time.count() > 0, "{}", list.body);

    recovers.store(true, Ordering::Release);
    admin.all_are(&many, "success", 180).await.unwrap();
    each_once_by_key(&limited, 180);
}

#[tokio::test]
async fn a_receiver_that_fails_again_and_again_is_given_rest_and_no_other_flow_is() {
    // One at a time, so that each request is seen to come alone.
    let server = start(&[
        ("FLOWMATE__ENGINE__FLOW_CONCURRENCY", "1"),
        ("FLOWMATE__CONNECTORS__RETRY__RETRIES", "20"),
    ])
    .await;
    let admin = server.admin().await.unwrap();
    let recovers = Arc::new(AtomicBool::new(false));
    let recovered = Arc::clone(&recovers);
    let ill = Receiver::responding(move |request, _| {
        if request.path == "/well" || recovered.load(Ordering::Acquire) {
            Reply::json(200, "{}")
        } else {
            Reply::json(503, "")
        }
    })
    .unwrap();
    let of_ill = || {
        let received = ill.received().into_iter();
        received.filter(|one| one.path == "/ill").collect::<Vec<_>>()
    };
    let answers = Receiver::start().unwrap();
    let failing = admin
        .active_flow(&forward(&format!("{}/ill", ill.url)))
        .await
        .unwrap();
    let same = admin
        .active_flow(&forward(&format!("{}/well", ill.url)))
        .await
        .unwrap();
    let other = admin.active_flow(&forward(&answers.url)).await.unwrap();

    admin.webhooks(&failing, 30).await.unwrap();
    eventually("ten failures", async || Ok((of_ill().len() >= 10).then_some(())))
        .await
        .unwrap();
    completes(&admin, &other).await;
    // Rest is of a flow's receiver: another flow gets on well with it.
    completes(&admin, &same).await;
    assert_eq!(admin.executions(&failing, "success").await.unwrap(), 0);
    eventually("two probes", async || Ok((of_ill().len() >= 12).then_some(())))
        .await
        .unwrap();
    recovers.store(true, Ordering::Release);
    admin.all_are(&failing, "success", 30).await.unwrap();

    // Nothing came in a rest: these are the least that a rest lasts, however slow the machine is.
    let at: Vec<i64> = of_ill().iter().map(|one| one.at.as_millis()).collect();
    assert!(at[10] - at[9] >= 1_000, "{at:?}");
    assert!(at[11] - at[10] >= 2_000, "{at:?}");
    let received = of_ill();
    let mut keys: Vec<&str> = received.iter().map(|one| one.key.as_str()).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 30);
}

/// How the only execution of this flow ended, without its steps: they are large.
async fn outcome(admin: &Client, flow: &str, execution: &str) -> (String, String) {
    let path = format!("/executions?filter[flowId]={flow}");
    eventually("the execution to end", async || {
        let list = admin.get(&path).await?.expect(200)?;
        let status = list.text("/data/0/status");
        let has_ended = list.text("/data/0/id") == execution && status != "running";
        Ok(has_ended.then(|| (status.to_owned(), list.text("/data/0/error").to_owned())))
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn the_largest_body_through_many_steps_ends_and_other_flows_go_on() {
    let mut server = server().await;
    let admin = server.admin().await.unwrap();
    let answers = Receiver::start().unwrap();
    let items: Vec<Value> = (0..1_150)
        .map(|n| json!({"n": n, "text": "x".repeat(8_000)}))
        .collect();
    // Without a path: an expression on all of it would be one on the largest input.
    let split = node("split", SPLIT, "array", &json!({}));
    let copies = ["a", "b", "c", "d"].map(|id| transform(id, "{\"n\": n + 1, \"text\": text}"));
    let large = chain(&[&[receive(), split][..], &copies].concat());
    let large = admin.active_flow(&large).await.unwrap();
    let other = admin.active_flow(&forward(&answers.url)).await.unwrap();

    completes(&admin, &other).await;
    let execution = admin.webhook(&large, &json!(items)).await.unwrap();
    completes(&admin, &other).await;
    server.kill().await.unwrap();
    server = server.restart().await.unwrap();
    let admin = server.admin().await.unwrap();
    completes(&admin, &other).await;
    let (status, error) = outcome(&admin, &large, &execution).await;
    assert!(
        status == "success" || status == "error" && error.contains("bytes"),
        "{status}: {error}"
    );
    completes(&admin, &other).await;

    server.kill().await.unwrap();
    let server = server.restart().await.unwrap();
    let admin = server.admin().await.unwrap();
    completes(&admin, &other).await;
    assert_eq!(answers.count(), 5, "nothing was repeated");
    assert_eq!(outcome(&admin, &large, &execution).await, (status, error));
}

#[tokio::test]
async fn an_expression_that_takes_its_time_does_so_two_hundred_times_at_once() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let some_milliseconds = transform(
        "sum",
        "$sum($map([1..2000], function($v){ $v * n })) - 2001000 * n",
    );
    let flow = admin
        .active_flow(&chain(&[receive(), some_milliseconds]))
        .await
        .unwrap();
    let mut sending = tokio::task::JoinSet::new();
    for n in 0..200 {
        let (client, flow) = (admin.clone(), flow.clone());
        sending.spawn(async move { client.webhook(&flow, &json!({ "n": n })).await.unwrap() });
    }
    for execution in sending.join_all().await {
        let ended = admin.ended(&execution).await.unwrap();
        is_success(&ended);
        assert_eq!(steps(&ended, "sum")[0]["output"], json!([0]));
    }
}

#[tokio::test]
async fn expressions_that_run_away_leave_evaluators_to_other_tenants() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let (_, hostile) = tenant(&server, &admin, "hostile").await;
    let (_, quiet) = tenant(&server, &admin, "quiet").await;
    let endless = chain(&[receive(), transform("map", "($f := function(){ $f() }; $f())")]);
    let quick = transform("map", "$sum($map([1..2000], function($v){ $v }))");
    let mut flows = Vec::new();
    for _ in 0..3 {
        flows.push(hostile.active_flow(&endless).await.unwrap());
    }
    let other = quiet.active_flow(&chain(&[receive(), quick])).await.unwrap();

    for flow in &flows {
        hostile.webhooks(flow, 100).await.unwrap();
    }
    quiet.webhooks(&other, 100).await.unwrap();
    quiet.all_are(&other, "success", 100).await.unwrap();
    let mut ended = 0;
    for flow in &flows {
        ended += hostile.executions(flow, "error").await.unwrap();
    }
    assert!(
        ended < 100,
        "{ended} of 300, which take a quarter of a second each, came before 100 quick ones"
    );
}

#[tokio::test]
async fn a_slow_expression_in_a_field_holds_up_no_other_flow() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let answers = Receiver::start().unwrap();
    let slow = "{{ $sum($map([1..20000], function($v){ $v * data.n })) }}";
    let slow = node(
        "out",
        HTTP,
        "request",
        &json!({"url": answers.url, "body": {"sum": slow}}),
    );
    let slow = admin.active_flow(&chain(&[receive(), slow])).await.unwrap();
    let quiet = chain(&[receive(), request("out", &answers.url)]);
    let quiet = admin.active_flow(&quiet).await.unwrap();

    admin.webhooks(&slow, 200).await.unwrap();
    completes(&admin, &quiet).await;
    let ended =
        admin.executions(&slow, "success").await.unwrap() + admin.executions(&slow, "error").await.unwrap();
    assert!(ended < 200, "the quiet flow came before the last of the slow one");
}
