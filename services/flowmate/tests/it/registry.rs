//! The registry of components: owners and visibility (contract 4.2).

use serde_json::{Value, json};

use crate::{
    WEBHOOK,
    accounts::{end_user, tenant},
    calls::{delete, get, patch, post},
    server,
};

#[tokio::test]
async fn components_belong_to_their_makers_and_are_seen_as_they_say() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let (_, partner) = tenant(&server, &admin, "acme").await;
    let (_, rival) = tenant(&server, &admin, "rival").await;
    let body = json!({"name": "Acme CRM", "description": "Müller & 東京", "distribution": {"type": "docker", "image": "x"},
        "functions": [{"name": "getPersons", "kind": "trigger"}]});
    let made = post(&partner, "/components", body, 201).await;
    let id = made.text("/data/id").to_owned();
    let path = format!("/components/{id}");
    assert_eq!(
        (
            made.text("/data/access"),
            made.at("/data/owners").as_array().unwrap().len()
        ),
        ("private", 2)
    );

    get(&rival, &path, 404).await;
    patch(&rival, &path, json!({"name": "x"}), 404).await;
    let colleague = end_user(&partner, "ada").await;
    get(&colleague, &path, 200).await;
    let total = |answer: flowmate_testkit::Answer| answer.at("/meta/total").as_u64().unwrap();
    assert_eq!(
        total(get(&partner, "/components", 200).await),
        7,
        "six are built in"
    );
    assert_eq!(total(get(&rival, "/components", 200).await), 6);
    assert_eq!(
        total(get(&partner, "/components?search=m%C3%9CLLER", 200).await),
        1
    );

    // Public is so in all tenants.
    patch(&partner, &path, json!({"access": "public"}), 403).await;
    let changed = patch(&admin, &path, json!({"access": "public"}), 200).await;
    assert_eq!(
        (changed.text("/data/access"), changed.text("/data/name")),
        ("public", "Acme CRM")
    );
    get(&rival, &path, 200).await;
    patch(&rival, &path, json!({"name": "x"}), 403).await;
    delete(&rival, &path, 403).await;
    delete(&partner, &format!("/components/{WEBHOOK}"), 403).await;
    patch(&partner, &path, json!({"isGlobal": true}), 403).await;
    patch(&admin, &path, json!({"isGlobal": true}), 200).await;

    for body in [
        json!({}),
        json!({"name": " "}),
        json!({"name": "x", "access": "secret"}),
        json!([]),
    ] {
        post(&partner, "/components", body, 400).await;
    }
    get(&partner, "/components/xyz", 400).await;
    get(&partner, "/components/123456789012", 404).await;
    delete(&partner, &path, 204).await;
    delete(&partner, &path, 404).await;
}

/// A described component cannot be run, and says so when the flow is started.
#[tokio::test]
async fn a_flow_with_a_component_that_is_only_described_says_so_at_the_start() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let body = json!({"name": "crm", "functions": [{"name": "get", "kind": "trigger"}]});
    let id = post(&admin, "/components", body, 201)
        .await
        .text("/data/id")
        .to_owned();
    let flow = json!({"name": "f", "type": "ordinary", "graph": {"nodes": [{"id": "a", "componentId": id, "function": "get"}]}});
    let flow = admin.create_flow(&flow).await.unwrap();
    post(&admin, &format!("/flows/{flow}/start"), Value::Null, 200).await;
    let settled = admin.settled(&flow).await.unwrap();
    assert_eq!(settled.text("/data/status"), "inactive");
    assert!(
        settled.text("/data/statusReason").contains(&id),
        "{}",
        settled.body
    );
}
