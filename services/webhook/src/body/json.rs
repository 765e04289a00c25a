//! JSON bodies: they are their own data, and are checked but not changed.

use std::fmt;

use flowmate_common::{Failure, model::Json};
use flowmate_web::Survey;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// Levels of nesting in a JSON body. The steps' own parsers take 127.
const MAX_DEPTH: usize = 100;

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

/// A list of what is on the lines; a line is never touched.
pub(super) fn from_lines(body: &[u8]) -> Result<Json, Failure> {
    let mut list = String::with_capacity(body.len() + 2);
    list.push('[');
    // Some put a record separator before each value as well (RFC 7464).
    let lines = body
        .split(|byte| matches!(byte, b'\n' | b'\x1e'))
        .map(<[u8]>::trim_ascii);
    for line in lines.filter(|line| !line.is_empty()) {
        if list.len() > 1 {
            list.push(',');
        }
        list.push_str(from_json(line)?.get());
    }
    list.push(']');
    RawValue::from_string(list)
        .map(Json::from)
        .map_err(Failure::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
