//! What services ask of each other over HTTP: `POST /internal/…` with a service token. The gateway never passes such a
//! path on.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web::{self, Bytes},
};
use async_trait::async_trait;
use flowmate_common::{
    Failure, Kind,
    auth::{Caller, ServiceTokens},
    ids::{FlowId, TenantId, UserId},
    model::Flow,
    root_cause,
};
use flowmate_web::ServiceConfig;
use reqwest::{Client, RequestBuilder, Response};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    Context,
    clients::{Accounts, ActiveFlow, Flows},
};

/// How long a call may take in all.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is answered where the callee refuses.
#[derive(Serialize, Deserialize)]
struct Refused {
    kind: Kind,
    messages: Vec<String>,
    bare: bool,
}

/// Registers `POST /internal/{name}`, which takes an `I` and answers with an `O`, where services run apart.
pub fn serve<I, O, F>(
    config: &mut ServiceConfig<'_>,
    context: &Context,
    service: &'static str,
    name: &str,
    handle: impl Fn(I) -> F + Clone + 'static,
) where
    I: DeserializeOwned + 'static,
    O: Serialize + 'static,
    F: Future<Output = Result<O, Failure>> + 'static,
{
    let Some(tokens) = context.services.clone() else {
        return;
    };
    let answer = move |request: HttpRequest, body: Bytes| {
        let (tokens, handle) = (tokens.clone(), handle.clone());
        async move {
            let result = match checked::<I>(&tokens, service, &request, &body) {
                Ok(input) => handle(input).await,
                Err(failure) => Err(failure),
            };
            match result {
                Ok(output) => HttpResponse::Ok().json(output),
                Err(Failure {
                    kind, messages, bare, ..
                }) => HttpResponse::build(StatusCode::UNPROCESSABLE_ENTITY).json(Refused {
                    kind,
                    messages,
                    bare,
                }),
            }
        }
    };
    config.route(&format!("/internal/{name}"), web::post().to(answer));
}

fn checked<I: DeserializeOwned>(
    tokens: &ServiceTokens,
    service: &str,
    request: &HttpRequest,
    body: &[u8],
) -> Result<I, Failure> {
    let header = request.headers().get(header::AUTHORIZATION);
    let token = header
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .ok_or_else(|| Failure::new(Kind::Unauthenticated, "no service token"))?;
    tokens
        .verify(token, service)
        .map_err(|error| Failure::new(Kind::Unauthenticated, error.to_string()))?;
    serde_json::from_slice(body).map_err(|error| Failure::invalid(error.to_string()))
}

/// Another service, as this one calls it. Cheap to clone.
#[derive(Clone)]
pub struct Remote {
    http: Client,
    urls: Arc<[String]>,
    /// Which of them answered last.
    turn: Arc<AtomicUsize>,
    caller: &'static str,
    callee: &'static str,
    tokens: ServiceTokens,
}

impl Remote {
    /// `callee` under this URL, or these with commas between them, as `caller` calls it.
    pub fn new(
        urls: &str,
        caller: &'static str,
        callee: &'static str,
        tokens: ServiceTokens,
    ) -> Result<Self, Failure> {
        let http = Client::builder()
            .no_proxy()
            .connect_timeout(Duration::from_secs(2))
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(Failure::internal)?;
        Ok(Self {
            http,
            urls: urls
                .split(',')
                .map(|url| url.trim().trim_end_matches('/').to_owned())
                .collect(),
            turn: Arc::default(),
            caller,
            callee,
            tokens,
        })
    }

    /// `POST /internal/{name}`.
    pub async fn call<O: DeserializeOwned>(&self, name: &str, input: &impl Serialize) -> Result<O, Failure> {
        let away = |error: &dyn std::fmt::Display| self.away(error);
        let token = self
            .tokens
            .sign(self.caller, self.callee)
            .map_err(Failure::internal)?;
        let body = serde_json::to_vec(input).map_err(Failure::internal)?;
        let send = |url: &str| {
            let request = self.http.post(format!("{url}/internal/{name}"));
            request
                .bearer_auth(&token)
                .header(header::CONTENT_TYPE.as_str(), "application/json")
                .body(body.clone())
        };
        let response = self.ask(send).await?;
        let status = response.status().as_u16();
        let body = response
            .bytes()
            .await
            .map_err(|error| away(&root_cause(&error)))?;
        if status == StatusCode::OK.as_u16() {
            return serde_json::from_slice(&body).map_err(|error| away(&error));
        }
        match serde_json::from_slice::<Refused>(&body) {
            Ok(Refused {
                kind, messages, bare, ..
            }) => Err(Failure {
                kind,
                messages,
                code: None,
                bare,
                retry_after: None,
            }),
            Err(_) => Err(away(&format_args!("it answered {status}"))),
        }
    }

