//! What steps may call, and what other systems can and cannot do with that.

use flowmate_testkit::{Answer, Client, Receiver, Reply};
use serde_json::{Value, json};

use crate::{HTTP, chain, forward, node, receive, server, transform};

async fn run(admin: &Client, flow: &Value, body: &Value) -> Answer {
    let flow = admin.active_flow(flow).await.unwrap();
    let execution = admin.webhook(&flow, body).await.unwrap();
    admin.ended(&execution).await.unwrap()
}

fn call(fields: &Value) -> Value {
    chain(&[receive(), node("out", HTTP, "request", fields)])
}

#[tokio::test]
async fn a_server_behind_a_proxy_is_out_of_reach_of_its_own_flows() {
    // It listens on loopback, as it does there; `auto` is what the setting was then.
    let server = crate::start(&[("FLOWMATE__CONNECTORS__PRIVATE_TARGETS", "auto")]).await;
    let admin = server.admin().await.unwrap();
    let own = format!("{}/health/ready", server.url);
    let refused = admin.create_flow(&forward(&own)).await.unwrap();
    admin
        .post(&format!("/flows/{refused}/start"), &json!(null))
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    let reason = admin.settled(&refused).await.unwrap();
    assert!(
        reason.text("/data/statusReason").contains("not a public address"),
        "{}",
        reason.body
    );
    for target in ["{{ data.url }}", "{{ data.scheme }}://{{ data.host }}/"] {
        let data = json!({"url": own, "scheme": "http", "host": own.replace("http://", "").replace("/health/ready", "")});
        let ended = run(
            &admin,
            &call(&json!({"url": target, "method": "GET"})),
            &json!(data),
        )
        .await;
        assert!(
            ended.text("/data/error").contains("not a public address"),
            "{}",
            ended.body
        );
    }
}

#[tokio::test]
async fn named_networks_are_open_and_metadata_services_are_not() {
    let server = crate::start(&[("FLOWMATE__CONNECTORS__PRIVATE_TARGETS", "127.0.0.0/8,allow")]).await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::start().unwrap();
    let flow = call(&json!({"url": "{{ data.url }}"}));
    let ended = run(&admin, &flow, &json!({"url": receiver.url})).await;
    assert_eq!(ended.text("/data/status"), "success", "{}", ended.body);
    for url in [
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:169.254.169.254]/",
    ] {
        let ended = run(&admin, &flow, &json!({"url": url})).await;
        assert!(
            ended.text("/data/error").contains("not a public address"),
            "{}",
            ended.body
        );
    }
}

#[tokio::test]
async fn a_redirect_to_another_system_takes_nothing_along() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let other = Receiver::start().unwrap();
    for (status, reached) in [(302, 1), (307, 1), (308, 1)] {
        let to = format!("{}/there", other.url);
        let one = Receiver::responding(move |_, _| Reply {
            headers: vec![("Location", to.clone())],
            ..Reply::json(status, "")
        })
        .unwrap();
        let ended = run(&admin, &forward(&one.url), &json!({"card": "4111"})).await;
        assert_eq!(other.received().len(), reached, "after {status}");
        if status != 302 {
            assert!(
                ended.text("/data/error").contains("another origin"),
                "{}",
                ended.body
            );
            assert_eq!(one.received().len(), 1, "it is not tried again");
        }
    }
    let got = &other.received()[0];
    assert_eq!(
        (got.method.as_str(), got.key.as_str(), &got.body),
        ("GET", "", &json!(""))
    );
}

#[tokio::test]
async fn data_does_not_choose_the_endpoint() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::start().unwrap();
    let url = format!("{}/users/{{{{ data.id }}}}", receiver.url);
    let delete = admin
        .active_flow(&call(&json!({"method": "DELETE", "url": url})))
        .await
        .unwrap();
    for (data, reason) in [
        (json!({}), "{{ data.id }} has no value"),
        (json!({"id": null}), "{{ data.id }} has no value"),
        (json!({"id": ".."}), "would lead to another path"),
    ] {
        let execution = admin.webhook(&delete, &data).await.unwrap();
        let ended = admin.ended(&execution).await.unwrap();
        assert!(
            ended.text("/data/error").contains(reason),
            "{data}: {}",
            ended.body
        );
    }
    assert!(receiver.received().is_empty());
    for id in ["a/b#c?d", "../../admin"] {
        let execution = admin.webhook(&delete, &json!({"id": id})).await.unwrap();
        admin.ended(&execution).await.unwrap();
    }
    let paths: Vec<String> = receiver.received().into_iter().map(|got| got.path).collect();
    assert_eq!(paths, ["/users/a%2Fb%23c%3Fd", "/users/..%2F..%2Fadmin"]);
}

#[tokio::test]
async fn an_answer_that_only_says_that_it_is_json_is_text() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::responding(|got, _| match got.path.as_str() {
        "/marked" => Reply::json(200, "\u{feff}{\"a\":1}"),
        _ => Reply::json(200, "ok"),
    })
    .unwrap();
    let after = Receiver::start().unwrap();
    for (path, body) in [("/text", json!("ok")), ("/marked", json!({"a": 1}))] {
        let flow = chain(&[
            receive(),
            node(
                "out",
                HTTP,
                "request",
                &json!({"url": format!("{}{path}", receiver.url)}),
            ),
            transform("body", "{\"got\": body}"),
            node("after", HTTP, "request", &json!({"url": after.url})),
        ]);
        let ended = run(&admin, &flow, &json!({})).await;
        assert_eq!(ended.text("/data/status"), "success", "{}", ended.body);
        assert_eq!(after.received().pop().unwrap().body, json!({"got": body}));
    }
}
