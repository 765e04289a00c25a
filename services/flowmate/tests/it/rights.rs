//! Nobody gets more than they have, and what they have is what is stored now.

use flowmate_testkit::{Client, Receiver, Server, Shape, eventually};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    accounts::{own_id, tenant},
    calls::{delete, get, patch, post, put, refused},
    forward, server, shape,
};

/// Somebody who logs in: the id, and the client.
async fn member(server: &Server, by: &Client, name: &str, more: Value) -> (String, Client) {
    let mut body = json!({"username": name, "password": "pw"});
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    let id = post(by, "/users", body, 200).await.text("/id").to_owned();
    (id, Client::login(&server.url, name, "pw").await.unwrap())
}

/// The answer becomes that: at once where all services are in one process, else as soon as they have heard of it.
async fn becomes(client: &Client, path: &str, status: u16) {
    if shape() == Shape::Embedded {
        get(client, path, status).await;
    }
    let reached = eventually("the rights to change", async || {
        Ok((client.get(path).await?.status == status).then_some(()))
    });
    reached.await.unwrap();
}

#[tokio::test]
async fn nobody_takes_over_somebody_who_may_more() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let (acme, partner) = tenant(&server, &admin, "acme").await;
    let everything = json!({"name": "Everything", "permissions": ["all"], "isGlobal": true});
    let role = post(&admin, "/roles", everything, 200)
        .await
        .text("/_id")
        .to_owned();
    let (root, _) = member(&server, &admin, "root", json!({"tenant": acme, "roles": [role]})).await;
    let root = format!("/users/{root}");
    for change in [
        json!({"password": "mine"}),
        json!({"permissions": ["flows.read"]}),
        json!({"roles": []}),
        json!({"canLogin": false}),
        json!({"status": "DISABLED"}),
        json!({"username": "other"}),
    ] {
        patch(&partner, &root, change, 403).await;
    }
    let whole = json!({"username": "root", "password": "mine"});
    put(&partner, &root, whole, 403).await;
    delete(&partner, &root, 403).await;
    let token = json!({"accountId": root.trim_start_matches("/users/")});
    post(&partner, "/tokens", token, 403).await;
    post(&partner, "/impersonate", json!({"username": "root"}), 403).await;
    patch(&partner, &root, json!({"firstname": "Ada"}), 200).await;
    Client::login(&server.url, "root", "pw").await.unwrap();

    let rights = json!({"permissions": ["tenant.account.update", "tenant.account.read"]});
    let (_, clerk) = member(&server, &partner, "clerk", rights).await;
    let chief = format!("/users/{}", own_id(&partner).await);
    patch(&clerk, &chief, json!({"password": "mine"}), 403).await;
    // What is sent back as it is gives nobody anything.
    let permissions = get(&clerk, &chief, 200).await.at("/permissions").clone();
    let unchanged = json!({"lastname": "Byron", "permissions": permissions});
    patch(&clerk, &chief, unchanged, 200).await;
    let equal = json!({"permissions": ["tenant.account.read"]});
    let (other, _) = member(&server, &partner, "other", equal).await;
    patch(
        &clerk,
        &format!("/users/{other}"),
        json!({"password": "new"}),
        200,
    )
    .await;
}

