//! What the bytes of an answer are to a flow: JSON, a text, or bytes in base64. No byte is lost on the way.

use std::borrow::Cow;

use base64::{Engine, prelude::BASE64_STANDARD};
use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};
use serde_json::{json, value::RawValue};

/// What a `Content-Type` says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ContentType {
    whole: String,
    essence: String,
    charset: Option<&'static Encoding>,
}

impl ContentType {
    pub(super) fn of(header: &str) -> Self {
        let mut parts = header.split(';');
        let essence = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
        let charset = parts.find_map(|parameter| {
            let (name, label) = parameter.split_once('=')?;
            let is_charset = name.trim().eq_ignore_ascii_case("charset");
            is_charset.then(|| Encoding::for_label(label.trim().trim_matches(['"', '\'']).as_bytes()))?
        });
        Self {
            whole: header.trim().to_owned(),
            essence,
            charset,
        }
    }

    fn is_json(&self) -> bool {
        matches!(self.essence.as_str(), "application/json" | "text/json") || self.essence.ends_with("+json")
    }

    /// Whether it names what is always text, whatever the bytes.
    fn is_text(&self) -> bool {
        const TEXTS: [&str; 9] = [
            "xml",
            "javascript",
            "x-javascript",
            "ecmascript",
            "x-www-form-urlencoded",
            "yaml",
            "x-yaml",
            "x-ndjson",
            "graphql",
        ];
        let text = |kind: &str| TEXTS.contains(&kind) || kind.ends_with("+xml") || kind.ends_with("+yaml");
        match self.essence.split_once('/') {
            Some(("text", _)) => true,
            Some(("application", kind)) => text(kind),
            Some((_, kind)) => kind.ends_with("+xml"),
            None => false,
        }
    }

    /// Whether it names what is never text, also where the bytes happen to be ASCII.
    fn is_binary(&self) -> bool {
        const BINARIES: [&str; 5] = ["pdf", "zip", "gzip", "x-gzip", "x-tar"];
        match self.essence.split_once('/') {
            Some(("image" | "audio" | "video" | "font", kind)) => !kind.ends_with("+xml"),
            Some(("application", kind)) => BINARIES.contains(&kind),
            _ => false,
        }
    }
}

impl ContentType {
    /// Whether what becomes of the bytes takes more room than they do: base64, or UTF-8 of another charset.
    pub(super) fn grows(&self, bytes: &[u8]) -> bool {
        let is_other = self.charset.is_some_and(|charset| charset != UTF_8);
        self.is_binary() || is_other || std::str::from_utf8(bytes).is_err()
    }
}

/// The text of these bytes; none where they are no text.
pub(super) fn text<'a>(kind: &ContentType, bytes: &'a [u8]) -> Option<Cow<'a, str>> {
    if kind.is_binary() {
        return None;
    }
    if let Some((marked, length)) = Encoding::for_bom(bytes) {
        let (text, damaged) = marked.decode_without_bom_handling(bytes.get(length..).unwrap_or_default());
        if !damaged {
            return Some(text);
        }
    }
    if let Some(declared) = kind.charset {
        let (text, damaged) = declared.decode_without_bom_handling(bytes);
        if !damaged {
            return Some(text);
        }
    }
    let is_text = kind.is_text() || kind.is_json() || kind.charset.is_some();
    let (text, damaged) = UTF_8.decode_without_bom_handling(bytes);
    match damaged {
        // Bytes that no text has.
        false if !is_text && bytes.contains(&0) => None,
        false => Some(text),
        // What is wrongly declared is mostly this; it has a character for each byte, so that nothing is lost.
        true if is_text => Some(WINDOWS_1252.decode_without_bom_handling(bytes).0),
        true => None,
    }
}

/// What a flow gets. Who says JSON and sends none is not worth an error: the request has had its effect.
pub(super) fn data(kind: &ContentType, bytes: &[u8]) -> Result<Box<RawValue>, serde_json::Error> {
    if bytes.is_empty() {
        return Ok(RawValue::NULL.to_owned());
    }
    let Some(text) = text(kind, bytes) else {
        let base64 = BASE64_STANDARD.encode(bytes);
        return serde_json::value::to_raw_value(&json!({"contentType": kind.whole, "base64": base64}));
    };
    if kind.is_json()
        && let Ok(json) = serde_json::from_str(&text)
    {
        return Ok(json);
    }
    serde_json::value::to_raw_value(&text)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn got(content_type: &str, bytes: &[u8]) -> Value {
        let data = data(&ContentType::of(content_type), bytes).unwrap();
        serde_json::from_str(data.get()).unwrap()
    }

    #[test]
    fn json_is_parsed_and_what_only_says_so_is_text() {
        for kind in [
            "application/json",
            "text/json; charset=utf-8",
            "application/hal+json",
        ] {
            assert_eq!(got(kind, br#"{"a":1}"#), json!({"a": 1}), "{kind}");
            assert_eq!(got(kind, b"ok"), json!("ok"), "{kind}");
            assert_eq!(got(kind, b""), Value::Null, "{kind}");
        }
        assert_eq!(got("application/json", b"\xef\xbb\xbf{\"a\":1}"), json!({"a": 1}));
        assert_eq!(got("application/json", b"\xff\xfe{\0}\0"), json!({}));
        assert_eq!(
            got("application/json; charset=ISO-8859-1", b"[\"\xe9\"]"),
            json!(["é"])
        );
        assert_eq!(got("text/plain", br#"{"a":1}"#), json!(r#"{"a":1}"#));
        assert_eq!(got("", br#"{"a":1}"#), json!(r#"{"a":1}"#));
    }

    #[test]
    fn charsets_are_decoded() {
        assert_eq!(
            got("text/plain; charset=ISO-8859-1", b"Path\xe9 M\xfcller"),
            "Pathé Müller"
        );
        assert_eq!(got("text/csv;Charset=\"windows-1252\"", b"5 \x80"), "5 €");
        assert_eq!(got("text/html; charset=Shift_JIS", b"\x93\xfa\x96{"), "日本");
        assert_eq!(got("text/plain; charset=utf-16le", b"h\0i\0"), "hi");
        assert_eq!(got("text/plain; charset=utf-8", b"\xfe\xff\0h\0i"), "hi");
        assert_eq!(got("text/plain", b"\xef\xbb\xbfhi"), "hi");
        assert_eq!(
            got("text/plain; charset=utf-8", b"caf\xe9"),
            "café",
            "wrongly declared"
        );
        assert_eq!(got("text/plain; charset=unknown", b"caf\xe9"), "café");
    }

    #[test]
    fn bytes_survive() {
        let pdf = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n\x00\xff";
        for kind in ["application/pdf", "image/png", "application/octet-stream", ""] {
            let got = got(kind, pdf);
            assert_eq!(got["contentType"], kind);
            let bytes = BASE64_STANDARD.decode(got["base64"].as_str().unwrap()).unwrap();
            assert_eq!(bytes, pdf, "{kind}");
        }
        assert_eq!(
            got("image/gif", b"GIF")["base64"],
            "R0lG",
            "also where it is ASCII"
        );
        assert_eq!(got("image/svg+xml", b"<svg/>"), "<svg/>");
        assert_eq!(got("application/octet-stream", b"a,b"), "a,b");
    }
}
