//! Another system: takes any request, remembers it, and answers as it is told.

use std::{net::TcpListener, sync::Arc, time::Duration};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer,
    http::StatusCode,
    web::{self, Bytes, Data, PayloadConfig},
};
use flowmate_common::{Clock, Timestamp};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

use crate::eventually;

/// A request that arrived.
#[derive(Clone, Debug)]
pub struct Received {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// When.
    pub at: Timestamp,
    /// `Idempotency-Key`.
    pub key: String,
    /// `Content-Type`.
    pub content_type: String,
    /// The body; a text where it is not JSON.
    pub body: Value,
}

/// How to answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
    /// More headers, such as `Retry-After`.
    pub headers: Vec<(&'static str, String)>,
    /// How long to wait before.
    pub after: Duration,
    /// Whether nothing is answered before [`Receiver::release`].
    pub held: bool,
}

impl Reply {
    /// JSON with this status, at once.
    pub fn json(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type: "application/json",
            body: body.into(),
            headers: Vec::new(),
            after: Duration::ZERO,
            held: false,
        }
    }

    /// 429 that asks to come again after so many seconds.
    pub fn busy(seconds: u64) -> Self {
        Self {
            headers: vec![("Retry-After", seconds.to_string())],
            ..Self::json(429, r#"{"error":"too many"}"#)
        }
    }

    /// The same, but not before [`Receiver::release`].
    pub fn held(self) -> Self {
        Self { held: true, ..self }
    }
}

type Respond = dyn Fn(&Received, usize) -> Reply + Send + Sync;

struct State {
    received: Mutex<Vec<Received>>,
    respond: Box<Respond>,
    released: watch::Sender<bool>,
}

/// A receiver on a free port of this process.
pub struct Receiver {
    state: Data<State>,
    handle: actix_web::dev::ServerHandle,
    /// Where it listens, `http://127.0.0.1:12345`.
    pub url: String,
}

impl Receiver {
    /// Answers everything with 200 and `{"ok":true}`.
    pub fn start() -> anyhow::Result<Self> {
        Self::responding(|_, _| Reply::json(200, r#"{"ok":true}"#))
    }

    /// Answers as `respond` says, which gets the request and how many came before it.
    pub fn responding(
        respond: impl Fn(&Received, usize) -> Reply + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let state = Data::from(Arc::new(State {
            received: Mutex::default(),
            respond: Box::new(respond),
            released: watch::Sender::new(false),
        }));
        let shared = state.clone();
        let server = HttpServer::new(move || {
            App::new()
                .app_data(shared.clone())
                .app_data(PayloadConfig::new(64 << 20))
                .default_service(web::to(receive))
        })
        .workers(1)
        .disable_signals()
        .listen(listener)?
        .run();
        let handle = server.handle();
        tokio::spawn(server);
        Ok(Self { state, handle, url })
    }

    /// Answers what was held, and holds nothing any more.
    pub fn release(&self) {
        self.state.released.send_replace(true);
    }

    /// How many requests arrived so far.
    pub fn count(&self) -> usize {
        self.state.received.lock().len()
    }

    /// What arrived so far.
    pub fn received(&self) -> Vec<Received> {
        self.state.received.lock().clone()
    }

    /// What arrived, as soon as it is `count` requests.
    pub async fn wait_for(&self, count: usize) -> anyhow::Result<Vec<Received>> {
        eventually(&format!("{count} requests at the receiver"), async || {
            let received = self.state.received.lock();
            Ok((received.len() >= count).then(|| received.clone()))
        })
        .await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}

async fn receive(state: Data<State>, request: HttpRequest, body: Bytes) -> HttpResponse {
    let header = |name: &str| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let text = String::from_utf8_lossy(&body);
    let received = Received {
        method: request.method().to_string(),
        path: request.uri().to_string(),
        at: Clock::System.now(),
        key: header("idempotency-key"),
        content_type: header("content-type"),
        body: serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text.into_owned())),
    };
    let before = {
        let mut all = state.received.lock();
        all.push(received.clone());
        all.len() - 1
    };
    let reply = (state.respond)(&received, before);
    if !reply.after.is_zero() {
        tokio::time::sleep(reply.after).await;
    }
    if reply.held {
        let _ = state.released.subscribe().wait_for(|released| *released).await;
    }
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::build(status);
    for header in reply.headers {
        response.insert_header(header);
    }
    response.content_type(reply.content_type).body(reply.body)
}