#[tokio::test]
async fn who_looks_into_a_token_has_the_rights_of_it() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let (acme, partner) = tenant(&server, &admin, "acme").await;
    let rights = ["iam.token.introspect", "iam.token.create", "flows.read"];
    let inside = json!({"tenant": acme, "permissions": rights});
    let (_, clerk) = member(&server, &admin, "clerk", inside).await;
    let look = |token: &Client| json!({"token": token.token()});
    post(&clerk, "/tokens/introspect", look(&partner), 403).await;
    post(&clerk, "/tokens/introspect", look(&clerk), 200).await;

    let (_, service) = member(&server, &admin, "service", json!({"permissions": rights})).await;
    let reader = json!({"permissions": ["flows.read"]});
    let (reader_id, reader) = member(&server, &partner, "reader", reader).await;
    post(&service, "/tokens/introspect", look(&reader), 200).await;
    post(&service, "/tokens/introspect", look(&admin), 403).await;
    let made = post(&service, "/tokens", json!({"accountId": reader_id}), 200).await;
    get(&service.with_token(made.text("/token")), "/flows", 200).await;
    let chief = json!({"accountId": own_id(&partner).await});
    post(&service, "/tokens", chief, 403).await;
    // Who leaves a tenant does not become a service account.
    let gone = format!("/tenants/{acme}/user/{}", own_id(&clerk).await);
    delete(&admin, &gone, 200).await;
    let again = Client::login(&server.url, "clerk", "pw").await.unwrap();
    post(&again, "/tokens", json!({"accountId": reader_id}), 403).await;
}

#[tokio::test]
async fn roles_hold_what_their_makers_have_and_stay_in_their_tenant() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let (_, partner) = tenant(&server, &admin, "acme").await;
    let (rival_id, rival) = tenant(&server, &admin, "rival").await;
    let rights = json!({"permissions": ["tenant.roles.create", "tenant.roles.update", "tenant.roles.delete",
        "tenant.roles.read", "flows.read"]});
    let (_, clerk) = member(&server, &partner, "clerk", rights).await;
    let beyond = json!({"name": "Boss", "permissions": ["tenant.all"]});
    post(&clerk, "/roles", beyond.clone(), 403).await;
    let own = json!({"name": "Reader", "permissions": ["flows.read"]});
    let reader = post(&clerk, "/roles", own, 200).await.text("/_id").to_owned();
    let reader = format!("/roles/{reader}");
    patch(&clerk, &reader, json!({"permissions": ["flows.write"]}), 403).await;
    let boss = post(&partner, "/roles", beyond, 200)
        .await
        .text("/_id")
        .to_owned();
    let boss_path = format!("/roles/{boss}");
    patch(&clerk, &boss_path, json!({"permissions": []}), 403).await;
    patch(&clerk, &boss_path, json!({"name": "x"}), 403).await;
    delete(&clerk, &boss_path, 403).await;

    let (ada, client) = member(&server, &partner, "ada", json!({"roles": [boss]})).await;
    get(&client, "/roles", 200).await;
    let path = format!("/users/{ada}");
    patch(&partner, &path, json!({"tenant": rival_id}), 403).await;
    patch(&admin, &path, json!({"tenant": rival_id}), 200).await;
    assert_eq!(get(&rival, &path, 200).await.at("/roles"), &json!([]));
    let client = Client::login(&server.url, "ada", "pw").await.unwrap();
    get(&client, "/roles", 403).await;
}

#[tokio::test]
async fn a_right_is_what_is_stored_now_and_not_what_a_token_says() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let (_, partner) = tenant(&server, &admin, "acme").await;
    let role = json!({"name": "Reader", "permissions": ["templates.read"]});
    let role = post(&partner, "/roles", role, 200).await.text("/_id").to_owned();
    let more = json!({"permissions": ["flows.read", "tenant.account.update"], "roles": [role]});
    let (id, login) = member(&server, &partner, "ada", more).await;
    let for_ever = json!({"accountId": id, "expiresIn": -1});
    let token = post(&admin, "/tokens", for_ever, 200).await;
    let token = admin.with_token(token.text("/token"));
    let path = format!("/users/{id}");
    for ada in [&login, &token] {
        get(ada, "/flows", 200).await;
        get(ada, "/templates", 200).await;
    }
    patch(&partner, &path, json!({"permissions": []}), 200).await;
    for ada in [&login, &token] {
        becomes(ada, "/flows", 403).await;
        get(ada, "/templates", 200).await;
        // Not back by the old token either.
        patch(ada, &path, json!({"permissions": ["flows.read"]}), 403).await;
    }
    patch(
        &partner,
        &format!("/roles/{role}"),
        json!({"permissions": []}),
        200,
    )
    .await;
    becomes(&token, "/templates", 403).await;
    let again = json!({"permissions": ["templates.read"]});
    patch(&partner, &format!("/roles/{role}"), again, 200).await;
    becomes(&token, "/templates", 200).await;
    // Also after a start, before the first request is served.
    let server = server.restart().await.unwrap();
    let token = server.anonymous().unwrap().with_token(token.token());
    get(&token, "/flows", 403).await;
    get(&token, "/templates", 200).await;
    let partner = Client::login(&server.url, "admin@acme", "pw").await.unwrap();
    delete(&partner, &format!("/roles/{role}"), 200).await;
    becomes(&token, "/templates", 403).await;

    patch(&partner, &path, json!({"permissions": ["flows.read"]}), 200).await;
    becomes(&token, "/flows", 200).await;
    delete(&partner, &path, 200).await;
    refused(&token).await;
}

