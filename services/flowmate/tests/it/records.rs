//! Logs and usage counts: what ran, told and counted (contract 2.5, 3.7, 4.1, 4.2).

use flowmate_testkit::{Client, Receiver, Reply};
use serde_json::{Value, json};

use crate::{
    GATEWAY,
    accounts::{end_user, tenant},
    calls::{get, post},
    chain, forward, node, receive, server, transform,
};

fn lines(answer: &flowmate_testkit::Answer) -> Vec<(String, String)> {
    let lines = answer.at("/data").as_array().unwrap().iter();
    lines
        .map(|line| {
            (
                line["stepId"].as_str().unwrap().to_owned(),
                line["level"].as_str().unwrap().to_owned(),
            )
        })
        .collect()
}

#[tokio::test]
async fn logs_tell_each_step_and_their_pages_stay() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let (acme, partner) = tenant(&server, &admin, "acme").await;
    let receiver = Receiver::responding(|request, _| match request.body["ok"].as_bool() {
        Some(true) => Reply::json(200, "{}"),
        _ => Reply::json(422, r#"{"why":"not ok"}"#),
    })
    .unwrap();
    let flow = partner.active_flow(&forward(&receiver.url)).await.unwrap();
    let other = partner.active_flow(&forward(&receiver.url)).await.unwrap();
    for (flow, ok) in [(&flow, true), (&flow, false), (&other, true)] {
        let execution = partner.webhook(flow, &json!({"ok": ok})).await.unwrap();
        partner.ended(&execution).await.unwrap();
    }
    let line = |step: &str, level: &str| (step.to_owned(), level.to_owned());
    let all = get(&partner, "/logs", 200).await;
    assert_eq!(
        lines(&all),
        [
            line("out", "info"),
            line("in", "info"),
            line("out", "error"),
            line("in", "info"),
            line("out", "info"),
            line("in", "info"),
        ]
    );
    assert_eq!(all.text("/data/0/tenant"), acme);
    let errors = get(
        &partner,
        &format!("/logs?showErrors=true&filter[flowId]={flow}"),
        200,
    )
    .await;
    assert_eq!(lines(&errors), [line("out", "error")]);
    let message = errors.text("/data/0/message");
    assert!(
        message.starts_with("Error: http.request: ") && message.contains("422"),
        "{message}"
    );
    assert_eq!(
        lines(&get(&partner, "/logs?filter%5BstepId%5D=in", 200).await).len(),
        3
    );
    assert_eq!(
        lines(&get(&partner, &format!("/logs?filter[tenant]={acme}"), 200).await).len(),
        6
    );
    assert!(lines(&get(&partner, "/logs?filter[tenant]=other", 200).await).is_empty());
    let (_, rival) = tenant(&server, &admin, "rival").await;
    assert!(lines(&get(&rival, "/logs", 200).await).is_empty());

    let path = format!("/flows/{flow}/steps/out/logs?pageSize=1");
    let first = get(&partner, &path, 200).await;
    let token = first.text("/meta/nextPageToken").to_owned();
    let again = partner.webhook(&flow, &json!({"ok": true})).await.unwrap();
    partner.ended(&again).await.unwrap();
    let second = get(&partner, &format!("{path}&pageToken={token}"), 200).await;
    assert_eq!(
        (lines(&first), lines(&second)),
        (vec![line("out", "error")], vec![line("out", "info")])
    );
    assert_eq!(second.at("/meta/nextPageToken"), &Value::Null);
    get(&rival, &path, 404).await;
    get(&partner, "/flows/xyz/steps/out/logs", 400).await;
    for query in [
        "pageSize=0",
        "pageSize=x",
        "pageToken=x",
        "showErrors=maybe",
        "filter[flow]=x",
    ] {
        get(&partner, &format!("/logs?{query}"), 400).await;
    }
}

