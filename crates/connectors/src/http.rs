//! `http`: calls other systems.

mod address;
mod answer;
mod client;
mod content;
mod hops;
mod pairs;
mod retry;
mod unpack;
#[cfg(test)]
mod wire;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use flowmate_common::model::{Json, Message, Node};
use flowmate_flow_model::template_text::Fill;
use reqwest::{Method, Url, header};
use serde_json::{Value, json as value};

pub(crate) use self::client::Client;
use self::{address::MAX_URL, answer::send, pairs::pairs};
pub use self::{client::Settings, retry::RetryPolicy};
use crate::{
    Action, Attempt, Call, Effect, Emitted, Failure, StepError,
    component::{BuiltIn, BuiltInFunction, object_schema},
    fields::Fields,
    whole,
};

pub(crate) const COMPONENT: BuiltIn = BuiltIn {
    id: "666c6f776d61746500000002",
    name: "http",
    description: "Calls other systems over HTTP.",
    is_control: false,
    functions: &[BuiltInFunction {
        name: "request",
        kind: "action",
        description: "Sends a request and emits {statusCode, headers, body}.",
        schema,
        compile: |registry, node, _| {
            let request = Request::compile(node, Arc::clone(&registry.http))?;
            Ok(Action::Effect(Arc::new(request)))
        },
    }],
};
const DEFAULT_TIMEOUT: u64 = 30_000;
const MAX_TIMEOUT: u64 = 300_000;
/// Headers of a request; the library ends with a panic where they are some ten thousand.
const MAX_HEADERS: usize = 256;

