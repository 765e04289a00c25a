//! Whether the process lives, and whether it can do its work.

use std::sync::Arc;

use actix_web::{HttpResponse, get, web::Data};
use flowmate_runtime::{Health, Service};
use flowmate_web::ServiceConfig;
use serde_json::{Map, Value, json};

pub(crate) struct Services(pub(crate) Arc<[Arc<dyn Service>]>);

/// Whether the process can go on as it is; otherwise why only another one can.
#[derive(Clone)]
pub(crate) struct Alive(pub(crate) Arc<dyn Fn() -> Result<(), String> + Send + Sync>);

/// Registers the operations. On its own this serves to write the spec.
pub fn operations(config: &mut ServiceConfig<'_>) {
    config.service(live).service(ready).service(healthcheck);
}

/// It answers, so it lives, unless it knows that only a new process can help.
#[utoipa::path(tag = "Health", operation_id = "getLiveness", responses(
    (status = 200, description = "It lives", body = Object, example = json!({"status": "pass"})),
    (status = 503, description = "It has to be started again", body = Object, example = json!({"status": "fail"}))))]
#[get("/health/live")]
pub(crate) async fn live(alive: Data<Alive>) -> HttpResponse {
    match (alive.0)() {
        Ok(()) => HttpResponse::Ok().json(json!({ "status": "pass" })),
        Err(reason) => {
            tracing::error!(reason, "this process has to be started again");
            HttpResponse::ServiceUnavailable().json(json!({ "status": "fail" }))
        }
    }
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

#[cfg(test)]
mod tests {
    use actix_web::{App, http::StatusCode, test};

    use super::*;

    #[actix_web::test]
    async fn a_process_that_only_another_one_can_replace_says_that_it_is_dead() {
        for (alive, expected) in [
            (Ok(()), StatusCode::OK),
            (
                Err("the producer is dead".to_owned()),
                StatusCode::SERVICE_UNAVAILABLE,
            ),
        ] {
            let alive = Data::new(Alive(Arc::new(move || alive.clone())));
            let app = test::init_service(App::new().app_data(alive).service(live)).await;
            let asked = test::TestRequest::get().uri("/health/live").to_request();
            let answer = test::call_service(&app, asked).await;
            assert_eq!(answer.status(), expected);
            let body = test::read_body(answer).await;
            assert!(
                !String::from_utf8_lossy(&body).contains("producer"),
                "nobody else's concern"
            );
        }
    }
}
