//! Users, tenants, roles, tokens and impersonation (contract 4.1, 4.2).

use flowmate_testkit::{Client, Server};
use serde_json::{Value, json};

use crate::{
    calls::{delete, get, patch, post, put, refused},
    forward, server,
};

/// A tenant with an administrator of its own: the tenant's id, and the administrator.
pub(crate) async fn tenant(server: &Server, admin: &Client, name: &str) -> (String, Client) {
    server.tenant(admin, name).await.unwrap()
}

/// One of a tenant's users.
pub(crate) async fn end_user(partner: &Client, name: &str) -> Client {
    let made = post(partner, "/impersonate", json!({"username": name}), 200).await;
    partner.with_token(made.text("/token"))
}

pub(crate) async fn own_id(client: &Client) -> String {
    get(client, "/users/me", 200).await.text("/_id").to_owned()
}

#[tokio::test]
async fn a_partner_acts_for_its_users_and_sees_no_others() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let (acme, partner) = tenant(&server, &admin, "acme").await;
    let (_, rival) = tenant(&server, &admin, "rival").await;

    let first = post(&partner, "/impersonate", json!({"username": "abc123"}), 200).await;
    let again = post(&partner, "/impersonate", json!({"username": "abc123"}), 200).await;
    assert_eq!(
        first.text("/id"),
        again.text("/id"),
        "created at the first call only"
    );
    let other = post(&rival, "/impersonate", json!({"username": "abc123"}), 200).await;
    assert_ne!(
        first.text("/id"),
        other.text("/id"),
        "names are the partner's own"
    );

    let ada = partner.with_token(first.text("/token"));
    let me = get(&ada, "/users/me", 200).await;
    assert_eq!(
        (
            me.text("/_id"),
            me.text("/username"),
            me.text("/tenant"),
            me.at("/canLogin")
        ),
        (first.text("/id"), "abc123", acme.as_str(), &json!(false))
    );
    assert_eq!(me.at("/permissions/0"), "flows.read");
    let login = json!({"username": "abc123", "password": "anything"});
    post(&server.anonymous().unwrap(), "/login", login, 401).await;
    get(&ada, "/flows", 200).await;
    post(&ada, "/impersonate", json!({"username": "x"}), 403).await;

    let found = get(&partner, "/users?username=abc123", 200).await;
    assert_eq!(found.at("/0/_id"), first.text("/id"));
    assert_eq!(found.body.as_array().unwrap().len(), 1);
    let two = format!(
        "/users?userId={}&userId={}",
        first.text("/id"),
        own_id(&partner).await
    );
    assert_eq!(get(&partner, &two, 200).await.body.as_array().unwrap().len(), 2);
    let elsewhere = format!("/users/{}", other.text("/id"));
    assert_eq!(get(&partner, &elsewhere, 404).await.body, "Not Found");
    get(&partner, "/users?userId[$ne]=x", 400).await;
    get(&partner, "/users?userId=x", 400).await;

    for body in [
        json!({}),
        json!({"username": ""}),
        json!({"username": 1}),
        json!({"username": "x".repeat(400)}),
    ] {
        post(&partner, "/impersonate", body, 400).await;
    }
    // Nobody gets more through somebody else.
    let chief = json!({"username": "chief", "password": "pw", "permissions": ["tenant.all"]});
    post(&partner, "/users", chief, 200).await;
    post(&partner, "/impersonate", json!({"username": "chief"}), 403).await;
}

#[tokio::test]
async fn users_are_changed_replaced_and_deleted() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let (_, partner) = tenant(&server, &admin, "acme").await;
    let body = json!({"username": "ada", "password": "one", "firstname": "Ada", "img": "x.png", "permissions": ["flows.read"]});
    let id = post(&partner, "/users", body, 200).await.text("/id").to_owned();
    let path = format!("/users/{id}");
    post(
        &partner,
        "/users",
        json!({"username": "ada", "password": "x"}),
        409,
    )
    .await;

    let ada = Client::login(&server.url, "ada", "one").await.unwrap();
    assert_eq!(
        patch(&ada, "/users/me", json!({"lastname": "Byron"}), 200)
            .await
            .body,
        "OK"
    );
    let me = get(&ada, "/users/me?meta=1", 200).await;
    assert_eq!(
        (me.text("/data/firstname"), me.text("/data/lastname")),
        ("Ada", "Byron")
    );
    patch(&ada, &path, json!({"status": "DISABLED"}), 403).await;
    patch(&ada, "/users/me", json!({"lastname": 1}), 400).await;

    assert_eq!(
        patch(&partner, &path, json!({"password": "two"}), 200).await.body,
        "OK"
    );
    refused(&ada).await;
    let ada = Client::login(&server.url, "ada", "two").await.unwrap();
    let whole = json!({"username": "ada.b", "permissions": ["flows.read", "flows.write"]});
    put(&partner, &path, whole, 200).await;
    let user = get(&partner, &path, 200).await;
    assert_eq!(
        (user.text("/username"), user.at("/firstname")),
        ("ada.b", &Value::Null)
    );
    put(&partner, &path, json!({"permissions": []}), 400).await;
    for body in [
        json!({"permissions": ["all"]}),
        json!({"permissions": ["iam.tenant.create"]}),
    ] {
        patch(&partner, &path, body, 403).await;
    }
    patch(&partner, &path, json!({"username": "admin@acme"}), 409).await;

    get(&ada, "/flows", 200).await;
    assert_eq!(delete(&partner, &path, 200).await.body, "OK");
    refused(&ada).await;
    assert_eq!(delete(&partner, &path, 404).await.body, "Not Found");
    let own = format!("/users/{}", own_id(&partner).await);
    delete(&partner, &own, 403).await;
    let administrator = format!("/users/{}", own_id(&admin).await);
    delete(&partner, &administrator, 404).await;
}

