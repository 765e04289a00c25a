//! The specification, used: clients generated from it play the main story against a running server, a linter reads it,
//! and schemathesis looks for answers that it does not describe.

use std::path::PathBuf;

use flowmate_testkit::{Client, Server};
use serde_json::json;

use crate::{
    accounts::tenant,
    calls::post,
    server, start,
    tools::{self, command, present, succeed},
};

fn openapi() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../openapi")
}

/// Generates a client and plays the story with it.
async fn play(language: &str, needs: &[&str]) {
    if !present(needs).await {
        return;
    }
    let server = server().await;
    let script = openapi().join("clients/play.sh");
    let told = succeed(
        command("bash")
            .arg(script)
            .args([language, &server.url, Server::PASSWORD])
            .env("CLIENTS_DIR", tools::directory().join("clients")),
    )
    .await;
    assert!(told.contains(&format!("{language}: played")), "{told}");
    let flows = server.admin().await.unwrap().get("/flows").await.unwrap();
    assert_eq!(flows.at("/meta/total"), 0, "the story ends with nothing left");
}

#[tokio::test]
async fn a_typescript_client_plays_the_story() {
    play("typescript", &["node", "tsc", "openapi-typescript"]).await;
}

#[tokio::test]
async fn a_python_client_plays_the_story() {
    play("python", &["java", "openapi-generator-cli"]).await;
}

#[tokio::test]
async fn a_java_client_plays_the_story() {
    play("java", &["java", "mvn", "openapi-generator-cli"]).await;
}

#[tokio::test]
async fn a_go_client_plays_the_story() {
    play("go", &["java", "go", "openapi-generator-cli"]).await;
}

#[tokio::test]
async fn a_rust_client_plays_the_story() {
    play("rust", &["java", "cargo", "openapi-generator-cli"]).await;
}

#[tokio::test]
async fn the_linter_finds_nothing_in_the_specifications() {
    if !present(&["redocly"]).await {
        return;
    }
    succeed(
        command("redocly")
            .args(["lint", "--config", "redocly.yaml", "flowmate.json"])
            .env("REDOCLY_TELEMETRY", "off")
            .env("REDOCLY_SUPPRESS_UPDATE_NOTICE", "true")
            .current_dir(openapi()),
    )
    .await;
}

/// Every operation with generated requests, good and bad: no fault of ours, nothing that the specification does not say.
async fn fuzz(server: &Server, client: &Client, seed: &str) {
    let report = tempfile::tempdir().unwrap();
    succeed(
        command("bash")
            .arg(openapi().join("fuzz.sh"))
            .args([&server.url, client.token()])
            .env("FUZZ_SEED", seed)
            .current_dir(report.path()),
    )
    .await;
}

#[tokio::test]
async fn an_administrator_finds_no_answer_that_the_specification_does_not_describe() {
    if !present(&["schemathesis"]).await {
        return;
    }
    let server = start(&[("FLOWMATE__WEBHOOK__NOT_FOUND_DELAY_MS", "1")]).await;
    fuzz(&server, &server.admin().await.unwrap(), "1").await;
}

#[tokio::test]
async fn an_end_user_finds_no_answer_that_the_specification_does_not_describe() {
    if !present(&["schemathesis"]).await {
        return;
    }
    let server = start(&[("FLOWMATE__WEBHOOK__NOT_FOUND_DELAY_MS", "1")]).await;
    let admin = server.admin().await.unwrap();
    let (_, partner) = tenant(&server, &admin, "acme").await;
    let ada = post(&partner, "/impersonate", json!({"username": "ada"}), 200).await;
    fuzz(&server, &partner.with_token(ada.text("/token")), "2").await;
}
