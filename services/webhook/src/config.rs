use flowmate_runtime::config::Error;
use serde::{Deserialize, Serialize};

/// Section `webhook`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Bytes of a body.
    pub max_body_bytes: usize,
    /// How long a request for an unknown flow waits before its 404: makes guessing slow, and gives a flow that is just
    /// being started the time to become live.
    pub not_found_delay_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_body_bytes: 10 << 20,
            not_found_delay_ms: 1_000,
        }
    }
}

impl Config {
    /// Refuses values that make no sense.
    pub fn validate(&self) -> Result<(), Error> {
        if !(1_024..=32 << 20).contains(&self.max_body_bytes) {
            return Err(Error::bad(
                "webhook.max_body_bytes",
                "has to be from 1024 to 33554432",
            ));
        }
        if self.not_found_delay_ms > 10_000 {
            return Err(Error::bad(
                "webhook.not_found_delay_ms",
                "has to be 10000 at most",
            ));
        }
        Ok(())
    }
}
