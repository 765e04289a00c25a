//! One service behind the gateway.

use std::{sync::Arc, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, StatusCode},
    web::{Bytes, BytesMut, Payload},
};
use flowmate_common::{Failure, Kind, root_cause};
use futures_util::{StreamExt, future::join_all};
use recloser::Error as Breaking;
use reqwest::{Body, Client, RequestBuilder, Response};
use tokio::sync::mpsc;

use super::{
    Config,
    replicas::{Replica, Replicas},
};

/// Bodies up to this are read before they are passed on; larger ones flow through.
const SMALL: u64 = 256 << 10;
/// Pieces of a large body between client and service.
const PIECES: usize = 8;
/// Tries of a read that reached no service, and the wait between them.
const TRIES: u32 = 3;
const AGAIN: Duration = Duration::from_millis(50);

/// How long a replica has to say whether it is ready.
const ANSWERS: Duration = Duration::from_secs(3);

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
    replicas: Replicas,
    http: Client,
    patience: Duration,
}

impl Upstream {
    /// Needs one address or more. Where there are several, each is looked at as long as this lives.
    pub(super) fn start(name: &'static str, urls: &[String], config: &Config) -> Result<Arc<Self>, Failure> {
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
        let replicas =
            Replicas::new(urls).ok_or_else(|| Failure::internal(format!("{name} has no address")))?;
        let upstream = Arc::new(Self {
            name,
            replicas,
            http,
            patience: Duration::from_secs(config.timeout_seconds),
        });
        if urls.len() > 1 {
            let (looked_at, every) = (Arc::downgrade(&upstream), config.look_every());
            tokio::spawn(async move {
                while let Some(upstream) = looked_at.upgrade() {
                    upstream.look().await;
                    drop(upstream);
                    tokio::time::sleep(every).await;
                }
            });
        }
        Ok(upstream)
    }

    /// Whether one of them can do its work.
    pub(super) async fn is_ready(&self) -> bool {
        let asked = self.replicas.all().iter().map(|replica| self.answers(replica));
        join_all(asked).await.contains(&true)
    }

    async fn answers(&self, replica: &Replica) -> bool {
        let asked = self.http.get(format!("{}/health/ready", replica.url));
        let answer = asked.timeout(ANSWERS).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    async fn look(&self) {
        let looks = self.replicas.all().iter().map(|replica| async move {
            if replica.looked(self.answers(replica).await) {
                let is_out = replica.is_out();
                tracing::warn!(service = self.name, url = replica.url, is_out, "a replica");
            }
        });
        join_all(looks).await;
    }

    /// Passes a request on, and its answer back as it comes.
    pub(super) async fn pass(
        &self,
        request: &HttpRequest,
        payload: Payload,
    ) -> Result<HttpResponse, Failure> {
        let asked = Asked::of(request)?;
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let declared = request
            .headers()
            .get("content-length")
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let is_chunked = request.headers().contains_key("transfer-encoding");
        let response = match declared {
            None | Some(0) if !is_chunked => self.ask(&asked, None, is_read).await?,
            Some(length) if length <= SMALL => {
                let body = collect(payload).await?;
                self.ask(&asked, Some(body), is_read).await?
            }
            // What was sent cannot be sent again.
            _ => {
                let replica = self
                    .replicas
                    .next()
                    .ok_or_else(|| self.away(&"it has no address"))?;
                let request = asked.to(&self.http, replica).body(streamed(payload));
                self.send(replica, request).await.map_err(|lost| lost.failure)?
            }
        };
        Ok(answer(response))
    }

    /// Sends it; again, and to another one where there is one: what reached nobody, and a read that was not answered.
    async fn ask(&self, asked: &Asked<'_>, body: Option<Bytes>, is_read: bool) -> Result<Response, Failure> {
        let mut tries = 0;
        let most = TRIES.max(u32::try_from(self.replicas.all().len()).unwrap_or(TRIES));
        loop {
            tries += 1;
            let replica = self
                .replicas
                .next()
                .ok_or_else(|| self.away(&"it has no address"))?;
            let mut request = asked.to(&self.http, replica);
            if let Some(body) = &body {
                request = request.body(body.clone());
            }
            match self.send(replica, request).await {
                Err(lost) if tries < most && (is_read || lost.reached_nobody && self.replicas.are_many()) => {
                    // The next one is asked at once, the same one a little later.
                    if !self.replicas.are_many() {
                        tokio::time::sleep(AGAIN).await;
                    }
                }
                result => return result.map_err(|lost| lost.failure),
            }
        }
    }

    fn away(&self, reason: &dyn std::fmt::Display) -> Failure {
        let message = format!("{} does not answer: {reason}", self.name);
        Failure::new(Kind::Unavailable, message)
    }

    async fn send(&self, replica: &Replica, request: RequestBuilder) -> Result<Response, Lost> {
        let lost = |reason: &dyn std::fmt::Display, reached_nobody| Lost {
            failure: self.away(reason),
            reached_nobody,
        };
        // A client that hangs up says nothing of the service.
        let is_theirs = |error: &reqwest::Error| !is_cut(error);
        let sent = replica.breaker.call_with(is_theirs, request.send());
        match tokio::time::timeout(self.patience, sent).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(Breaking::Inner(error))) if is_cut(&error) => Err(Lost {
                failure: Failure::invalid_of(Cut),
                reached_nobody: false,
            }),
            Ok(Err(Breaking::Inner(error))) => Err(lost(&root_cause(&error), error.is_connect())),
            Ok(Err(Breaking::Rejected)) => Err(lost(&"too many calls before this one failed", true)),
            Err(_) => Err(lost(&"it took too long", false)),
        }
    }
}

