//! Request bodies.

use std::{future::Future, pin::Pin, sync::Arc};

use actix_web::{
    FromRequest, HttpMessage, HttpRequest,
    dev::Payload,
    error::PayloadError,
    http::header,
    web::{Bytes, Data},
};
use flowmate_common::{Budget, Failure, Holder, Kind, Permit};
use futures_util::{Stream, StreamExt};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{ApiError, Survey, caller::BudgetOwner};

/// Bytes of a JSON body of the API; webhooks have their own limit.
const MAX_JSON: usize = 4 << 20;
/// Values in a JSON body of the API.
const MAX_VALUES: usize = 250_000;
/// What a parsed value takes beside its text, with what its list or object has in reserve.
const VALUE_BYTES: usize = 128;
/// What is so small becomes little, whatever is in it.
const SMALL: usize = 64 << 10;
/// Bytes that are taken of the budget ahead of what has come.
const STEP: usize = 256 << 10;

/// Receives a body behind what is in `buffer`. Memory is taken of `permit` first: what is declared to be too much, or more
/// than there is room for, is refused before it is read; what is in chunks, or comes while the room is gone, where it no
/// longer fits. Bytes that were declared and do not come cost nothing.
pub async fn receive<S>(
    request: &HttpRequest,
    payload: &mut S,
    limit: usize,
    buffer: &mut Vec<u8>,
    permit: &mut Permit,
) -> Result<(), Failure>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    let before = buffer.len();
    let declared = declared(request)?;
    if declared.is_some_and(|declared| declared > limit) {
        return Err(too_large(limit));
    }
    let expected = before + declared.unwrap_or(0);
    permit.check(expected.saturating_sub(permit.bytes()))?;
    permit.try_reach(expected.min(before + STEP))?;
    buffer.reserve_exact(expected - before);
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|error| unreadable(&error))?;
        let length = buffer.len() + chunk.len();
        if length - before > limit {
            return Err(too_large(limit));
        }
        if length > permit.bytes() {
            let ahead = length + STEP;
            permit.try_reach(if length <= expected {
                ahead.min(expected)
            } else {
                ahead
            })?;
        }
        buffer.extend_from_slice(&chunk);
    }
    Ok(())
}

/// Reads a body that nobody wants to its end; what is too large is refused.
pub async fn discard<S>(request: &HttpRequest, payload: &mut S, limit: usize) -> Result<(), Failure>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    if declared(request)?.is_some_and(|declared| declared > limit) {
        return Err(too_large(limit));
    }
    let mut length = 0;
    while let Some(chunk) = payload.next().await {
        length += chunk.map_err(|error| unreadable(&error))?.len();
        if length > limit {
            return Err(too_large(limit));
        }
    }
    Ok(())
}

/// What `Content-Length` says.
fn declared(request: &HttpRequest) -> Result<Option<usize>, Failure> {
    let Some(value) = request.headers().get(header::CONTENT_LENGTH) else {
        return Ok(None);
    };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    let length = length.ok_or_else(|| Failure::invalid("Invalid Content-Length header."))?;
    Ok(Some(length))
}

fn too_large(limit: usize) -> Failure {
    let message = format!("The body is larger than allowed: {limit} bytes.");
    Failure::new(Kind::TooLarge, message)
}

/// What is late has its own answer, which is given around all of this.
fn unreadable(error: &PayloadError) -> Failure {
    Failure::invalid(format!("The body could not be read: {error}."))
}

/// The bytes that were sent. Parsed when the handler asks for it, so that 401, 403, 404 and 409 come before 400.
pub struct Body {
    bytes: Bytes,
    _permit: Permit,
}

impl Body {
    /// The body as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.bytes)
            .map_err(|error| Failure::invalid(format!("The body is not the expected JSON: {error}.")))
    }

    /// The body as a JSON object. A list is refused, which serde would take for the fields in their order.
    pub fn object<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let object: Map<String, Value> = self.json()?;
        serde_json::from_value(Value::Object(object))
            .map_err(|error| Failure::invalid(format!("The body is not as expected: {error}.")))
    }

    /// The body as JSON; an empty object where nothing was sent.
    pub fn json_or_empty(&self) -> Result<Value, Failure> {
        if self.bytes.trim_ascii().is_empty() {
            Ok(Value::Object(Map::new()))
        } else {
            self.json()
        }
    }

    async fn receive(request: HttpRequest, mut payload: Payload) -> Result<Self, Failure> {
        let budget = request
            .app_data::<Data<Budget>>()
            .ok_or_else(|| Failure::internal("no budget is configured"))?;
        let mut permit = budget.try_take(holder(&request), 0)?;
        let mut bytes = Vec::new();
        receive(&request, &mut payload, MAX_JSON, &mut bytes, &mut permit).await?;
        if bytes.len() > SMALL {
            let values = Survey::of(&bytes).values;
            if values > MAX_VALUES {
                let message = format!("The body has more than {MAX_VALUES} values.");
                return Err(Failure::new(Kind::TooLarge, message));
            }
            permit.try_reach(bytes.len() + values * VALUE_BYTES)?;
        }
        Ok(Self {
            bytes: bytes.into(),
            _permit: permit,
        })
    }
}

/// Who is known has their tenant's share, or one of their own; all others together have one that is half of that.
fn holder(request: &HttpRequest) -> Holder {
    if let Some(known) = request.extensions().get::<BudgetOwner>() {
        return Holder {
            tenant: Some(Arc::clone(&known.0)),
            flow: None,
        };
    }
    let strangers: Arc<str> = "strangers".into();
    Holder {
        tenant: Some(Arc::clone(&strangers)),
        flow: Some(strangers),
    }
}

impl FromRequest for Body {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move { Self::receive(request, payload).await.map_err(ApiError) })
    }
}
