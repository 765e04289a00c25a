use flowmate_runtime::config::Error;
use serde::{Deserialize, Serialize};

/// Section `gateway`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Origins whose pages may call, separated by commas; `*` for all, nothing for none.
    pub cors_origins: String,
    /// Requests that one client may make in a second, with twice as many at once; 0 for no limit. A client is an
    /// address, see `http.trusted_proxies`.
    pub requests_per_second: u32,
    /// Seconds until a service has to have begun its answer.
    pub timeout_seconds: u64,
    /// Milliseconds between two looks at each replica of a service that has several.
    pub look_every_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cors_origins: String::new(),
            requests_per_second: 0,
            timeout_seconds: 60,
            look_every_ms: 2_000,
        }
    }
}

impl Config {
    /// Refuses values that make no sense.
    pub fn validate(&self) -> Result<(), Error> {
        if !(1..=3600).contains(&self.timeout_seconds) {
            return Err(Error::bad("gateway.timeout_seconds", "has to be from 1 to 3600"));
        }
        if !(10..=60_000).contains(&self.look_every_ms) {
            return Err(Error::bad("gateway.look_every_ms", "has to be from 10 to 60000"));
        }
        let is_origin = |origin: &&String| *origin == "*" || origin.contains("://");
        match self.origins().iter().find(|origin| !is_origin(origin)) {
            Some(other) => Err(Error::bad(
                "gateway.cors_origins",
                format!("{other} is no origin such as https://app.example.com"),
            )),
            None => Ok(()),
        }
    }

    pub(super) fn look_every(&self) -> std::time::Duration {
        std::time::Duration::from_millis(self.look_every_ms)
    }

    /// Origins whose pages may call; `*` for all.
    pub fn origins(&self) -> Vec<String> {
        let origins = self
            .cors_origins
            .split(',')
            .map(|origin| origin.trim().to_owned());
        origins.filter(|origin| !origin.is_empty()).collect()
    }
}