#[tokio::test]
async fn roles_give_what_they_name_inside_their_tenant() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let (_, partner) = tenant(&server, &admin, "acme").await;
    let (_, rival) = tenant(&server, &admin, "rival").await;
    let body = json!({"name": "Integrator", "permissions": ["flows.read", "flows.write"]});
    let role = post(&partner, "/roles", body, 200).await;
    let id = role.text("/_id").to_owned();
    let path = format!("/roles/{id}");
    assert_eq!(role.at("/isGlobal"), false);
    post(
        &partner,
        "/roles",
        json!({"name": "x", "permissions": ["all"]}),
        403,
    )
    .await;
    post(&partner, "/roles", json!({"permissions": []}), 400).await;

    let body = json!({"username": "ada", "password": "pw", "roles": [id]});
    let ada_id = post(&partner, "/users", body, 200).await.text("/id").to_owned();
    let user = get(&partner, &format!("/users/{ada_id}"), 200).await;
    assert_eq!(user.text("/roles/0/name"), "Integrator", "roles are told in full");
    let ada = Client::login(&server.url, "ada", "pw").await.unwrap();
    ada.create_flow(&forward("http://127.0.0.1:1/")).await.unwrap();
    post(&ada, "/templates", json!({}), 403).await;

    let everybody = json!({"name": "Reader", "permissions": ["flows.read"], "isGlobal": true});
    let global = post(&admin, "/roles", everybody, 200)
        .await
        .text("/_id")
        .to_owned();
    let names = |answer: &flowmate_testkit::Answer| {
        let roles = answer.body.as_array().unwrap().iter();
        roles
            .map(|role| role["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&get(&rival, "/roles", 200).await), ["Reader"]);
    assert_eq!(
        names(&get(&partner, "/roles", 200).await),
        ["Reader", "Integrator"]
    );
    get(&rival, &path, 404).await;
    patch(&rival, &path, json!({"name": "mine"}), 404).await;
    let foreign = json!({"username": "eve", "password": "pw", "roles": [id]});
    post(&rival, "/users", foreign, 403).await;
    get(&rival, &format!("/roles/{global}"), 200).await;
    patch(
        &rival,
        &format!("/roles/{global}"),
        json!({"permissions": []}),
        403,
    )
    .await;

    let fewer = json!({"permissions": ["flows.read"]});
    assert_eq!(
        patch(&partner, &path, fewer, 200).await.at("/permissions"),
        &json!(["flows.read"])
    );
    let ada = Client::login(&server.url, "ada", "pw").await.unwrap();
    post(&ada, "/flows", forward("http://127.0.0.1:1/"), 403).await;
    delete(&partner, &path, 200).await;
    let ada = Client::login(&server.url, "ada", "pw").await.unwrap();
    get(&ada, "/flows", 403).await;

    let all = get(&admin, "/permissions", 200).await;
    let common = get(&partner, "/permissions", 200).await;
    assert!(all.body.as_array().unwrap().contains(&json!("all")));
    assert!(!common.body.as_array().unwrap().contains(&json!("all")));
    assert!(common.body.as_array().unwrap().contains(&json!("flows.read")));
}

#[tokio::test]
async fn tokens_are_made_looked_into_renewed_and_ended() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let (_, partner) = tenant(&server, &admin, "acme").await;
    let body = json!({"username": "ada", "password": "pw", "permissions": ["flows.read"]});
    let account = post(&partner, "/users", body, 200).await.text("/id").to_owned();

    let body = json!({"accountId": account, "expiresIn": -1, "description": "Nightly export"});
    let made = post(&admin, "/tokens", body, 200).await;
    let ada = admin.with_token(made.text("/token"));
    get(&ada, "/flows", 200).await;
    let path = format!("/tokens/{}", made.text("/id"));
    let known = get(&admin, &path, 200).await;
    assert_eq!(
        (
            known.text("/accountId"),
            known.text("/description"),
            known.at("/expireAt")
        ),
        (account.as_str(), "Nightly export", &Value::Null)
    );
    assert!(
        !known.body.to_string().contains(ada.token()),
        "a token is shown once"
    );
    let who = post(&admin, "/tokens/introspect", json!({"token": ada.token()}), 200).await;
    assert_eq!(
        (who.text("/sub"), who.text("/username")),
        (account.as_str(), "ada")
    );
    post(&admin, "/tokens/introspect", json!({"token": "x"}), 404).await;

    let renewed = get(&ada, "/tokens/refresh", 200).await;
    get(&ada.with_token(renewed.text("/token")), "/flows", 200).await;
    delete(&admin, &path, 200).await;
    refused(&ada).await;
    get(&ada, "/tokens/refresh", 401).await;
    get(&admin, &path, 404).await;
    let server = server.restart().await.unwrap();
    let ada = server.anonymous().unwrap().with_token(ada.token());
    refused(&ada).await;

    let admin = server.admin().await.unwrap();
    let nobody = json!({"accountId": "5c99ec7e5ed40d3e7512cffa"});
    post(&admin, "/tokens", nobody, 403).await;
    for body in [
        json!({}),
        json!({"accountId": account, "expiresIn": "soon"}),
        json!({"accountId": account, "expiresIn": 0}),
    ] {
        post(&admin, "/tokens", body, 400).await;
    }
    let partner = Client::login(&server.url, "admin@acme", "pw").await.unwrap();
    let stronger = json!({"accountId": account, "customPermissions": ["all"]});
    post(&partner, "/tokens", stronger, 403).await;
}
