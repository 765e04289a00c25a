//! Whether the process lives, and whether it can do its work.

use std::sync::Arc;

use actix_web::{HttpResponse, web::Data};
use flowmate_runtime::{Health, Service};
use serde_json::{Map, Value, json};

pub(crate) struct Services(pub(crate) Arc<[Arc<dyn Service>]>);

/// It answers, so it lives.
pub(crate) async fn live() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "pass" }))
}

/// Asks every service; 503 if one cannot work.
pub(crate) async fn ready(services: Data<Services>) -> HttpResponse {
    let mut details = Map::new();
    let mut is_ready = true;
    for service in &*services.0 {
        let entry = match service.health().await {
            Health::Pass => json!({ "status": "pass" }),
            Health::Fail(reason) => {
                is_ready = false;
                tracing::warn!(service = service.name(), reason, "not ready");
                json!({ "status": "fail" })
            }
        };
        details.insert(service.name().to_owned(), entry);
    }
    let status = if is_ready { "pass" } else { "fail" };
    let body = json!({ "status": status, "details": Value::Object(details) });
    if is_ready {
        HttpResponse::Ok().json(body)
    } else {
        HttpResponse::ServiceUnavailable().json(body)
    }
}
