//! The HTTP server and its end.

use std::{net::TcpListener, sync::Arc, time::Duration};

use actix_cors::Cors;
use actix_web::{
    App, HttpServer,
    dev::ServerHandle,
    middleware::{Condition, from_fn},
    web::{Data, PayloadConfig, ServiceConfig as ActixConfig},
};
use flowmate_common::{Budget, Pressure, auth::TokenVerifier, ids::IdGenerator};
use flowmate_web::{Pace, Proxies, Rewrite, Styles, observe, rewrite};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
};

use crate::Context;

/// Settings of the server.
#[derive(Clone)]
pub struct ServerOptions {
    /// Threads that serve requests.
    pub workers: usize,
    /// Bytes of a request body.
    pub max_body: usize,
    /// How long a request body may take.
    pub pace: Pace,
    /// How long requests that run may take when the process is to end.
    pub grace: Duration,
    /// Other spellings of paths.
    pub rewrite: Rewrite,
    /// What stands before this process.
    pub proxies: Proxies,
    /// Origins of browsers' pages that may call; `*` for all.
    pub origins: Vec<String>,
}

/// What answering requests needs, with services behind it or none.
#[derive(Clone)]
pub struct RequestContext {
    /// Ids of requests.
    pub ids: IdGenerator,
    /// Checks tokens.
    pub tokens: TokenVerifier,
    /// Counts the requests that are being answered.
    pub pressure: Pressure,
    /// The bytes of bodies that may be held.
    pub budget: Budget,
}

impl From<&Context> for RequestContext {
    fn from(context: &Context) -> Self {
        Self {
            ids: context.ids.clone(),
            tokens: context.tokens.clone(),
            pressure: context.pressure.clone(),
            budget: context.budget.clone(),
        }
    }
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
    requests: RequestContext,
    styles: Styles,
    options: ServerOptions,
    configure: C,
) -> std::io::Result<Listening>
where
    C: Fn(&mut ActixConfig) + Send + Clone + 'static,
{
    let (styles, ids) = (Data::new(styles), Data::new(requests.ids));
    let tokens = Data::from(Arc::new(requests.tokens));
    let (aliases, proxies) = (Data::new(options.rewrite), Data::new(options.proxies));
    let pressure = Data::new(requests.pressure);
    let (budget, pace) = (Data::new(requests.budget), Data::new(options.pace));
    let origins = options.origins.clone();
    let server = HttpServer::new(move || {
        App::new()
            .app_data(styles.clone())
            .app_data(ids.clone())
            .app_data(tokens.clone())
            .app_data(aliases.clone())
            .app_data(proxies.clone())
            .app_data(pressure.clone())
            .app_data(budget.clone())
            .app_data(pace.clone())
            .app_data(PayloadConfig::new(options.max_body))
            .wrap(from_fn(observe))
            .wrap(from_fn(rewrite))
            .wrap(Condition::new(!origins.is_empty(), cors(&origins)))
            .configure(configure.clone())
    })
    .workers(options.workers)
    .disable_signals()
    .shutdown_timeout(options.grace.as_secs())
    .client_request_timeout(Duration::from_secs(10))
    // Who is answered before its body has come needs time to see the answer: closed at once, it sees a broken connection.
    .client_disconnect_timeout(Duration::from_secs(5))
    .keep_alive(Duration::from_secs(75))
    .listen(listener)?
    .run();
    let handle = server.handle();
    Ok(Listening {
        handle,
        task: tokio::spawn(server),
    })
}

fn cors(origins: &[String]) -> Cors {
    let cors = Cors::default()
        .allowed_methods(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"])
        .allow_any_header()
        .expose_headers(["x-request-id", "retry-after"])
        .max_age(3600);
    if origins.iter().any(|origin| origin == "*") {
        return cors.allow_any_origin();
    }
    origins
        .iter()
        .fold(cors, |cors, origin| cors.allowed_origin(origin))
}

/// The wish that the process end: SIGTERM or SIGINT.
pub struct Termination {
    terminate: Signal,
    interrupt: Signal,
}

impl Termination {
    /// From now on the wish is heard. What a process says before, for example that it is ready, makes others believe
    /// that they may ask it to end; it would then die as if it had been killed.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Returns when the process is asked to end, at once if it was since [`Self::listen`].
    pub async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        tracing::info!("ending");
    }

    /// What `start` comes to, or nothing where the process is asked to end before.
    pub async fn unless_asked<T>(&mut self, start: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            started = start => Some(started),
            () = self.asked() => None,
        }
    }
}
