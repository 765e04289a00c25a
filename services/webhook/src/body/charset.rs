//! Texts in other characters than UTF-8. A text is what was sent or it is refused: never with replacements inside.

use std::borrow::Cow;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};
use flowmate_common::Failure;

/// The value of a parameter of a content type. Behind a type without its semicolon it is found too.
pub(crate) fn parameter<'a>(content_type: &'a str, name: &str) -> Option<&'a str> {
    let mut parameters = content_type
        .split([';', ',', ' ', '\t'])
        .filter_map(|part| part.split_once('='));
    let (_, value) = parameters.find(|(key, _)| key.trim().eq_ignore_ascii_case(name))?;
    let value = value.trim().trim_matches(['"', '\'']);
    Some(value).filter(|value| !value.is_empty())
}

/// The encoding of that name; names with a hyphen too many are known too.
pub(crate) fn named(label: &str) -> Option<&'static Encoding> {
    let label = label.trim();
    Encoding::for_label_no_replacement(label.as_bytes())
        .or_else(|| Encoding::for_label_no_replacement(label.replace(['-', '_', ' '], "").as_bytes()))
}

/// `body` as a text in the encoding that it says itself, else in that of `label`, else in UTF-8. Nothing is copied where
/// it is in UTF-8.
pub(crate) fn text<'a>(body: &'a [u8], label: Option<&str>) -> Result<Cow<'a, str>, Failure> {
    let (encoding, mark) = match (Encoding::for_bom(body), label) {
        (Some(found), _) => found,
        (None, Some(label)) => match named(label) {
            Some(encoding) => (byte_order(encoding, label, body), 0),
            // What is no name of an encoding changes nothing where the text is in the usual one.
            None if std::str::from_utf8(body).is_ok() => (UTF_8, 0),
            None => return Err(Failure::invalid(format!("Unknown charset {label:.40}"))),
        },
        (None, None) => (unmarked(body).unwrap_or(UTF_8), 0),
    };
    let body = body.get(mark..).unwrap_or_default();
    decoded(body, encoding)
        .ok_or_else(|| Failure::invalid(format!("The text is not in {}.", encoding.name())))
}

/// All of `body` in this encoding, if it is.
pub(crate) fn decoded<'a>(body: &'a [u8], encoding: &'static Encoding) -> Option<Cow<'a, str>> {
    encoding.decode_without_bom_handling_and_without_replacement(body)
}

/// A text in no known encoding: UTF-8, or else what browsers take for it, in which every byte is a character.
pub(crate) fn guessed(body: &[u8]) -> Cow<'_, str> {
    decoded(body, UTF_8).unwrap_or_else(|| WINDOWS_1252.decode_without_bom_handling(body).0)
}

/// Whether a text is marked, or in another encoding than UTF-8.
pub(crate) fn is_foreign(body: &[u8], label: Option<&str>) -> bool {
    let is_named = label.is_some_and(|label| named(label).is_none_or(|encoding| encoding != UTF_8));
    is_named || Encoding::for_bom(body).is_some() || unmarked(body).is_some()
}

/// Whether a text is marked, or in an encoding without the letters of ASCII.
pub(crate) fn is_wide(body: &[u8], label: Option<&str>) -> bool {
    let is_named = label
        .and_then(named)
        .is_some_and(|encoding| !encoding.is_ascii_compatible());
    is_named || Encoding::for_bom(body).is_some()
}

/// `utf-16` says nothing of the order of the bytes; the text does, since most of them have letters of ASCII.
fn byte_order(encoding: &'static Encoding, label: &str, body: &[u8]) -> &'static Encoding {
    if !label.trim().eq_ignore_ascii_case("utf-16") {
        return encoding;
    }
    let zeros = |from: usize| {
        body.iter()
            .skip(from)
            .step_by(2)
            .take(512)
            .filter(|byte| **byte == 0)
            .count()
    };
    if zeros(0) > zeros(1) { UTF_16BE } else { encoding }
}

/// UTF-16 without a mark: every text in a language for machines begins with a letter of ASCII.
fn unmarked(body: &[u8]) -> Option<&'static Encoding> {
    match body {
        [0, 1..=u8::MAX, ..] => Some(UTF_16BE),
        [1..=u8::MAX, 0, ..] => Some(UTF_16LE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &[u8], label: Option<&str>) -> Option<String> {
        text(body, label).ok().map(Cow::into_owned)
    }

    fn utf_16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    #[test]
    fn texts_are_read_in_their_encoding() {
        for (body, label) in [
            (&b"M\xfcller \x80"[..], Some("windows-1252")),
            (b"M\xfcller \x80", Some("ISO-8859-1")),
            (b"M\xfcller \x80", Some("latin-1")),
            (b"M\xfcller \x80", Some("cp1252")),
            (b"M\xfcller \xa4", Some("ISO-8859-15")),
            ("Müller €".as_bytes(), None),
            ("Müller €".as_bytes(), Some("utf8")),
            ("Müller €".as_bytes(), Some("UTF_8")),
            ("Müller €".as_bytes(), Some("unheard-of")),
            ("\u{feff}Müller €".as_bytes(), Some("latin1")),
            (&utf_16("\u{feff}Müller €", u16::to_le_bytes), None),
            (&utf_16("\u{feff}Müller €", u16::to_be_bytes), Some("utf-8")),
            (&utf_16("Müller €", u16::to_le_bytes), None),
            (&utf_16("Müller €", u16::to_be_bytes), None),
            (&utf_16("Müller €", u16::to_le_bytes), Some("utf-16")),
            (&utf_16("Müller €", u16::to_be_bytes), Some("utf-16")),
            (&utf_16("Müller €", u16::to_be_bytes), Some("utf-16be")),
        ] {
            assert_eq!(
                read(body, label).as_deref(),
                Some("Müller €"),
                "{body:?} {label:?}"
            );
        }
        assert_eq!(read(b"\x93\xfa\x96{", Some("Shift_JIS")).as_deref(), Some("日本"));
        assert!(matches!(text(b"abc", Some("utf-8")), Ok(Cow::Borrowed("abc"))));
        assert_eq!(guessed(b"M\xfcller"), "Müller");
    }

    #[test]
    fn what_is_not_in_its_encoding_is_refused() {
        for (body, label) in [
            (&b"M\xfcller"[..], None),
            (b"M\xfcller", Some("utf-8")),
            (b"M\xfcller", Some("unheard-of")),
            (b"\x81", Some("shift_jis")),
            (b"\xff\xfea\0b", None),
            (b"\0\xd8a\0", Some("utf-16le")),
            (b"abc\xff", Some("iso-2022-kr")),
        ] {
            assert_eq!(read(body, label), None, "{body:?} {label:?}");
        }
    }

    #[test]
    fn parameters_are_found_however_they_are_written() {
        for content_type in [
            "text/xml; charset=latin1",
            "text/xml;CharSet=\"latin1\"; x=y",
            "text/xml charset=latin1",
            "text/xml; x=y ;charset='latin1'",
        ] {
            assert_eq!(
                parameter(content_type, "charset"),
                Some("latin1"),
                "{content_type}"
            );
        }
        assert_eq!(parameter("text/xml; charset=", "charset"), None);
        assert_eq!(parameter("text/xml", "charset"), None);
    }
}
