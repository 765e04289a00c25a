//! Tenants: kept apart, disabled and deleted, and what becomes of what they owned (contract 3.11, 4.2).

use flowmate_testkit::{Client, eventually};
use serde_json::{Value, json};

use crate::{
    accounts::{end_user, own_id, tenant},
    calls::{delete, get, patch, post, put},
    forward, server,
};

#[tokio::test]
async fn tenants_are_kept_apart_and_can_be_closed() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let (acme, partner) = tenant(&server, &admin, "acme").await;
    let (rival_id, _) = tenant(&server, &admin, "rival").await;
    let path = format!("/tenants/{acme}");

    assert_eq!(
        get(&admin, "/tenants", 200).await.body.as_array().unwrap().len(),
        2
    );
    let own = get(&partner, "/tenants?meta=1", 200).await;
    assert_eq!(
        (own.text("/data/0/name"), own.at("/meta/total")),
        ("acme", &json!(1))
    );
    get(&partner, &format!("{path}/profile"), 200).await;
    get(&partner, &format!("/tenants/{rival_id}"), 404).await;
    post(&partner, "/tenants", json!({"name": "x"}), 403).await;
    delete(&partner, &path, 403).await;
    post(&admin, "/tenants", json!({"name": 1}), 400).await;
    assert_eq!(
        patch(&partner, &path, json!({"name": "Acme Ltd"}), 200)
            .await
            .body,
        "OK"
    );
    assert_eq!(get(&partner, &path, 200).await.text("/name"), "Acme Ltd");

    end_user(&partner, "ada").await;
    let users = get(&partner, &format!("{path}/users"), 200).await;
    let names: Vec<&str> = users
        .body
        .as_array()
        .unwrap()
        .iter()
        .map(|user| user["username"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["admin@acme", "ada"]);
    let ada = users.text("/1/_id").to_owned();
    delete(&partner, &format!("{path}/user/{ada}"), 200).await;
    assert_eq!(
        get(&admin, &format!("/users/{ada}"), 200).await.at("/tenant"),
        &Value::Null
    );
    delete(&partner, &format!("{path}/user/{ada}"), 404).await;

    assert_eq!(
        post(&admin, &format!("{path}/key"), json!({"value": "k1"}), 200)
            .await
            .body,
        "OK"
    );
    get(&partner, &format!("{path}/key"), 403).await;
    assert_eq!(
        get(&admin, &format!("{path}/key"), 200).await.text("/value"),
        "k1"
    );
    delete(&admin, &format!("{path}/key"), 200).await;
    get(&admin, &format!("{path}/key"), 404).await;

    put(&admin, &path, json!({"name": "Acme", "status": "DISABLED"}), 200).await;
    out(&partner).await;
    let login = json!({"username": "admin@acme", "password": "pw"});
    let refused = post(&server.anonymous().unwrap(), "/login", login, 401).await;
    assert_eq!(refused.text("/message"), "ENTITY_DISABLED");
    patch(&admin, &path, json!({"status": "ACTIVE"}), 200).await;
    Client::login(&server.url, "admin@acme", "pw").await.unwrap();
}

