//! One service behind the gateway.

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, StatusCode},
    web::{Bytes, BytesMut, Payload},
};
use flowmate_common::{Failure, Kind};
use futures_util::StreamExt;
use recloser::{AsyncRecloser, Error as Breaking, Recloser};
use reqwest::{Body, Client, RequestBuilder, Response};
use tokio::sync::mpsc;

use super::Config;

/// Bodies up to this are read before they are passed on; larger ones flow through.
const SMALL: u64 = 256 << 10;
/// Pieces of a large body between client and service.
const PIECES: usize = 8;
/// Tries of a read that reached no service, and the wait between them.
const TRIES: u32 = 3;
const AGAIN: Duration = Duration::from_millis(50);

/// What belongs to one connection and is not passed on (RFC 9110, 7.6.1).
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What the gateway says itself.
const OURS: [&str; 5] = [
    "host",
    "expect",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

pub(super) struct Upstream {
    pub(super) name: &'static str,
    url: String,
    http: Client,
    breaker: AsyncRecloser,
    patience: Duration,
}

impl Upstream {
    pub(super) fn new(name: &'static str, url: &str, config: &Config) -> Result<Self, Failure> {
        let http = Client::builder()
            .no_proxy()
            .no_gzip()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(2))
            .pool_max_idle_per_host(256)
            .pool_idle_timeout(Duration::from_secs(60))
            .tcp_nodelay(true)
            .build()
            .map_err(Failure::internal)?;
        // Half of the last 32 calls failed to reach the service: it is left alone for a second.
        let breaker = Recloser::custom()
            .error_rate(0.5)
            .closed_len(32)
            .half_open_len(8)
            .open_wait(Duration::from_secs(1))
            .build();
        Ok(Self {
            name,
            url: url.trim_end_matches('/').to_owned(),
            http,
            breaker: AsyncRecloser::from(breaker),
            patience: Duration::from_secs(config.timeout_seconds),
        })
    }

    pub(super) async fn is_ready(&self) -> bool {
        let asked = self.http.get(format!("{}/health/ready", self.url));
        let answer = asked.timeout(Duration::from_secs(3)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// Passes a request on, and its answer back as it comes.
    pub(super) async fn pass(
        &self,
        request: &HttpRequest,
        payload: Payload,
    ) -> Result<HttpResponse, Failure> {
        let asked = self.request(request)?;
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let declared = request
            .headers()
            .get("content-length")
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let is_chunked = request.headers().contains_key("transfer-encoding");
        let response = match declared {
            None | Some(0) if !is_chunked => self.ask(asked, is_read).await?,
            Some(length) if length <= SMALL => {
                let body = collect(payload).await?;
                self.ask(asked.body(body), is_read).await?
            }
            // What was sent cannot be sent again.
            _ => self.ask(asked.body(streamed(payload)), false).await?,
        };
        Ok(answer(response))
    }

    fn request(&self, request: &HttpRequest) -> Result<RequestBuilder, Failure> {
        let method =
            reqwest::Method::from_bytes(request.method().as_str().as_bytes()).map_err(Failure::invalid_of)?;
        let mut asked = self
            .http
            .request(method, format!("{}{}", self.url, request.uri()));
        let listed = request
            .headers()
            .get("connection")
            .and_then(|value| value.to_str().ok());
        let listed: Vec<String> = listed
            .unwrap_or_default()
            .split(',')
            .map(|name| name.trim().to_ascii_lowercase())
            .collect();
        for (name, value) in request.headers() {
            let name = name.as_str();
            let stays = HOP_BY_HOP.contains(&name) || OURS.contains(&name);
            if !stays && !listed.iter().any(|one| one == name) {
                asked = asked.header(name, value.as_bytes());
            }
        }
        if let Some(peer) = request.peer_addr() {
            let before = request.headers().get("x-forwarded-for");
            let before = before.and_then(|value| value.to_str().ok());
            let chain = before.map_or_else(
                || peer.ip().to_string(),
                |before| format!("{before}, {}", peer.ip()),
            );
            asked = asked.header("x-forwarded-for", chain);
        }
        let info = request.connection_info();
        Ok(asked
            .header("x-forwarded-host", info.host())
            .header("x-forwarded-proto", info.scheme()))
    }

    /// Sends it; a read that reached nobody again.
    async fn ask(&self, asked: RequestBuilder, is_read: bool) -> Result<Response, Failure> {
        let mut tries = 0;
        loop {
            tries += 1;
            let again = if is_read { asked.try_clone() } else { None };
            let Some(again) = again else {
                return self.send(asked).await;
            };
            match self.send(again).await {
                Err(failure) if failure.kind == Kind::Unavailable && tries < TRIES => {
                    tokio::time::sleep(AGAIN).await;
                }
                result => return result,
            }
        }
    }

    async fn send(&self, asked: RequestBuilder) -> Result<Response, Failure> {
        let away = |reason: &dyn std::fmt::Display| {
            Failure::new(
                Kind::Unavailable,
                format!("{} does not answer: {reason}", self.name),
            )
        };
        let sent = self.breaker.call(asked.send());
        match tokio::time::timeout(self.patience, sent).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(Breaking::Inner(error))) => Err(away(&error)),
            Ok(Err(Breaking::Rejected)) => Err(away(&"too many calls before this one failed")),
            Err(_) => Err(away(&"it took too long")),
        }
    }
}

fn answer(response: Response) -> HttpResponse {
    let status = StatusCode::from_u16(response.status().as_u16()).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut answer = HttpResponse::build(status);
    for (name, value) in response.headers() {
        let name = name.as_str();
        if !HOP_BY_HOP.contains(&name) && name != "content-length" && name != "date" {
            answer.append_header((name, value.as_bytes()));
        }
    }
    let length = response.headers().get("content-length");
    let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if let Some(length) = length {
        answer.no_chunking(length);
    }
    answer.streaming(response.bytes_stream())
}

/// A small body as a whole.
async fn collect(mut payload: Payload) -> Result<Bytes, Failure> {
    let mut body = BytesMut::new();
    while let Some(piece) = payload.next().await {
        body.extend_from_slice(&piece.map_err(Failure::invalid_of)?);
    }
    Ok(body.freeze())
}

/// A large body piece by piece. Actix's payload stays on its thread, so the pieces go over a channel.
fn streamed(mut payload: Payload) -> Body {
    let (sender, receiver) = mpsc::channel(PIECES);
    actix_web::rt::spawn(async move {
        while let Some(piece) = payload.next().await {
            let piece = piece.map_err(|error| std::io::Error::other(error.to_string()));
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    });
    let pieces = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    Body::wrap_stream(pieces)
}
