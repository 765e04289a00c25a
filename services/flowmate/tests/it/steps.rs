//! What steps do, and how they fail.

use std::time::Duration;

use flowmate_testkit::{Answer, Client, Receiver, Reply};
use serde_json::{Value, json};

use crate::{GATEWAY, HTTP, SPLIT, chain, forward, node, receive, request, server, transform};

async fn run(admin: &Client, flow: &Value, body: &Value) -> Answer {
    let flow = admin.active_flow(flow).await.unwrap();
    let execution = admin.webhook(&flow, body).await.unwrap();
    admin.ended(&execution).await.unwrap()
}

fn step<'a>(execution: &'a Answer, node: &str) -> &'a Value {
    let steps = execution.at("/data/steps").as_array().unwrap();
    steps
        .iter()
        .find(|step| step["nodeId"] == node)
        .unwrap_or(&Value::Null)
}

#[tokio::test]
async fn a_receiver_that_fails_fails_the_step_with_the_reason() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let broken = Receiver::responding(|_, _| Reply::json(500, r#"{"oh":"no"}"#)).unwrap();
    let refusing = Receiver::responding(|_, _| Reply::json(422, "wrong")).unwrap();
    let slow = Receiver::responding(|_, _| Reply {
        after: Duration::from_secs(5),
        ..Reply::json(200, "{}")
    })
    .unwrap();
    let garbage = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let garbage_url = format!("http://{}", garbage.local_addr().unwrap());
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        while let Ok((mut stream, _)) = garbage.accept().await {
            let _ = stream.write_all(b"garbage\r\n\r\n").await;
        }
    });
    let with_timeout = node("out", HTTP, "request", &json!({"url": slow.url, "timeoutMs": 50}));
    for (out, attempts, reason) in [
        (
            request("out", "http://127.0.0.1:1/"),
            6,
            "no connection to the receiver",
        ),
        (
            request("out", &broken.url),
            6,
            "answered 500 Internal Server Error: {\"oh\":\"no\"}",
        ),
        (
            request("out", &refusing.url),
            1,
            "answered 422 Unprocessable Entity: wrong",
        ),
        (with_timeout, 6, "did not answer in time"),
        (request("out", &garbage_url), 6, "did not answer as it should"),
    ] {
        let execution = run(
            &admin,
            &chain(&[receive(), out, transform("after", "$")]),
            &json!({"a": 1}),
        )
        .await;
        assert_eq!(execution.text("/data/status"), "error");
        let failed = step(&execution, "out");
        assert_eq!(
            (&failed["status"], &failed["attempts"]),
            (&json!("error"), &json!(attempts)),
            "{reason}: {failed}"
        );
        assert!(failed["error"].as_str().unwrap().contains(reason), "{failed}");
        assert!(
            execution
                .text("/data/error")
                .starts_with("Node \"out\": POST http://127.0.0.1:"),
            "{}",
            execution.body
        );
        assert_eq!(failed["input"], json!({"a": 1}));
        assert!(step(&execution, "after").is_null(), "the branch ends here");
    }
    assert_eq!(broken.received().len(), 6);
}

#[tokio::test]
async fn a_receiver_that_recovers_gets_it_with_the_same_key() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::responding(|_, before| match before {
        0 => Reply::json(503, ""),
        1 => Reply::json(429, ""),
        _ => Reply::json(201, r#"{"id":5}"#),
    })
    .unwrap();
    let execution = run(&admin, &forward(&receiver.url), &json!({"a": 1})).await;
    let out = step(&execution, "out");
    assert_eq!((&out["status"], &out["attempts"]), (&json!("success"), &json!(3)));
    assert_eq!(
        (&out["output"][0]["statusCode"], &out["output"][0]["body"]),
        (&json!(201), &json!({"id": 5}))
    );
    let keys: Vec<String> = receiver
        .received()
        .into_iter()
        .map(|request| request.key)
        .collect();
    assert!(
        keys.iter()
            .all(|key| *key == keys[0] && key.starts_with(execution.text("/data/id")))
    );
}

