//! Who may do what, and who sees what.

use flowmate_testkit::{Client, Receiver, Server};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{calls::refused, forward, server};

async fn user(
    server: &Server,
    admin: &Client,
    name: &str,
    tenant: Option<&str>,
    permissions: &[&str],
) -> Client {
    let tenant = match tenant {
        Some(tenant) => Some(tenant_named(admin, tenant).await),
        None => None,
    };
    let body = json!({"username": name, "password": "pw", "tenant": tenant, "permissions": permissions});
    admin.post("/users", &body).await.unwrap().expect(200).unwrap();
    Client::login(&server.url, name, "pw").await.unwrap()
}

/// The id of the tenant, which is made where there is none.
async fn tenant_named(admin: &Client, name: &str) -> String {
    let tenants = admin.get("/tenants").await.unwrap().expect(200).unwrap();
    let mut tenants = tenants.body.as_array().unwrap().iter();
    if let Some(tenant) = tenants.find(|tenant| tenant["name"] == name) {
        return tenant["_id"].as_str().unwrap().to_owned();
    }
    let made = admin.post("/tenants", &json!({"name": name})).await.unwrap();
    made.expect(200).unwrap().text("/id").to_owned()
}

const END_USER: [&str; 6] = [
    "flows.read",
    "flows.write",
    "flows.control",
    "templates.read",
    "templates.write",
    "icenter.read",
];

#[tokio::test]
async fn without_a_valid_token_nothing_opens() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let anonymous = server.anonymous().unwrap();
    let expected = |message: &str| json!({"errors": [{"message": message, "code": 401}]});
    assert_eq!(
        anonymous.get("/flows").await.unwrap().expect(401).unwrap().body,
        expected("Missing authorization header.")
    );
    let with = |header: &str| {
        anonymous
            .request(Method::GET, "/flows")
            .header("authorization", header)
    };
    let one_word = anonymous.send(with("x")).await.unwrap().expect(401).unwrap();
    assert_eq!(one_word.body, expected("Invalid authorization header"));

    let parts: Vec<&str> = admin.token().split('.').collect();
    let forged = [
        "Bearer nonsense".to_owned(),
        format!("Bearer {}.{}.", "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0", parts[1]),
        format!(
            "Bearer {}.{}.{}",
            "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9", parts[1], parts[2]
        ),
        format!("Bearer {}.{}.{}", parts[0], "eyJzdWIiOiJ4In0", parts[2]),
    ];
    for header in &forged {
        let answer = anonymous.send(with(header)).await.unwrap().expect(401).unwrap();
        assert_eq!(
            answer.body,
            expected("Token invalid. Error: Error. Details: Token not found in IAM")
        );
    }
    let users = anonymous.get("/api/v1/users").await.unwrap().expect(401).unwrap();
    assert_eq!(users.body, json!({"message": "NOT_LOGGED_IN"}));
    // The scheme word is not looked at.
    anonymous
        .send(with(&format!("Whatever {}", admin.token())))
        .await
        .unwrap()
        .expect(200)
        .unwrap();
}

#[tokio::test]
async fn logging_in_and_out() {
    let server = server().await;
    let anonymous = server.anonymous().unwrap();
    let login = |body: Value| {
        let anonymous = anonymous.clone();
        async move { anonymous.post("/login", &body).await.unwrap() }
    };
    for (body, status, code) in [
        (
            json!({"username": "nobody", "password": "x"}),
            401,
            "PASSWORD_INCORRECT",
        ),
        (
            json!({"username": "admin", "password": "x"}),
            401,
            "PASSWORD_INCORRECT",
        ),
        (json!({"username": "admin"}), 401, "UNKNOWN_ERROR"),
        (
            json!({"username": {"$ne": ""}, "password": "x"}),
            401,
            "UNKNOWN_ERROR",
        ),
    ] {
        let answer = login(body).await;
        assert_eq!((answer.status, answer.text("/message")), (status, code));
    }
    let malformed = anonymous
        .request(Method::POST, "/login")
        .header("content-type", "application/json")
        .body("{");
    anonymous.send(malformed).await.unwrap().expect(400).unwrap();

    let admin = server.admin().await.unwrap();
    let other = server.admin().await.unwrap();
    assert_eq!(
        admin.post("/logout", &Value::Null).await.unwrap().body,
        json!({"loggedOut": true})
    );
    refused(&admin).await;
    other.get("/flows").await.unwrap().expect(200).unwrap();
    let server = server.restart().await.unwrap();
    let again = server.anonymous().unwrap().with_token(admin.token());
    again.get("/flows").await.unwrap().expect(401).unwrap();
}

