//! A client of the public API.

use anyhow::Context;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::eventually;

/// An API client, perhaps with a token. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: Option<String>,
}

/// What the API answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
    /// The body; a text where it is not JSON.
    pub body: Value,
}

impl Answer {
    /// The value at this JSON pointer, null where there is none.
    pub fn at(&self, pointer: &str) -> &Value {
        self.body.pointer(pointer).unwrap_or(&Value::Null)
    }

    /// The text at this JSON pointer, empty where there is none.
    pub fn text(&self, pointer: &str) -> &str {
        self.at(pointer).as_str().unwrap_or_default()
    }

    /// Itself, if it has this status.
    pub fn expect(self, status: u16) -> anyhow::Result<Self> {
        anyhow::ensure!(
            self.status == status,
            "expected {status}, got {}: {}",
            self.status,
            self.body
        );
        Ok(self)
    }
}

impl Client {
    /// A client without a token.
    pub fn new(url: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self {
            http,
            url: url.to_owned(),
            token: None,
        })
    }

    /// A client with the token of this user.
    pub async fn login(url: &str, username: &str, password: &str) -> anyhow::Result<Self> {
        let client = Self::new(url)?;
        let answer = client
            .post("/login", &json!({ "username": username, "password": password }))
            .await?;
        let answer = answer.expect(200)?;
        Ok(client.with_token(answer.text("/token")))
    }

    /// The same client with another token.
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    /// The token.
    pub fn token(&self) -> &str {
        self.token.as_deref().unwrap_or_default()
    }

    /// A request to be completed by hand.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request.
    pub async fn send(&self, request: RequestBuilder) -> anyhow::Result<Answer> {
        let response = request.send().await?;
        let status = response.status().as_u16();
        let retry_after = response.headers().get("retry-after");
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        let text = response.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(Answer {
            status,
            retry_after,
            body,
        })
    }

    /// `GET`.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(self.request(Method::GET, path)).await
    }

    /// `POST` with JSON.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send(json_body(self.request(Method::POST, path), body)).await
    }

    /// `PATCH` with JSON.
    pub async fn patch(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send(json_body(self.request(Method::PATCH, path), body))
            .await
    }

    /// `DELETE`.
    pub async fn delete(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// Creates a flow; returns its id.
    pub async fn create_flow(&self, body: &Value) -> anyhow::Result<String> {
        let answer = self
            .post("/flows", body)
            .await?
            .expect(u16::from(StatusCode::CREATED))?;
        Ok(answer.text("/data/id").to_owned())
    }

    /// Creates a flow and starts it; returns its id when it is active.
    pub async fn active_flow(&self, body: &Value) -> anyhow::Result<String> {
        let id = self.create_flow(body).await?;
        self.start_flow(&id).await?;
        Ok(id)
    }

    /// Starts a flow; returns when it is active.
    pub async fn start_flow(&self, id: &str) -> anyhow::Result<()> {
        self.post(&format!("/flows/{id}/start"), &Value::Null)
            .await?
            .expect(200)?;
        let flow = self.settled(id).await?;
        anyhow::ensure!(
            flow.text("/data/status") == "active",
            "the flow did not start: {}",
            flow.body
        );
        Ok(())
    }

    /// The flow, as soon as it is neither starting nor stopping.
    pub async fn settled(&self, id: &str) -> anyhow::Result<Answer> {
        eventually("the flow to settle", async || {
            let flow = self.get(&format!("/flows/{id}")).await?.expect(200)?;
            Ok(matches!(flow.text("/data/status"), "active" | "inactive").then_some(flow))
        })
        .await
    }

    /// Stops the flow; returns when it is inactive.
    pub async fn stop_flow(&self, id: &str) -> anyhow::Result<()> {
        self.post(&format!("/flows/{id}/stop"), &Value::Null)
            .await?
            .expect(200)?;
        let flow = self.settled(id).await?;
        anyhow::ensure!(flow.text("/data/status") == "inactive", "{}", flow.body);
        Ok(())
    }

    /// Sends a webhook; returns the execution's id.
    pub async fn webhook(&self, flow: &str, body: &Value) -> anyhow::Result<String> {
        let answer = self.post(&format!("/webhooks/{flow}"), body).await?.expect(200)?;
        Ok(answer.text("/data/executionId").to_owned())
    }

    /// The execution with its steps, as soon as it has ended.
    pub async fn ended(&self, execution: &str) -> anyhow::Result<Answer> {
        eventually("the execution to end", async || {
            let answer = self.get(&format!("/executions/{execution}")).await?;
            let status = answer.text("/data/status");
            let has_ended = !matches!(status, "running" | "waiting");
            Ok((answer.status == 200 && has_ended).then_some(answer))
        })
        .await
        .context(execution.to_owned())
    }

    /// The execution, as soon as it waits for another try.
    pub async fn waits(&self, execution: &str) -> anyhow::Result<Answer> {
        eventually("the execution to wait", async || {
            let answer = self.get(&format!("/executions/{execution}")).await?;
            Ok((answer.text("/data/status") == "waiting").then_some(answer))
        })
        .await
        .context(execution.to_owned())
    }

    /// How many executions of the flow have this status.
    pub async fn executions(&self, flow: &str, status: &str) -> anyhow::Result<u64> {
        let path = format!("/executions?page[size]=1&filter[flowId]={flow}&filter[status]={status}");
        // 503 says to come again: a story that fills the cores starves the stand-in for the database, too.
        let list = eventually("a list of executions", async || {
            let answer = self.get(&path).await?;
            Ok((answer.status != 503).then_some(answer))
        });
        list.await?
            .expect(200)?
            .at("/meta/total")
            .as_u64()
            .context("no total")
    }

    /// Returns when so many executions of the flow have this status.
    pub async fn all_are(&self, flow: &str, status: &str, count: u64) -> anyhow::Result<()> {
        eventually(&format!("{count} executions to be {status}"), async || {
            Ok((self.executions(flow, status).await? == count).then_some(()))
        })
        .await
    }

    /// Sends the same flow many webhooks, sixteen at a time: `{"n": 0}`, `{"n": 1}` and so on.
    pub async fn webhooks(&self, flow: &str, count: u64) -> anyhow::Result<()> {
        const LANES: u64 = 16;
        let mut lanes = tokio::task::JoinSet::new();
        for lane in 0..LANES.min(count) {
            let (client, flow) = (self.clone(), flow.to_owned());
            lanes.spawn(async move {
                let mut number = lane;
                while number < count {
                    client.webhook(&flow, &json!({ "n": number })).await?;
                    number += LANES;
                }
                anyhow::Ok(())
            });
        }
        lanes.join_all().await.into_iter().collect()
    }
}

fn json_body(request: RequestBuilder, body: &Value) -> RequestBuilder {
    request
        .header("content-type", "application/json")
        .body(body.to_string())
}
