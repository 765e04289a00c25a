//! What was sent, as JSON (contract 3.8).

mod xml;

use std::fmt;

use actix_multipart::Multipart;
use actix_web::{http::header::HeaderMap, web::Bytes};
use flowmate_common::{
    Failure,
    model::{Json, json},
};
use flowmate_web::Survey;
use futures_util::{StreamExt, TryStreamExt};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value, value::RawValue};

/// Levels of nesting in a JSON body. The steps' own parsers take 127.
const MAX_DEPTH: usize = 100;
/// Levels of nesting in a query string or form.
const MAX_BRACKETS: usize = 5;
/// Fields of a multipart body.
const MAX_FIELDS: usize = 1_000;

/// What a content type says before its parameters.
fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// Whether a body of this content type is read as JSON, and is its own data.
pub(crate) fn is_json(content_type: &str) -> bool {
    let essence = essence(content_type);
    ["application/json", "text/plain"]
        .iter()
        .any(|kind| essence.eq_ignore_ascii_case(kind))
        || essence.to_ascii_lowercase().ends_with("+json")
}

/// The data that a body of this content type becomes, other than JSON.
pub(crate) async fn data(content_type: &str, headers: &HeaderMap, body: Bytes) -> Result<Json, Failure> {
    match essence(content_type).to_ascii_lowercase().as_str() {
        "application/x-www-form-urlencoded" => from_query(&String::from_utf8_lossy(&body)),
        "application/xml" | "text/xml" => raw(&xml::parse(&body)?),
        kind if kind.ends_with("+xml") => raw(&xml::parse(&body)?),
        "multipart/form-data" => from_multipart(headers, body).await,
        // Files and unknown types are taken, and reach the flow without data.
        _ => raw(&Value::Object(Map::new())),
    }
}

fn raw(value: &Value) -> Result<Json, Failure> {
    json(value).map_err(Failure::internal)
}

/// The body itself, known to be JSON; an empty object where nothing was sent.
pub(crate) fn from_json(body: &[u8]) -> Result<&RawValue, Failure> {
    let malformed = |error: &dyn std::fmt::Display| Failure::invalid(format!("Malformed JSON: {error}"));
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    let survey = Survey::of(body);
    if survey.depth > MAX_DEPTH {
        return Err(malformed(&format!("more than {MAX_DEPTH} levels of nesting")));
    }
    // Escapes of lone surrogates are JSON and no text; only looking at every one of them tells.
    if survey.has_escapes {
        serde_json::from_slice::<Texts>(body).map_err(|error| malformed(&error))?;
    }
    serde_json::from_slice(body).map_err(|error| malformed(&error))
}