#[tokio::test]
async fn a_disabled_user_is_out_at_once_and_stays_out() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let ada = user(&server, &admin, "ada", Some("t1"), &END_USER).await;
    let id = ada.get("/users/me").await.unwrap().text("/_id").to_owned();
    admin
        .patch(&format!("/users/{id}"), &json!({"status": "DISABLED"}))
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    refused(&ada).await;
    let login = server
        .anonymous()
        .unwrap()
        .post("/login", &json!({"username": "ada", "password": "pw"}))
        .await;
    assert_eq!(
        login.unwrap().expect(401).unwrap().text("/message"),
        "ENTITY_DISABLED"
    );
    let server = server.restart().await.unwrap();
    server
        .anonymous()
        .unwrap()
        .with_token(ada.token())
        .get("/flows")
        .await
        .unwrap()
        .expect(401)
        .unwrap();
}

#[tokio::test]
async fn permissions_are_asked_for_and_their_synonyms_count() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let reader = user(
        &server,
        &admin,
        "reader",
        None,
        &["flows.read", "flowTemplates.read"],
    )
    .await;
    reader.get("/flows").await.unwrap().expect(200).unwrap();
    reader.get("/templates").await.unwrap().expect(200).unwrap();
    let missing = json!({"errors": [{"message": "MISSING_PERMISSION", "code": 403}]});
    assert_eq!(
        reader
            .post("/flows", &json!({}))
            .await
            .unwrap()
            .expect(403)
            .unwrap()
            .body,
        missing
    );
    assert_eq!(
        reader
            .post("/flows/xyz/start", &Value::Null)
            .await
            .unwrap()
            .expect(403)
            .unwrap()
            .body,
        missing
    );
    assert_eq!(
        reader
            .post("/templates", &json!({}))
            .await
            .unwrap()
            .expect(403)
            .unwrap()
            .body,
        missing
    );
    let users = reader.get("/users").await.unwrap().expect(403).unwrap();
    assert_eq!(users.body, json!({"message": "FORBIDDEN"}));
    let create = reader
        .post("/users", &json!({"username": "x", "password": "y"}))
        .await
        .unwrap()
        .expect(403)
        .unwrap();
    assert_eq!(create.body, json!({"message": "MISSING_PERMISSION"}));

    let partner = user(&server, &admin, "partner", Some("t1"), &["tenant.all"]).await;
    let grant = |permissions: Value| json!({"username": "new", "password": "pw", "tenant": "t2", "permissions": permissions});
    assert_eq!(
        partner
            .post("/users", &grant(json!(["all"])))
            .await
            .unwrap()
            .expect(403)
            .unwrap()
            .text("/message"),
        "FORBIDDEN"
    );
    let made = partner
        .post("/users?meta=true", &grant(json!(["flows.read"])))
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    let made = admin
        .get(&format!("/users/{}", made.text("/data/id")))
        .await
        .unwrap();
    let own = tenant_named(&admin, "t1").await;
    assert_eq!(made.text("/tenant"), own, "the tenant is the creator's");
}

