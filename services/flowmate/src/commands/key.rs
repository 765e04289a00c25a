//! `flowmate key`

use std::path::PathBuf;

use super::print;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The directory.
    directory: PathBuf,
}

/// Makes the signing key.
pub(crate) fn start(Arguments { directory }: Arguments) -> anyhow::Result<()> {
    flowmate_user_iam::keys::make(&directory).map_err(anyhow::Error::msg)?;
    Ok(print(&format!("The signing key is in {}.", directory.display()))?)
}
