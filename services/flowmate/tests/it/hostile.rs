//! What nobody sends by accident: a clear 400 or 413, at once, and the server goes on.

use flowmate_testkit::Client;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    calls::{delete, get, post},
    chain, forward, receive, server, transform,
};

async fn raw(client: &Client, method: Method, path: &str, body: String) -> u16 {
    let request = client
        .request(method, path)
        .header("content-type", "application/json")
        .body(body);
    client.send(request).await.unwrap().status
}

#[tokio::test]
async fn huge_and_deep_bodies_are_refused() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let nodes: Vec<Value> = (0..10_000)
        .map(|number| transform(&format!("n{number}"), "1"))
        .collect();
    let refused = post(&admin, "/flows", chain(&nodes), 400).await;
    assert_eq!(
        refused.text("/errors/0/message"),
        "Flows have at most 1000 nodes and 5000 edges."
    );
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    for path in [
        "/flows",
        "/templates",
        "/users",
        "/components",
        "/flows/multiple/start",
    ] {
        assert_eq!(raw(&admin, Method::POST, path, deep.clone()).await, 400, "{path}");
    }
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(5 << 20));
    for path in ["/flows", "/templates", "/users", "/components"] {
        assert_eq!(
            raw(&admin, Method::POST, path, large.clone()).await,
            413,
            "{path}"
        );
    }
    let flow = admin.active_flow(&forward("http://127.0.0.1:1/")).await.unwrap();
    let webhook = format!("/webhooks/{flow}");
    assert_eq!(raw(&admin, Method::POST, &webhook, deep).await, 400);
    assert_eq!(
        raw(
            &admin,
            Method::POST,
            &webhook,
            format!("\"{}\"", "x".repeat(11 << 20))
        )
        .await,
        413
    );
    get(&admin, "/health/ready", 200).await;
}

#[tokio::test]
async fn odd_texts_are_either_kept_as_they_are_or_refused() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let flow = admin
        .active_flow(&chain(&[receive(), transform("map", "$")]))
        .await
        .unwrap();
    let webhook = format!("/webhooks/{flow}");
    for lone in [r#"{"a":"\ud800"}"#, r#"{"a":"\udc00x"}"#, r#"{"\ud800":1}"#] {
        assert_eq!(
            raw(&admin, Method::POST, &webhook, lone.into()).await,
            400,
            "{lone}"
        );
        assert_eq!(
            raw(&admin, Method::POST, "/flows", lone.into()).await,
            400,
            "{lone}"
        );
    }
    for data in [
        json!({"text": "a\u{0}b", "\u{0}": 1}),
        json!({"__proto__": {"admin": true}, "constructor": {"prototype": 1}, "$ne": null, "a.b": 2}),
    ] {
        let execution = admin.webhook(&flow, &data).await.unwrap();
        let ended = admin.ended(&execution).await.unwrap();
        assert_eq!(ended.at("/data/steps/1/output/0"), &data, "{}", ended.body);
    }
    let mut named = forward("http://127.0.0.1:1/");
    named["name"] = json!("a\u{0}b");
    named["graph"]["nodes"][1]["fields"]["__proto__"] = json!({"x": 1});
    let id = admin.create_flow(&named).await.unwrap();
    let stored = get(&admin, &format!("/flows/{id}"), 200).await;
    assert_eq!(stored.text("/data/name"), "a\u{0}b");
    assert_eq!(
        stored.at("/data/graph/nodes/1/fields/__proto__"),
        &json!({"x": 1})
    );
    delete(&admin, &format!("/flows/{id}"), 200).await;
}

#[tokio::test]
async fn queries_hold_no_operators_and_no_patterns() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    admin.create_flow(&forward("http://127.0.0.1:1/")).await.unwrap();
    for query in [
        "filter[user][$ne]=x",
        "filter[$where]=1",
        "filter[__proto__]=x",
        "page[size][$gt]=1",
        "filter[status][]=active",
        "filter[status]=active%00",
    ] {
        get(&admin, &format!("/flows?{query}"), 400).await;
    }
    for search in [".*", "(a%2B)%2B$", "[", "%5C", "%27%3B--", "%25", "_"] {
        let found = get(&admin, &format!("/flows?search={search}"), 200).await;
        assert_eq!(found.at("/meta/total"), 0, "{search} is a text, not a pattern");
    }
    get(&admin, "/flows?search=%FF%FE", 200).await;
    assert_eq!(
        get(&admin, "/users?username[$ne]=x", 400).await.text("/message"),
        "Invalid username[$ne] parameter"
    );
}
