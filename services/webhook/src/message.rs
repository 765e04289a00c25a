//! The first message of an execution (contract 3.8).

use actix_web::HttpRequest;
use flowmate_common::{
    Failure,
    ids::{ExecutionId, FlowId},
    model::Json,
};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::value::RawValue;

use crate::{
    body::{from_query, guessed},
    record::LiveFlow,
};

/// Headers that hold the caller's credentials; they are none of the flow's business.
const DROPPED: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];

/// `flow.execute` with the message for the flow's first step: written straight from the request, in the form of
/// [`flowmate_common::model::FlowExecute`].
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Execute<'a> {
    execution_id: &'a ExecutionId,
    flow_id: &'a FlowId,
    activation: u64,
    message: FirstMessage<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FirstMessage<'a> {
    data: &'a RawValue,
    metadata: Metadata<'a>,
    attachments: Attachments,
    headers: Headers<'a>,
    method: &'a str,
    url: &'a str,
    original_url: &'a str,
    query: &'a RawValue,
    params: PathParameters<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_suffix: Option<String>,
}

/// What of a request does not stand in it as it is.
pub(crate) struct Parts {
    url: String,
    /// The query parameters, which are the data where there is no body.
    query: Json,
}

impl Parts {
    pub(crate) fn of(request: &HttpRequest) -> Result<Self, Failure> {
        Ok(Self {
            url: request.uri().to_string(),
            query: from_query(request.query_string())?,
        })
    }
}

impl<'a> Execute<'a> {
    pub(crate) fn new(
        (execution_id, flow, request_id): (&'a ExecutionId, &'a LiveFlow, &'a str),
        request: &'a HttpRequest,
        parts: &'a Parts,
        suffix: Option<&'a str>,
        data: Option<&'a RawValue>,
    ) -> Self {
        let source = Source {
            name: "webhooks",
            kind: "webhook",
            external_exec_id: request_id,
        };
        let message = FirstMessage {
            data: data.unwrap_or(&parts.query),
            metadata: Metadata { source },
            attachments: Attachments {},
            headers: Headers(request),
            method: request.method().as_str(),
            url: &parts.url,
            original_url: &parts.url,
            query: &parts.query,
            params: PathParameters { id: &flow.id, suffix },
            path_suffix: suffix.map(|suffix| format!("/{suffix}")),
        };
        Self {
            execution_id,
            flow_id: &flow.id,
            activation: flow.activation,
            message,
        }
    }
}

#[derive(Serialize)]
struct Metadata<'a> {
    source: Source<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Source<'a> {
    name: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    external_exec_id: &'a str,
}

#[derive(Serialize)]
struct Attachments {}

#[derive(Serialize)]
struct PathParameters<'a> {
    id: &'a FlowId,
    #[serde(rename = "0", skip_serializing_if = "Option::is_none")]
    suffix: Option<&'a str>,
}

struct Headers<'a>(&'a HttpRequest);

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let headers = self.0.headers();
        let mut map = serializer.serialize_map(None)?;
        // Behind the gateway `host` is this service's own; what the caller asked for is beside it.
        let asked_for = headers.get("x-forwarded-host");
        for name in headers.keys() {
            let mut values = headers.get_all(name).map(|value| guessed(value.as_bytes()));
            let (first, more) = (values.next(), values.next());
            match (first, more) {
                _ if DROPPED.contains(&name.as_str()) => {}
                (Some(first), None) => {
                    let value = asked_for.filter(|_| name == "host");
                    let value = value.map_or(first, |value| guessed(value.as_bytes()));
                    map.serialize_entry(name.as_str(), &value)?;
                }
                // JSON keys are unique.
                (first, more) => {
                    let all: Vec<_> = first.into_iter().chain(more).chain(values).collect();
                    map.serialize_entry(name.as_str(), &all)?;
                }
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use serde_json::json;

    use super::*;

    #[test]
    fn repeated_headers_become_lists_and_nothing_is_dropped() {
        let request = TestRequest::default()
            .insert_header(("x-tag", "a"))
            .append_header(("x-tag", "b, c"))
            .append_header(("X-Tag", "a"))
            .insert_header(("x-one", "1"))
            .insert_header(("x-name", &b"M\xfcller"[..]))
            .insert_header(("host", "inner"))
            .insert_header(("x-forwarded-host", "outer"))
            .append_header(("authorization", "Basic YQ=="))
            .append_header(("authorization", "Basic Yg=="))
            .to_http_request();
        assert_eq!(
            serde_json::to_value(Headers(&request)).unwrap(),
            json!({
                "x-tag": ["a", "b, c", "a"],
                "x-one": "1",
                "x-name": "Müller",
                "host": "outer",
                "x-forwarded-host": "outer",
            })
        );
    }
}
