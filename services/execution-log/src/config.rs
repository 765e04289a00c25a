use flowmate_runtime::config::Error;
use serde::{Deserialize, Serialize};

/// Section `executions`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Executions older than this are removed; usage counts stay.
    pub retention_days: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { retention_days: 30 }
    }
}

impl Config {
    /// Refuses values that make no sense.
    pub fn validate(&self) -> Result<(), Error> {
        if self.retention_days == 0 {
            return Err(Error::bad("executions.retention_days", "has to be at least 1"));
        }
        Ok(())
    }
}
