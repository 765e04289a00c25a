//! Sending once, and what the answer means: data, a failure worth another try, or a failure.

use std::{
    collections::BTreeMap,
    error::Error,
    time::{Duration, UNIX_EPOCH},
};

use flowmate_common::{
    Budget, Timestamp,
    budget::{Holder, Permit, escapes},
    model::{Json, json},
    root_cause,
};
use reqwest::{
    Request, Response, StatusCode,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use serde::Serialize;
use serde_json::{Value, value::RawValue};

use super::{
    Client,
    content::{ContentType, data, text},
    hops::follow,
    unpack::{codings, unpack},
};
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
    let after = retry_after(response.headers(), client.clock.now());
    let content_type = response.headers().get(header::CONTENT_TYPE);
    let kind = ContentType::of(&content_type.map(header_text).unwrap_or_default());
    let codings = codings(&response);
    let headers = header_values(response.headers(), !codings.is_empty());
    let body = read(response, &client.budget).await?;
    let mut body = unpack(body, &codings, &client.unpacking).await?;
    if status.is_client_error() || status.is_server_error() {
        let for_now = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
        let transient = for_now.contains(&status) || status.is_server_error();
        return Err(Failure {
            message: answered(status, &kind, &body.bytes),
            transient,
            after,
        });
    }
    // Other charsets, base64 and what JSON escapes take more room than the bytes.
    body.beside = escapes(&body.bytes);
    if kind.grows(&body.bytes) {
        body.beside += body.bytes.len();
    }
    body.extend(&[])?;
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        status_code: u16,
        headers: BTreeMap<String, Value>,
        body: Box<RawValue>,
    }
    let data = data(&kind, &body.bytes).and_then(|body| {
        json(&Answer {
            status_code: status.as_u16(),
            headers,
            body,
        })
    });
    data.map_err(|error| Failure::permanent(error.to_string()))
}

pub(super) fn connection_failure(error: &reqwest::Error) -> Failure {
    let why = root_cause(error);
    if error.is_timeout() {
        Failure::transient("the receiver did not answer in time")
    } else if error.is_redirect() || error.is_builder() {
        Failure::permanent(format!("the request was not sent: {why}"))
    } else if is_distrust(error) {
        // Whoever answers has the certificate that it has.
        Failure::permanent(format!("the receiver's certificate is not trusted: {why}"))
    } else if error.is_connect() {
        Failure::transient(format!("no connection to the receiver: {why}"))
    } else {
        Failure::transient(format!("the receiver did not answer as it should: {why}"))
    }
}

/// Whether the receiver's certificate is the reason. Errors of TLS are wrapped into those of reading and writing, which
/// do not name them as their source.
fn is_distrust(error: &(dyn Error + 'static)) -> bool {
    let refuses = |error: &(dyn Error + 'static)| {
        matches!(
            error.downcast_ref(),
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)
        )
    };
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        if refuses(error) || inner.is_some_and(|inner| is_distrust(inner)) {
            return true;
        }
        next = error.source();
    }
    false
}

/// A body as it comes in, and the room that it has.
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    /// Bytes that are held for it besides.
    pub(super) beside: usize,
    budget: Budget,
    held: Option<Permit>,
}

impl Body {
    fn new(budget: &Budget) -> Self {
        Self {
            bytes: Vec::new(),
            beside: 0,
            budget: budget.clone(),
            held: None,
        }
    }

    /// Adds `more`, if there is room.
    pub(super) fn extend(&mut self, more: &[u8]) -> Result<(), Failure> {
        let length = self.bytes.len() + more.len();
        if length > MAX_ANSWER {
            return Err(Failure::permanent(format!(
                "the answer has more than {MAX_ANSWER} bytes"
            )));
        }
        let needed = GROWTH * (length + self.beside);
        let taken = match &mut self.held {
            // Small ones are not worth the count.
            _ if needed <= GROWTH * FREE => Ok(()),
            Some(permit) => permit.try_reach(needed),
            None => self
                .budget
                .try_take(Holder::default(), needed)
                .map(|permit| self.held = Some(permit)),
        };
        taken.map_err(|spent| {
            Failure::transient(format!("there is no room for the receiver's answer now: {spent}"))
        })?;
        self.bytes.extend_from_slice(more);
        Ok(())
    }
}

