//! The commands, one in each file, and what several of them need.

pub(crate) mod config;
#[cfg(feature = "distributed")]
pub(crate) mod export;
#[cfg(feature = "distributed")]
pub(crate) mod import;
#[cfg(feature = "distributed")]
pub(crate) mod key;
pub(crate) mod openapi;
pub(crate) mod run;
#[cfg(feature = "distributed")]
pub(crate) mod service;
#[cfg(feature = "distributed")]
pub(crate) mod topics;
mod upkeep;

use std::{io::Write, path::Path};

use flowmate::config::Config;

/// The configuration that the file, if there is one, and the environment give.
pub(crate) fn load(file: Option<&Path>) -> anyhow::Result<Config> {
    let config: Config = flowmate_runtime::config::load(file, flowmate_runtime::config::environment())?;
    config.validate()?;
    Ok(config)
}

/// Standard output without the panic of `println!` where nobody reads it any more.
fn print(text: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{text}")
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

/// Runs a command of the distributed shape to its end.
#[cfg(feature = "distributed")]
fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores())
        .enable_all()
        .build()?;
    let result = runtime.block_on(command);
    // The process ends. Where a start was given up, the database driver's tasks panic when they are ended one after the
    // other, and what is to be read is why it was.
    std::mem::forget(runtime);
    result
}

/// What was carried from one place to another, to be compared by a person.
#[cfg(feature = "distributed")]
fn carried(how: &str, directory: &Path, summary: &flowmate::moving::Summary) -> String {
    format!(
        "{how} {}: {} documents, {} executions, {} usage counts\nSHA-256 {}",
        directory.display(),
        summary.documents,
        summary.executions,
        summary.totals,
        summary.sha256
    )
}
