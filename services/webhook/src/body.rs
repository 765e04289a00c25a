//! What was sent, as JSON (contract 3.8).

mod charset;
mod coding;
mod form;
mod format;
mod json;
mod multipart;
mod xml;

use actix_web::{http::header::HeaderMap, web::Bytes};
use flowmate_common::{
    Failure,
    budget::escapes,
    model::{self, Json},
};
use serde_json::{Map, Value};

pub(crate) use charset::guessed;
pub(crate) use coding::Coding;
use format::Format;
pub(crate) use json::from_json;
use json::from_lines;

/// A node of a form: its name, its place among the others, and the value that becomes of it.
const NODE: usize = 1_280;

/// How one body is read, and the encoding that its content type names.
pub(crate) struct Reading<'a> {
    format: Format,
    charset: Option<&'a str>,
}

impl<'a> Reading<'a> {
    /// As the content type says. Some leave out its semicolon.
    pub(crate) fn of(content_type: &'a str) -> Self {
        let content_type = content_type.trim();
        let essence = content_type
            .split([';', ',', ' ', '\t'])
            .next()
            .unwrap_or_default();
        Self {
            format: Format::of(essence),
            charset: charset::parameter(content_type, "charset"),
        }
    }

    /// Whether the body is its own data.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether the body has to be translated to UTF-8 before it is read.
    pub(crate) fn is_foreign(&mut self, body: &[u8]) -> bool {
        // Where nothing is said, one that can be looked at may say it itself.
        self.must_be_translated(body) || {
            self.look_at(body);
            self.must_be_translated(body)
        }
    }

    fn must_be_translated(&self, body: &[u8]) -> bool {
        match self.format {
            Format::Json | Format::Lines => charset::is_foreign(body, self.charset),
            Format::Xml => charset::is_foreign(body, self.charset.or_else(|| xml::declared(body))),
            // Its bytes are encoded in themselves, in whatever encoding; only what has no letters of ASCII has to be read.
            Format::Form => charset::is_wide(body, self.charset),
            Format::Unsaid => charset::is_wide(body, None),
            Format::Multipart { .. } | Format::Text | Format::File | Format::Opaque => false,
        }
    }

    /// The same body in UTF-8.
    pub(crate) fn translate(&mut self, body: &[u8]) -> Result<Vec<u8>, Failure> {
        let declared = match self.format {
            Format::Xml => xml::declared(body),
            _ => None,
        };
        let text = charset::text(body, self.charset.or(declared))?;
        self.charset = None;
        Ok(text.into_owned().into_bytes())
    }

    /// Finds out what it is, where nobody said it.
    pub(crate) fn look_at(&mut self, body: &[u8]) {
        if self.format == Format::Unsaid {
            self.format = Format::seen(body);
        }
    }

    /// Bytes that [`Self::data`] may take for this body beside it, the event included.
    pub(crate) fn weight(&self, body: &[u8]) -> usize {
        /// An element, which may be the only one in its parent's map.
        const ELEMENT: usize = 384;
        /// An attribute: a map for the element, and one for its attributes.
        const ATTRIBUTE: usize = 1_024;
        let pairs = |counts: fn(u8, u8) -> bool| {
            let pairs = body.windows(2).filter_map(|pair| <[u8; 2]>::try_from(pair).ok());
            pairs.filter(|[first, second]| counts(*first, *second)).count()
        };
        let bytes = |times: usize| body.len().saturating_mul(times);
        // In the data and in the event.
        let escapes = || 2 * escapes(body);
        match self.format {
            Format::Json | Format::Opaque | Format::Unsaid => 0,
            // The list and the event.
            Format::Lines => bytes(2),
            Format::Text => bytes(4).saturating_add(escapes()),
            Format::File => bytes(4),
            Format::Form => {
                // A byte in an encoding of single ones may become three.
                let text = bytes(if body.is_ascii() { 2 } else { 4 });
                // What stands in two digits may be a control character, which are three bytes and become six, twice.
                let digits = pairs(|first, _| first == b'%');
                let text = text
                    .saturating_add(escapes())
                    .saturating_add(digits.saturating_mul(10));
                text.saturating_add(form::nodes(body).saturating_mul(NODE))
            }
            // The parser's buffer, the parts, base64 of them, the event.
            Format::Multipart { .. } => {
                let parts = pairs(|first, second| first == b'\n' && second == b'-').min(multipart::MAX_PARTS);
                bytes(5)
                    .saturating_add(escapes())
                    .saturating_add(parts.saturating_mul(multipart::PART))
            }
            Format::Xml => {
                let elements = pairs(|first, second| first == b'<' && second != b'/');
                let attributes = pairs(|first, second| first == b'=' && matches!(second, b'"' | b'\''));
                let values = elements
                    .saturating_mul(ELEMENT)
                    .saturating_add(attributes.saturating_mul(ATTRIBUTE));
                bytes(2).saturating_add(escapes()).saturating_add(values)
            }
        }
    }

