//! `flowmate openapi`

use anyhow::Context as _;
use flowmate::specification;

use super::print;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The service, such as user-iam.
    service: Option<String>,
}

/// Prints the specification, of everything or of one service.
pub(crate) fn start(Arguments { service }: Arguments) -> anyhow::Result<()> {
    let spec = specification(service.as_deref())
        .with_context(|| format!("there is no service {}", service.unwrap_or_default()))?;
    Ok(print(std::str::from_utf8(&spec.json())?)?)
}
