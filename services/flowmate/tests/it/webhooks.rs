//! What a webhook takes.

use flowmate_testkit::{Client, Receiver, Server};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{chain, forward, receive, request, server};

#[tokio::test]
async fn every_body_type_arrives_as_data() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::start().unwrap();
    let flow = admin.active_flow(&forward(&receiver.url)).await.unwrap();
    let anonymous = server.anonymous().unwrap();
    let cases: Vec<(&str, &[u8], Value)> = vec![
        ("application/json", br#"{"a":[1,2.50]}"#, json!({"a": [1, 2.5]})),
        ("text/plain", b"{\"a\":1}", json!({"a": 1})),
        (
            "application/x-www-form-urlencoded",
            b"a[b]=1&c=x+y",
            json!({"a": {"b": "1"}, "c": "x y"}),
        ),
        (
            "text/xml",
            b"<o id=\"1\"><x>y</x></o>",
            json!({"o": {"_attr": {"id": "1"}, "x": "y"}}),
        ),
        (
            "multipart/form-data; boundary=B",
            b"--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--B--\r\n",
            json!({"a": "1"}),
        ),
        ("text/csv", b"a;b", json!({})),
        ("application/pdf", b"%PDF", json!({})),
        ("application/x-unheard-of", b"\xff\x00", json!({})),
    ];
    for (number, (content_type, body, expected)) in cases.into_iter().enumerate() {
        let post = anonymous.request(Method::POST, &format!("/webhooks/{flow}"));
        let post = post.header("content-type", content_type).body(body.to_vec());
        anonymous.send(post).await.unwrap().expect(200).unwrap();
        let received = receiver.wait_for(number + 1).await.unwrap();
        assert_eq!(received[number].body, expected, "{content_type}");
    }
    let query = anonymous
        .get(&format!("/hook/{flow}?a%5Bb%5D=1&c=2"))
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    assert_eq!(query.text("/data/message"), "thank you");
    assert_eq!(
        query.at("/message"),
        &Value::Null,
        "clients take a message at the top for a failure"
    );
    assert_eq!(
        receiver.wait_for(9).await.unwrap()[8].body,
        json!({"a": {"b": "1"}, "c": "2"})
    );
}

#[tokio::test]
async fn the_first_step_sees_the_request_and_no_credentials() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::start().unwrap();
    let mut out = request("out", &receiver.url);
    out["fields"]["body"] = json!("{{ $ }}");
    let flow = admin.active_flow(&chain(&[receive(), out])).await.unwrap();
    // The client sends its token along; none of the flow's business.
    let post = admin.request(Method::POST, &format!("/hook/{flow}/part?q=1"));
    let post = post
        .header("content-type", "application/json")
        .header("x-request-id", "order-7")
        .header("x-custom", "yes")
        .body("{\"a\":1}");
    let answer = admin.send(post).await.unwrap().expect(200).unwrap();
    assert_eq!(answer.text("/data/requestId"), "order-7");
    assert_ne!(answer.text("/data/executionId"), "order-7");
    let message = receiver.wait_for(1).await.unwrap().remove(0).body;
    assert_eq!(message["data"], json!({"a": 1}));
    assert_eq!(
        message["metadata"]["source"],
        json!({"name": "webhooks", "type": "webhook", "externalExecId": "order-7"})
    );
    assert_eq!(
        (
            &message["headers"]["x-custom"],
            &message["headers"]["authorization"]
        ),
        (&json!("yes"), &Value::Null)
    );

    // The same request id again is another execution, not a lost one.
    let again = admin.request(Method::POST, &format!("/hook/{flow}"));
    let again = again
        .header("content-type", "application/json")
        .header("x-request-id", "order-7")
        .body("{}");
    admin.send(again).await.unwrap().expect(200).unwrap();
    receiver.wait_for(2).await.unwrap();
}

