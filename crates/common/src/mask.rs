//! Secrets never leave in clear: what names tell to be one is replaced before anything is logged or recorded. What runs is
//! never changed, only what is shown.

mod names;
mod text;

use serde_json::{Map, Value};

use names::Says;
pub use text::masked_text;

/// What stands in the place of a secret.
pub const MASK: &str = "***";

/// JSON inside of a text inside of JSON, and so on.
const MAX_DEPTH: usize = 4;

/// Whether a field of that name is a secret, whatever its value is.
pub fn is_secret_key(key: &str) -> bool {
    names::says(key) == Says::Secret
}

/// Replaces every secret inside `value`.
pub fn mask(value: &mut Value) {
    inside(value, 0);
}

fn inside(value: &mut Value, depth: usize) {
    match value {
        Value::Object(map) => object(map, depth),
        Value::Array(items) => items.iter_mut().for_each(|item| inside(item, depth)),
        Value::String(text) => {
            if let Some(masked) = text::masked_inside(text, depth) {
                *text = masked;
            }
        }
        _ => {}
    }
}

fn object(map: &mut Map<String, Value>, depth: usize) {
    // `{"key": …, "value": …}` is an entry of a list, not a credential.
    let is_entry = map
        .keys()
        .any(|key| key.eq_ignore_ascii_case("value") || key.eq_ignore_ascii_case("name"));
    for (key, inner) in map.iter_mut() {
        let hides = match names::says(key) {
            Says::Nothing => false,
            Says::Secret => true,
            Says::SecretUnlessEntry => !is_entry || looks_like_a_credential(inner),
            Says::SecretIfItLooks => looks_like_a_credential(inner),
        };
        if hides && !inner.is_null() {
            *inner = Value::from(MASK);
        } else {
            inside(inner, depth);
        }
    }
}

/// Long and without blanks.
fn looks_like_a_credential(value: &Value) -> bool {
    value
        .as_str()
        .is_some_and(|text| text.chars().count() >= 20 && !text.contains(char::is_whitespace))
}

/// `json` with every secret replaced, or `None` where there is none: the common case costs one scan of the text
/// and no parsing.
pub fn masked(json: &str) -> Option<String> {
    if !names::may_hold_secret(json.as_bytes()) {
        return None;
    }
    let Ok(mut value) = serde_json::from_str::<Value>(json) else {
        // What cannot be looked through is not shown.
        return Some(format!("\"{MASK}\""));
    };
    mask(&mut value);
    Some(value.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(mut value: Value) -> Value {
        mask(&mut value);
        value
    }

    #[test]
    fn secrets_are_masked_at_any_depth_and_in_any_spelling() {
        let text = r#"{"headers":{"Authorization":"Bearer x","X-Api-Key":"k"},"list":[{"client_secret":"s","token":"t"}],"tokens":3}"#;
        let masked = masked(text).unwrap();
        assert_eq!(
            masked,
            r#"{"headers":{"Authorization":"***","X-Api-Key":"***"},"list":[{"client_secret":"***","token":"***"}],"tokens":3}"#
        );
    }

    #[test]
    fn a_text_without_secrets_is_left_alone() {
        assert_eq!(masked(r#"{"order":{"id":1,"total":120.5}}"#), None);
        assert_eq!(
            masked(r#"{"at":"https://example.com/x","to":"a@example.com"}"#),
            None
        );
    }

    #[test]
    fn a_key_written_with_escapes_is_read_as_it_is() {
        assert_eq!(
            masked(r#"{"p\u0061ssword":"x"}"#).unwrap(),
            r#"{"password":"***"}"#
        );
    }

    #[test]
    fn entries_of_a_list_are_shown_and_keys_that_stand_alone_are_not() {
        let entry = json!({"key": "colour", "value": "red"});
        assert_eq!(shown(entry.clone()), entry);
        let named = json!({"name": "PROJ", "key": "PROJ", "pin": 4711});
        assert_eq!(shown(named.clone()), named);
        let long = "a1b2c3d4e5f6a7b8c9d0";
        assert_eq!(
            shown(json!({"key": long, "value": 1})),
            json!({"key": "***", "value": 1})
        );
        assert_eq!(
            shown(json!({"key": "short", "pin": 4711, "signature": "x"})),
            json!({"key": "***", "pin": "***", "signature": "***"})
        );
        assert_eq!(shown(json!({"code": "NOT_FOUND"})), json!({"code": "NOT_FOUND"}));
        assert_eq!(shown(json!({"code": long})), json!({"code": "***"}));
    }

    #[test]
    fn what_texts_hold_is_looked_through_too() {
        let text = json!({"body": "{\"user\": \"ada\", \"password\": \"x\"}", "url": "https://ada:pw@example.com/a?api_key=k&b=1"});
        let masked = masked(&text.to_string()).unwrap();
        let expected = json!({"body": "{\"user\":\"ada\",\"password\":\"***\"}", "url": "https://ada:***@example.com/a?api_key=***&b=1"});
        assert_eq!(serde_json::from_str::<Value>(&masked).unwrap(), expected);
    }
}
