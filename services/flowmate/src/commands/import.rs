//! `flowmate import`

use std::path::PathBuf;

use flowmate::{config::Config, moving};

use super::{block_on, carried, print};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The directory.
    directory: PathBuf,
}

/// Reads an exported installation into an empty database.
pub(crate) fn start(Arguments { directory }: Arguments, config: Config) -> anyhow::Result<()> {
    let summary = block_on(async {
        let storage = flowmate_storage::mongo::connect(&config.storage.url).await?;
        moving::import(&directory, &storage).await
    })?;
    let text = carried("imported from", &directory, &summary);
    Ok(print(&format!(
        "{text}\nWhat arrived was read back and is the same."
    ))?)
}
