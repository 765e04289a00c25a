//! The main job: log in, template, flow, webhook, data in another system, executions logged and counted.

use flowmate_testkit::{Receiver, Shape, eventually};
use serde_json::{Value, json};

use crate::{GATEWAY, chain, node, receive, request, server, shape, transform};

#[tokio::test]
async fn an_order_becomes_a_contact_and_an_invoice_and_is_logged_and_counted() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::start().unwrap();

    let edge = |source: &str, target: &str| json!({"source": source, "target": target});
    let template = json!({"name": "Orders", "type": "ordinary", "tags": ["crm"], "graph": {
        "nodes": [receive(),
            transform("contact", "{\"name\": customer.first & \" \" & customer.last, \"email\": $lowercase(customer.email)}"),
            request("send_contact", "http://127.0.0.1:1/"),
            transform("invoice", "{\"amount\": total, \"lines\": $count(items)}"),
            request("send_invoice", "http://127.0.0.1:1/")],
        "edges": [edge("in", "contact"), edge("contact", "send_contact"),
            {"source": "in", "target": "invoice", "config": {"condition": "data.total > 100"}},
            edge("invoice", "send_invoice")]}});
    let template = admin
        .post("/templates", &template)
        .await
        .unwrap()
        .expect(201)
        .unwrap();
    assert_eq!(template.text("/data/status"), "draft");
    let id = template.text("/data/id");
    let overrides = json!({"name": "Orders of Ada", "graph": {"nodes": [{}, {},
        {"fields": {"url": format!("{}/contacts", receiver.url)}}, {},
        {"fields": {"url": format!("{}/invoices", receiver.url)}}]}});
    let flow = admin
        .post(&format!("/templates/{id}/generate"), &overrides)
        .await
        .unwrap()
        .expect(201)
        .unwrap();
    assert_eq!(
        (flow.text("/data/status"), flow.text("/data/fromTemplate")),
        ("inactive", id)
    );
    let flow = flow.text("/data/id").to_owned();
    admin.start_flow(&flow).await.unwrap();

    let order = |total: f64| {
        json!({"customer": {"first": "Ada", "last": "Byron", "email": "ADA@X.ORG"},
        "items": [{"sku": "a"}, {"sku": "b"}], "total": total})
    };
    let large = admin.webhook(&flow, &order(120.5)).await.unwrap();
    let execution = admin.ended(&large).await.unwrap();
    assert_eq!(execution.text("/data/status"), "success", "{}", execution.body);
    let mut arrived: Vec<(String, Value)> = receiver
        .received()
        .into_iter()
        .map(|request| (request.path, request.body))
        .collect();
    arrived.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(
        arrived,
        [
            (
                "/contacts".into(),
                json!({"name": "Ada Byron", "email": "ada@x.org"})
            ),
            ("/invoices".into(), json!({"amount": 120.5, "lines": 2})),
        ]
    );
    let steps = execution.at("/data/steps").as_array().unwrap();
    let nodes: Vec<&str> = steps
        .iter()
        .map(|step| step["nodeId"].as_str().unwrap())
        .collect();
    assert_eq!(nodes[..3], ["in", "contact", "invoice"]);
    assert_eq!(steps.len(), 5);
    assert!(
        steps
            .iter()
            .all(|step| step["status"] == "success" && step["attempts"] == 1)
    );

    let small = admin.webhook(&flow, &order(99.0)).await.unwrap();
    assert_eq!(
        admin
            .ended(&small)
            .await
            .unwrap()
            .at("/data/steps")
            .as_array()
            .unwrap()
            .len(),
        3
    );
    assert_eq!(receiver.received().len(), 3, "no invoice for a small order");

    let list = admin
        .get(&format!(
            "/executions?filter[flowId]={flow}&filter[status]=success"
        ))
        .await
        .unwrap();
    let ids: Vec<&str> = list
        .at("/data")
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, [small.as_str(), large.as_str()], "newest first");

    let me = admin.get("/users/me").await.unwrap();
    let usage = admin
        .get("/icenter/executions")
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    assert_eq!(usage.body["data"][0]["user"], me.body["_id"]);
    assert_eq!(usage.body["data"][0]["username"], "admin");
    assert_eq!(usage.body["data"][0]["executions"], 8);
    assert_eq!(usage.body["data"][0]["allFlows"], json!([flow]));
    let by_component = admin.get("/icenter/executions?groupby=component").await.unwrap();
    let counts: Vec<u64> = by_component
        .at("/data")
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["executions"].as_u64().unwrap())
        .collect();
    assert_eq!(counts, [2, 3, 3]);

    admin.stop_flow(&flow).await.unwrap();
    admin
        .post(&format!("/webhooks/{flow}"), &order(1.0))
        .await
        .unwrap()
        .expect(404)
        .unwrap();
    admin
        .delete(&format!("/flows/{flow}"))
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    admin
        .get(&format!("/flows/{flow}"))
        .await
        .unwrap()
        .expect(404)
        .unwrap();
}

