//! Who owns flows, templates and components: end users see and change what names them, owners are given inside a tenant,
//! and who leaves the tenant leaves what is its.

use flowmate_testkit::{Answer, Client, Server, eventually};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    accounts::{end_user, own_id, tenant},
    calls::{delete, get, patch, post},
    chain, receive, server, transform,
};

const MEMBER: [&str; 6] = [
    "flows.read",
    "flows.write",
    "flows.control",
    "templates.read",
    "templates.write",
    "components.write",
];

/// A member of the administrator's tenant, who logs in.
async fn member(server: &Server, partner: &Client, name: &str) -> Client {
    let body = json!({"username": name, "password": "pw of a member", "permissions": MEMBER});
    post(partner, "/users", body, 200).await;
    Client::login(&server.url, name, "pw of a member").await.unwrap()
}

fn flow() -> Value {
    chain(&[receive(), transform("out", "data")])
}

/// The flow, owned by the user besides whoever makes it.
fn flow_of(user: &str) -> Value {
    let mut flow = flow();
    flow["owners"] = json!([{"id": user, "type": "user"}]);
    flow
}

async fn total(client: &Client, path: &str) -> u64 {
    get(client, path, 200).await.at("/meta/total").as_u64().unwrap()
}

#[tokio::test]
async fn end_users_see_and_change_only_what_names_them() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let (_, partner) = tenant(&server, &admin, "acme").await;
    let ada = end_user(&partner, "ada").await;
    let eve = end_user(&partner, "eve").await;
    let mate = member(&server, &partner, "mate").await;
    let ada_id = own_id(&ada).await;

    let id = partner.create_flow(&flow_of(&ada_id)).await.unwrap();
    let path = format!("/flows/{id}");
    ada.start_flow(&id).await.unwrap();
    let execution = ada.webhook(&id, &json!({"card": "of ada"})).await.unwrap();
    ada.ended(&execution).await.unwrap();

    for (client, sees) in [(&ada, 1), (&partner, 1), (&mate, 1), (&eve, 0)] {
        assert_eq!(total(client, "/flows").await, sees);
        assert_eq!(total(client, "/flows?filter[status]=active").await, sees);
        let rows = get(client, "/icenter/executions", 200).await;
        assert_eq!(rows.at("/data").as_array().unwrap().len() as u64, sees);
        let lines = get(client, &format!("/logs?filter[flowId]={id}"), 200).await;
        assert_eq!(lines.at("/data").as_array().unwrap().is_empty(), sees == 0);
        assert_eq!(total(client, "/executions").await, sees);
    }
    for hidden in [
        path.clone(),
        format!("{path}/steps/out/logs"),
        format!("/executions/{execution}"),
    ] {
        get(&eve, &hidden, 404).await;
        get(&mate, &hidden, 200).await;
    }
    post(&eve, &format!("{path}/stop"), Value::Null, 404).await;
    let many = post(&eve, "/flows/multiple/stop", json!([id]), 200).await;
    assert_eq!(many.at("/0/errors/0/code"), 404);
    delete(&eve, &path, 404).await;
    patch(&eve, &path, json!({"owners": []}), 404).await;
    let bulk = patch(&eve, "/flows/bulk", json!([{"id": id, "name": "x"}]), 200).await;
    assert_eq!(bulk.at("/data/0/errors/0/code"), 404);

    // Who counts stops what is active, and only that.
    let active = |rows: &Answer| rows.at("/data/0/allFlows").clone();
    let rows = get(&partner, "/icenter/executions", 200).await;
    assert_eq!(
        (rows.text("/data/0/user"), active(&rows)),
        (ada_id.as_str(), json!([id]))
    );
    let by_component = get(&partner, "/icenter/executions?groupby=component", 200).await;
    assert_eq!(active(&by_component), json!([id]));
    partner.stop_flow(&id).await.unwrap();
    let rows = get(&partner, "/icenter/executions", 200).await;
    assert_eq!(active(&rows), json!([]));

    // What the tenant shares is read by its end users, and changed by others only.
    let template = post(&partner, "/templates", flow(), 201).await;
    let template = format!("/templates/{}", template.text("/data/id"));
    let component = post(&partner, "/components", json!({"name": "crm"}), 201).await;
    let component = format!("/components/{}", component.text("/data/id"));
    get(&eve, &template, 200).await;
    get(&eve, &component, 200).await;
    patch(&eve, &template, json!({"name": "x"}), 403).await;
    patch(&eve, &component, json!({"name": "x"}), 403).await;
    delete(&eve, &component, 403).await;
    patch(&mate, &component, json!({"name": "y"}), 200).await;
}