async fn counts(client: &Client, group: &str) -> Vec<(String, u64)> {
    let usage = get(client, &format!("/icenter/executions?groupby={group}"), 200).await;
    let rows = usage.at("/data").as_array().unwrap().iter();
    rows.map(|row| {
        (
            row["_id"].as_str().unwrap().to_owned(),
            row["executions"].as_u64().unwrap(),
        )
    })
    .collect()
}

/// Events are delivered again after a crash; the counts are what ran.
#[tokio::test]
async fn usage_is_exact_after_redelivery_and_restart() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let (acme, partner) = tenant(&server, &admin, "acme").await;
    let ada = end_user(&partner, "ada").await;
    let ada_id = get(&ada, "/users/me", 200).await.text("/_id").to_owned();
    let route = node(
        "route",
        GATEWAY,
        "route",
        &json!({"rules": [{"when": "true", "to": "map"}]}),
    );
    let body = chain(&[receive(), route, transform("map", "{}")]);
    let flow = post(&partner, "/flows", body.clone(), 201)
        .await
        .text("/data/id")
        .to_owned();
    partner.start_flow(&flow).await.unwrap();
    let template = post(&partner, "/templates", body, 201)
        .await
        .text("/data/id")
        .to_owned();
    let stranger = server.anonymous().unwrap();
    post(
        &stranger,
        &format!("/templates/{template}/generate"),
        json!({}),
        401,
    )
    .await;
    for _ in 0..20 {
        let execution = partner.webhook(&flow, &json!({})).await.unwrap();
        partner.ended(&execution).await.unwrap();
    }
    let expected = counts(&partner, "flow").await;
    assert_eq!(expected, [(flow.clone(), 40)], "control components do not count");

    // What was not committed yet is delivered again.
    let mut server = server;
    server.kill().await.unwrap();
    let server = server.restart().await.unwrap();
    let partner = Client::login(&server.url, "admin@acme", "pw").await.unwrap();
    let execution = partner.webhook(&flow, &json!({})).await.unwrap();
    partner.ended(&execution).await.unwrap();
    assert_eq!(counts(&partner, "flow").await, [(flow.clone(), 42)]);
    let users = get(&partner, "/icenter/executions", 200).await;
    let me = get(&partner, "/users/me", 200).await;
    assert_eq!(
        users.body,
        json!({"data": [{"_id": me.text("/_id"), "user": me.text("/_id"), "tenant": acme, "allFlows": [flow],
            "executions": 42, "username": "admin@acme"}]})
    );
    let flows = get(&partner, "/icenter/executions?groupby=flow", 200).await;
    assert_eq!(
        flows.body,
        json!({"data": [{"_id": flow, "user": me.text("/_id"), "flow": flow, "tenant": acme, "executions": 42,
            "username": "admin@acme"}]})
    );
    let components = get(&partner, "/icenter/executions?groupby=component", 200).await;
    assert_eq!(components.body["data"].as_array().unwrap().len(), 2);
    assert_eq!(components.at("/data/0/allFlows"), &json!([flow]));

    // Whole UTC days, both inclusive.
    let today = get(&partner, &format!("/executions/{execution}"), 200)
        .await
        .text("/data/startedAt")[..10]
        .to_owned();
    let on = |query: String| {
        let partner = partner.clone();
        async move {
            let usage = get(&partner, &format!("/icenter/executions?{query}"), 200).await;
            usage.at("/data").as_array().unwrap().len()
        }
    };
    assert_eq!(on(format!("start={today}&end=2999-12-31")).await, 1);
    assert_eq!(on("start=2020-01-01&end=2020-12-31".into()).await, 0);
    assert_eq!(
        on(format!("start=2020-01-01&end={today}&groupby=%20component")).await,
        2
    );
    let ada = server.anonymous().unwrap().with_token(ada.token());
    assert!(
        counts(&ada, "user")
            .await
            .iter()
            .all(|(id, _)| *id == ada_id || *id == me.text("/_id"))
    );
}
