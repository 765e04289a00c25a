//! Multipart bodies. Texts become texts, whatever else is in one becomes a file: name, type, size and its bytes in base64.

use std::collections::HashMap;

use actix_multipart::{Field, Multipart};
use actix_web::{error::PayloadError, http::header::HeaderMap, web::Bytes};
use base64::{Engine, prelude::BASE64_STANDARD};
use encoding_rs::{Encoding, UTF_8};
use flowmate_common::Failure;
use futures_util::{StreamExt, stream};
use serde_json::{Map, Value, json};

use super::charset;

/// Parts of a body.
pub(crate) const MAX_PARTS: usize = 1_000;
/// What a part takes beside its bytes, and a file with its texts.
pub(crate) const PART: usize = 2_048;

struct Part {
    name: Option<String>,
    file: Option<String>,
    content_type: Option<String>,
    bytes: Vec<u8>,
}

/// The fields of a form by name, those of one name as a list; the parts of any other kind in their order.
pub(crate) async fn parse(headers: &HeaderMap, body: Bytes, is_form: bool) -> Result<Value, Failure> {
    let parts = parts(headers, body).await?;
    let charsets = Charsets::of(&parts);
    let values = parts.into_iter().filter(|part| !part.is_unfilled());
    if !is_form {
        return Ok(values.map(|part| part.into_value(&charsets)).collect());
    }
    let mut fields: Map<String, Value> = Map::new();
    // A second value makes a list of a field; a value is never a list itself.
    for mut part in values {
        let name = part.name.take().unwrap_or_default();
        let value = part.into_value_of(&name, &charsets);
        match fields.get_mut(&name) {
            None => drop(fields.insert(name, value)),
            Some(Value::Array(items)) => items.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    Ok(Value::Object(fields))
}

async fn parts(headers: &HeaderMap, body: Bytes) -> Result<Vec<Part>, Failure> {
    let stream = stream::iter([Ok::<_, PayloadError>(body)]);
    let (mut read, mut parts) = (Multipart::new(headers, stream), Vec::new());
    while let Some(field) = read.next().await {
        if parts.len() >= MAX_PARTS {
            return Err(malformed(&format!("more than {MAX_PARTS} fields")));
        }
        parts.push(part(field.map_err(|error| malformed(&error))?).await?);
    }
    Ok(parts)
}

async fn part(mut field: Field) -> Result<Part, Failure> {
    let disposition = field.content_disposition();
    let file = disposition.and_then(|disposition| {
        let plain = disposition.get_filename().map(ToOwned::to_owned);
        let extended = disposition.get_filename_ext();
        extended
            .and_then(|name| String::from_utf8(name.value.clone()).ok())
            .or(plain)
    });
    let content_type = field.headers().get("content-type");
    let mut part = Part {
        name: field.name().map(ToOwned::to_owned),
        file,
        content_type: content_type.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
        bytes: Vec::new(),
    };
    while let Some(chunk) = field.next().await {
        part.bytes
            .extend_from_slice(&chunk.map_err(|error| malformed(&error))?);
    }
    Ok(part)
}

fn malformed(error: &dyn std::fmt::Display) -> Failure {
    Failure::invalid(format!("Malformed multipart body: {error}"))
}

impl Part {
    /// Browsers send a field for a file that nobody chose.
    fn is_unfilled(&self) -> bool {
        self.bytes.is_empty() && self.file.as_ref().is_some_and(String::is_empty)
    }

    fn into_value(mut self, charsets: &Charsets) -> Value {
        let name = self.name.take().unwrap_or_default();
        self.into_value_of(&name, charsets)
    }

    fn into_value_of(self, name: &str, charsets: &Charsets) -> Value {
        if self.file.is_none() {
            let own = self
                .content_type
                .as_deref()
                .and_then(|kind| charset::parameter(kind, "charset"));
            let encoding = own
                .and_then(charset::named)
                .unwrap_or_else(|| charsets.of_field(name));
            // A NUL is no text in any form; files that say nothing of themselves have one.
            let text = charset::decoded(&self.bytes, encoding).filter(|text| !text.contains('\0'));
            if let Some(text) = text {
                return Value::String(text.into_owned());
            }
        }
        file(self.file.as_deref(), self.content_type.as_deref(), &self.bytes)
    }
}

/// What becomes of bytes that are no text.
pub(crate) fn file(name: Option<&str>, content_type: Option<&str>, bytes: &[u8]) -> Value {
    json!({
        "filename": name,
        "contentType": content_type,
        "size": bytes.len(),
        "encoding": "base64",
        "content": BASE64_STANDARD.encode(bytes),
    })
}

/// Bytes of a field that names encodings: what it becomes is not counted.
const MAX_CHARSETS: usize = 16 << 10;

/// What fields say of the encoding of the others.
struct Charsets {
    /// By field, as mail services name them in field `charsets`.
    named: HashMap<String, String>,
    /// Of all others (RFC 7578, 4.6).
    default: &'static Encoding,
}

impl Charsets {
    fn of(parts: &[Part]) -> Self {
        let field = |name| parts.iter().find(|part| part.name.as_deref() == Some(name));
        let label = field("_charset_").and_then(|part| std::str::from_utf8(&part.bytes).ok());
        let small = field("charsets").filter(|part| part.bytes.len() <= MAX_CHARSETS);
        let named = small.and_then(|part| serde_json::from_slice(&part.bytes).ok());
        Self {
            named: named.unwrap_or_default(),
            default: label.and_then(charset::named).unwrap_or(UTF_8),
        }
    }

    fn of_field(&self, name: &str) -> &'static Encoding {
        let label = self.named.get(name);
        label
            .map(String::as_str)
            .and_then(charset::named)
            .unwrap_or(self.default)
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{CONTENT_TYPE, HeaderValue};

    use super::*;

    async fn read(kind: &str, parts: &[(&str, &[u8])]) -> Value {
        let mut body = Vec::new();
        for (head, content) in parts {
            body.extend_from_slice(format!("--B\r\n{head}\r\n\r\n").as_bytes());
            body.extend_from_slice(content);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"--B--\r\n");
        let mut headers = HeaderMap::new();
        let content_type = format!("multipart/{kind}; boundary=B");
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(&content_type).unwrap());
        parse(&headers, body.into(), kind == "form-data").await.unwrap()
    }

    fn named(name: &str) -> String {
        format!("Content-Disposition: form-data; name=\"{name}\"")
    }

    #[actix_web::test]
    async fn files_and_binary_parts_survive() {
        let pdf = format!(
            "{}; filename=\"a.pdf\"\r\nContent-Type: application/pdf",
            named("cv")
        );
        let text = format!("{}; filename=\"ä.txt\"", named("cv"));
        let none = format!(
            "{}; filename=\"\"\r\nContent-Type: application/octet-stream",
            named("none")
        );
        let raw = format!("{}\r\nContent-Type: image/png", named("raw"));
        let nul = named("nul");
        let parts: [(&str, &[u8]); 5] = [
            (&pdf, b"%PDF\0\xff"),
            (&text, b"abc"),
            (&none, b""),
            (&raw, b"\x89PNG"),
            (&nul, b"a\0"),
        ];
        let file = |filename: Option<&str>, kind: Option<&str>, size: usize, content: &str| json!({"filename": filename, "contentType": kind, "size": size, "encoding": "base64", "content": content});
        assert_eq!(
            read("form-data", &parts).await,
            json!({
                "cv": [
                    file(Some("a.pdf"), Some("application/pdf"), 6, "JVBERgD/"),
                    file(Some("ä.txt"), None, 3, "YWJj"),
                ],
                "raw": file(None, Some("image/png"), 4, "iVBORw=="),
                "nul": file(None, None, 2, "YQA="),
            })
        );
    }

    #[actix_web::test]
    async fn repeated_fields_become_a_list() {
        let (to, x) = (named("to"), named("x"));
        let parts: [(&str, &[u8]); 4] = [(&to, b"a"), (&x, b"1"), (&to, b"b"), (&to, b"c")];
        assert_eq!(
            read("form-data", &parts).await,
            json!({"to": ["a", "b", "c"], "x": "1"})
        );
    }

    #[actix_web::test]
    async fn every_charset_of_a_part_is_read() {
        let latin = format!("{}\r\nContent-Type: text/plain; charset=iso-8859-1", named("a"));
        let (a, b, charsets, charset) = (named("a"), named("b"), named("charsets"), named("_charset_"));
        let expected = json!("Grüße");
        for parts in [
            &[(&*latin, &b"Gr\xfc\xdfe"[..])][..],
            &[(&a, b"Gr\xfc\xdfe"), (&charsets, br#"{"a":"iso-8859-1"}"#)],
            &[(&charset, b"windows-1252"), (&a, b"Gr\xfc\xdfe")],
            &[(&a, "Grüße".as_bytes()), (&b, b"\xff")],
        ] {
            assert_eq!(read("form-data", parts).await.get("a"), Some(&expected));
        }
        let undeclared = read("form-data", &[(&b, b"Gr\xfc\xdfe")]).await;
        assert_eq!(undeclared.pointer("/b/content"), Some(&json!("R3L832U=")));
    }

    #[actix_web::test]
    async fn parts_without_names_are_a_list() {
        let parts: [(&str, &[u8]); 2] = [
            ("Content-Type: application/json", b"{\"a\":1}"),
            ("Content-Type: image/png", b"\x89"),
        ];
        let read = read("mixed", &parts).await;
        assert_eq!(read.pointer("/0"), Some(&json!("{\"a\":1}")));
        assert_eq!(read.pointer("/1/contentType"), Some(&json!("image/png")));
    }

    #[test]
    fn a_field_that_names_encodings_becomes_no_tree_where_it_is_large() {
        let part = |bytes: Vec<u8>| Part {
            name: Some("charsets".into()),
            file: None,
            content_type: None,
            bytes,
        };
        let named = |bytes: Vec<u8>| Charsets::of(&[part(bytes)]).named.len();
        assert_eq!(named(br#"{"a":"latin1"}"#.to_vec()), 1);
        assert_eq!(named(br#"{"a":[0,0]}"#.to_vec()), 0);
        let many: Vec<String> = (0..2_000)
            .map(|number| format!("\"f{number}\":\"latin1\""))
            .collect();
        assert_eq!(named(format!("{{{}}}", many.join(",")).into_bytes()), 0);
    }
}