#[tokio::test]
async fn owners_are_given_inside_the_tenant_and_usage_stays_where_it_was() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let (acme, partner) = tenant(&server, &admin, "acme").await;
    let (rival_tenant, rival) = tenant(&server, &admin, "rival").await;
    let mate = member(&server, &partner, "mate").await;
    let ada_id = own_id(&end_user(&partner, "ada").await).await;
    let (mate_id, rival_id) = (own_id(&mate).await, own_id(&rival).await);

    for foreign in [
        json!([{"id": rival_id, "type": "user"}]),
        json!([{"id": rival_tenant, "type": "tenant"}]),
        json!([{"id": "123456789012345678901234", "type": "user"}]),
        json!([{"id": ada_id, "type": "tenant"}]),
        json!([{"id": "", "type": "user"}]),
        json!([{"id": ada_id, "type": "group"}]),
    ] {
        for path in ["/flows", "/templates", "/components"] {
            let mut body = flow();
            body["owners"] = foreign.clone();
            post(&mate, path, body.clone(), 400).await;
            post(&partner, path, body, 400).await;
        }
    }

    let id = partner.create_flow(&flow_of(&ada_id)).await.unwrap();
    let path = format!("/flows/{id}");
    let owners = get(&partner, &path, 200).await.at("/data/owners").clone();
    assert_eq!(owners[0]["id"], json!(ada_id));
    for changes in [
        json!({"name": "by a colleague"}),
        json!({"owners": owners}),
        // What GET returns is taken back.
        get(&mate, &path, 200).await.at("/data").clone(),
    ] {
        let changed = patch(&mate, &path, changes, 200).await;
        assert_eq!(changed.at("/data/owners"), &owners);
    }
    let taken = patch(&mate, &path, json!({"owners": []}), 200).await;
    let left = json!([{"id": ada_id, "type": "user"}, {"id": acme, "type": "tenant"}, {"id": mate_id, "type": "user"}]);
    assert_eq!(taken.at("/data/owners"), &left);
    let foreign = json!({"owners": [{"id": rival_id, "type": "user"}]});
    let refused = patch(&mate, &path, foreign.clone(), 400).await;
    assert!(refused.text("/errors/0/message").contains(&rival_id));
    let bulk = patch(
        &mate,
        "/flows/bulk",
        json!([{"id": id, "owners": foreign["owners"]}]),
        200,
    )
    .await;
    assert_eq!(bulk.at("/data/0/errors/0/code"), 400);
    get(&rival, &path, 404).await;
    patch(&admin, &path, foreign, 200).await;
    get(&rival, &path, 200).await;

    // What is public is so in all tenants.
    let public = json!({"name": "c", "access": "public"});
    post(&mate, "/components", public.clone(), 403).await;
    post(&partner, "/components", public.clone(), 403).await;
    let shown = post(&admin, "/components", public, 201).await;
    get(&rival, &format!("/components/{}", shown.text("/data/id")), 200).await;
}

#[tokio::test]
async fn who_is_taken_out_of_a_tenant_leaves_it_what_is_its() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let (acme, partner) = tenant(&server, &admin, "acme").await;
    let mate = member(&server, &partner, "mate").await;
    let mate_id = own_id(&mate).await;
    let id = mate.active_flow(&flow()).await.unwrap();
    let path = format!("/flows/{id}");
    let execution = mate
        .webhook(&id, &json!({"card": "of a customer"}))
        .await
        .unwrap();
    mate.ended(&execution).await.unwrap();
    let template = post(&mate, "/templates", flow(), 201).await;
    let template = format!("/templates/{}", template.text("/data/id"));
    let component = post(&mate, "/components", json!({"name": "crm"}), 201).await;
    let component = format!("/components/{}", component.text("/data/id"));

    delete(&partner, &format!("/tenants/{acme}/user/{mate_id}"), 200).await;
    let gone = Client::login(&server.url, "mate", "pw of a member")
        .await
        .unwrap();
    eventually("what is the tenant's to be left to it", async || {
        let mut seen = Vec::new();
        for path in [&path, &template, &component] {
            seen.push(gone.get(path).await?.status);
        }
        Ok((seen == [404, 404, 404]).then_some(()))
    })
    .await
    .unwrap();
    patch(&gone, &path, json!({"owners": []}), 404).await;
    get(&gone, &format!("/executions/{execution}"), 404).await;
    assert_eq!(total(&gone, "/executions").await, 0);
    for path in ["/logs", "/icenter/executions"] {
        assert_eq!(get(&gone, path, 200).await.at("/data"), &json!([]));
    }
    assert_eq!(total(&partner, "/executions").await, 1);
    post(&gone, &format!("{path}/stop"), Value::Null, 404).await;
    let left = partner.settled(&id).await.unwrap();
    assert_eq!(left.at("/data/owners"), &json!([{"id": acme, "type": "tenant"}]));
    assert_eq!(left.text("/data/status"), "inactive");
}

