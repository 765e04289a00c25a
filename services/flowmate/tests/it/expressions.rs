//! What expressions may take, and what they may not take from others.

use flowmate_testkit::{Answer, Client, Receiver};
use serde_json::{Value, json};

use crate::{GATEWAY, chain, node, receive, request, server, transform};

async fn run(admin: &Client, flow: &Value, body: &Value) -> Answer {
    let flow = admin.active_flow(flow).await.unwrap();
    let execution = admin.webhook(&flow, body).await.unwrap();
    admin.ended(&execution).await.unwrap()
}

#[tokio::test]
async fn an_expression_that_would_fill_the_memory_fails_alone_wherever_it_stands() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::responding(|_, _| flowmate_testkit::Reply::json(200, "{}")).unwrap();
    let bomb = "$length($join($map([1..100000],function($v){$pad(\"a\",1000000,\"a\")})))";
    let doubling = "$reduce([1..40],function($a,$b){$a & $a},\"xxxxxxxx\")";
    let in_a_field = node(
        "out",
        crate::HTTP,
        "request",
        &json!({"url": receiver.url, "body": format!("{{{{ {doubling} }}}}")}),
    );
    let in_a_rule = node(
        "gate",
        GATEWAY,
        "route",
        &json!({"rules": [{"when": format!("{doubling} = 1"), "to": "out"}]}),
    );
    let mut on_an_edge = chain(&[receive(), request("out", &receiver.url)]);
    on_an_edge["graph"]["edges"][0]["config"] = json!({"mapper": {"x": doubling}});
    for flow in [
        chain(&[receive(), transform("map", bomb)]),
        chain(&[receive(), transform("map", doubling)]),
        chain(&[receive(), in_a_field]),
        chain(&[receive(), in_a_rule, request("out", &receiver.url)]),
        on_an_edge,
    ] {
        let ended = run(&admin, &flow, &json!({})).await;
        let error = ended.text("/data/error");
        assert!(
            error.contains("of memory") || error.contains("of processor time"),
            "{flow}: {error}"
        );
    }
    assert!(receiver.received().is_empty());
    let neighbour = run(
        &admin,
        &chain(&[receive(), transform("map", "$count([1..n])")]),
        &json!({"n": 5}),
    )
    .await;
    assert_eq!(neighbour.text("/data/status"), "success");
}

#[tokio::test]
async fn many_expressions_at_once_do_not_fail_for_the_time_that_others_take() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let flow = chain(&[
        receive(),
        transform("map", "$sum($map([1..3000], function($v) { $v }))"),
    ]);
    let flow = admin.active_flow(&flow).await.unwrap();
    let sent = (0..200).map(|_| admin.webhook(&flow, &Value::Null));
    for execution in futures_util::future::join_all(sent).await {
        let ended = admin.ended(&execution.unwrap()).await.unwrap();
        assert_eq!(
            ended.text("/data/status"),
            "success",
            "{:?}",
            ended.at("/data/error")
        );
    }
}