#[tokio::test]
async fn nobody_sees_what_belongs_to_another_tenant() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::start().unwrap();
    let ada = user(&server, &admin, "ada", Some("t1"), &END_USER).await;
    let mate = user(&server, &admin, "mate", Some("t1"), &END_USER).await;
    let eve = user(&server, &admin, "eve", Some("t2"), &END_USER).await;
    let ada_id = ada.get("/users/me").await.unwrap().text("/_id").to_owned();

    let flow = ada.active_flow(&forward(&receiver.url)).await.unwrap();
    let execution = ada.webhook(&flow, &json!({})).await.unwrap();
    ada.ended(&execution).await.unwrap();
    let template = ada
        .post("/templates", &forward(&receiver.url))
        .await
        .unwrap()
        .expect(201)
        .unwrap();
    let template = template.text("/data/id");

    for path in [
        format!("/flows/{flow}"),
        format!("/executions/{execution}"),
        format!("/templates/{template}"),
    ] {
        mate.get(&path).await.unwrap().expect(200).unwrap();
        eve.get(&path).await.unwrap().expect(404).unwrap();
    }
    for path in [
        "/flows",
        &format!("/flows?filter[user]={ada_id}"),
        "/executions",
        "/templates",
        &format!("/executions?filter[flowId]={flow}"),
    ] {
        assert_eq!(
            eve.get(path).await.unwrap().at("/meta/total"),
            &json!(0),
            "{path}"
        );
        assert_eq!(
            mate.get(path).await.unwrap().at("/meta/total"),
            &json!(1),
            "{path}"
        );
    }
    assert_eq!(
        eve.get("/icenter/executions").await.unwrap().at("/data"),
        &json!([])
    );
    for (method, path) in [
        (Method::POST, format!("/flows/{flow}/stop")),
        (Method::DELETE, format!("/flows/{flow}")),
        (Method::POST, format!("/templates/{template}/generate")),
        (Method::DELETE, format!("/templates/{template}")),
    ] {
        eve.send(eve.request(method, &path))
            .await
            .unwrap()
            .expect(404)
            .unwrap();
    }
    eve.patch(&format!("/flows/{flow}"), &json!({"name": "mine"}))
        .await
        .unwrap()
        .expect(404)
        .unwrap();
    eve.patch(&format!("/templates/{template}"), &json!({"name": "mine"}))
        .await
        .unwrap()
        .expect(404)
        .unwrap();
    let partner = user(&server, &admin, "partner", Some("t2"), &["tenant.all"]).await;
    assert_eq!(
        partner
            .get("/users")
            .await
            .unwrap()
            .body
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let hidden = partner
        .get(&format!("/users/{ada_id}"))
        .await
        .unwrap()
        .expect(404)
        .unwrap();
    assert_eq!(hidden.body, json!("Not Found"));
}

#[tokio::test]
async fn users_are_bare_unless_meta_is_asked_for() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    user(&server, &admin, "external-1", None, &[]).await;
    let one = admin
        .get("/api/users/?username=external-1")
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    assert_eq!(one.text("/0/username"), "external-1");
    assert!(
        one.at("/0/_id").is_string()
            && one.at("/0/password").is_null()
            && one.at("/0/passwordHash").is_null()
    );
    let wrapped = admin
        .get("/users?meta=true&username=external-1&username=admin")
        .await
        .unwrap();
    assert_eq!(wrapped.at("/meta/total"), &json!(2));
    assert_eq!(admin.get("/users?username=none").await.unwrap().body, json!([]));
    let id = one.text("/0/_id");
    assert_eq!(
        admin
            .get(&format!("/users?userId={id}"))
            .await
            .unwrap()
            .text("/0/_id"),
        id
    );
    admin
        .get("/users?userId=%24ne")
        .await
        .unwrap()
        .expect(400)
        .unwrap();
    let twice = admin
        .post("/users", &json!({"username": "external-1", "password": "x"}))
        .await
        .unwrap();
    assert_eq!((twice.status, twice.text("/message")), (409, "DUPLICATE_KEY"));
    for body in [
        json!({}),
        json!({"username": "a"}),
        json!({"username": "", "password": "x"}),
        json!({"username": 5, "password": "x"}),
        json!([]),
    ] {
        let answer = admin.post("/users", &body).await.unwrap();
        assert_eq!(
            (answer.status, answer.text("/message")),
            (400, "INPUT_INVALID"),
            "{body}"
        );
    }
}
