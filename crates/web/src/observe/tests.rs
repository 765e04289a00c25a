use std::time::Duration;

use actix_web::{
    App, HttpResponse,
    dev::{Payload, Service},
    error::PayloadError,
    middleware::from_fn,
    test::{TestRequest, call_service, init_service, read_body},
    web,
};
use flowmate_common::Budget;
use futures_util::{Stream, StreamExt, stream};

use super::*;
use crate::{ApiError, Body, Pace};

type BoxedPayloadStream = std::pin::Pin<Box<dyn Stream<Item = Result<web::Bytes, PayloadError>>>>;

fn data<T>(value: T) -> Data<T> {
    Data::new(value)
}

async fn panics() -> HttpResponse {
    panic!("what nobody thought of");
}

async fn takes(body: Body) -> Result<HttpResponse, ApiError> {
    body.json_or_empty()?;
    Ok(HttpResponse::Ok().finish())
}

async fn busy() -> Result<HttpResponse, ApiError> {
    Err(Failure::new(Kind::Unavailable, "what is inside").into())
}

#[test]
fn answers_are_kept_by_nobody_and_run_nothing() {
    for (path, caching, policy) in [
        ("/flows", Some("no-store"), POLICY),
        ("/docs2", Some("no-store"), POLICY),
        ("/openapi.json", None, POLICY),
        ("/docs/index.html", None, PAGE_POLICY),
    ] {
        let mut headers = HeaderMap::new();
        protect(&mut headers, Exposure::of(path));
        let text = |name| {
            headers
                .get(name)
                .map(|value: &HeaderValue| value.to_str().unwrap())
        };
        assert_eq!(text(header::CACHE_CONTROL), caching, "{path}");
        assert_eq!(text(header::CONTENT_SECURITY_POLICY), Some(policy), "{path}");
        assert_eq!(text(header::X_CONTENT_TYPE_OPTIONS), Some("nosniff"), "{path}");
    }
}

macro_rules! app {
    ($budget:expr) => {
        init_service(
            App::new()
                .app_data(data(Styles(vec![("webhooks", ErrorStyle::Error)])))
                .app_data(data(Segments(vec!["webhooks".into()])))
                .app_data(data(IdGenerator::counting()))
                .app_data(data(Pressure::default()))
                .app_data(data(Pace {
                    patience: Duration::from_millis(20),
                    bytes_per_second: 1 << 20,
                }))
                .app_data(data($budget))
                .wrap(from_fn(observe))
                .route("/webhooks/panic", web::get().to(panics))
                .route("/webhooks/busy", web::get().to(busy))
                .route("/webhooks/{any}", web::post().to(takes)),
        )
        .await
    };
}

#[actix_web::test]
async fn a_handler_that_panics_answers_500_and_the_next_request_is_answered() {
    let app = app!(Budget::new(1 << 30));
    for _ in 0..2 {
        let answer = app
            .call(TestRequest::get().uri("/webhooks/panic").to_request())
            .await;
        let answer = answer.map_or_else(|error| error.error_response(), Into::into);
        assert_eq!(answer.status(), 500);
        assert!(answer.headers().contains_key("x-request-id"));
        let body = actix_web::body::to_bytes(answer.into_body()).await.unwrap();
        assert_eq!(&body[..], br#"{"error":"Something went wrong on our side."}"#);
    }
}

#[actix_web::test]
async fn a_body_that_does_not_come_is_answered_408() {
    let app = app!(Budget::new(1 << 30));
    let request = TestRequest::post().uri("/webhooks/a").to_request();
    let begun = stream::iter([Ok(web::Bytes::from_static(b"{"))]);
    let payload: BoxedPayloadStream = Box::pin(begun.chain(stream::pending()));
    let (request, _) = request.replace_payload(Payload::Stream { payload });
    let response = call_service(&app, request).await;
    assert_eq!(response.status(), 408);
    assert_eq!(
        read_body(response).await,
        r#"{"error":"The body comes too slowly."}"#
    );
}

#[actix_web::test]
async fn what_the_budget_has_no_room_for_is_refused_and_nothing_stays_taken() {
    let budget = Budget::new(4_000);
    let app = app!(budget.clone());
    for (length, status) in [(900, 200), (1_001, 503), (999, 200)] {
        let body = format!("\"{}\"", "x".repeat(length - 2));
        let request = TestRequest::post()
            .uri("/webhooks/a")
            .set_payload(body)
            .to_request();
        let response = call_service(&app, request).await;
        assert_eq!(
            response.status(),
            status,
            "{length} bytes where 1000 are a stranger's share"
        );
        assert_eq!(response.headers().contains_key("retry-after"), status == 503);
        drop(response);
        assert_eq!(budget.held(), 0);
    }
}

#[actix_web::test]
async fn methods_that_nobody_knows_share_a_label() {
    for name in ["GET", "HEAD", "OPTIONS", "PATCH"] {
        assert_eq!(known(&Method::from_bytes(name.as_bytes()).unwrap()), name);
    }
    for name in ["X0", "X1", "get", "TRACE", "CONNECT"] {
        assert_eq!(known(&Method::from_bytes(name.as_bytes()).unwrap()), "other");
    }
}
