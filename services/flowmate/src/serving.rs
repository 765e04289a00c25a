//! How both shapes begin to serve and how they end.

use std::{net::TcpListener, time::Duration};

use anyhow::Context as _;
use flowmate_gateway::alias;
use flowmate_runtime::{Context, Listening, ServerOptions};
use flowmate_web::{Proxies, Rewrite};

use crate::config::Config;

/// The port, before anything else: who starts it twice should learn that before anything is touched.
pub(crate) fn listen(config: &Config) -> anyhow::Result<TcpListener> {
    TcpListener::bind(config.http.listen).with_context(|| {
        format!(
            "cannot listen on {}; choose another address with FLOWMATE__HTTP__LISTEN",
            config.http.listen
        )
    })
}

/// What the HTTP server is started with.
pub(crate) fn options(config: &Config, behind_gateway: bool) -> ServerOptions {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    ServerOptions {
        workers: if config.http.workers == 0 {
            cores
        } else {
            config.http.workers
        },
        max_body: config.webhook.max_body_bytes,
        pace: config.http.pace(),
        grace: grace(config),
        rewrite: Rewrite(alias),
        proxies: Proxies {
            trusted: config.http.trusted_proxies.clone(),
            behind_gateway,
        },
        origins: config.gateway.origins(),
    }
}

/// How long what runs may take when the process is to end.
pub(crate) fn grace(config: &Config) -> Duration {
    Duration::from_secs(config.http.grace_seconds)
}

/// Says which addresses that are not public steps may call, where there are some: whoever runs it should know.
pub(crate) fn tell_private_targets(config: &Config) {
    let targets = &config.connectors.private_targets;
    if !targets.is_deny() {
        tracing::info!(%targets, "steps may call addresses that are not public (connectors.private_targets)");
    }
}

/// Ends in order: no new requests, running ones are answered, then running executions come to their end as far as the
/// grace period allows, and what was committed becomes durable. What does not end is taken up again after the next
/// start, or by another process. Without a context nothing but the server runs.
pub(crate) async fn end(server: Listening, context: Option<Context>, grace: Duration) {
    server.stop().await;
    let Some(context) = context else { return };
    context.shutdown.cancel();
    context.tasks.close();
    if tokio::time::timeout(grace, context.tasks.wait()).await.is_err() {
        tracing::warn!(
            count = context.tasks.len(),
            "work is left for the next start or for others"
        );
    }
    context.bus.close().await;
}
