use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// A JSON text that was parsed once to know that it is one, and is passed on without being parsed again.
pub type Json = Arc<RawValue>;

/// `value` as JSON text.
pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Json, serde_json::Error> {
    serde_json::value::to_raw_value(value).map(Arc::from)
}

/// What travels between steps (architecture 6). The fields after `passthrough` are set on the first message of a
/// webhook only (contract 3.8).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// The payload.
    #[serde(default = "null")]
    pub data: Json,
    /// Where the message comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Json>,
    /// Attachments by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachments: Option<Json>,
    /// Headers of the request or response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Json>,
    /// The output of earlier steps by node id, where `nodeSettings.passthrough` asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passthrough: Option<Json>,
    /// HTTP method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Path and query as they arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The same as `url`; the reference sends both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_url: Option<String>,
    /// Query parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<Json>,
    /// Path parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Json>,
    /// What follows the flow id in the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_suffix: Option<String>,
}

impl Message {
    /// A message with this payload and nothing else.
    pub fn new(data: Json) -> Self {
        Self {
            data,
            metadata: None,
            attachments: None,
            headers: None,
            passthrough: None,
            method: None,
            url: None,
            original_url: None,
            query: None,
            params: None,
            path_suffix: None,
        }
    }

    /// A message that follows this one: new payload, the same metadata, attachments, headers and passthrough.
    pub fn followed_by(&self, data: Json) -> Self {
        Self {
            metadata: self.metadata.clone(),
            attachments: self.attachments.clone(),
            headers: self.headers.clone(),
            passthrough: self.passthrough.clone(),
            ..Self::new(data)
        }
    }
}

fn null() -> Json {
    Arc::from(RawValue::NULL.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_keeps_its_text_to_the_letter() {
        let text = r#"{"data":{"b": 1.50, "a":  12345678901234567890123}}"#;
        let message: Message = serde_json::from_str(text).unwrap();
        assert_eq!(
            message.data.get(),
            r#"{"b": 1.50, "a":  12345678901234567890123}"#
        );
        assert_eq!(serde_json::to_string(&message).unwrap(), text);
    }
}
