//! Whether the process lives, and whether it can do its work.

use std::sync::Arc;

use actix_web::{HttpResponse, get, web::Data};
use flowmate_runtime::{Health, Service};
use flowmate_web::ServiceConfig;
use serde_json::{Map, Value, json};

pub(crate) struct Services(pub(crate) Arc<[Arc<dyn Service>]>);

/// Registers the operations. On its own this serves to write the spec.
pub fn operations(config: &mut ServiceConfig<'_>) {
    config.service(live).service(ready).service(healthcheck);
}

/// It answers, so it lives.
#[utoipa::path(tag = "Health", operation_id = "getLiveness", responses(
    (status = 200, description = "It lives", body = Object, example = json!({"status": "pass"}))))]
#[get("/health/live")]
pub(crate) async fn live() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "pass" }))
}

/// Whether every service can do its work.
#[utoipa::path(tag = "Health", operation_id = "getReadiness", responses(
    (status = 200, description = "All can", body = Object, example = json!({"status": "pass", "details": {"webhook": {"status": "pass"}}})),
    (status = 503, description = "Some cannot", body = Object, example = json!({"status": "fail", "details": {"webhook": {"status": "fail"}}}))))]
#[get("/health/ready")]
pub(crate) async fn ready(services: Data<Services>) -> HttpResponse {
    let (status, body) = check(&services).await;
    if status {
        HttpResponse::Ok().json(body)
    } else {
        HttpResponse::ServiceUnavailable().json(body)
    }
}

/// The same under the name and with the status that the reference has for it (contract 4.2).
#[utoipa::path(tag = "Health", operation_id = "getHealthcheck", responses(
    (status = 200, description = "All can", body = Object, example = json!({"status": "pass", "details": {"webhook": {"status": "pass"}}})),
    (status = 500, description = "Some cannot", body = Object, example = json!({"status": "fail", "details": {"webhook": {"status": "fail"}}}))))]
#[get("/healthcheck")]
pub(crate) async fn healthcheck(services: Data<Services>) -> HttpResponse {
    let (status, body) = check(&services).await;
    if status {
        HttpResponse::Ok().json(body)
    } else {
        HttpResponse::InternalServerError().json(body)
    }
}

/// Asks every service.
async fn check(services: &Services) -> (bool, Value) {
    let mut details = Map::new();
    let mut is_ready = true;
    for service in &*services.0 {
        let entry = match service.health().await {
            Health::Pass => json!({ "status": "pass" }),
            Health::Warn(reason) => {
                tracing::warn!(service = service.name(), reason, "ready, with trouble");
                json!({ "status": "warn" })
            }
            Health::Fail(reason) => {
                is_ready = false;
                tracing::warn!(service = service.name(), reason, "not ready");
                json!({ "status": "fail" })
            }
        };
        details.insert(service.name().to_owned(), entry);
    }
    let status = if is_ready { "pass" } else { "fail" };
    (
        is_ready,
        json!({ "status": status, "details": Value::Object(details) }),
    )
}
