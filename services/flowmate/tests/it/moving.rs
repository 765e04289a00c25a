//! From the embedded shape to the distributed one: flows go on, nobody's password or token changes.

use std::process::Stdio;

use flowmate_testkit::{Client, Receiver, Server, Shape};
use serde_json::{Value, json};

use crate::{
    accounts::{end_user, tenant},
    calls::{get, post},
    forward, quick, shape,
    tools::succeed,
};

fn flowmate(variables: &[(String, String)]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_flowmate"));
    command
        .envs(variables.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::null());
    command
}

#[tokio::test]
async fn everything_moves_from_embedded_to_distributed() {
    // One test for both shapes: it is played where the other's servers run.
    if shape() == Shape::Embedded {
        return;
    }
    let binary = env!("CARGO_BIN_EXE_flowmate");
    let mut embedded = Server::shaped(Shape::Embedded, binary, &quick()).await.unwrap();
    let admin = embedded.admin().await.unwrap();
    let (acme, partner) = tenant(&embedded, &admin, "acme").await;
    let ada = end_user(&partner, "ada").await;
    post(&partner, "/roles", json!({"name": "Integrator"}), 200).await;
    let receiver = Receiver::start().unwrap();
    let flow = partner.active_flow(&forward(&receiver.url)).await.unwrap();
    let mut named = forward(&receiver.url);
    named["name"] = json!("Müller $where 東京");
    post(&partner, "/templates", named, 201).await;
    let component = json!({"name": "crm", "access": "public"});
    post(&admin, "/components", component, 201).await;
    for number in 0..5 {
        let execution = partner.webhook(&flow, &json!({"n": number})).await.unwrap();
        partner.ended(&execution).await.unwrap();
    }
    let asked = [
        "/flows",
        "/templates",
        "/roles",
        "/executions",
        "/icenter/executions",
        "/components",
        "/logs",
    ];
    let mut before: Vec<Value> = Vec::new();
    for path in asked {
        before.push(get(&partner, path, 200).await.body);
    }
    assert!(embedded.terminate().await.unwrap());

    let moved = tempfile::tempdir().unwrap();
    let target = moved.path().join("export");
    let data = (
        "FLOWMATE__DATA__DIR".to_owned(),
        embedded.data().to_string_lossy().into_owned(),
    );
    let told = succeed(flowmate(&[data]).arg("export").arg(&target)).await;
    assert!(told.contains("5 executions"), "{told}");

    let keys = target.join("keys").to_string_lossy().into_owned();
    let more = [&quick()[..], &[("FLOWMATE__IAM__KEY_DIRECTORY", &*keys)]].concat();
    let import = async |variables: Vec<(String, String)>| {
        let told = succeed(flowmate(&variables).arg("import").arg(&target)).await;
        assert!(told.contains("the same"), "{told}");
        let again = flowmate(&variables)
            .arg("import")
            .arg(&target)
            .output()
            .await
            .unwrap();
        assert!(!again.status.success());
        assert!(String::from_utf8_lossy(&again.stderr).contains("is not empty"));
    };
    let server = Server::moved(binary, &more, import).await.unwrap();

    let partner = server.anonymous().unwrap().with_token(partner.token());
    for (path, before) in asked.into_iter().zip(before) {
        assert_eq!(get(&partner, path, 200).await.body, before, "{path}");
    }
    let ada = partner.with_token(ada.token());
    assert_eq!(get(&ada, "/users/me", 200).await.text("/tenant"), acme);
    Client::login(&server.url, "admin@acme", "pw").await.unwrap();
    let execution = partner.webhook(&flow, &json!({"n": 6})).await.unwrap();
    assert_eq!(
        partner.ended(&execution).await.unwrap().text("/data/status"),
        "success"
    );
    assert_eq!(receiver.received().len(), 6);
    let usage = get(&partner, "/icenter/executions", 200).await;
    assert_eq!(usage.at("/data/0/executions"), 12, "counted on");
}
