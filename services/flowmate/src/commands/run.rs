//! `flowmate run`: everything in one process.

use std::sync::Arc;

use flowmate::{Embedded, Workers, config::Config};
use flowmate_common::Priority;
use flowmate_connectors::PrivateTargets;
use flowmate_runtime::Termination;
use tokio::runtime::Runtime;

use super::{
    cores, print,
    upkeep::{keep_up, observed},
};

/// Runs the server until the process is asked to end.
pub(crate) fn start(config: Config) -> anyhow::Result<()> {
    let (background, spare) = (runtime(Priority::Background)?, runtime(Priority::Spare)?);
    let workers = Workers {
        background: background.handle().clone(),
        spare: spare.handle().clone(),
    };
    runtime(Priority::Foreground)?.block_on(serve(config, &workers))
}

/// The threads of one priority. Requests are served by the server's own; what it needs around them is little.
fn runtime(priority: Priority) -> std::io::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    // Half of the cores for executing: the server's threads and the writers want the others, and more threads than
    // cores cost more in switching than they bring.
    let threads = match priority {
        Priority::Foreground => 1,
        Priority::Background => cores().div_ceil(2),
        Priority::Spare => cores(),
    };
    builder
        .worker_threads(threads)
        .enable_all()
        .on_thread_start(move || priority.take())
        .build()
}

async fn serve(config: Config, workers: &Workers) -> anyhow::Result<()> {
    let mut termination = Termination::listen()?;
    let metrics = observed(&config)?;
    let (admin, data) = (config.admin.username.clone(), config.data.dir.clone());
    let targets = config.connectors.private_targets.clone();
    let rendered = Arc::clone(&metrics);
    let start = Embedded::start(config, workers, move || rendered.render());
    let Some(flowmate) = termination.unless_asked(start).await.transpose()? else {
        return Ok(());
    };
    let upkeep = tokio::spawn(keep_up(metrics, Some(flowmate.bus())));
    let said = welcome(&flowmate, &admin, &data.display().to_string(), &targets);
    if let Err(error) = print(&said) {
        tracing::warn!(%error, "the welcome could not be printed");
    }
    termination.asked().await;
    upkeep.abort();
    flowmate.stop().await;
    Ok(())
}

/// What a person who has just started it wants to know.
fn welcome(flowmate: &Embedded, admin: &str, data: &str, targets: &PrivateTargets) -> String {
    let url = format!("http://{}", flowmate.address);
    let password = match &flowmate.first_admin {
        Some(first) => match &first.generated_password {
            Some(password) => format!("{password}   (generated, shown only this once)"),
            None => "as configured".into(),
        },
        None => format!("as set at the first start with this data directory ({data})"),
    };
    let targets = if targets.is_deny() {
        "public addresses only".to_owned()
    } else {
        format!("public addresses, and {targets} (FLOWMATE__CONNECTORS__PRIVATE_TARGETS)")
    };
    format!(
        "\nFlowMate is ready.\n\n  URL        {url}\n  API docs   {url}/docs\n  Admin      {admin}\n  Password   {password}\n  \
         Steps call {targets}\n\n\
         Next, in another terminal:\n\n  curl -s {url}/login -H 'content-type: application/json' \\\n    \
         -d '{{\"username\":\"{admin}\",\"password\":\"…\"}}'\n"
    )
}
