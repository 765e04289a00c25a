//! `flowmate export`

use std::path::PathBuf;

use flowmate::{config::Config, moving};

use super::{block_on, carried, print};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The other directory.
    directory: PathBuf,
}

/// Writes what an embedded installation has to a directory.
pub(crate) fn start(Arguments { directory }: Arguments, config: Config) -> anyhow::Result<()> {
    let keys = config.iam_keys();
    let summary = block_on(moving::export(&config.data.dir, &keys, &directory))?;
    let text = carried("exported to", &directory, &summary);
    Ok(print(&format!(
        "{text}\nThe signing key is in {}: give it to user-iam with iam.key_directory.",
        directory.join("keys").display()
    ))?)
}