#[tokio::test]
async fn a_child_token_ends_with_its_parent_and_is_bounded_by_its_maker() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let (_, partner) = tenant(&server, &admin, "acme").await;
    let account = own_id(&partner).await;
    let long = json!({"accountId": account, "expiresIn": "1h"});
    let parent = post(&partner, "/tokens", long, 200).await;
    let parent_end = get(&admin, &format!("/tokens/{}", parent.text("/id")), 200).await;
    let parent_client = partner.with_token(parent.text("/token"));
    for asked in [json!(-1), json!("2h")] {
        let body = json!({"accountId": account, "expiresIn": asked});
        let child = post(&parent_client, "/tokens", body, 200).await;
        let known = get(&admin, &format!("/tokens/{}", child.text("/id")), 200).await;
        assert_eq!(known.text("/expireAt"), parent_end.text("/expireAt"));
    }
    let ada = post(&parent_client, "/impersonate", json!({"username": "ada"}), 200).await;
    let ada = partner.with_token(ada.text("/token"));
    get(&ada, "/flows", 200).await;
    delete(&admin, &format!("/tokens/{}", parent.text("/id")), 200).await;
    refused(&ada).await;

    // Refreshing lasts as long as was asked for.
    let short = json!({"accountId": account, "expiresIn": 600});
    let short = post(&admin, "/tokens", short, 200).await;
    let renewed = get(&admin.with_token(short.text("/token")), "/tokens/refresh", 200).await;
    let lasts = async |id: &str| {
        let token = get(&admin, &format!("/tokens/{id}"), 200).await;
        let at = |key: &str| token.text(key).parse::<flowmate_common::Timestamp>().unwrap();
        at("/expireAt").as_millis() - at("/createdAt").as_millis()
    };
    assert_eq!(lasts(renewed.text("/id")).await, 600_000);
    let for_ever = json!({"accountId": account, "expiresIn": -1});
    let for_ever = post(&partner, "/tokens", for_ever, 200).await;
    let held = partner.with_token(for_ever.text("/token"));
    let renewed = get(&held, "/tokens/refresh", 200).await;
    let known = get(&admin, &format!("/tokens/{}", renewed.text("/id")), 200).await;
    assert_eq!(known.at("/expireAt"), &Value::Null);

    // Who made a token for somebody stronger has nothing of it when demoted.
    let (second, _) = member(&server, &admin, "second", json!({"permissions": ["all"]})).await;
    let (third, third_client) = member(&server, &admin, "third", json!({"permissions": ["all"]})).await;
    let body = json!({"accountId": second, "expiresIn": -1});
    let taken = post(&third_client, "/tokens", body, 200).await;
    let taken = admin.with_token(taken.text("/token"));
    get(&taken, "/tenants", 200).await;
    patch(
        &admin,
        &format!("/users/{third}"),
        json!({"permissions": []}),
        200,
    )
    .await;
    becomes(&taken, "/tenants", 403).await;
}