#[tokio::test]
async fn what_is_not_live_or_not_readable_is_refused() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let inactive = admin.create_flow(&forward("http://127.0.0.1:1/")).await.unwrap();
    let live = admin.active_flow(&forward("http://127.0.0.1:1/")).await.unwrap();
    let anonymous = server.anonymous().unwrap();
    for id in [inactive.as_str(), "5c99ec7e5ed40d3e7512cffa", "xyz", "%00"] {
        let answer = anonymous
            .post(&format!("/webhooks/{id}"), &json!({}))
            .await
            .unwrap()
            .expect(404)
            .unwrap();
        assert!(
            answer
                .text("/error")
                .ends_with("either does not exist or is inactive."),
            "{}",
            answer.body
        );
        let head = anonymous.request(Method::HEAD, &format!("/webhooks/{id}"));
        anonymous.send(head).await.unwrap().expect(404).unwrap();
    }
    let head = anonymous.request(Method::HEAD, &format!("/webhooks/{live}"));
    anonymous.send(head).await.unwrap().expect(200).unwrap();
    for (content_type, body) in [
        ("application/json", "{"),
        ("text/plain", "x"),
        ("application/xml", "<a>"),
        ("multipart/form-data", "x"),
    ] {
        let post = anonymous
            .request(Method::POST, &format!("/webhooks/{live}"))
            .header("content-type", content_type)
            .body(body);
        let answer = anonymous.send(post).await.unwrap().expect(400).unwrap();
        assert!(answer.at("/error").is_string(), "{}", answer.body);
    }
    let large = anonymous.request(Method::POST, &format!("/webhooks/{live}"));
    let large = large
        .header("content-type", "application/json")
        .body(format!("\"{}\"", "x".repeat(10 << 20)));
    anonymous.send(large).await.unwrap().expect(413).unwrap();
    let total = admin.get("/executions").await.unwrap();
    assert_eq!(total.at("/meta/total"), &json!(0), "nothing of it was executed");
}

#[tokio::test]
async fn a_large_body_goes_through() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::start().unwrap();
    let flow = admin.active_flow(&forward(&receiver.url)).await.unwrap();
    let text = "x".repeat(9 << 20);
    let execution = admin.webhook(&flow, &json!({"text": text})).await.unwrap();
    assert_eq!(
        admin.ended(&execution).await.unwrap().text("/data/status"),
        "success"
    );
    assert_eq!(
        receiver.received()[0].body["text"].as_str().unwrap().len(),
        text.len()
    );
}

#[tokio::test]
async fn a_protected_webhook_asks_for_a_token_of_an_owner_on_get_too() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let body = json!({"username": "caller", "password": "pw", "permissions": ["webhooks.execute"]});
    admin.post("/users", &body).await.unwrap().expect(200).unwrap();
    let stranger = Client::login(&server.url, "caller", "pw").await.unwrap();
    let receiver = Receiver::start().unwrap();
    let mut flow = forward(&receiver.url);
    flow["flowSettings"] = json!({"webhooks": {"requireWebhookAuth": true}});
    let flow = admin.active_flow(&flow).await.unwrap();
    let path = format!("/webhooks/{flow}");
    for client in [server.anonymous().unwrap(), stranger] {
        let post = client.post(&path, &json!({})).await.unwrap().expect(403).unwrap();
        assert_eq!(post.body, json!({"error": "Unauthorized"}));
        client.get(&path).await.unwrap().expect(403).unwrap();
    }
    admin.post(&path, &json!({})).await.unwrap().expect(200).unwrap();

    // Basic is a login: name and password of an owner, and nobody else's.
    let anonymous = server.anonymous().unwrap();
    for (username, password, status) in [
        ("admin", Server::PASSWORD, 200),
        ("admin", "wrong", 403),
        ("caller", "pw", 403),
        ("nobody", "pw", 403),
    ] {
        let request = anonymous
            .request(Method::GET, &path)
            .basic_auth(username, Some(password));
        anonymous.send(request).await.unwrap().expect(status).unwrap();
    }
}
