//! The gateway: everything on one host. In the embedded shape it stands in the same process as the services and calls
//! them directly: other spellings of paths, health, metrics, the merged specification and its browser page.

mod health;
mod spec;

use std::sync::Arc;

use actix_web::{
    HttpRequest, HttpResponse,
    http::header,
    web::{self, ServiceConfig as ActixConfig},
};
use flowmate_runtime::Service;
use flowmate_web::{ErrorEntry, Errors, Segments, ServiceConfig, Styles};
use utoipa_swagger_ui::{Config, SwaggerUi};

pub use spec::spec;

/// What the gateway puts on one host. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    services: Arc<[Arc<dyn Service>]>,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
    spec: utoipa::openapi::OpenApi,
}

impl Gateway {
    /// A gateway before these services; `metrics` renders Prometheus text.
    pub fn new(
        services: Vec<Arc<dyn Service>>,
        spec: utoipa::openapi::OpenApi,
        metrics: Arc<dyn Fn() -> String + Send + Sync>,
    ) -> Self {
        Self {
            services: services.into(),
            metrics,
            spec,
        }
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

    /// First path segments of all operations.
    fn segments(&self) -> Segments {
        let first = |path: &String| {
            path.trim_start_matches('/')
                .split('/')
                .next()
                .map(ToOwned::to_owned)
        };
        let mut segments: Vec<String> = self.spec.paths.paths.keys().filter_map(first).collect();
        segments.sort();
        segments.dedup();
        Segments(segments)
    }

    /// Registers all operations; called once for each worker thread.
    pub fn configure(&self, config: &mut ActixConfig) {
        let mut operations = ServiceConfig::new(config);
        for service in &*self.services {
            service.configure(&mut operations);
        }
        let services = web::Data::new(health::Services(Arc::clone(&self.services)));
        let metrics = Arc::clone(&self.metrics);
        // The specification names no other host, and neither does the page: the badge of the public validator is off.
        let page = SwaggerUi::new("/docs/{_:.*}")
            .url("/openapi.json", self.spec.clone())
            .config(
                Config::default()
                    .validator_url("none")
                    .persist_authorization(true),
            );
        config
            .app_data(services)
            .app_data(web::Data::new(self.segments()))
            .route("/health/live", web::get().to(health::live))
            .route("/health/ready", web::get().to(health::ready))
            .route("/healthcheck", web::get().to(health::ready))
            .route(
                "/metrics",
                web::get().to(move || {
                    let text = metrics();
                    async move {
                        HttpResponse::Ok()
                            .content_type("text/plain; version=0.0.4")
                            .body(text)
                    }
                }),
            )
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

async fn unknown(request: HttpRequest) -> HttpResponse {
    let message = format!("Cannot {} {}", request.method(), request.path());
    HttpResponse::NotFound().json(Errors {
        errors: vec![ErrorEntry {
            message,
            code: 404,
            request_id: None,
        }],
    })
}

/// Prefixes under which the reference serves its IAM (contract 2.3).
const PREFIXES: [&str; 2] = ["/api/v1", "/api"];
/// First segments of paths that may have such a prefix.
const PREFIXED: [&str; 3] = ["users", "login", "logout"];

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
