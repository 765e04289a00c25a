//! Sending once, and what the answer means: data, a failure worth another try, or a failure.

use std::{collections::BTreeMap, time::Duration};

use flowmate_common::{
    Budget,
    budget::{Holder, Permit},
    model::{Json, json},
    root_cause,
};
use reqwest::{Request, Response, StatusCode, header};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Client, hops::follow};
use crate::Failure;

/// Bytes of an answer.
const MAX_ANSWER: usize = 10 << 20;
/// Bytes of an answer that are not counted.
const FREE: usize = 64 << 10;
/// Bytes that each byte of an answer takes while it becomes data: the buffer, the JSON and the message.
const GROWTH: usize = 3;
/// Characters of a failed answer's body that the error repeats.
const EXCERPT: usize = 300;

impl Failure {
    pub(super) fn permanent(reason: impl Into<String>) -> Self {
        Self {
            message: reason.into(),
            transient: false,
            after: None,
        }
    }

    pub(super) fn transient(reason: impl Into<String>) -> Self {
        Self {
            message: reason.into(),
            transient: true,
            after: None,
        }
    }
}

/// Sends once; the data of the answer where it is a good one. What comes in is taken from the budget until it is data.
pub(super) async fn send(client: &Client, request: &Request) -> Result<Json, Failure> {
    let response = follow(client, request).await?;
    let status = response.status();
    let after = retry_after(&response);
    let is_json = is_json(&response);
    let headers = header_values(&response);
    let (body, _held) = read(response, &client.budget).await?;
    if status.is_client_error() || status.is_server_error() {
        let for_now = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
        let transient = for_now.contains(&status) || status.is_server_error();
        return Err(Failure {
            message: answered(status, &body),
            transient,
            after,
        });
    }
    let body = if body.is_empty() {
        RawValue::NULL.to_owned()
    } else if is_json {
        serde_json::from_slice(&body).map_err(|error| {
            Failure::permanent(format!(
                "the receiver answered {status} with malformed JSON: {error}"
            ))
        })?
    } else {
        serde_json::value::to_raw_value(&String::from_utf8_lossy(&body))
            .map_err(|error| Failure::permanent(error.to_string()))?
    };
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        status_code: u16,
        headers: BTreeMap<String, String>,
        body: Box<RawValue>,
    }
    json(&Answer {
        status_code: status.as_u16(),
        headers,
        body,
    })
    .map_err(|error| Failure::permanent(error.to_string()))
}

pub(super) fn connection_failure(error: &reqwest::Error) -> Failure {
    let why = root_cause(error);
    if error.is_timeout() {
        Failure::transient("the receiver did not answer in time")
    } else if error.is_redirect() || error.is_builder() {
        Failure::permanent(format!("the request was not sent: {why}"))
    } else if error.is_connect() {
        Failure::transient(format!("no connection to the receiver: {why}"))
    } else {
        Failure::transient(format!("the receiver did not answer as it should: {why}"))
    }
}

async fn read(mut response: Response, budget: &Budget) -> Result<(Vec<u8>, Option<Permit>), Failure> {
    let mut body = Vec::new();
    // Small ones are not worth the count.
    let mut held: Option<Permit> = None;
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > MAX_ANSWER => {
                return Err(Failure::permanent(format!(
                    "the answer has more than {MAX_ANSWER} bytes"
                )));
            }
            Ok(Some(chunk)) => {
                let needed = GROWTH * (body.len() + chunk.len());
                let taken = match &mut held {
                    _ if needed <= GROWTH * FREE => Ok(()),
                    Some(permit) => permit.try_reach(needed),
                    None => budget
                        .try_take(Holder::default(), needed)
                        .map(|permit| held = Some(permit)),
                };
                taken.map_err(|spent| {
                    Failure::transient(format!("there is no room for the receiver's answer now: {spent}"))
                })?;
                body.extend_from_slice(&chunk);
            }
            Ok(None) => return Ok((body, held)),
            Err(error) => return Err(connection_failure(&error)),
        }
    }
}

fn answered(status: StatusCode, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let excerpt: String = text.chars().filter(|c| !c.is_control()).take(EXCERPT).collect();
    if excerpt.trim().is_empty() {
        format!("the receiver answered {status}")
    } else {
        format!("the receiver answered {status}: {excerpt}")
    }
}

/// `Retry-After` in seconds; dates are rare and not worth the clock.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response
        .headers()
        .get(header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

fn is_json(response: &Response) -> bool {
    let content_type = response
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = content_type
        .and_then(|value| value.split(';').next())
        .unwrap_or_default()
        .trim();
    essence.eq_ignore_ascii_case("application/json") || essence.to_ascii_lowercase().ends_with("+json")
}

fn header_values(response: &Response) -> BTreeMap<String, String> {
    let headers = response.headers().iter();
    headers
        .map(|(name, value)| {
            (
                name.as_str().to_owned(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect()
}
