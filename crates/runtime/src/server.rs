//! The HTTP server and its end.

use std::{net::TcpListener, sync::Arc, time::Duration};

use actix_web::{
    App, HttpServer,
    dev::ServerHandle,
    middleware::from_fn,
    web::{Data, PayloadConfig, ServiceConfig as ActixConfig},
};
use flowmate_web::{Rewrite, Styles, observe, rewrite};
use tokio::task::JoinHandle;

use crate::Context;

/// Settings of the server.
#[derive(Clone, Copy)]
pub struct ServerOptions {
    /// Threads that serve requests.
    pub workers: usize,
    /// Bytes of a request body.
    pub max_body: usize,
    /// How long requests that run may take when the process is to end.
    pub grace: Duration,
    /// Other spellings of paths.
    pub rewrite: Rewrite,
}

/// A running server.
pub struct Listening {
    handle: ServerHandle,
    task: JoinHandle<std::io::Result<()>>,
}

impl Listening {
    /// Accepts no more, and returns when running requests are answered or the grace period is over.
    pub async fn stop(self) {
        self.handle.stop(true).await;
        let _ = self.task.await;
    }
}

/// Serves `configure`'s routes on `listener`.
pub fn serve<C>(
    listener: TcpListener,
    context: &Context,
    styles: Styles,
    options: ServerOptions,
    configure: C,
) -> std::io::Result<Listening>
where
    C: Fn(&mut ActixConfig) + Send + Clone + 'static,
{
    let (styles, ids) = (Data::new(styles), Data::new(context.ids.clone()));
    let tokens = Data::from(Arc::new(context.tokens.clone()));
    let aliases = Data::new(options.rewrite);
    let pressure = Data::new(context.pressure.clone());
    let server = HttpServer::new(move || {
        App::new()
            .app_data(styles.clone())
            .app_data(ids.clone())
            .app_data(tokens.clone())
            .app_data(aliases.clone())
            .app_data(pressure.clone())
            .app_data(PayloadConfig::new(options.max_body))
            .wrap(from_fn(observe))
            .wrap(from_fn(rewrite))
            .configure(configure.clone())
    })
    .workers(options.workers)
    .disable_signals()
    .shutdown_timeout(options.grace.as_secs())
    .client_request_timeout(Duration::from_secs(10))
    .keep_alive(Duration::from_secs(75))
    .listen(listener)?
    .run();
    let handle = server.handle();
    Ok(Listening {
        handle,
        task: tokio::spawn(server),
    })
}

/// Returns when the process is asked to end: SIGTERM or SIGINT.
pub async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be received");
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