    /// The data that a body becomes.
    pub(crate) async fn data(&self, headers: &HeaderMap, body: Bytes) -> Result<Json, Failure> {
        match self.format {
            Format::Json => from_json(&body).map(ToOwned::to_owned).map(Json::from),
            Format::Lines => from_lines(&body),
            Format::Form => raw(&Value::Object(form::parse(&body, self.charset))),
            Format::Xml => raw(&xml::parse(&body)?),
            Format::Multipart { is_form } => raw(&multipart::parse(headers, body, is_form).await?),
            Format::Text => raw(&Value::from(String::from_utf8_lossy(&body))),
            Format::File => raw(&multipart::file(None, None, &body)),
            Format::Opaque | Format::Unsaid => raw(&Value::Object(Map::new())),
        }
    }
}

fn raw(value: &Value) -> Result<Json, Failure> {
    model::json(value).map_err(Failure::internal)
}

/// `a[b]=1&c=2` as `{"a":{"b":"1"},"c":"2"}`.
pub(crate) fn from_query(query: &str) -> Result<Json, Failure> {
    raw(&Value::Object(form::parse(query.as_bytes(), None)))
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{CONTENT_TYPE, HeaderValue};

    use super::*;

    #[actix_web::test]
    async fn xml_without_a_content_type_is_read_in_the_encoding_that_it_declares() {
        let body = b"<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><a>\xe4</a>";
        let expected = read("text/xml", body).await;
        assert!(expected.as_ref().unwrap().contains('\u{e4}'));
        assert_eq!(read("", body).await, expected);
    }

    async fn read(content_type: &str, body: impl AsRef<[u8]>) -> Result<String, String> {
        let (mut reading, mut body) = (Reading::of(content_type), body.as_ref().to_vec());
        if reading.is_foreign(&body) {
            body = reading.translate(&body).map_err(|failure| failure.to_string())?;
        }
        reading.look_at(&body);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap());
        let data = reading.data(&headers, body.into()).await;
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
                r#"{"a":"1","f":{"filename":"x.txt","contentType":"text/plain","size":4,"encoding":"base64","content":"ZmlsZQ=="}}"#,
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
    async fn content_types_are_taken_as_senders_write_them() {
        for (content_type, body, expected) in [
            ("application/json charset=utf-8", "{\"a\":1.50}", "{\"a\":1.50}"),
            ("application/json, application/json", "[1]", "[1]"),
            ("text/json", "[1]", "[1]"),
            ("applications/json", "[1]", "[1]"),
            ("application/csp-report", "[1]", "[1]"),
            ("APPLICATION/CloudEvents-Batch+JSON", "[1]", "[1]"),
            (
                "application/x-ndjson",
                "{\"a\":1.0}\n\r\n [2]\r\n",
                "[{\"a\":1.0},[2]]",
            ),
            ("application/jsonl; charset=utf-8", "1", "[1]"),
            ("application/json-seq", "\u{1e}{}\n\u{1e}2\n", "[{},2]"),
            ("application/jsonl", "", "[]"),
            ("", "", "{}"),
            ("", " \r\n", "{}"),
            ("", "{\"id\":820982911946154508}", "{\"id\":820982911946154508}"),
            ("", " 17", " 17"),
            ("", "a[b]=1&c=x+y", "{\"a\":{\"b\":\"1\"},\"c\":\"x y\"}"),
            ("", "<?xml version=\"1.0\"?><a>1</a>", "{\"a\":\"1\"}"),
            ("", "hello, 1 = one", "\"hello, 1 = one\""),
            ("", "{\"a\":", "\"{\\\"a\\\":\""),
        ] {
            let read = read(content_type, body).await;
            assert_eq!(
                read.as_deref().map(str::trim),
                Ok(expected.trim()),
                "{content_type} {body}"
            );
        }
        let bytes = read("", b"\x89PNG\0").await.unwrap();
        assert!(bytes.contains("\"content\":\"iVBORwA=\""), "{bytes}");
        assert!(read("application/x-ndjson", "{}\n{").await.is_err());
        assert!(
            read("application/x-ndjson", format!("{}\n1", "[".repeat(101)))
                .await
                .is_err()
        );
    }

    #[actix_web::test]
    async fn json_in_other_encodings_is_json() {
        let plain = "{\"n\":\"Zoë\",\"id\":820982911946154508,\"d\":0.10000000000000000000001}";
        let utf_16 =
            |text: &str, bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
        for (content_type, body) in [
            ("application/json", format!("\u{feff}{plain}").into_bytes()),
            (
                "text/plain; charset=utf-8",
                format!("\u{feff}{plain}").into_bytes(),
            ),
            ("application/json", utf_16(plain, u16::to_le_bytes)),
            ("application/json", utf_16(plain, u16::to_be_bytes)),
            (
                "application/json; charset=utf-16",
                utf_16(&format!("\u{feff}{plain}"), u16::to_le_bytes),
            ),
            (
                "application/json; charset=utf-8",
                utf_16(&format!("\u{feff}{plain}"), u16::to_be_bytes),
            ),
            ("", format!("\u{feff}{plain}").into_bytes()),
            ("", utf_16(&format!("\u{feff}{plain}"), u16::to_le_bytes)),
            (
                "application/json; charset=iso-8859-1",
                plain
                    .chars()
                    .map(|c| u8::try_from(u32::from(c)).unwrap())
                    .collect(),
            ),
            ("application/json; charset=unheard-of", plain.as_bytes().to_vec()),
        ] {
            assert_eq!(
                read(content_type, &body).await.as_deref(),
                Ok(plain),
                "{content_type} {body:?}"
            );
        }
        for content_type in [
            "application/json",
            "application/json; charset=utf-8",
            "application/json; charset=unheard-of",
        ] {
            assert!(
                read(content_type, b"{\"n\":\"Zo\xeb\"}").await.is_err(),
                "{content_type}"
            );
        }
    }

    #[actix_web::test]
    async fn every_declared_encoding_of_xml_is_read() {
        let declared = |label: &str| format!("<?xml version='1.0' encoding = \"{label}\" ?><n>M\u{fc}</n>");
        let latin = |text: &str| {
            text.chars()
                .map(|c| u8::try_from(u32::from(c)).unwrap())
                .collect::<Vec<u8>>()
        };
        let utf_16 =
            |text: &str, bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
        let plain = "<n>M\u{fc}</n>";
        for (body, label) in [
            (latin(&declared("ISO-8859-1")), None),
            (latin(&declared("latin-1")), None),
            (latin(&declared("windows-1252")), None),
            (latin(plain), Some("iso-8859-1")),
            (latin(&declared("utf-8")), Some("iso-8859-1")),
            (declared("utf-8").into_bytes(), None),
            (format!("\u{feff}{}", declared("utf-8")).into_bytes(), None),
            (
                utf_16(&format!("\u{feff}{}", declared("utf-16")), u16::to_le_bytes),
                None,
            ),
            (utf_16(&declared("utf-16"), u16::to_be_bytes), None),
            (utf_16(plain, u16::to_le_bytes), Some("utf-16")),
        ] {
            let content_type = label.map_or("text/xml".into(), |label| format!("text/xml; charset={label}"));
            let read = read(&content_type, &body).await;
            assert_eq!(read.as_deref(), Ok("{\"n\":\"M\u{fc}\"}"), "{body:?} {label:?}");
        }
        for bad in [
            latin(plain),
            latin(&declared("utf-8")),
            latin(&declared("unheard-of")),
        ] {
            assert!(read("text/xml", &bad).await.is_err());
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
        let many = format!("{}--B--\r\n", part.repeat(multipart::MAX_PARTS + 1));
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
    fn small_elements_weigh_more_than_their_bytes() {
        let elements = format!("<a>{}</a>", "<b c=\"\"/>".repeat(1_000));
        assert!(Reading::of("text/xml").weight(elements.as_bytes()) > 1_000_000);
        let fields = "a[b]=&".repeat(1_000);
        assert!(Reading::of("application/x-www-form-urlencoded").weight(fields.as_bytes()) > 1_000_000);
        let controls = [1_u8; 1_000];
        for kind in [
            "",
            "text/xml",
            "multipart/form-data",
            "application/x-www-form-urlencoded",
        ] {
            let mut reading = Reading::of(kind);
            reading.look_at(&controls);
            assert!(reading.weight(&controls) >= 12_000, "{kind}: six each, twice");
        }
        assert_eq!(Reading::of("application/pdf").weight(elements.as_bytes()), 0);
    }
}
