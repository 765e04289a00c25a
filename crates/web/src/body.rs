//! Request bodies.

use std::{future::Future, pin::Pin};

use actix_web::{FromRequest, HttpRequest, dev::Payload, error::PayloadError, web::Bytes};
use flowmate_common::{Failure, Kind};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::ApiError;

/// Bytes of a JSON body of the API; webhooks have their own limit.
const MAX_JSON: usize = 4 << 20;

/// The bytes that were sent. Parsed when the handler asks for it, so that 401, 403, 404 and 409 come before 400.
pub struct Body(Bytes);

impl Body {
    /// The body as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        if self.0.len() > MAX_JSON {
            let message = format!("The body has {} bytes, {MAX_JSON} are allowed.", self.0.len());
            return Err(Failure::new(Kind::TooLarge, message));
        }
        serde_json::from_slice(&self.0)
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
        if self.0.trim_ascii().is_empty() {
            Ok(Value::Object(Map::new()))
        } else {
            self.json()
        }
    }

    /// The bytes themselves.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl FromRequest for Body {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let bytes = Bytes::from_request(request, payload);
        Box::pin(async move {
            bytes.await.map(Self).map_err(|error| {
                ApiError(match error.as_error::<PayloadError>() {
                    Some(PayloadError::Overflow) => {
                        Failure::new(Kind::TooLarge, "The body is larger than allowed.")
                    }
                    _ => Failure::invalid(format!("The body could not be read: {error}.")),
                })
            })
        })
    }
}