#[tokio::test]
async fn a_flow_that_cannot_run_says_why() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let unknown = chain(&[
        receive(),
        node("x", "5ca5c44c187c040010a9bb8b", "send", &json!({})),
    ]);
    let circle = json!({"graph": {"nodes": [receive(), transform("a", "$"), transform("b", "$")],
        "edges": [{"source": "in", "target": "a"}, {"source": "a", "target": "b"}, {"source": "b", "target": "a"}]}});
    let wrong = chain(&[
        receive(),
        node(
            "g",
            GATEWAY,
            "route",
            &json!({"rules": [{"when": "true", "to": "nowhere"}]}),
        ),
    ]);
    for (flow, reason) in [
        (
            unknown,
            "Node \"x\": unknown component \"5ca5c44c187c040010a9bb8b\"",
        ),
        (circle, "circle through node"),
        (
            wrong,
            "Node \"g\": a rule leads to \"nowhere\", but no edge does.",
        ),
    ] {
        let id = admin.create_flow(&flow).await.unwrap();
        admin
            .post(&format!("/flows/{id}/start"), &Value::Null)
            .await
            .unwrap()
            .expect(200)
            .unwrap();
        let settled = admin.settled(&id).await.unwrap();
        assert_eq!(settled.text("/data/status"), "inactive");
        assert!(
            settled.text("/data/statusReason").contains(reason),
            "{}",
            settled.body
        );
        admin
            .delete(&format!("/flows/{id}"))
            .await
            .unwrap()
            .expect(200)
            .unwrap();
    }
}

#[tokio::test]
async fn everything_is_still_there_after_an_orderly_restart() {
    let mut server = server().await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::start().unwrap();
    let flow = admin.active_flow(&crate::forward(&receiver.url)).await.unwrap();
    let before = admin.webhook(&flow, &json!({"n": 1})).await.unwrap();
    admin.ended(&before).await.unwrap();
    assert!(server.terminate().await.unwrap());

    let server = server.restart().await.unwrap();
    // The token of before is still valid: the key is kept.
    let admin = server.anonymous().unwrap().with_token(admin.token());
    admin
        .get(&format!("/executions/{before}"))
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    assert_eq!(
        admin
            .get(&format!("/flows/{flow}"))
            .await
            .unwrap()
            .text("/data/status"),
        "active"
    );
    let after = admin.webhook(&flow, &json!({"n": 2})).await.unwrap();
    assert_eq!(admin.ended(&after).await.unwrap().text("/data/status"), "success");
    assert_eq!(receiver.received().len(), 2);
}

#[tokio::test]
async fn built_in_components_are_listed_with_a_schema_of_their_fields() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let list = admin.get("/components").await.unwrap().expect(200).unwrap();
    let components = list.at("/data").as_array().unwrap();
    assert_eq!(components.len(), 6);
    let http = components
        .iter()
        .find(|component| component["name"] == "http")
        .unwrap();
    assert_eq!(http["id"], crate::HTTP);
    assert_eq!(http["functions"][0]["fields"]["required"], json!(["url"]));
    let page = admin
        .get("/components?page[size]=4&page[number]=2")
        .await
        .unwrap();
    assert_eq!(
        (
            page.at("/data").as_array().unwrap().len(),
            page.at("/meta/totalPages")
        ),
        (2, &json!(2))
    );
}

#[tokio::test]
async fn health_answers_without_a_token_and_metrics_with_their_own() {
    let server = server().await;
    let anonymous = server.anonymous().unwrap();
    assert_eq!(
        anonymous.get("/health/live").await.unwrap().body,
        json!({"status": "pass"})
    );
    let ready = anonymous.get("/health/ready").await.unwrap().expect(200).unwrap();
    assert_eq!(ready.at("/details").as_object().unwrap().len(), 6);
    anonymous.get("/metrics").await.unwrap().expect(401).unwrap();
    let collector = server.collector().unwrap();
    let metrics = eventually("metrics", async || {
        let answer = collector.get("/metrics").await?.expect(200)?;
        let text = answer.body.as_str().unwrap_or_default().to_owned();
        // The gateway of its own has no bus.
        let is_whole = shape() == Shape::Distributed || text.contains("flowmate_bus_lag");
        Ok(is_whole.then_some(text))
    });
    assert!(metrics.await.unwrap().contains("flowmate_http_request_seconds"));
}
