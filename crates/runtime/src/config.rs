//! Configuration in layers: defaults, a file, the environment. What does not fit stops the start with a message that
//! names the key and where it came from.

use std::{collections::BTreeSet, path::Path};

use config::{Config, Environment, File, FileFormat};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

const PREFIX: &str = "FLOWMATE";

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key that nothing reads.
    #[error("unknown configuration key `{key}` (from {origin}){hint}")]
    UnknownKey {
        /// The key, with dots.
        key: String,
        /// The variable or file.
        origin: String,
        /// The nearest known key, where one is near.
        hint: String,
    },
    /// A value that does not fit its key.
    #[error("configuration key `{key}`: {reason}")]
    BadValue {
        /// The key, with dots.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file cannot be read.
    #[error("configuration: {0}")]
    Unreadable(String),
}

impl Error {
    /// A value that does not fit its key.
    pub fn bad(key: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::BadValue {
            key: key.into(),
            reason: reason.to_string(),
        }
    }
}

/// Reads the configuration: `T::default()`, over it `file` where there is one, over it `variables` that begin with
/// `FLOWMATE__`, where `__` separates the parts of a key.
pub fn load<T>(file: Option<&Path>, variables: impl IntoIterator<Item = (String, String)>) -> Result<T, Error>
where
    T: Serialize + DeserializeOwned + Default,
{
    let defaults =
        serde_json::to_value(T::default()).map_err(|error| Error::Unreadable(error.to_string()))?;
    let mut known = BTreeSet::new();
    flatten(&defaults, "", &mut known);
    let variables: Vec<(String, String)> = variables
        .into_iter()
        .filter(|(name, _)| name.to_ascii_uppercase().starts_with(&format!("{PREFIX}__")))
        .collect();
    for (name, _) in &variables {
        let key = name
            .get(PREFIX.len() + 2..)
            .unwrap_or_default()
            .to_ascii_lowercase()
            .replace("__", ".");
        check(&known, &key, || format!("the environment variable {name}"))?;
    }
    let mut builder = Config::builder();
    if let Some(file) = file {
        let text = std::fs::read_to_string(file)
            .map_err(|error| Error::Unreadable(format!("{}: {error}", file.display())))?;
        let content: Value = Config::builder()
            .add_source(File::from_str(&text, FileFormat::Toml))
            .build()
            .and_then(Config::try_deserialize)
            .map_err(|error| Error::Unreadable(format!("{}: {error}", file.display())))?;
        let mut keys = BTreeSet::new();
        flatten(&content, "", &mut keys);
        for key in keys {
            check(&known, &key, || format!("the file {}", file.display()))?;
        }
        builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
    }
    let environment = Environment::with_prefix(PREFIX)
        .prefix_separator("__")
        .separator("__")
        .source(Some(variables.into_iter().collect()));
    let merged = builder
        .add_source(environment)
        .build()
        .map_err(|error| Error::Unreadable(error.to_string()))?;
    merged.try_deserialize().map_err(|error| describe(&error))
}

/// The environment's variables that are text.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// `{"http":{"listen":…}}` as `http.listen`.
fn flatten(value: &Value, path: &str, keys: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, inner) in map {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                flatten(inner, &path, keys);
            }
        }
        _ => {
            keys.insert(path.to_owned());
        }
    }
}

fn check(known: &BTreeSet<String>, key: &str, origin: impl Fn() -> String) -> Result<(), Error> {
    if known.contains(key) {
        return Ok(());
    }
    let nearest = known
        .iter()
        .map(|other| (strsim::levenshtein(key, other), other))
        .min();
    let hint = match nearest {
        Some((distance, near)) if distance <= 3 => format!("; did you mean `{near}`?"),
        _ => format!(
            "; known are {}",
            known.iter().cloned().collect::<Vec<_>>().join(", ")
        ),
    };
    Err(Error::UnknownKey {
        key: key.to_owned(),
        origin: origin(),
        hint,
    })
}

fn describe(error: &config::ConfigError) -> Error {
    match error {
        config::ConfigError::Type { key: Some(key), .. } => Error::bad(key, error),
        config::ConfigError::At {
            error,
            key: Some(key),
            ..
        } => Error::bad(key, error),
        other => Error::Unreadable(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Serialize, Deserialize, PartialEq)]
    #[serde(default)]
    struct Sample {
        http: Http,
        limit: u64,
    }

    #[derive(Debug, Serialize, Deserialize, PartialEq, Default)]
    #[serde(default)]
    struct Http {
        listen: String,
        password: Option<String>,
    }

    impl Default for Sample {
        fn default() -> Self {
            Self {
                http: Http {
                    listen: "a".into(),
                    password: None,
                },
                limit: 5,
            }
        }
    }

    fn read(variables: &[(&str, &str)]) -> Result<Sample, Error> {
        load(
            None,
            variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        )
    }

    #[test]
    fn the_environment_covers_the_file_and_the_file_the_defaults() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f.toml");
        std::fs::write(&file, "limit = 7\n[http]\nlisten = \"file\"\n").unwrap();
        let variables = [("FLOWMATE__HTTP__LISTEN".to_owned(), "env".to_owned())];
        let sample: Sample = load(Some(&file), variables).unwrap();
        assert_eq!(
            sample,
            Sample {
                http: Http {
                    listen: "env".into(),
                    password: None
                },
                limit: 7
            }
        );
    }

    #[test]
    fn secrets_keep_their_zeros() {
        assert_eq!(
            read(&[("FLOWMATE__HTTP__PASSWORD", "007")])
                .unwrap()
                .http
                .password,
            Some("007".into())
        );
        assert_eq!(read(&[("FLOWMATE__LIMIT", "12")]).unwrap().limit, 12);
    }

    #[test]
    fn unknown_keys_and_bad_values_are_named() {
        let unknown = read(&[("FLOWMATE__HTTP__LISEN", "x")]).unwrap_err().to_string();
        assert!(
            unknown.contains("FLOWMATE__HTTP__LISEN") && unknown.contains("did you mean `http.listen`"),
            "{unknown}"
        );
        let bad = read(&[("FLOWMATE__LIMIT", "many")]).unwrap_err().to_string();
        assert!(bad.contains("`limit`") && bad.contains("many"), "{bad}");
    }
}
