//! The answers that all operations of this service have in common (contract 1.3, 2.3).

use actix_web::HttpResponse;
use flowmate_common::{Failure, Kind};
use flowmate_web::{Body, Params};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use utoipa::ToSchema;

/// The id of what was created.
#[derive(Serialize, ToSchema)]
pub(crate) struct Created {
    #[schema(example = "5c99ec7e5ed40d3e7512cffa")]
    pub(crate) id: String,
}

/// One document: bare, or in `{"data": …}` where `?meta` is given.
pub(crate) fn one<T: Serialize>(params: &Params, content: T) -> HttpResponse {
    match params.filled("meta") {
        None => HttpResponse::Ok().json(content),
        Some(_) => HttpResponse::Ok().json(json!({ "data": content })),
    }
}

/// A list: bare, or in `{"data": …, "meta": {"total": …}}` where `?meta` is given.
pub(crate) fn many<T: Serialize>(params: &Params, content: &[T]) -> HttpResponse {
    match params.filled("meta") {
        None => HttpResponse::Ok().json(content),
        Some(_) => HttpResponse::Ok().json(json!({ "data": content, "meta": { "total": content.len() } })),
    }
}

/// The text `OK`.
pub(crate) fn ok() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/plain; charset=utf-8")
        .body("OK")
}

pub(crate) fn forbidden() -> Failure {
    Failure::coded(Kind::Forbidden, "FORBIDDEN")
}

pub(crate) fn invalid() -> Failure {
    Failure::coded(Kind::Invalid, "INPUT_INVALID")
}

/// The text `Not Found`.
pub(crate) fn not_found() -> Failure {
    Failure::not_found("Not Found").bare()
}

/// The body as a JSON object, or `INPUT_INVALID`.
pub(crate) fn input<T: DeserializeOwned>(body: &Body) -> Result<T, Failure> {
    body.object()
        .map_err(|failure| failure.with_code("INPUT_INVALID"))
}

/// A text that names something: neither empty nor endless.
pub(crate) fn is_name(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= 320
}

/// Permissions that an account, a role or a token may name: every process keeps them in memory.
pub(crate) fn are_permissions(permissions: &[String]) -> bool {
    let is_one = |text: &String| text.len() <= 128;
    permissions.len() <= 256 && permissions.iter().all(is_one)
}