/// The schema of the fields.
fn schema() -> Value {
    let text = |description: &str| value!({"type": "string", "description": description});
    let values = |description: &str| value!({"type": "object", "additionalProperties": true, "description": description});
    object_schema(
        &value!({
            "method": {"type": "string", "enum": ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"], "default": "POST"},
            "url": text("Where to; http or https. A value in the path is one encoded segment and may not be absent."),
            "headers": values("Header values by name; null is left out."),
            "query": values("Query parameters by name; a list repeats the parameter, an object's fields are name[field], null is left out."),
            "body": {"description": "What to send; without it the message's data (not with GET and HEAD)."},
            "bodyType": {"type": "string", "enum": ["json", "form", "text"], "default": "json"},
            "timeoutMs": {"type": "integer", "minimum": 1, "maximum": MAX_TIMEOUT, "default": DEFAULT_TIMEOUT}
        }),
        &["url"],
    )
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyType {
    Json,
    Form,
    Text,
}

/// A request, compiled for one node.
pub(crate) struct Request {
    client: Arc<Client>,
    method: Fill,
    url: Fill,
    headers: Option<Fill>,
    query: Option<Fill>,
    body: Option<Fill>,
    body_type: BodyType,
    timeout: Duration,
}

impl Request {
    pub(crate) fn compile(node: &Node, client: Arc<Client>) -> Result<Self, String> {
        let known = [
            "method",
            "url",
            "headers",
            "query",
            "body",
            "bodyType",
            "timeoutMs",
        ];
        let fields = Fields::of(node, &known)?;
        let url = fields
            .text("url")?
            .filter(|url| !url.is_empty())
            .ok_or("field \"url\" is missing.")?;
        if !url.contains("{{") {
            let parsed = url
                .parse::<Url>()
                .map_err(|error| format!("field \"url\": {error}."))?;
            client
                .guard
                .check(&parsed)
                .map_err(|reason| format!("field \"url\": {reason}."))?;
        }
        let method = fields.text("method")?.unwrap_or("POST");
        if !method.contains("{{") {
            parse_method(method)?;
        }
        for key in ["headers", "query"] {
            if fields.get(key).is_some_and(|value| !value.is_object()) {
                return Err(format!("field \"{key}\" has to be an object."));
            }
        }
        let body_type = match fields.text("bodyType")? {
            None | Some("json") => BodyType::Json,
            Some("form") => BodyType::Form,
            Some("text") => BodyType::Text,
            Some(other) => {
                return Err(format!(
                    "field \"bodyType\" is \"{other}\"; it may be json, form or text."
                ));
            }
        };
        let timeout = match fields.get("timeoutMs") {
            None => DEFAULT_TIMEOUT,
            Some(value) => value
                .as_u64()
                .filter(|timeout| (1..=MAX_TIMEOUT).contains(timeout))
                .ok_or_else(|| format!("field \"timeoutMs\" is {value}; it may be 1 to {MAX_TIMEOUT}."))?,
        };
        let (headers, query, body) = (
            fields.fill("headers")?,
            fields.fill("query")?,
            fields.fill("body")?,
        );
        let method = fields.fill("method")?.unwrap_or(Fill::Plain("POST".into()));
        let url = fields.fill("url")?.unwrap_or(Fill::Plain(Value::Null));
        let timeout = Duration::from_millis(timeout);
        Ok(Self {
            client,
            method,
            url,
            headers,
            query,
            body,
            body_type,
            timeout,
        })
    }

    fn needs_message(&self) -> bool {
        let plain = |fill: &Option<Fill>| fill.as_ref().is_none_or(Fill::is_plain);
        let parts = [&self.headers, &self.query, &self.body];
        !(self.method.is_plain() && self.url.is_plain() && parts.into_iter().all(plain))
    }

    /// The request for this message, how errors call it, and host and port.
    fn build(&self, call: &Call<'_>) -> Result<(reqwest::Request, String, String), StepError> {
        let message: Json = if self.needs_message() {
            whole(call.message)?
        } else {
            call.message.data.clone()
        };
        // Each field has chance of its own.
        let fill = |name: &str, fill: &Fill| {
            let filled = fill.fill(&message, &call.moment.within(name));
            filled.map_err(StepError::new)
        };
        let method = parse_method(&text(&fill("method", &self.method)?)).map_err(StepError::new)?;
        let address = address::fill(&self.url, &message, &call.moment.within("url"))?;
        let mut url = address
            .parse::<Url>()
            .map_err(|error| StepError::new(format!("\"{address}\" is not a URL: {error}")))?;
        self.client.guard.check(&url).map_err(StepError::new)?;
        let name = format!("{method} {}", without_secrets(&url));
        let target = authority(&url);
        if let Some(Value::Object(query)) = self
            .query
            .as_ref()
            .map(|query| fill("query", query))
            .transpose()?
        {
            let pairs = pairs(&query).map_err(StepError::new)?;
            // Where nothing is to be added, no question mark is either.
            if !pairs.is_empty() {
                url.query_pairs_mut().extend_pairs(pairs);
            }
        }
        if url.as_str().len() > MAX_URL {
            return Err(StepError::new(format!("the URL has more than {MAX_URL} bytes")));
        }
        let no_body = matches!(method, Method::GET | Method::HEAD);
        let mut request = self.client.http.request(method, url);
        request = request.header("idempotency-key", format!("{}-{}", call.execution, call.step_run));
        let content = match &self.body {
            Some(body) => Some(self.encode(&fill("body", body)?)?),
            None if no_body => None,
            None if self.body_type == BodyType::Json => {
                Some(("application/json", call.message.data.get().to_owned()))
            }
            None => Some(self.encode(&serde_json::from_str(call.message.data.get()).unwrap_or_default())?),
        };
        if let Some((content_type, body)) = content {
            request = request.header(header::CONTENT_TYPE, content_type).body(body);
        }
        if let Some(Value::Object(headers)) = self
            .headers
            .as_ref()
            .map(|headers| fill("headers", headers))
            .transpose()?
        {
            request = request.headers(header_map(&headers)?);
        }
        let mut request = request.build().map_err(StepError::new)?;
        let headers = request.headers_mut();
        // A part of a packed answer cannot be unpacked.
        if !headers.contains_key(header::RANGE) {
            let accepted = header::HeaderValue::from_static(unpack::ACCEPTED);
            headers.entry(header::ACCEPT_ENCODING).or_insert(accepted);
        }
        Ok((request, name, target))
    }

    fn encode(&self, body: &Value) -> Result<(&'static str, String), StepError> {
        match (self.body_type, body) {
            (BodyType::Json, body) => Ok(("application/json", body.to_string())),
            (BodyType::Text, body) => Ok(("text/plain; charset=utf-8", text(body))),
            (BodyType::Form, Value::Object(fields)) => {
                let mut form = Url::parse("form:").map_err(StepError::new)?;
                let pairs = pairs(fields).map_err(StepError::new)?;
                form.query_pairs_mut().extend_pairs(pairs);
                Ok((
                    "application/x-www-form-urlencoded",
                    form.query().unwrap_or_default().to_owned(),
                ))
            }
            (BodyType::Form, other) => {
                let kind = if other.is_array() {
                    "a list"
                } else {
                    "not an object"
                };
                Err(StepError::new(format!(
                    "bodyType \"form\" needs an object to send, the body is {kind}"
                )))
            }
        }
    }
}

impl Effect for Request {
    fn prepare(&self, call: &Call<'_>) -> Result<Box<dyn Attempt>, StepError> {
        let (request, name, target) = self.build(call)?;
        Ok(Box::new(Prepared {
            request,
            name,
            target,
            message: call.message.clone(),
            client: Arc::clone(&self.client),
            timeout: self.timeout,
        }))
    }

    fn has_expressions(&self) -> bool {
        self.needs_message()
    }

    fn retry(&self) -> RetryPolicy {
        self.client.retry
    }
}

/// A request that is ready to be sent.
struct Prepared {
    request: reqwest::Request,
    /// How errors call it.
    name: String,
    /// Host and port.
    target: String,
    message: Message,
    client: Arc<Client>,
    /// For all of it: redirects, and the answer to its end.
    timeout: Duration,
}

#[async_trait]
impl Attempt for Prepared {
    fn target(&self) -> &str {
        &self.target
    }

    async fn run(&self) -> Result<Vec<Emitted>, Failure> {
        let sent = tokio::time::timeout(self.timeout, send(&self.client, &self.request)).await;
        let sent = sent.unwrap_or_else(|_| Err(Failure::transient("the receiver did not answer in time")));
        let data = sent.map_err(|failure| Failure {
            message: format!("{}: {}", self.name, failure.message),
            ..failure
        })?;
        Ok(vec![self.message.followed_by(data).into()])
    }
}

fn header_map(headers: &serde_json::Map<String, Value>) -> Result<header::HeaderMap, StepError> {
    if headers.len() > MAX_HEADERS {
        return Err(StepError::new(format!("more than {MAX_HEADERS} headers")));
    }
    let mut map = header::HeaderMap::with_capacity(headers.len());
    for (name, inner) in headers.iter().filter(|(_, inner)| !inner.is_null()) {
        let bad = || StepError::new(format!("\"{name}\" is not a valid header"));
        let key = header::HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
        let content = header::HeaderValue::from_bytes(text(inner).as_bytes()).map_err(|_| bad())?;
        map.insert(key, content);
    }
    Ok(map)
}

fn parse_method(method: &str) -> Result<Method, String> {
    let upper = method.trim().to_ascii_uppercase();
    let known = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
    if !known.contains(&upper.as_str()) {
        return Err(format!(
            "field \"method\" is \"{method}\"; it may be {}.",
            known.join(", ")
        ));
    }
    upper
        .parse()
        .map_err(|_| format!("field \"method\" is \"{method}\"."))
}

/// A text as it is, anything else as JSON.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Host and port.
fn authority(url: &Url) -> String {
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{}:{port}", url.host_str().unwrap_or_default())
}

/// The URL without user, password, query and fragment, any of which may hold a secret.
fn without_secrets(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!(
        "{}://{}{port}{}",
        url.scheme(),
        url.host_str().unwrap_or_default(),
        url.path()
    )
}

#[cfg(test)]
mod tests {
    use flowmate_common::{Budget, Clock};

    use super::*;
    use crate::PrivateTargets;

    #[test]
    fn nodes_that_cannot_work_are_refused_at_start() {
        let client = Arc::new(
            Client::new(Settings {
                private_targets: PrivateTargets::deny(),
                retry: RetryPolicy::default(),
                budget: Budget::new(1 << 20),
                clock: Clock::System,
            })
            .unwrap(),
        );
        let refused = |fields: Value| {
            let node = value!({"id": "n", "componentId": "c", "function": "request", "fields": fields});
            Request::compile(&serde_json::from_value(node).unwrap(), Arc::clone(&client)).err()
        };
        assert!(refused(value!({})).unwrap().contains("\"url\" is missing"));
        assert!(refused(value!({"url": "not a url"})).is_some());
        assert!(
            refused(value!({"url": "http://127.0.0.1/"}))
                .unwrap()
                .contains("not a public address")
        );
        assert!(refused(value!({"url": "http://example.com", "method": "BREW"})).is_some());
        let many: serde_json::Map<String, Value> = (0..30_000)
            .map(|number| (format!("h{number}"), value!("v")))
            .collect();
        assert!(header_map(&many).is_err());
        assert!(refused(value!({"url": "http://example.com", "timeoutMs": 0})).is_some());
        assert!(refused(value!({"url": "http://example.com", "bodytype": "json"})).is_some());
        assert!(
            refused(value!({"url": "http://{{ data.host }}/", "headers": {"a": "{{ data.b }}"}})).is_none()
        );
    }
}