#[tokio::test]
async fn a_refused_impersonation_leaves_nobody_behind() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let (acme, partner) = tenant(&server, &admin, "acme").await;
    let weak = json!({"tenant": acme, "permissions": ["iam.token.create"]});
    let (_, weak) = member(&server, &admin, "weak", weak).await;
    post(&weak, "/impersonate", json!({"username": "abc"}), 403).await;
    assert_eq!(get(&partner, "/users?username=abc", 200).await.body, json!([]));
}

#[tokio::test]
async fn names_are_unique_in_a_tenant_whoever_makes_them() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let (_, partner) = tenant(&server, &admin, "acme").await;
    let (_, rival) = tenant(&server, &admin, "rival").await;
    post(&partner, "/impersonate", json!({"username": "ada"}), 200).await;
    let ada = json!({"username": "ada", "password": "pw"});
    post(&partner, "/users", ada.clone(), 409).await;
    let (other, _) = member(&server, &partner, "other", json!({})).await;
    patch(
        &partner,
        &format!("/users/{other}"),
        json!({"username": "ada"}),
        409,
    )
    .await;
    post(&rival, "/users", ada, 200).await;

    let both = (0..10).map(|number| {
        let partner = partner.clone();
        async move {
            let body = json!({"username": "both", "password": "pw"});
            let path = if number % 2 == 0 { "/users" } else { "/impersonate" };
            partner.post(path, &body).await.unwrap().status
        }
    });
    let answers = join_all(both).await;
    assert!(
        answers.iter().all(|status| [200, 409].contains(status)),
        "{answers:?}"
    );
    let made = get(&partner, "/users?username=both", 200).await;
    assert_eq!(made.body.as_array().unwrap().len(), 1);

    let roles = join_all((0..10).map(|_| {
        let partner = partner.clone();
        async move {
            let body = json!({"name": "Reader", "permissions": []});
            partner.post("/roles", &body).await.unwrap().status
        }
    }));
    let made = roles.await.into_iter().filter(|status| *status == 200);
    assert_eq!(made.count(), 1);
    post(
        &rival,
        "/roles",
        json!({"name": "Reader", "permissions": []}),
        200,
    )
    .await;
    let second = json!({"name": "Writer", "permissions": []});
    let second = post(&partner, "/roles", second, 200).await;
    let second = format!("/roles/{}", second.text("/_id"));
    patch(&partner, &second, json!({"name": "Reader"}), 409).await;
}

