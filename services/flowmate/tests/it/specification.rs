//! The specification is the one in the tree, and its page needs nobody else.

use std::{path::PathBuf, process::Command};

use serde_json::Value;

use crate::server;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../openapi")
}

fn merged() -> Value {
    serde_json::from_str(&std::fs::read_to_string(directory().join("flowmate.json")).unwrap()).unwrap()
}

#[test]
fn the_specifications_in_the_tree_are_fresh() {
    let update = std::env::vars().any(|(name, _)| name == "UPDATE_OPENAPI");
    let services = flowmate::SERVICES.iter().map(|(name, _)| Some(*name));
    for service in services.chain([None]) {
        let output = Command::new(env!("CARGO_BIN_EXE_flowmate"))
            .arg("openapi")
            .args(service)
            .output()
            .unwrap();
        let present = String::from_utf8(output.stdout).unwrap();
        let file = directory().join(format!("{}.json", service.unwrap_or("flowmate")));
        if update {
            std::fs::write(&file, &present).unwrap();
        }
        let stored = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            stored == present,
            "{} is not what the code says; run `make openapi` and look at the difference",
            file.display()
        );
    }
}

/// Parameters, bodies and answers: clients and readers begin with an example.
#[test]
fn everything_has_an_example() {
    let spec = merged();
    for (path, item) in spec["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                assert!(
                    parameter.get("example").is_some(),
                    "{method} {path}: {}",
                    parameter["name"]
                );
                assert!(
                    parameter["description"].is_string(),
                    "{method} {path}: {}",
                    parameter["name"]
                );
            }
            let bodies = operation["responses"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(_, body)| body);
            for body in bodies.chain(operation.get("requestBody")) {
                for (_, media) in body["content"].as_object().into_iter().flatten() {
                    assert!(media.get("example").is_some(), "{method} {path}: {body}");
                }
            }
        }
    }
}

#[test]
fn every_operation_has_an_id_of_its_own_and_its_errors() {
    let spec = merged();
    let mut ids = std::collections::BTreeSet::new();
    for (path, item) in spec["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{id} is there twice");
            let responses = operation["responses"].as_object().unwrap();
            if operation["security"]
                .as_array()
                .is_some_and(|schemes| !schemes.is_empty())
            {
                assert!(responses.contains_key("401"), "{method} {path} does not say 401");
            }
        }
    }
    assert!(ids.len() >= 70, "{ids:?}");
}

#[tokio::test]
async fn the_page_is_served_from_here_alone() {
    let server = server().await;
    let anonymous = server.anonymous().unwrap();
    let page = anonymous.get("/docs").await.unwrap().expect(200).unwrap();
    let page = page.body.as_str().unwrap().to_owned();
    assert!(page.contains("swagger-ui"));
    let start = anonymous
        .get("/docs/swagger-initializer.js")
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    let start = start.body.as_str().unwrap().to_owned();
    assert!(
        start.contains("/openapi.json") && start.contains("\"validatorUrl\": \"none\""),
        "{start}"
    );
    for text in [page, start] {
        let other = text
            .find("://")
            .map(|position| &text[position.saturating_sub(20)..position + 20]);
        assert_eq!(other, None, "names another host");
    }
    let spec = anonymous.get("/openapi.json").await.unwrap().expect(200).unwrap();
    assert_eq!(spec.text("/info/title"), "FlowMate");
}
