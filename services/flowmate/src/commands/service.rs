//! `flowmate user-iam` and so on: one service in a process of its own.

use std::sync::Arc;

use flowmate::{
    config::Config,
    distributed::{Process, Role},
};
use flowmate_common::give_way;
use flowmate_runtime::Termination;

use super::{
    block_on, print,
    upkeep::{keep_up, observed},
};

/// Runs the service until the process is asked to end.
pub(crate) fn start(role: Role, config: Config) -> anyhow::Result<()> {
    if role.gives_way() {
        // Before there are threads, so that all have it, those of libraries too.
        give_way();
    }
    block_on(serve(role, config))
}

async fn serve(role: Role, config: Config) -> anyhow::Result<()> {
    let mut termination = Termination::listen()?;
    let metrics = observed(&config)?;
    let rendered = Arc::clone(&metrics);
    let start = Process::start(role, config, move || rendered.render());
    let Some(process) = termination.unless_asked(start).await.transpose()? else {
        return Ok(());
    };
    let upkeep = tokio::spawn(keep_up(metrics, process.bus()));
    let ready = format!(
        "{} is ready.\n  URL        http://{}",
        role.name(),
        process.address
    );
    if let Err(error) = print(&ready) {
        tracing::warn!(%error, "the start could not be told");
    }
    termination.asked().await;
    upkeep.abort();
    process.stop().await;
    Ok(())
}