#[tokio::test]
async fn a_user_belongs_to_a_tenant_that_is_there() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let nowhere = "5c99ec7e5ed40d3e7512cffa";
    let body = json!({"username": "ada", "password": "pw", "tenant": nowhere});
    post(&admin, "/users", body, 400).await;
    let (ada, _) = member(&server, &admin, "ada", json!({})).await;
    patch(&admin, &format!("/users/{ada}"), json!({"tenant": nowhere}), 400).await;

    // Made while the tenant goes: either refused or gone with it.
    let (acme, partner) = tenant(&server, &admin, "acme").await;
    let made = join_all((0..8).map(|number| {
        let partner = partner.clone();
        async move {
            let body = json!({"username": format!("u{number}")});
            partner.post("/impersonate", &body).await.unwrap().status
        }
    }));
    let path = format!("/tenants/{acme}");
    let (_, deleted) = futures_util::join!(made, admin.delete(&path));
    deleted.unwrap().expect(200).unwrap();
    eventually("the users to go with their tenant", async || {
        let users = admin.get("/users").await?;
        let mut users = users.body.as_array().into_iter().flatten();
        Ok(users.all(|user| user["tenant"] != acme.as_str()).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_is_no_filter_does_not_list_everything() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    for path in ["/tokens", "/roles", "/tenants", "/permissions", "/users"] {
        get(&admin, &format!("{path}?accountId=x"), 400).await;
        get(&admin, &format!("{path}?filter[x]=y"), 400).await;
        get(&admin, &format!("{path}?meta=1&_=123"), 200).await;
    }
}

#[tokio::test]
async fn everybody_changes_the_own_password_and_whoever_knew_the_old_one_is_out() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let (id, ada) = member(&server, &admin, "ada", json!({})).await;
    let other = Client::login(&server.url, "ada", "pw").await.unwrap();
    for body in [
        json!({"password": "new"}),
        json!({"password": "new", "oldPassword": "wrong"}),
        json!({"password": "", "oldPassword": "pw"}),
    ] {
        patch(&ada, "/users/me", body, 400).await;
    }
    let right = json!({"password": "new", "oldPassword": "pw", "firstname": "Ada"});
    patch(&ada, "/users/me", right, 200).await;
    assert_eq!(get(&ada, "/users/me", 200).await.text("/firstname"), "Ada");
    refused(&other).await;
    let old = json!({"username": "ada", "password": "pw"});
    post(&server.anonymous().unwrap(), "/login", old, 401).await;
    Client::login(&server.url, "ada", "new").await.unwrap();

    let path = format!("/users/{id}");
    patch(&admin, &path, json!({"canLogin": false}), 200).await;
    refused(&ada).await;
    let new = json!({"username": "ada", "password": "new"});
    let answer = post(&server.anonymous().unwrap(), "/login", new.clone(), 401).await;
    assert_eq!(answer.text("/message"), "ENTITY_DISABLED");
    patch(&admin, &path, json!({"canLogin": true}), 200).await;
    post(&server.anonymous().unwrap(), "/login", new, 200).await;
    let silent = json!({"username": "silent", "canLogin": false});
    let silent = post(&admin, "/users", silent, 200).await.text("/id").to_owned();
    let silent = get(&admin, &format!("/users/{silent}"), 200).await;
    assert_eq!(silent.at("/canLogin"), false);
    post(&admin, "/users", json!({"username": "nothing"}), 400).await;
}

#[tokio::test]
async fn an_end_user_starts_a_flow_made_of_a_template() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::start().unwrap();
    let (_, partner) = tenant(&server, &admin, "acme").await;
    let template = post(&partner, "/templates", forward(&receiver.url), 201).await;
    let path = format!("/templates/{}", template.text("/data/id"));
    let published = json!({"status": "published"});
    patch(&partner, &path, published, 200).await;
    let ada = post(&partner, "/impersonate", json!({"username": "ada"}), 200).await;
    let ada = partner.with_token(ada.text("/token"));
    let flow = post(&ada, &format!("{path}/generate"), json!({}), 201).await;
    let start = format!("/flows/{}/start", flow.text("/data/id"));
    post(&ada, &start, Value::Null, 200).await;
}

#[tokio::test]
async fn guesses_are_counted_before_they_are_evaluated_and_lock_nobody_else_out() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    member(&server, &admin, "ada", json!({})).await;
    let anonymous = server.anonymous().unwrap();
    let guess = |name: &str, password: &str| {
        let body = json!({"username": name, "password": password});
        let anonymous = anonymous.clone();
        async move { anonymous.post("/login", &body).await.unwrap() }
    };
    let answers = join_all((0..60).map(|_| guess("ada", "wrong"))).await;
    let wrong = answers.iter().filter(|answer| answer.status == 401);
    assert!(wrong.count() <= 20, "few are evaluated");
    let refused = answers.iter().filter(|answer| answer.status == 429);
    for answer in refused.clone() {
        assert!(answer.retry_after.is_some_and(|seconds| seconds >= 1));
    }
    assert!(refused.count() >= 40);
    // Other names are not concerned.
    server.admin().await.unwrap();

    let unknown = guess("nobody", "wrong").await;
    assert_eq!(
        (unknown.status, unknown.text("/message")),
        (401, "PASSWORD_INCORRECT")
    );
    let long = guess(&"x".repeat(400), "wrong").await;
    assert_eq!((long.status, long.text("/message")), (401, "PASSWORD_INCORRECT"));
}