/// What belonged to somebody who is no more goes on without an owner, stopped; nothing of anybody else is touched.
#[tokio::test]
async fn deleting_a_user_or_a_tenant_anonymises_and_stops_what_they_owned() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let (acme, partner) = tenant(&server, &admin, "acme").await;
    let (_, rival) = tenant(&server, &admin, "rival").await;
    let flow = forward("http://127.0.0.1:1/");
    let of_partner = partner.active_flow(&flow).await.unwrap();
    let of_rival = rival.active_flow(&flow).await.unwrap();
    let template = post(&partner, "/templates", flow.clone(), 201)
        .await
        .text("/data/id")
        .to_owned();
    let theirs = post(&rival, "/templates", flow.clone(), 201)
        .await
        .text("/data/id")
        .to_owned();
    let component = post(&partner, "/components", json!({"name": "own"}), 201)
        .await
        .text("/data/id")
        .to_owned();

    // A user without a tenant: the flow has no other owner.
    let body = json!({"username": "solo", "password": "pw", "permissions": ["flows.read", "flows.write", "flows.control"]});
    let solo_id = post(&admin, "/users", body, 200).await.text("/id").to_owned();
    let solo = Client::login(&server.url, "solo", "pw").await.unwrap();
    let of_solo = solo.active_flow(&flow).await.unwrap();
    delete(&admin, &format!("/users/{solo_id}"), 200).await;
    let left = stopped(&admin, &of_solo).await;
    assert_eq!(left["owners"], json!([]));
    let anonymous = server.anonymous().unwrap();
    post(&anonymous, &format!("/webhooks/{of_solo}"), json!({}), 404).await;

    // The last user: the flow stays with the tenant, stopped, and goes on when somebody starts it.
    let partner_id = own_id(&partner).await;
    delete(&admin, &format!("/users/{partner_id}"), 200).await;
    let left = stopped(&admin, &of_partner).await;
    assert_eq!(left["owners"], json!([{"id": acme, "type": "tenant"}]));
    assert_eq!(left["statusReason"], "The last user who owned it was deleted.");

    // The tenant: its users and roles go, what it owned is left to nobody.
    let body = json!({"username": "late", "password": "pw", "tenant": acme, "permissions": ["tenant.all"]});
    post(&admin, "/users", body, 200).await;
    let late = Client::login(&server.url, "late", "pw").await.unwrap();
    post(&late, "/roles", json!({"name": "gone"}), 200).await;
    late.start_flow(&of_partner).await.unwrap();
    delete(&admin, &format!("/tenants/{acme}"), 200).await;
    get(&admin, &format!("/tenants/{acme}"), 404).await;
    let left = stopped(&admin, &of_partner).await;
    assert_eq!(left["owners"], json!([]));
    eventually("the users and roles to go", async || {
        let users = admin.get("/users?username=late").await?;
        let roles = admin.get("/roles").await?;
        let document = |path: &str, id: &str| format!("/{path}/{id}");
        let template = admin.get(&document("templates", &template)).await?;
        let component = admin.get(&document("components", &component)).await?;
        let nobody = json!([]);
        let done = users.body == nobody
            && roles.body == nobody
            && template.at("/data/owners") == &nobody
            && component.at("/data/owners") == &nobody;
        Ok(done.then_some(()))
    })
    .await
    .unwrap();
    out(&late).await;

    let theirs = get(&rival, &format!("/templates/{theirs}"), 200).await;
    assert_eq!(theirs.at("/data/owners").as_array().unwrap().len(), 1);
    assert_eq!(
        get(&rival, &format!("/flows/{of_rival}"), 200)
            .await
            .text("/data/status"),
        "active"
    );
    assert_eq!(get(&rival, "/users", 200).await.body.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn flows_of_a_disabled_tenant_stop_and_start_by_hand_when_it_is_enabled() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let (acme, partner) = tenant(&server, &admin, "acme").await;
    let (_, rival) = tenant(&server, &admin, "rival").await;
    let flow = forward("http://127.0.0.1:1/");
    let of_acme = partner.active_flow(&flow).await.unwrap();
    let another = partner.active_flow(&flow).await.unwrap();
    let of_rival = rival.active_flow(&flow).await.unwrap();

    let path = format!("/tenants/{acme}");
    patch(&admin, &path, json!({"status": "DISABLED"}), 200).await;
    for id in [&of_acme, &another] {
        let left = stopped(&admin, id).await;
        assert_eq!(left["statusReason"], "Its tenant is disabled.");
        post(&rival, &format!("/webhooks/{id}"), json!({}), 404).await;
        let refused = post(&admin, &format!("/flows/{id}/start"), json!(null), 409).await;
        assert_eq!(
            refused.text("/errors/0/message"),
            "Flow cannot be started. Its tenant is disabled."
        );
    }
    let results = post(&admin, "/flows/multiple/start", json!([of_acme]), 200).await;
    assert_eq!(results.at("/0/errors/0/code"), 409);

    patch(&admin, &path, json!({"status": "ACTIVE"}), 200).await;
    let partner = Client::login(&server.url, "admin@acme", "pw").await.unwrap();
    eventually("the flow to start", async || {
        let started = partner
            .post(&format!("/flows/{of_acme}/start"), &Value::Null)
            .await?;
        Ok((started.status == 200).then_some(()))
    })
    .await
    .unwrap();
    let status = async |client: &Client, id: &str| {
        let flow = client.settled(id).await.unwrap();
        flow.text("/data/status").to_owned()
    };
    assert_eq!(status(&partner, &of_acme).await, "active");
    assert_eq!(
        status(&partner, &another).await,
        "inactive",
        "none starts by itself"
    );
    assert_eq!(status(&rival, &of_rival).await, "active");
}

/// A tenant that was closed takes its users along by event, in any shape.
async fn out(client: &Client) {
    eventually("the users to be out", async || {
        Ok((client.get("/flows").await?.status == 401).then_some(()))
    })
    .await
    .unwrap();
}

async fn stopped(admin: &Client, flow: &str) -> Value {
    eventually("the flow to stop", async || {
        let answer = admin.get(&format!("/flows/{flow}")).await?;
        Ok((answer.text("/data/status") == "inactive").then(|| answer.at("/data").clone()))
    })
    .await
    .unwrap()
}