/// A request without an answer.
struct Lost {
    failure: Failure,
    /// No service has seen it, so that it can be said again whatever it is.
    reached_nobody: bool,
}

/// What is passed on of a request, to whichever replica.
struct Asked<'r> {
    method: reqwest::Method,
    path: String,
    headers: Vec<(&'r str, &'r [u8])>,
    ours: [(&'static str, String); 3],
}

impl<'r> Asked<'r> {
    fn of(request: &'r HttpRequest) -> Result<Self, Failure> {
        let method =
            reqwest::Method::from_bytes(request.method().as_str().as_bytes()).map_err(Failure::invalid_of)?;
        let listed = request
            .headers()
            .get_all("connection")
            .filter_map(|value| value.to_str().ok());
        let listed: Vec<String> = listed
            .flat_map(|value| value.split(','))
            .map(|name| name.trim().to_ascii_lowercase())
            .collect();
        let headers = request.headers().iter();
        let headers = headers
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .filter(|(name, _)| !HOP_BY_HOP.contains(name) && !OURS.contains(name))
            .filter(|(name, _)| !listed.iter().any(|one| one == name))
            .collect();
        // Each proxy before this one may have written a line of its own; together they are one list (RFC 9110, 5.3).
        let before = request.headers().get_all("x-forwarded-for");
        let mut chain: Vec<String> = before
            .filter_map(|value| value.to_str().ok().map(ToOwned::to_owned))
            .collect();
        chain.extend(request.peer_addr().map(|peer| peer.ip().to_string()));
        let info = request.connection_info();
        let ours = [
            ("x-forwarded-for", chain.join(", ")),
            ("x-forwarded-host", info.host().to_owned()),
            ("x-forwarded-proto", info.scheme().to_owned()),
        ];
        Ok(Self {
            method,
            path: request.uri().to_string(),
            headers,
            ours,
        })
    }

    fn to(&self, http: &Client, replica: &Replica) -> RequestBuilder {
        let mut asked = http.request(self.method.clone(), format!("{}{}", replica.url, self.path));
        for (name, value) in &self.headers {
            asked = asked.header(*name, *value);
        }
        for (name, value) in &self.ours {
            asked = asked.header(*name, value);
        }
        asked
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
        body.extend_from_slice(&piece.map_err(|_| Failure::invalid_of(Cut))?);
    }
    Ok(body.freeze())
}

/// The client's body ended before it was complete.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the body ended before it was complete")
    }
}

impl std::error::Error for Cut {}

fn is_cut(error: &reqwest::Error) -> bool {
    let error: &(dyn std::error::Error + 'static) = error;
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(<dyn std::error::Error>::is::<Cut>)
}

/// A large body piece by piece. Actix's payload stays on its thread, so the pieces go over a channel.
fn streamed(mut payload: Payload) -> Body {
    let (sender, receiver) = mpsc::channel(PIECES);
    actix_web::rt::spawn(async move {
        while let Some(piece) = payload.next().await {
            let piece = piece.map_err(|_| Cut);
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