#[tokio::test]
async fn what_is_misspelt_is_refused_and_what_is_spelt_otherwise_is_the_same() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    for path in [
        "/flows",
        "/templates",
        "/components",
        "/executions",
        "/logs",
        "/icenter/executions",
    ] {
        get(&admin, &format!("{path}?page[size]=5&meta=true&_=17"), 200).await;
        for unknown in ["serach=x", "filter[nobody]=x", "user=x"] {
            get(&admin, &format!("{path}?{unknown}"), 400).await;
        }
    }
    get(&admin, "/executions?search=x", 400).await;

    let mut misspelt = flow();
    misspelt["nme"] = json!("x");
    for path in ["/flows", "/templates", "/components"] {
        let refused = post(&admin, path, misspelt.clone(), 400).await;
        assert!(
            refused.text("/errors/0/message").contains("\"name\""),
            "{}",
            refused.body
        );
    }
    let mut foreign = flow();
    for name in ["_id", "__v", "role", "scope", "img"] {
        foreign[name] = json!("of the reference");
    }
    let id = admin.create_flow(&foreign).await.unwrap();
    let path = format!("/flows/{id}");
    patch(&admin, &path, json!({"desciption": "x"}), 400).await;
    let shown = get(&admin, &path, 200).await.at("/data").clone();
    patch(&admin, &path, shown, 200).await;

    let capitals = id.to_uppercase();
    let same = get(&admin, &format!("/flows/{capitals}"), 200).await;
    assert_eq!(same.text("/data/id"), id);
    patch(&admin, &format!("/flows/{capitals}"), json!({"name": "y"}), 200).await;

    // One answer for each entry, whatever it is.
    let strange = json!([capitals, 17, null, {"id": id}, "x"]);
    let started = post(&admin, "/flows/multiple/start", strange, 200).await;
    assert_eq!(started.at("/0/data/id"), &json!(id));
    for entry in 1..=4 {
        assert_eq!(started.at(&format!("/{entry}/errors/0/code")), 400);
    }
    let updated = patch(&admin, "/flows/bulk", json!([17, {"id": 5}, []]), 200).await;
    for entry in 0..=2 {
        assert_eq!(updated.at(&format!("/data/{entry}/errors/0/code")), 400);
    }

    for path in [
        path.as_str(),
        "/flows",
        "/users/me",
        "/healthcheck",
        "/openapi.json",
    ] {
        let head = admin.send(admin.request(Method::HEAD, path)).await.unwrap();
        assert_eq!((head.status, &head.body), (200, &json!("")), "{path}");
    }
    let unknown = admin.request(Method::HEAD, "/flows/123456789012");
    assert_eq!(admin.send(unknown).await.unwrap().status, 404);
}

#[tokio::test]
async fn secrets_are_masked_in_what_is_recorded() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let id = admin.active_flow(&flow()).await.unwrap();
    let sent = json!({"idToken": "t", "secretary": "Ada", "note": "{\"pwd\":\"hunter2\"}",
        "link": "https://ada:hunter2@example.com/", "sessionId": "s", "cookie_consent": true, "key": "colour", "value": "red"});
    let execution = admin.webhook(&id, &sent).await.unwrap();
    let ended = admin.ended(&execution).await.unwrap();
    let input = ended.at("/data/steps/1/input");
    let expected = json!({"idToken": "***", "secretary": "Ada", "note": "{\"pwd\":\"***\"}",
        "link": "https://ada:***@example.com/", "sessionId": "***", "cookie_consent": true, "key": "colour", "value": "red"});
    assert_eq!(input, &expected);
}
