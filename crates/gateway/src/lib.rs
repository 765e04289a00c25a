//! The gateway: everything on one host. In the embedded shape it stands in the same process as the services and calls
//! them directly: other spellings of paths, health, metrics, the merged specification and its browser page.

mod health;
mod metrics;
pub mod proxy;
mod spec;

use std::sync::Arc;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web::{self, ServiceConfig as ActixConfig},
};
use flowmate_common::Failure;
use flowmate_runtime::Service;
use flowmate_web::{ApiError, ErrorEntry, Errors, Segments, ServiceConfig, Styles};
use utoipa_swagger_ui::{Config, SwaggerUi};

pub use health::operations;
pub use metrics::Metrics;
pub use spec::{Spec, spec};

/// What the gateway puts on one host. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    services: Arc<[Arc<dyn Service>]>,
    metrics: Metrics,
    alive: health::Alive,
    spec: Spec,
}

impl Gateway {
    /// A gateway before these services.
    pub fn new(services: Vec<Arc<dyn Service>>, spec: Spec, metrics: Metrics) -> Self {
        Self {
            services: services.into(),
            metrics,
            alive: health::Alive(Arc::new(|| Ok(()))),
            spec,
        }
    }

    /// Asks `alive` whether the process lives; the reason why not is for the log.
    #[must_use]
    pub fn living(mut self, alive: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.alive = health::Alive(Arc::new(alive));
        self
    }

    /// How each service tells failures.
    pub fn styles(&self) -> Styles {
        Styles(
            self.services
                .iter()
                .flat_map(|service| service.error_styles().iter().copied())
                .collect(),
        )
    }

    /// Registers all operations; called once for each worker thread.
    pub fn configure(&self, config: &mut ActixConfig) {
        let mut operations = ServiceConfig::new(config);
        for service in &*self.services {
            service.configure(&mut operations);
        }
        health::operations(&mut operations);
        let services = web::Data::new(health::Services(Arc::clone(&self.services)));
        // The specification names no other host, and neither does the page: the badge of the public validator is off.
        let page = SwaggerUi::new("/docs/{_:.*}").config(
            Config::new(["/openapi.json"])
                .validator_url("none")
                .persist_authorization(true),
        );
        let document = self.spec.json();
        config
            .app_data(services)
            .app_data(web::Data::new(self.alive.clone()))
            .app_data(web::Data::new(Segments(self.spec.segments())))
            .app_data(web::Data::new(self.spec.clone()))
            .route(
                "/openapi.json",
                web::get().to(move || {
                    let document = document.clone();
                    async move { HttpResponse::Ok().content_type("application/json").body(document) }
                }),
            )
            .app_data(web::Data::new(self.metrics.clone()))
            .route("/metrics", web::get().to(metrics::metrics))
            .route("/docs", web::get().to(docs))
            .service(page)
            .default_service(web::to(unknown));
    }
}

async fn docs() -> HttpResponse {
    HttpResponse::Found()
        .insert_header((header::LOCATION, "/docs/"))
        .finish()
}

/// 404, or 405 with the methods that there are (RFC 9110, 15.5.6).
async fn unknown(request: HttpRequest, spec: web::Data<Spec>) -> Result<HttpResponse, ApiError> {
    let message = format!("Cannot {} {}", request.method(), request.path());
    let mut allowed = spec.allowed(request.path()).to_vec();
    if allowed.iter().any(|method| method == "GET") && !allowed.iter().any(|method| method == "HEAD") {
        allowed.push("HEAD".to_owned());
    }
    // A path that has the method has other words in it than it may.
    if allowed.is_empty() || allowed.iter().any(|method| method == request.method().as_str()) {
        return Err(Failure::not_found(message).into());
    }
    let entry = ErrorEntry {
        message,
        code: StatusCode::METHOD_NOT_ALLOWED.as_u16(),
        request_id: None,
    };
    Ok(HttpResponse::MethodNotAllowed()
        .insert_header((header::ALLOW, allowed.join(", ")))
        .json(Errors { errors: vec![entry] }))
}

/// Prefixes under which the reference serves its IAM (contract 2.3).
const PREFIXES: [&str; 2] = ["/api/v1", "/api"];
/// First segments of paths that may have such a prefix.
const PREFIXED: [&str; 7] = [
    "users",
    "login",
    "logout",
    "tenants",
    "roles",
    "permissions",
    "tokens",
];

/// Other spellings: a slash at the end, `/api/users` and `/api/v1/users`, `/hook/…` for `/webhooks/…`.
pub fn alias(path: &str) -> Option<String> {
    if path.starts_with("/docs") {
        return None;
    }
    let trimmed = if path.len() > 1 {
        path.strip_suffix('/')
    } else {
        None
    };
    let short = trimmed.unwrap_or(path);
    let stripped = PREFIXES.iter().find_map(|prefix| {
        let rest = short.strip_prefix(prefix)?;
        let first = rest.strip_prefix('/')?.split('/').next()?;
        PREFIXED.contains(&first).then(|| rest.to_owned())
    });
    let hook = short
        .strip_prefix("/hook/")
        .map(|rest| format!("/webhooks/{rest}"));
    stripped.or(hook).or_else(|| trimmed.map(ToOwned::to_owned))
}

#[cfg(test)]
mod tests {
    use super::alias;

    #[test]
    fn every_published_spelling_leads_to_one_path() {
        for (path, expected) in [
            ("/users", None),
            ("/users/", Some("/users")),
            ("/api/users", Some("/users")),
            ("/api/users/me/", Some("/users/me")),
            ("/api/v1/users/5c99", Some("/users/5c99")),
            ("/api/v1/flows", None),
            ("/hook/5c99", Some("/webhooks/5c99")),
            ("/hook/5c99/x", Some("/webhooks/5c99/x")),
            ("/docs/", None),
            ("/", None),
        ] {
            assert_eq!(alias(path).as_deref(), expected, "{path}");
        }
    }
}