/// Any JSON whose texts are texts, keys included. Nothing of it is kept: `IgnoredAny` would not look, a tree of values
/// would take thirty times the bytes.
struct Texts;

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Texts {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while let Some(Self) = items.next_element()? {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self, A::Error> {
        while let Some((Self, Self)) = entries.next_entry()? {}
        Ok(self)
    }
}

/// Bytes that [`data`] may take for this body beside it, the event included.
pub(crate) fn weight(content_type: &str, body: &[u8]) -> usize {
    /// A field of a form, with a map of its own where its name has brackets.
    const FIELD: usize = 1_024;
    /// An element, which may be the only one in its parent's map.
    const ELEMENT: usize = 384;
    /// An attribute: a map for the element, and one for its attributes.
    const ATTRIBUTE: usize = 1_024;
    let pairs = |counts: fn(u8, u8) -> bool| {
        let pairs = body.windows(2).filter_map(|pair| <[u8; 2]>::try_from(pair).ok());
        pairs.filter(|[first, second]| counts(*first, *second)).count()
    };
    let text = body.len().saturating_mul(2);
    match essence(content_type).to_ascii_lowercase().as_str() {
        "application/x-www-form-urlencoded" => {
            let fields = body.split(|byte| *byte == b'&').count();
            text.saturating_add(fields.saturating_mul(FIELD))
        }
        // The parser's buffer, one field, all fields, the event.
        "multipart/form-data" => body.len().saturating_mul(4),
        kind if kind == "application/xml" || kind == "text/xml" || kind.ends_with("+xml") => {
            let elements = pairs(|first, second| first == b'<' && second != b'/');
            let attributes = pairs(|first, second| first == b'=' && matches!(second, b'"' | b'\''));
            let values = elements
                .saturating_mul(ELEMENT)
                .saturating_add(attributes.saturating_mul(ATTRIBUTE));
            text.saturating_add(values)
        }
        _ => 0,
    }
}

/// `a[b]=1&c=2` as `{"a":{"b":"1"},"c":"2"}`.
pub(crate) fn from_query(query: &str) -> Result<Json, Failure> {
    if query.is_empty() {
        return raw(&Value::Object(Map::new()));
    }
    let config = serde_qs::Config::new()
        .max_depth(MAX_BRACKETS)
        .use_form_encoding(true);
    let value: Map<String, Value> = config
        .deserialize_str(query)
        .map_err(|error| Failure::invalid(format!("Malformed query or form: {error}")))?;
    raw(&Value::Object(value))
}

async fn from_multipart(headers: &HeaderMap, body: Bytes) -> Result<Json, Failure> {
    let malformed =
        |error: &dyn std::fmt::Display| Failure::invalid(format!("Malformed multipart body: {error}"));
    let stream = futures_util::stream::iter([Ok::<_, actix_web::error::PayloadError>(body)]);
    let mut parts = Multipart::new(headers, stream);
    let (mut fields, mut count) = (Map::new(), 0);
    while let Some(mut part) = parts.try_next().await.map_err(|error| malformed(&error))? {
        let disposition = part.content_disposition();
        let name = part.name().map(ToOwned::to_owned);
        let is_file = disposition.is_some_and(|disposition| disposition.get_filename().is_some());
        count += 1;
        if count > MAX_FIELDS {
            return Err(malformed(&format!("more than {MAX_FIELDS} fields")));
        }
        // Uploaded files are read over, as in the reference.
        let mut content = Vec::new();
        while let Some(chunk) = part.next().await {
            let chunk = chunk.map_err(|error| malformed(&error))?;
            if !is_file {
                content.extend_from_slice(&chunk);
            }
        }
        if let Some(name) = name.filter(|_| !is_file) {
            fields.insert(name, Value::from(String::from_utf8_lossy(&content).into_owned()));
        }
    }
    raw(&Value::Object(fields))
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{CONTENT_TYPE, HeaderValue};

    use super::*;

    async fn read(content_type: &str, body: &str) -> Result<String, String> {
        if is_json(content_type) {
            return from_json(body.as_bytes())
                .map(|json| json.get().to_owned())
                .map_err(|failure| failure.to_string());
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap());
        let data = data(content_type, &headers, Bytes::from(body.to_owned())).await;
        data.map(|json| json.get().to_owned())
            .map_err(|failure| failure.to_string())
    }

    #[actix_web::test]
    async fn every_body_type_becomes_data() {
        for (content_type, body, expected) in [
            ("application/json", r#"{"a": 1.50}"#, r#"{"a": 1.50}"#),
            ("application/vnd.x+json; charset=utf-8", "[1]", "[1]"),
            ("text/plain", r#""text""#, r#""text""#),
            ("application/json", "  ", "{}"),
            (
                "application/x-www-form-urlencoded",
                "a%5Bb%5D=1&c=x+y&d[]=1&d[]=2",
                r#"{"a":{"b":"1"},"c":"x y","d":["1","2"]}"#,
            ),
            (
                "application/xml",
                r#"<o:order id="7"><item>a</item><item>b &amp; c</item><empty/></o:order>"#,
                r#"{"o-order":{"_attr":{"id":"7"},"item":["a","b & c"],"empty":""}}"#,
            ),
            ("text/csv", "a,b\n1,2", "{}"),
            ("application/unheard-of", "x", "{}"),
            (
                "multipart/form-data; boundary=B",
                "--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"x.txt\"\r\nContent-Type: text/plain\r\n\r\nfile\r\n--B--\r\n",
                r#"{"a":"1"}"#,
            ),
        ] {
            assert_eq!(
                read(content_type, body).await.as_deref(),
                Ok(expected),
                "{content_type} {body}"
            );
        }
    }

    #[actix_web::test]
    async fn malformed_bodies_are_refused() {
        let deep = "[".repeat(101);
        for (content_type, body) in [
            ("application/json", "{\"a\":"),
            ("application/json", "{\"a\":\"\\ud800\"}"),
            ("application/json", deep.as_str()),
            ("text/plain", "no json"),
            ("application/xml", "<a><b></a>"),
            ("application/xml", "<!DOCTYPE a [<!ENTITY x \"y\">]><a>&x;</a>"),
            ("multipart/form-data", "--B"),
        ] {
            assert!(read(content_type, body).await.is_err(), "{content_type} {body}");
        }
        let part = "--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n";
        let many = format!("{}--B--\r\n", part.repeat(MAX_FIELDS + 1));
        let attributes: Vec<String> = (0..300).map(|number| format!("a{number}=\"\"")).collect();
        let wide = format!("<a {}/>", attributes.join(" "));
        for (content_type, body, reason) in [
            ("multipart/form-data; boundary=B", &many, "more than 1000 fields"),
            ("application/xml", &wide, "more than 256 attributes"),
        ] {
            let refused = read(content_type, body).await.unwrap_err();
            assert!(refused.contains(reason), "{refused}");
        }
        assert!(from_json(&[b'"', 0xff, b'"']).is_err());
    }

    #[test]
    fn escapes_are_looked_at_in_every_text_and_key() {
        for good in [
            r#"["\u0041",{"\u00e4":[null,true,-1,2.5,18446744073709551615,"\ud83d\ude00"]}]"#,
            r#"{"a":"\\ud800"}"#,
        ] {
            assert_eq!(from_json(good.as_bytes()).map(RawValue::get).ok(), Some(good));
        }
        for bad in [
            r#"{"a":"\ud800"}"#,
            r#"{"a":["\u0041",{"\udc00":1}]}"#,
            r#"["\u004g"]"#,
            r#"["\u0041"] 1"#,
        ] {
            assert!(from_json(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn small_elements_weigh_more_than_their_bytes() {
        let elements = format!("<a>{}</a>", "<b c=\"\"/>".repeat(1_000));
        assert!(weight("text/xml", elements.as_bytes()) > 1_000_000);
        let fields = "a[b]=&".repeat(1_000);
        assert!(weight("application/x-www-form-urlencoded", fields.as_bytes()) > 1_000_000);
        assert_eq!(weight("application/pdf", elements.as_bytes()), 0);
    }
}
