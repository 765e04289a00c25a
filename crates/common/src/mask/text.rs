//! Secrets inside texts: JSON, addresses, headers, and what messages of others repeat of them.

use std::{borrow::Cow, sync::LazyLock};

use regex::{Captures, Regex};
use serde_json::Value;

use super::{MASK, MAX_DEPTH, inside, is_secret_key, names::may_hold_secret};

/// Patterns that are compiled once; they are constants, which a test compiles.
fn pattern(text: &str) -> Option<Regex> {
    Regex::new(text).ok()
}

/// The name and password before the host of an address.
static LOGIN: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r#"([A-Za-z][A-Za-z0-9+.\-]*://[^\s/?#:@"']*):[^\s/?#"'@]+@"#));
/// What follows the scheme of an Authorization header.
static SCHEME: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r"\b([Bb]earer|BEARER|[Bb]asic|BASIC) +([A-Za-z0-9+/_.~\-]{8,}=*)"));
/// `name=value`, and `"name": "value"` with quotes that may be escaped.
static FIELD: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(
        r#"(?x)
        ( ([A-Za-z][A-Za-z0-9_.\-]{0,99}) = | \\?["'] ([A-Za-z][A-Za-z0-9_.\-]{0,99}) \\?["'] \s* : \s* )
        ( " (?: [^"\\] | \\. )* "? | \\" [^"\\]* (?: \\?" )? | ' [^']* '? | [^\s&,;"'}\])\\]+ )"#,
    )
});

/// Whether there may be a name and password before the host of an address.
pub(super) fn may_hold_login(text: &[u8]) -> bool {
    let mut rest = text;
    while let Some(at) = rest.windows(3).position(|window| window == b"://") {
        rest = rest.get(at + 3..).unwrap_or_default();
        let end = rest
            .iter()
            .position(|byte| matches!(byte, b'/' | b'"' | b'?' | b'#' | b' '));
        let authority = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        if authority.contains(&b'@') {
            return true;
        }
    }
    false
}

/// `text`, such as a message of an error, without the secrets that it repeats.
pub fn masked_text(text: &str) -> Cow<'_, str> {
    masked_inside(text, 0).map_or(Cow::Borrowed(text), Cow::Owned)
}

/// `None` where there is nothing to hide. Texts that are JSON are looked through as JSON.
pub(super) fn masked_inside(text: &str, depth: usize) -> Option<String> {
    if !may_hold_secret(text.as_bytes()) {
        return None;
    }
    let is_json = matches!(text.trim_start().as_bytes().first(), Some(b'{' | b'['));
    if is_json && let Ok(value) = serde_json::from_str::<Value>(text) {
        if depth == MAX_DEPTH {
            return Some(MASK.to_owned());
        }
        let mut masked = value.clone();
        inside(&mut masked, depth + 1);
        return (masked != value).then(|| masked.to_string());
    }
    let masked = replaced(LOGIN.as_ref(), text, |found| {
        format!("{}:{MASK}@", group(found, 1))
    });
    let masked = replaced(SCHEME.as_ref(), &masked, scheme);
    let masked = replaced(FIELD.as_ref(), &masked, field);
    (masked != text).then(|| masked.into_owned())
}

/// Words that follow are no credential: that has digits, or capitals inside.
fn scheme(found: &Captures<'_>) -> String {
    let said = group(found, 2);
    let is_credential = said
        .char_indices()
        .any(|(at, c)| c.is_ascii_digit() || c == '=' || (at > 0 && c.is_ascii_uppercase()));
    if is_credential {
        format!("{} {MASK}", group(found, 1))
    } else {
        group(found, 0).to_owned()
    }
}

fn field(found: &Captures<'_>) -> String {
    let name = found.get(2).or_else(|| found.get(3));
    if !name.is_some_and(|name| is_secret_key(name.as_str())) {
        return group(found, 0).to_owned();
    }
    let value = group(found, 4);
    let quote = ["\\\"", "\"", "'"]
        .into_iter()
        .find(|quote| value.starts_with(quote))
        .unwrap_or_default();
    format!("{}{quote}{MASK}{quote}", group(found, 1))
}

fn group<'a>(found: &'a Captures<'_>, number: usize) -> &'a str {
    found.get(number).map_or("", |part| part.as_str())
}

fn replaced<'a>(
    pattern: Option<&Regex>,
    text: &'a str,
    with: impl Fn(&Captures<'_>) -> String,
) -> Cow<'a, str> {
    match pattern {
        Some(pattern) => pattern.replace_all(text, with),
        None => Cow::Owned(MASK.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_repeat_no_secrets() {
        for (text, shown) in [
            (
                "mongodb://ada:p%40w@db:27017/x failed",
                "mongodb://ada:***@db:27017/x failed",
            ),
            (
                "the receiver answered 400: {\"password\": \"hunter2\", \"n\": 1} is wrong",
                "the receiver answered 400: {\"password\": \"***\", \"n\": 1} is wrong",
            ),
            (
                "sent {\\\"apiKey\\\":\\\"k\\\"}",
                "sent {\\\"apiKey\\\":\\\"***\\\"}",
            ),
            (
                "got Authorization: Bearer abcdEfgh.ij",
                "got Authorization: Bearer ***",
            ),
            (
                "GET https://x/y?access_token=abc&page=2",
                "GET https://x/y?access_token=***&page=2",
            ),
            ("cut off: {\"token\": \"half", "cut off: {\"token\": \"***\""),
            ("{\"pwd\": \"a\\\"b\"} it was", "{\"pwd\": \"***\"} it was"),
        ] {
            assert_eq!(masked_text(text), shown);
        }
    }

    #[test]
    fn other_texts_stay_as_they_are() {
        for text in [
            "the secretary's session is at 10:30; see https://example.com/a:b@c",
            "Node \"a\": unknown function \"sned\" of component \"http\".",
            "key=value and code=5",
            "basic understanding of bearers",
            "{\"key\":\"colour\",\"value\":\"passes\"}",
        ] {
            assert_eq!(masked_text(text), text);
        }
    }

    #[test]
    fn json_in_json_in_json_is_looked_through_and_what_goes_deeper_is_not_shown() {
        let mut text = "{\"password\":\"x\"}".to_owned();
        for _ in 0..3 {
            text = serde_json::json!({ "inner": text }).to_string();
            let masked = masked_text(&text);
            assert!(masked.contains("***") && !masked.contains("\\\"x\\"), "{masked}");
        }
        for _ in 0..MAX_DEPTH {
            text = serde_json::json!({ "inner": text }).to_string();
        }
        assert!(!masked_text(&text).contains('x'));
    }
}
