//! Calls in one line: the answer, which has to have the expected status.

use anyhow::Context;
use flowmate_testkit::{Answer, Client, Shape, eventually};
use reqwest::Method;
use serde_json::Value;

use crate::shape;

async fn call(client: &Client, method: Method, path: &str, body: Option<&Value>, status: u16) -> Answer {
    let named = format!("{method} {path}");
    let mut request = client.request(method, path);
    if let Some(body) = body {
        request = request
            .header("content-type", "application/json")
            .body(body.to_string());
    }
    let answer = client.send(request).await.unwrap();
    answer.expect(status).context(named).unwrap()
}

/// The token is refused: at once where all services are in one process, else as soon as they have heard of it.
pub(crate) async fn refused(client: &Client) {
    let refused = eventually("the token to be refused", async || {
        let status = client.get("/flows").await?.status;
        Ok((status == 401).then_some(()))
    });
    if shape() == Shape::Embedded {
        get(client, "/flows", 401).await;
    }
    refused.await.unwrap();
}

pub(crate) async fn get(client: &Client, path: &str, status: u16) -> Answer {
    call(client, Method::GET, path, None, status).await
}

pub(crate) async fn post(client: &Client, path: &str, body: Value, status: u16) -> Answer {
    call(client, Method::POST, path, Some(&body), status).await
}

pub(crate) async fn patch(client: &Client, path: &str, body: Value, status: u16) -> Answer {
    call(client, Method::PATCH, path, Some(&body), status).await
}

pub(crate) async fn put(client: &Client, path: &str, body: Value, status: u16) -> Answer {
    call(client, Method::PUT, path, Some(&body), status).await
}

pub(crate) async fn delete(client: &Client, path: &str, status: u16) -> Answer {
    call(client, Method::DELETE, path, None, status).await
}