    fn away(&self, error: &dyn std::fmt::Display) -> Failure {
        let message = format!("{} at {}: {error}", self.callee, self.urls.join(" or "));
        Failure::new(Kind::Unavailable, message)
    }

    /// Asks whichever answered last. What reached nobody goes to the next; what was not answered is not said twice, but
    /// the next call goes there.
    async fn ask(&self, request: impl Fn(&str) -> RequestBuilder) -> Result<Response, Failure> {
        let mut last = None;
        for _ in &*self.urls {
            let turn = self.turn.load(Ordering::Relaxed);
            let url = turn
                .checked_rem(self.urls.len())
                .and_then(|index| self.urls.get(index));
            match request(url.map(String::as_str).unwrap_or_default()).send().await {
                Ok(response) => return Ok(response),
                Err(error) => {
                    let next = turn.wrapping_add(1);
                    // Of many that find out at once one moves on.
                    let _ = self
                        .turn
                        .compare_exchange(turn, next, Ordering::Relaxed, Ordering::Relaxed);
                    let reached_nobody = error.is_connect();
                    last = Some(error);
                    if !reached_nobody {
                        break;
                    }
                }
            }
        }
        Err(last.map_or_else(
            || self.away(&"it has no address"),
            |error| self.away(&root_cause(&error)),
        ))
    }

    /// `GET path`, public.
    pub async fn get<O: DeserializeOwned>(&self, path: &str) -> Result<O, Failure> {
        let away = |error: reqwest::Error| self.away(&root_cause(&error));
        let response = self.ask(|url| self.http.get(format!("{url}{path}"))).await?;
        let body = response
            .error_for_status()
            .map_err(away)?
            .bytes()
            .await
            .map_err(away)?;
        serde_json::from_slice(&body).map_err(Failure::internal)
    }
}

/// What `flows/create` takes.
#[derive(Serialize, Deserialize)]
pub struct CreateFlow {
    /// For whom.
    pub caller: Caller,
    /// As `POST /flows` takes it.
    pub body: Value,
}

/// What `flows/get` takes.
#[derive(Serialize, Deserialize)]
pub struct GetFlow {
    /// For whom.
    pub caller: Caller,
    /// The flow.
    pub id: String,
}

/// What `accounts/identify` takes.
#[derive(Serialize, Deserialize)]
pub struct Identify {
    /// The name.
    pub username: String,
    /// The password.
    pub password: String,
}

/// What `flows/active` takes.
#[derive(Serialize, Deserialize)]
pub struct AskActive {
    /// The active flows of these.
    pub users: Vec<UserId>,
    /// Those of these that are active.
    pub flows: Vec<FlowId>,
}

/// What `accounts/members` takes.
#[derive(Serialize, Deserialize)]
pub struct Members {
    /// The tenant.
    pub tenant: TenantId,
    /// Who may belong to it.
    pub users: Vec<UserId>,
}

#[async_trait]
impl Flows for Remote {
    async fn create(&self, caller: &Caller, body: Value) -> Result<Flow, Failure> {
        let caller = caller.clone();
        self.call("flows/create", &CreateFlow { caller, body }).await
    }

    async fn get(&self, caller: &Caller, id: &str) -> Result<Flow, Failure> {
        let (caller, id) = (caller.clone(), id.to_owned());
        self.call("flows/get", &GetFlow { caller, id }).await
    }

    async fn active(&self, users: Vec<UserId>, flows: Vec<FlowId>) -> Result<Vec<ActiveFlow>, Failure> {
        self.call("flows/active", &AskActive { users, flows }).await
    }
}

#[async_trait]
impl Accounts for Remote {
    async fn identify(&self, username: &str, password: String) -> Result<Caller, Failure> {
        let username = username.to_owned();
        self.call("accounts/identify", &Identify { username, password })
            .await
    }

    async fn members(&self, tenant: &TenantId, users: Vec<UserId>) -> Result<Vec<UserId>, Failure> {
        let tenant = tenant.clone();
        self.call("accounts/members", &Members { tenant, users }).await
    }

    async fn roams(&self, user: &UserId) -> Result<bool, Failure> {
        self.call("accounts/roams", user).await
    }
}
