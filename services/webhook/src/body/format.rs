//! How a body is read: as its content type says, or as what it evidently is.

use serde::de::IgnoredAny;

/// How a body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// It is its own data.
    Json,
    /// A JSON value on each line: a list.
    Lines,
    Form,
    Xml,
    Multipart {
        is_form: bool,
    },
    Text,
    /// Bytes that nothing is said of.
    File,
    /// Files and unknown types: taken, and they reach the flow without data.
    Opaque,
    /// There is no content type.
    Unsaid,
}

impl Format {
    /// By what a content type says before its parameters.
    pub(super) fn of(essence: &str) -> Self {
        let essence = essence.to_ascii_lowercase();
        match essence.as_str() {
            "" => Self::Unsaid,
            "application/json"
            | "text/json"
            | "applications/json"
            | "application/x-json"
            | "text/x-json"
            | "json"
            | "application/csp-report"
            | "text/plain" => Self::Json,
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonl"
            | "application/jsonlines"
            | "application/x-jsonlines"
            | "application/json-seq"
            | "text/x-ndjson" => Self::Lines,
            "application/x-www-form-urlencoded" => Self::Form,
            "application/xml" | "text/xml" => Self::Xml,
            "multipart/form-data" => Self::Multipart { is_form: true },
            other if other.ends_with("+json") => Self::Json,
            other if other.ends_with("+xml") => Self::Xml,
            other if other.starts_with("multipart/") => Self::Multipart { is_form: false },
            _ => Self::Opaque,
        }
    }

    /// What a body evidently is.
    pub(super) fn seen(body: &[u8]) -> Self {
        let content = body.trim_ascii();
        if content.is_empty() || serde_json::from_slice::<IgnoredAny>(content).is_ok() {
            return Self::Json;
        }
        if content.starts_with(b"<?xml") {
            return Self::Xml;
        }
        let is_form = content.iter().all(u8::is_ascii_graphic)
            && content.contains(&b'=')
            && content
                .first()
                .is_some_and(|first| !b"=<>{}[]\"'".contains(first));
        if is_form {
            return Self::Form;
        }
        match std::str::from_utf8(body) {
            Ok(text) if !text.contains('\0') => Self::Text,
            _ => Self::File,
        }
    }
}
