//! `flowSettings.webhooks`: who may call a flow (contract 3.8). What is not understood protects.

use serde_json::{Map, Value};

use crate::validate::{cast, present};

/// The settings' key in `flowSettings`.
const SECTION: &str = "webhooks";
const SWITCH: &str = "requireWebhookAuth";
const ALL_TENANT_USERS: &str = "allTenantUsers";
const TEXTS: [&str; 3] = ["hmacAuthSecret", "hmacHeaderKey", "hmacAlgorithm"];

/// Who may call the webhook of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Anybody.
    Open,
    /// Owners and administrators who say who they are.
    Callers {
        /// And every user of the tenant that owns the flow.
        all_tenant_users: bool,
    },
}

impl Protection {
    /// What `flowSettings` ask for. Settings that would be refused today open nothing.
    pub fn of(settings: Option<&Map<String, Value>>) -> Self {
        let Some(settings) = settings else {
            return Self::Open;
        };
        if !errors(settings).is_empty() {
            return Self::Callers {
                all_tenant_users: false,
            };
        }
        let webhooks = settings.get(SECTION);
        let asks = |key| webhooks.and_then(|webhooks| webhooks.get(key)) == Some(&Value::Bool(true));
        if asks(SWITCH) {
            Self::Callers {
                all_tenant_users: asks(ALL_TENANT_USERS),
            }
        } else {
            Self::Open
        }
    }
}

/// What is wrong with the webhooks' part of `flowSettings`. Who misspells a switch means it; other settings, which others
/// may read, are none of ours.
pub fn errors(settings: &Map<String, Value>) -> Vec<String> {
    let mut errors = misspelt(settings, "flowSettings", &[SECTION]);
    for key in settings.keys() {
        if [SWITCH, ALL_TENANT_USERS].iter().any(|known| alike(key, known)) {
            errors.push(format!(
                "`flowSettings.{key}` belongs into `flowSettings.{SECTION}`."
            ));
        }
    }
    let Some(webhooks) = present(settings, SECTION) else {
        return errors;
    };
    let path = format!("flowSettings.{SECTION}");
    let Some(webhooks) = webhooks.as_object() else {
        errors.push(cast("Object", webhooks, &path));
        return errors;
    };
    let known = [&[SWITCH, ALL_TENANT_USERS][..], &TEXTS].concat();
    errors.extend(misspelt(webhooks, &path, &known));
    let mut expect = |kind: &str, keys: &[&str], fits: fn(&Value) -> bool| {
        for key in keys {
            if let Some(value) = present(webhooks, key).filter(|value| !fits(value)) {
                errors.push(cast(kind, value, &format!("{path}.{key}")));
            }
        }
    };
    expect("boolean", &[SWITCH, ALL_TENANT_USERS], Value::is_boolean);
    expect("string", &TEXTS, Value::is_string);
    errors
}

/// Keys that differ from a known one in nothing but case and separators.
fn misspelt(map: &Map<String, Value>, path: &str, known: &[&str]) -> Vec<String> {
    let meant = |key: &str| known.iter().find(|known| key != **known && alike(key, known));
    map.keys()
        .filter_map(|key| meant(key).map(|meant| format!("`{path}.{key}` is spelt `{meant}`.")))
        .collect()
}

fn alike(one: &str, other: &str) -> bool {
    fn letters(text: &str) -> impl Iterator<Item = char> {
        let letters = text.chars().filter(|c| !matches!(c, '_' | '-' | ' ' | '.'));
        letters.flat_map(char::to_lowercase)
    }
    letters(one).eq(letters(other))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(settings: &Value) -> (Vec<String>, Protection) {
        let settings = settings.as_object().unwrap();
        (errors(settings), Protection::of(Some(settings)))
    }

    #[test]
    fn what_is_said_clearly_is_done() {
        let closed = |all_tenant_users| Protection::Callers { all_tenant_users };
        assert_eq!(Protection::of(None), Protection::Open);
        for (settings, expected) in [
            (json!({}), Protection::Open),
            (json!({"webhooks": null, "other": [1]}), Protection::Open),
            (json!({"webhooks": {}}), Protection::Open),
            (
                json!({"webhooks": {"requireWebhookAuth": null, "x": 1}}),
                Protection::Open,
            ),
            (
                json!({"webhooks": {"requireWebhookAuth": false, "allTenantUsers": true}}),
                Protection::Open,
            ),
            (json!({"webhooks": {"requireWebhookAuth": true}}), closed(false)),
            (
                json!({"webhooks": {"requireWebhookAuth": true, "allTenantUsers": true, "hmacHeaderKey": "x"}}),
                closed(true),
            ),
        ] {
            assert_eq!(of(&settings), (Vec::new(), expected), "{settings}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_and_opens_nothing() {
        for settings in [
            json!({"webhooks": {"requireWebhookAuth": "true"}}),
            json!({"webhooks": {"requireWebhookAuth": "false"}}),
            json!({"webhooks": {"requireWebhookAuth": 1}}),
            json!({"webhooks": {"requireWebhookAuth": 0}}),
            json!({"webhooks": {"requireWebhookAuth": "yes", "allTenantUsers": true}}),
            json!({"webhooks": {"requireWebhookAuth": [true]}}),
            json!({"webhooks": {"requireWebhookAuth": true, "allTenantUsers": "true"}}),
            json!({"webhooks": {"requireWebhookAuth": true, "hmacHeaderKey": 1}}),
            json!({"webhooks": {"requirewebhookauth": true}}),
            json!({"webhooks": {"require_webhook_auth": true}}),
            json!({"webhooks": true}),
            json!({"webhooks": "requireWebhookAuth"}),
            json!({"webhooks": [{"requireWebhookAuth": true}]}),
            json!({"Webhooks": {"requireWebhookAuth": true}}),
            json!({"requireWebhookAuth": true}),
        ] {
            let (errors, protection) = of(&settings);
            assert_eq!(errors.len(), 1, "{settings}: {errors:?}");
            assert_eq!(
                protection,
                Protection::Callers {
                    all_tenant_users: false
                },
                "{settings}"
            );
        }
        assert_eq!(
            of(&json!({"webhooks": {"requireWebhookAuth": "true"}})).0,
            [
                r#"Cast to boolean failed for value "true" (type string) at path "flowSettings.webhooks.requireWebhookAuth""#
            ]
        );
    }
}
