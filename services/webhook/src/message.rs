//! The first message of an execution (contract 3.8).

use actix_web::HttpRequest;
use flowmate_common::{
    Failure,
    ids::FlowId,
    model::{Json, Message, json},
};
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::body::from_query;

/// Headers that hold the caller's credentials; they are none of the flow's business.
const DROPPED: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];

/// The message for the flow's first step.
pub(crate) fn message(
    request: &HttpRequest,
    flow: &FlowId,
    suffix: Option<&str>,
    request_id: &str,
    data: Option<Json>,
) -> Result<Message, Failure> {
    let query = from_query(request.query_string())?;
    let url = request.uri().to_string();
    Ok(Message {
        data: data.unwrap_or_else(|| query.clone()),
        metadata: Some(encode(&Metadata {
            source: Source {
                name: "webhooks",
                kind: "webhook",
                external_exec_id: request_id,
            },
        })?),
        attachments: Some(encode(&Attachments {})?),
        headers: Some(encode(&Headers(request))?),
        passthrough: None,
        method: Some(request.method().to_string()),
        original_url: Some(url.clone()),
        url: Some(url),
        query: Some(query),
        params: Some(encode(&PathParameters { id: flow, suffix })?),
        path_suffix: suffix.map(|suffix| format!("/{suffix}")),
    })
}

fn encode<T: Serialize>(value: &T) -> Result<Json, Failure> {
    json(value).map_err(Failure::internal)
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
        let mut map = serializer.serialize_map(None)?;
        let mut last = None;
        for (name, value) in self.0.headers() {
            // Of a header that is repeated the first counts; JSON keys are unique.
            if !DROPPED.contains(&name.as_str()) && last != Some(name) {
                map.serialize_entry(name.as_str(), &String::from_utf8_lossy(value.as_bytes()))?;
            }
            last = Some(name);
        }
        map.end()
    }
}