async fn read(mut response: Response, budget: &Budget) -> Result<Body, Failure> {
    let mut body = Body::new(budget);
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend(&chunk)?,
            Ok(None) => return Ok(body),
            Err(error) => return Err(connection_failure(&error)),
        }
    }
}

fn answered(status: StatusCode, kind: &ContentType, body: &[u8]) -> String {
    let text = text(kind, body).unwrap_or_default();
    let excerpt: String = text.chars().filter(|c| !c.is_control()).take(EXCERPT).collect();
    if excerpt.trim().is_empty() {
        format!("the receiver answered {status}")
    } else {
        format!("the receiver answered {status}: {excerpt}")
    }
}

/// `Retry-After`: seconds, with a fraction as some have it, or a date. A date counts from the answer's own, since the
/// receiver's clock may be another than ours (`now`).
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        let is_sane = seconds >= 0.0 && seconds.is_finite();
        return is_sane.then(|| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let date = headers.get(header::DATE).and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| httpdate::parse_http_date(date).ok());
    let ours = || UNIX_EPOCH + Duration::from_millis(u64::try_from(now.as_millis()).unwrap_or_default());
    // What has passed already is no wait.
    Some(
        until
            .duration_since(date.unwrap_or_else(ours))
            .unwrap_or_default(),
    )
}

/// A value as UTF-8, or as Latin-1, in which every byte is a character.
fn header_text(value: &HeaderValue) -> String {
    let bytes = value.as_bytes();
    std::str::from_utf8(bytes).map_or_else(
        |_| encoding_rs::mem::decode_latin1(bytes).into_owned(),
        ToOwned::to_owned,
    )
}

/// The headers by name, a list where one is repeated; without those that speak of packed bytes where these are unpacked.
fn header_values(headers: &HeaderMap, unpacked: bool) -> BTreeMap<String, Value> {
    let of_packed = |name: &HeaderName| [header::CONTENT_ENCODING, header::CONTENT_LENGTH].contains(name);
    let names = headers.keys().filter(|name| !(unpacked && of_packed(name)));
    names
        .map(|name| {
            let mut values: Vec<Value> = headers
                .get_all(name)
                .iter()
                .map(|value| header_text(value).into())
                .collect();
            let value = match values.len() {
                1 => values.remove(0),
                _ => values.into(),
            };
            (name.as_str().to_owned(), value)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json as value;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static [u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let at = Timestamp::from_millis(784_111_777_000);
        let wait = |pairs: &[(&'static str, &'static [u8])]| retry_after(&headers(pairs), at);
        for (value, expected) in [
            (&b"0"[..], Some(0.0)),
            (b" 2 ", Some(2.0)),
            (b"1.5", Some(1.5)),
            (b"Sun, 06 Nov 1994 08:49:41 GMT", Some(4.0)),
            (b"Sunday, 06-Nov-94 08:49:41 GMT", Some(4.0)),
            (b"Sun Nov  6 08:49:41 1994", Some(4.0)),
            (b"Sun, 06 Nov 1994 08:49:00 GMT", Some(0.0)),
            (b"-1", None),
            (b"NaN", None),
            (b"inf", None),
            (b"soon", None),
        ] {
            let expected = expected.map(Duration::from_secs_f64);
            assert_eq!(wait(&[("retry-after", value)]), expected, "{value:?}");
        }
        assert_eq!(
            wait(&[("retry-after", b"99999999999999999999999")]),
            Some(Duration::MAX)
        );
        let slow = wait(&[
            ("retry-after", b"Sun, 06 Nov 1994 09:00:10 GMT"),
            ("date", b"Sun, 06 Nov 1994 09:00:00 GMT"),
        ]);
        assert_eq!(slow, Some(Duration::from_secs(10)), "by the receiver's clock");
    }

    #[test]
    fn repeated_headers_are_lists_and_no_byte_is_lost() {
        let headers = headers(&[
            ("set-cookie", b"a=1"),
            ("etag", b"x"),
            ("set-cookie", b"b=2"),
            ("content-disposition", b"\xdcbersicht"),
            ("content-encoding", b"gzip"),
        ]);
        let expected =
            value!({"set-cookie": ["a=1", "b=2"], "etag": "x", "content-disposition": "Übersicht"});
        assert_eq!(value!(header_values(&headers, true)), expected);
        assert_eq!(header_values(&headers, false).len(), 4);
    }
}
