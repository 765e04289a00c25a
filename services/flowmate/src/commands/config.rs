//! `flowmate config`

use flowmate::config::Config;

use super::print;

/// Prints the configuration without secrets.
pub(crate) fn start(config: Config) -> anyhow::Result<()> {
    Ok(print(&serde_json::to_string_pretty(&config.masked())?)?)
}
