//! The gateway as a process of its own: passes requests on to the services that have the path, streaming both ways.

mod config;
mod limit;
mod replicas;
mod upstream;

use std::sync::Arc;

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    http::{StatusCode, header},
    web::{self, Data, ServiceConfig as ActixConfig},
};
use flowmate_common::{Failure, Kind};
use flowmate_web::{ApiError, Segments, Styles};
use futures_util::future::join_all;
use serde_json::{Map, Value, json};
use utoipa_swagger_ui::{Config as PageConfig, SwaggerUi};

use crate::{Metrics, Spec, metrics, unknown};

pub use config::Config;
use limit::Limiter;
use upstream::Upstream;

/// A service behind the gateway.
pub struct Route {
    /// Its name, as in the architecture.
    pub name: &'static str,
    /// Where it is: each replica's address.
    pub urls: Vec<String>,
    /// What it has.
    pub spec: Spec,
}

/// What the gateway passes on. Cheap to clone.
#[derive(Clone)]
pub struct Proxy(Arc<Inner>);

struct Inner {
    upstreams: Vec<(Spec, Arc<Upstream>)>,
    limiter: Option<Limiter>,
    spec: Spec,
    styles: Styles,
    metrics: Metrics,
}

impl Proxy {
    /// A gateway before these services; `spec` describes them together with the gateway itself.
    pub fn new(
        routes: Vec<Route>,
        spec: Spec,
        styles: Styles,
        config: &Config,
        metrics: Metrics,
    ) -> Result<Self, Failure> {
        let upstreams = routes
            .into_iter()
            .map(|route| Ok((route.spec, Upstream::start(route.name, &route.urls, config)?)))
            .collect::<Result<_, Failure>>()?;
        Ok(Self(Arc::new(Inner {
            upstreams,
            limiter: Limiter::new(config.requests_per_second),
            spec,
            styles,
            metrics,
        })))
    }

    /// How failures of the gateway itself are told.
    pub fn styles(&self) -> Styles {
        self.0.styles.clone()
    }

    /// Registers everything; called once for each worker thread.
    pub fn configure(&self, config: &mut ActixConfig) {
        let inner = &self.0;
        let page = SwaggerUi::new("/docs/{_:.*}").config(
            PageConfig::new(["/openapi.json"])
                .validator_url("none")
                .persist_authorization(true),
        );
        config
            .app_data(Data::new(self.clone()))
            .app_data(Data::new(Segments(inner.spec.segments())))
            .app_data(Data::new(inner.spec.clone()))
            .route("/health/live", web::get().to(live))
            .route("/health/ready", web::get().to(ready))
            .route("/healthcheck", web::get().to(healthcheck))
            .route("/metrics", web::get().to(metrics::metrics))
            .app_data(Data::new(inner.metrics.clone()))
            .route("/openapi.json", web::get().to(document))
            .route("/docs", web::get().to(crate::docs))
            .service(page)
            .default_service(web::to(forward));
    }

    fn upstream(&self, path: &str) -> Option<&Arc<Upstream>> {
        let found = self
            .0
            .upstreams
            .iter()
            .find(|(spec, _)| !spec.allowed(path).is_empty());
        found.map(|(_, upstream)| upstream)
    }
}

/// The gateway lives and passes on whatever becomes of a single service.
async fn live() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "pass" }))
}

async fn ready(proxy: Data<Proxy>) -> HttpResponse {
    ask_all(&proxy, StatusCode::SERVICE_UNAVAILABLE).await
}

async fn healthcheck(proxy: Data<Proxy>) -> HttpResponse {
    ask_all(&proxy, StatusCode::INTERNAL_SERVER_ERROR).await
}

/// Asks every service whether it is ready.
async fn ask_all(proxy: &Proxy, failed: StatusCode) -> HttpResponse {
    let asked = proxy.0.upstreams.iter().map(|(_, upstream)| async move {
        let status = if upstream.is_ready().await { "pass" } else { "fail" };
        (upstream.name.to_owned(), json!({ "status": status }))
    });
    let details: Map<String, Value> = join_all(asked).await.into_iter().collect();
    let is_ready = details
        .values()
        .all(|one| one.get("status") == Some(&json!("pass")));
    let (code, status) = if is_ready {
        (StatusCode::OK, "pass")
    } else {
        (failed, "fail")
    };
    HttpResponse::build(code).json(json!({ "status": status, "details": details }))
}

async fn document(proxy: Data<Proxy>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .body(proxy.0.spec.json())
}

async fn forward(
    request: HttpRequest,
    payload: web::Payload,
    proxy: Data<Proxy>,
    spec: Data<Spec>,
) -> Result<HttpResponse, ApiError> {
    if let Some(limiter) = &proxy.0.limiter
        && let Err(seconds) = limiter.check(&request)
    {
        return Ok(too_many(seconds));
    }
    let path = request.path();
    // What services ask of each other is nobody else's.
    let is_internal = path == "/internal" || path.starts_with("/internal/");
    let Some(upstream) = proxy.upstream(path).filter(|_| !is_internal) else {
        return unknown(request, spec).await;
    };
    let passed = upstream.pass(&request, payload).await;
    passed.map_err(|failure| {
        if failure.kind == Kind::Unavailable {
            tracing::warn!(service = upstream.name, %failure, "not passed on");
        }
        failure.into()
    })
}

fn too_many(seconds: u64) -> HttpResponse {
    let mut answer: HttpResponseBuilder = HttpResponse::TooManyRequests();
    answer
        .insert_header((header::RETRY_AFTER, seconds.to_string()))
        .json(json!({ "errors": [{ "message": "Too many requests.", "code": 429 }] }))
}
