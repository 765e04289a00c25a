use std::path::PathBuf;

use flowmate_runtime::config::Error;
use serde::{Deserialize, Serialize};

/// Section `iam`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// How long a login token is valid.
    pub token_lifetime_seconds: i64,
    /// The directory that holds the signing key, `token-signing-key.der`; made in the data directory where nothing is
    /// said. Where services run apart, all replicas have the same one (`flowmate key DIRECTORY` makes it).
    pub key_directory: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            token_lifetime_seconds: 3 * 60 * 60,
            key_directory: None,
        }
    }
}

impl Config {
    /// Refuses values that make no sense.
    pub fn validate(&self) -> Result<(), Error> {
        if !(60..=366 * 24 * 3600).contains(&self.token_lifetime_seconds) {
            return Err(Error::bad(
                "iam.token_lifetime_seconds",
                "has to be from 60 to 31622400",
            ));
        }
        Ok(())
    }
}

/// Section `admin`: the system administrator that the first start makes.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Admin {
    /// The name to log in with.
    pub username: String,
    /// The password; generated and shown once where there is none. Later starts do not change it.
    pub password: Option<String>,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            username: "admin".into(),
            password: None,
        }
    }
}

impl Admin {
    /// Refuses values that make no sense.
    pub fn validate(&self) -> Result<(), Error> {
        if self.username.trim().is_empty() {
            return Err(Error::bad("admin.username", "must not be empty"));
        }
        if self.password.as_ref().is_some_and(String::is_empty) {
            return Err(Error::bad(
                "admin.password",
                "must not be empty; leave it out to have one generated",
            ));
        }
        Ok(())
    }
}