#[tokio::test]
async fn one_failed_branch_leaves_the_others_alone() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::start().unwrap();
    let flow = json!({"graph": {"nodes": [receive(), transform("bad", "\"a\" * 2"), request("good", &receiver.url)],
        "edges": [{"source": "in", "target": "bad"}, {"source": "in", "target": "good"}]}});
    let execution = run(&admin, &flow, &json!({})).await;
    assert_eq!(execution.text("/data/status"), "error");
    assert!(
        step(&execution, "bad")["error"]
            .as_str()
            .unwrap()
            .contains("T2001")
    );
    assert_eq!(step(&execution, "good")["status"], "success");
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test]
async fn requests_are_made_as_the_fields_say() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::start().unwrap();
    let get = node(
        "get",
        HTTP,
        "request",
        &json!({"method": "GET", "url": format!("{}/{{{{ data.id }}}}", receiver.url),
        "query": {"q": "{{ data.name }}", "tag": ["a", "b"]}, "headers": {"X-Api-Key": "{{ data.key }}"}}),
    );
    let form = node(
        "form",
        HTTP,
        "request",
        &json!({"url": receiver.url, "bodyType": "form", "body": {"a": "{{ data.name }}", "b": [1, 2]}}),
    );
    let text = node(
        "text",
        HTTP,
        "request",
        &json!({"url": receiver.url, "bodyType": "text", "body": "Hello {{ data.name }}!", "method": "put"}),
    );
    let body = node(
        "body",
        HTTP,
        "request",
        &json!({"url": receiver.url, "body": {"whole": "{{ data }}", "sum": "{{ data.id + 1 }}"}}),
    );
    let edges: Vec<Value> = ["get", "form", "text", "body"]
        .iter()
        .map(|to| json!({"source": "in", "target": to}))
        .collect();
    let flow = json!({"graph": {"nodes": [receive(), get, form, text, body], "edges": edges}});
    let data = json!({"id": 7, "name": "Ada & Co", "key": "k"});
    let execution = run(&admin, &flow, &data).await;
    assert_eq!(execution.text("/data/status"), "success", "{}", execution.body);
    let received = receiver.received();
    let find = |method: &str, content_type: &str| {
        received
            .iter()
            .find(|one| one.method == method && one.content_type.starts_with(content_type))
            .unwrap()
    };
    assert_eq!(find("GET", "").path, "/7?q=Ada+%26+Co&tag=a&tag=b");
    assert_eq!(
        find("POST", "application/x-www-form-urlencoded").body,
        json!("a=Ada+%26+Co&b=1&b=2")
    );
    assert_eq!(find("PUT", "text/plain").body, json!("Hello Ada & Co!"));
    assert_eq!(
        find("POST", "application/json").body,
        json!({"whole": data, "sum": 8})
    );
}

