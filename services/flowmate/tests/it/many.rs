//! Many flows in one call: one result for each input, in order, whatever happens to the others (contract 2.2, 4.2).

use serde_json::{Value, json};

use crate::{
    accounts::tenant,
    calls::{get, patch, post},
    forward, server,
};

const UNKNOWN: &str = "5c99ec7e5ed40d3e7512cffa";

fn messages(results: &Value) -> Vec<String> {
    let results = results.as_array().unwrap().iter();
    results
        .map(|one| {
            one.pointer("/errors/0/message")
                .map_or("ok", |text| text.as_str().unwrap())
                .to_owned()
        })
        .collect()
}

#[tokio::test]
async fn many_flows_are_created_and_changed_one_result_each() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let good = forward("http://127.0.0.1:1/");
    let bad = json!({"name": "no graph", "type": "ordinary"});
    let made = post(&admin, "/flows", json!([good, bad, good]), 201).await;
    assert_eq!(messages(made.at("/data")), ["ok", "Flows require a graph.", "ok"]);
    let (first, third) = (
        made.text("/data/0/id").to_owned(),
        made.text("/data/2/id").to_owned(),
    );
    post(&admin, "/flows", json!([]), 201).await;

    admin.start_flow(&third).await.unwrap();
    let changes = json!([
        {"id": first, "name": "renamed"},
        {"id": UNKNOWN, "name": "x"},
        {"id": third, "name": "runs"},
        {"id": "xyz"},
        {"name": "no id"},
        {"id": first, "graph": {"nodes": []}},
        {"id": first, "description": "described"},
    ]);
    let changed = patch(&admin, "/flows/bulk", changes, 200).await;
    let unknown = format!("Flow {UNKNOWN} not found");
    let runs = format!("Flow {third} is not inactive. Current status: active");
    assert_eq!(
        messages(changed.at("/data")),
        [
            "ok",
            &unknown,
            &runs,
            "Invalid id",
            "Invalid id",
            "Flows require at least one node.",
            "ok"
        ]
    );
    let codes: Vec<&Value> = (1..4)
        .map(|index| {
            changed.at([
                "",
                "/data/1/errors/0/code",
                "/data/2/errors/0/code",
                "/data/3/errors/0/code",
            ][index])
        })
        .collect();
    assert_eq!(codes, [404, 409, 400]);
    let flow = get(&admin, &format!("/flows/{first}"), 200).await;
    assert_eq!(
        (flow.text("/data/name"), flow.text("/data/description")),
        ("renamed", "described")
    );
    assert_eq!(
        patch(&admin, "/flows/bulk", json!({"id": first, "name": "alone"}), 200)
            .await
            .text("/data/0/name"),
        "alone"
    );

    for body in [json!("x"), json!(null)] {
        patch(&admin, "/flows/bulk", body, 400).await;
    }
    patch(&admin, "/flows/bulk", json!(vec![json!({"id": "x"}); 1001]), 413).await;

    // One flow needs `flows.write`, many need `flows.bulk`, changing many either.
    let body = json!({"username": "writer", "password": "pw", "permissions": ["flows.write"]});
    post(&admin, "/users", body, 200).await;
    let writer = flowmate_testkit::Client::login(&server.url, "writer", "pw")
        .await
        .unwrap();
    let refused = post(&writer, "/flows", json!([good]), 403).await;
    assert_eq!(
        refused.text("/errors/0/message"),
        "User is missing permission for bulk operations"
    );
    let own = writer.create_flow(&good).await.unwrap();
    let both = json!([{"id": own, "name": "mine"}, {"id": first, "name": "not mine"}]);
    let changed = patch(&writer, "/flows/bulk", both, 200).await;
    assert_eq!(
        messages(changed.at("/data")),
        ["ok".to_owned(), format!("Flow {first} not found")]
    );
}

#[tokio::test]
async fn many_flows_start_and_stop_one_result_each() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let (_, partner) = tenant(&server, &admin, "acme").await;
    let flow = forward("http://127.0.0.1:1/");
    let one = partner.create_flow(&flow).await.unwrap();
    let two = partner.create_flow(&flow).await.unwrap();
    let hidden = admin.create_flow(&flow).await.unwrap();

    let ids = json!([one, "xyz", "123456789012", hidden, two, one]);
    let started = post(&partner, "/flows/multiple/start", ids, 200).await;
    assert_eq!(
        started.body,
        json!([
            {"data": {"id": one, "status": "starting"}, "meta": {}},
            {"errors": [{"message": "Invalid id", "flowId": "xyz", "code": 400}]},
            {"errors": [{"message": "No flow with this ID found", "flowId": "123456789012", "code": 404}]},
            {"errors": [{"message": "No flow with this ID found", "flowId": hidden, "code": 404}]},
            {"data": {"id": two, "status": "starting"}, "meta": {}},
            {"errors": [{"message": started.text("/5/errors/0/message"), "flowId": one, "code": 409}]},
        ]),
        "without an envelope"
    );
    assert!(
        started
            .text("/5/errors/0/message")
            .starts_with("Flow is not inactive. Current status: ")
    );
    for id in [&one, &two] {
        assert_eq!(partner.settled(id).await.unwrap().text("/data/status"), "active");
    }
    let stopped = post(&partner, "/flows/multiple/stop", json!([two, one, hidden]), 200).await;
    assert_eq!(
        messages(&stopped.body),
        ["ok", "ok", "No flow with this ID found"]
    );
    for id in [&one, &two] {
        assert_eq!(
            partner.settled(id).await.unwrap().text("/data/status"),
            "inactive"
        );
    }
    assert_eq!(
        post(&partner, "/flows/multiple/stop", json!([]), 200).await.body,
        json!([])
    );
    for body in [json!({"ids": []}), json!("x")] {
        let refused = post(&partner, "/flows/multiple/start", body, 400).await;
        assert_eq!(
            refused.text("/errors/0/message"),
            "No flow ids given. Expecting an array of flow ids"
        );
    }
    post(&partner, "/flows/multiple/start", json!(vec!["x"; 1001]), 413).await;
}

/// Pages by creation do not move while something is added, and hold everybody once.
#[tokio::test]
async fn pages_stay_where_they_are_while_flows_are_added() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let flow = forward("http://127.0.0.1:1/");
    let made = post(&admin, "/flows", json!(vec![flow.clone(); 25]), 201).await;
    let ids: Vec<&str> = made
        .at("/data")
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["id"].as_str().unwrap())
        .collect();
    let mut seen = Vec::new();
    for number in 1..=3 {
        let page = get(
            &admin,
            &format!("/flows?page[size]=10&page[number]={number}"),
            200,
        )
        .await;
        let flows = page.at("/data").as_array().unwrap().iter();
        seen.extend(flows.map(|one| one["id"].as_str().unwrap().to_owned()));
        admin.create_flow(&flow).await.unwrap();
    }
    assert_eq!(seen[..25], ids, "in the order they were made");
    assert_eq!(seen.len(), 27, "what was added meanwhile comes last");
}