#[tokio::test]
async fn split_route_conditions_mappers_and_transforms() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::start().unwrap();
    let url = |path: &str| format!("{}{path}", receiver.url);
    let route = node(
        "route",
        GATEWAY,
        "route",
        &json!({"rules": [{"when": "data.n > 10", "to": "big"}], "otherwise": "small"}),
    );
    let mut small = request("small", &url("/small"));
    small["nodeSettings"] = json!({"applyTransform": "before", "transformFunction": "{\"data\": {\"few\": data.n, \"all\": passthrough.in.data.items.n}}"});
    let mut first = receive();
    first["nodeSettings"] = json!({"passthrough": true});
    let flow = json!({"graph": {
        "nodes": [first, node("split", SPLIT, "array", &json!({"path": "items"})), route, request("big", &url("/big")), small, request("never", &url("/never"))],
        "edges": [{"source": "in", "target": "split"}, {"source": "split", "target": "route"},
            {"source": "route", "target": "big", "config": {"mapper": {"many": "data.n", "from": "metadata.source.name", "fixed": 1}}},
            {"source": "route", "target": "small"},
            {"source": "in", "target": "never", "config": {"condition": "data.items[n > 100]"}}]}});
    let execution = run(&admin, &flow, &json!({"items": [{"n": 1}, {"n": 11}, {"n": 2}]})).await;
    assert_eq!(execution.text("/data/status"), "success", "{}", execution.body);
    let mut arrived: Vec<(String, Value)> = receiver
        .received()
        .into_iter()
        .map(|one| (one.path, one.body))
        .collect();
    arrived.sort_by_key(|(path, body)| format!("{path}{body}"));
    assert_eq!(
        arrived,
        [
            ("/big".into(), json!({"many": 11, "from": "webhooks", "fixed": 1})),
            ("/small".into(), json!({"few": 1, "all": [1, 11, 2]})),
            ("/small".into(), json!({"few": 2, "all": [1, 11, 2]})),
        ]
    );
    let usage = admin.get("/icenter/executions?groupby=component").await.unwrap();
    let counted: Vec<&str> = usage
        .at("/data")
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["component"].as_str().unwrap())
        .collect();
    assert!(!counted.contains(&GATEWAY), "control components are not counted");
}

#[tokio::test]
async fn secrets_do_not_reach_the_log_and_large_data_is_cut() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::responding(|_, _| Reply::json(200, r#"{"access_token":"hidden-out"}"#)).unwrap();
    let execution = run(
        &admin,
        &forward(&receiver.url),
        &json!({"user": {"password": "hidden-in"}, "text": "x".repeat(40_000)}),
    )
    .await;
    assert_eq!(
        receiver.received()[0].body["user"]["password"],
        "hidden-in",
        "the receiver gets the data as it is"
    );
    let shown = execution.body.to_string();
    assert!(
        !shown.contains("hidden-in") && !shown.contains("hidden-out"),
        "{shown}"
    );
    assert_eq!(step(&execution, "in")["input"]["truncated"], json!(true));
    assert!(shown.len() < 20_000);
}

#[tokio::test]
async fn expressions_and_fan_out_have_bounds() {
    let server = crate::start(&[("FLOWMATE__ENGINE__MAX_STEP_RUNS", "50")]).await;
    let admin = server.admin().await.unwrap();
    let endless = run(
        &admin,
        &chain(&[receive(), transform("t", "($f := function(){ $f() }; $f())")]),
        &json!({}),
    )
    .await;
    assert_eq!(endless.text("/data/status"), "error");
    let many: Vec<u32> = (0..100).collect();
    let flow = chain(&[
        receive(),
        node("split", SPLIT, "array", &json!({})),
        transform("each", "$"),
    ]);
    let fan_out = run(&admin, &flow, &json!(many)).await;
    assert!(
        fan_out.text("/data/error").contains("more than 50 step runs"),
        "{}",
        fan_out.text("/data/error")
    );
    assert_eq!(fan_out.at("/data/steps").as_array().unwrap().len(), 50);
}

#[tokio::test]
async fn private_addresses_are_out_of_reach_where_the_operator_says_so() {
    let server = crate::start(&[("FLOWMATE__CONNECTORS__PRIVATE_TARGETS", "deny")]).await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::start().unwrap();
    let literal = admin.create_flow(&forward(&receiver.url)).await.unwrap();
    admin
        .post(&format!("/flows/{literal}/start"), &json!(null))
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    let reason = admin.settled(&literal).await.unwrap();
    assert!(
        reason.text("/data/statusReason").contains("not a public address"),
        "{}",
        reason.body
    );
    let by_name = receiver.url.replace("127.0.0.1", "localhost");
    let execution = run(&admin, &forward(&by_name), &json!({})).await;
    assert_eq!(execution.text("/data/status"), "error");
    assert!(receiver.received().is_empty());
}
