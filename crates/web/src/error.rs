//! Failures as HTTP: the status is decided here and nowhere else, and the three bodies of the contract (1.3) are
//! formats of the same failure, chosen by the path.

use std::{
    fmt,
    time::{Duration, Instant},
};

use actix_web::{
    HttpResponse, ResponseError,
    body::{BoxBody, MessageBody},
    dev::ServiceResponse,
    http::{StatusCode, header},
};
use flowmate_common::{Failure, Kind};
use serde::Serialize;
use utoipa::ToSchema;

use crate::seldom::Seldom;

/// A failure on its way to the client.
#[derive(Debug)]
pub struct ApiError(pub Failure);

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<E: Into<Failure>> From<E> for ApiError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        status(self.0.kind)
    }

    /// Without a body; [`render`] adds it, knowing the request.
    fn error_response(&self) -> HttpResponse {
        HttpResponse::new(self.status_code())
    }
}

fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::TooSlow => StatusCode::REQUEST_TIMEOUT,
        Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Kind::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// How a service tells failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorStyle {
    /// `{"errors":[{"message","code"}]}`: flows, templates and whatever is new.
    Errors,
    /// `{"message":"CODE"}`: users and login.
    Message,
    /// `{"error":"text"}`: webhooks.
    Error,
}

/// Which first path segment is told in which style; what is not listed, in [`ErrorStyle::Errors`].
#[derive(Clone, Debug, Default)]
pub struct Styles(pub Vec<(&'static str, ErrorStyle)>);

impl Styles {
    /// The style of this path's failures.
    pub fn of(&self, path: &str) -> ErrorStyle {
        let segment = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        self.0
            .iter()
            .find(|(first, _)| *first == segment)
            .map_or(ErrorStyle::Errors, |(_, style)| *style)
    }
}

/// `{"errors":[{"message":"…","code":400}]}`
#[derive(Debug, Serialize, ToSchema)]
pub struct Errors {
    /// At least one.
    pub errors: Vec<ErrorEntry>,
}

impl Errors {
    /// What is wrong with one of many, in an answer that is about all of them.
    pub fn of(failure: &Failure) -> Self {
        let entry = |message: &String| ErrorEntry {
            message: message.clone(),
            code: status(failure.kind).as_u16(),
            request_id: None,
        };
        Self {
            errors: failure.messages.iter().map(entry).collect(),
        }
    }
}

/// `{"errors":"Invalid id"}`, or [`Errors`] where it is not the id that is wrong (contract 1.3).
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum InvalidId {
    /// The id has not the form of one.
    Id {
        /// `Invalid id`.
        #[schema(example = "Invalid id")]
        errors: String,
    },
    /// Something else is wrong.
    Errors(Errors),
}

/// `{"errors":[{"message":"…","flowId":"…","code":400}]}`: what is wrong with one of many flows.
#[derive(Debug, Serialize, ToSchema)]
pub struct FlowErrors {
    /// One.
    pub errors: Vec<ErrorOfFlow>,
}

/// One thing that is wrong with one of many flows.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorOfFlow {
    /// What is wrong.
    #[schema(example = "No flow with this ID found")]
    pub message: String,
    /// The id as it was sent.
    #[schema(example = "62fcb5ee8ed54c19069b0ca6")]
    pub flow_id: String,
    /// The HTTP status that a call about this flow alone would have had.
    #[schema(example = 404)]
    pub code: u16,
}

impl ErrorOfFlow {
    /// The failure of this flow.
    pub fn of(failure: &Failure, flow_id: String) -> Self {
        Self {
            message: failure.to_string(),
            flow_id,
            code: status(failure.kind).as_u16(),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorEntry {
    /// What is wrong.
    #[schema(example = "No flow found")]
    pub message: String,
    /// The HTTP status.
    #[schema(example = 404)]
    pub code: u16,
    /// With 5xx: names this request in the server's log.
    #[serde(rename = "requestId", skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// `{"message":"CODE"}`
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorMessage {
    /// The code.
    #[schema(example = "MISSING_PERMISSION")]
    pub message: String,
}

/// `{"error":"text"}`
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorText {
    /// What is wrong.
    #[schema(example = "Content-Type header is missing")]
    pub error: String,
}

/// Gives a failed response its body. Failures that are not ours (actix's own) become ours.
pub(crate) fn render<B: MessageBody + 'static>(
    response: ServiceResponse<B>,
    style: ErrorStyle,
    request_id: &str,
) -> ServiceResponse<BoxBody> {
    let status = response.status();
    let Some(error) = response.response().error() else {
        return response.map_into_boxed_body();
    };
    let failure = match error.as_error::<ApiError>() {
        Some(ApiError(failure)) => failure.clone(),
        None if status.is_client_error() => Failure::invalid(error.to_string()),
        None => Failure::internal(error),
    };
    let rendered = body(&failure, status, style, request_id);
    response.into_response(rendered).map_into_boxed_body()
}

/// The answer that tells of `failure`.
pub(crate) fn answer(failure: &Failure, style: ErrorStyle, request_id: &str) -> HttpResponse {
    body(failure, status(failure.kind), style, request_id)
}

/// What is refused for now is worth a line now and then: there may be thousands a second.
static REFUSALS: Seldom = Seldom::new(Duration::from_secs(10));

/// Says what happened where people look for it: only our own faults are errors.
fn log(failure: &Failure, status: StatusCode, request_id: &str) {
    let status = status.as_u16();
    match failure.kind {
        Kind::Internal => {
            tracing::error!(request.id = request_id, cause = %failure, status, "request failed");
        }
        Kind::Unavailable => {
            if let Some(since_last) = REFUSALS.note(Instant::now()) {
                tracing::warn!(request.id = request_id, cause = %failure, status, since_last, "requests are refused for now");
            }
        }
        _ => tracing::debug!(request.id = request_id, cause = %failure, status, "request refused"),
    }
}

fn body(failure: &Failure, status: StatusCode, style: ErrorStyle, request_id: &str) -> HttpResponse {
    log(failure, status, request_id);
    let mut builder = HttpResponse::build(status);
    let unavailable = (failure.kind == Kind::Unavailable).then_some(1);
    if let Some(seconds) = failure.retry_after.or(unavailable) {
        builder.insert_header((header::RETRY_AFTER, seconds));
    }
    let hidden = matches!(failure.kind, Kind::Internal | Kind::Unavailable);
    let reason = status.canonical_reason().unwrap_or("Error");
    match style {
        ErrorStyle::Errors if failure.bare && !hidden => {
            builder.json(serde_json::json!({ "errors": failure.to_string() }))
        }
        ErrorStyle::Errors => {
            let entry = |message: &str, request_id| ErrorEntry {
                message: message.to_owned(),
                code: status.as_u16(),
                request_id,
            };
            let errors = if hidden {
                vec![entry(outside(failure.kind), Some(request_id.to_owned()))]
            } else {
                failure
                    .messages
                    .iter()
                    .map(|message| entry(message, None))
                    .collect()
            };
            builder.json(Errors { errors })
        }
        ErrorStyle::Message if failure.bare && !hidden => {
            builder.content_type("text/plain; charset=utf-8").body(reason)
        }
        ErrorStyle::Message => {
            let text = failure.messages.first().map_or("", String::as_str);
            let message = if hidden {
                "UNKNOWN_ERROR"
            } else {
                failure.code.unwrap_or(text)
            };
            builder.json(ErrorMessage {
                message: message.to_owned(),
            })
        }
        ErrorStyle::Error => {
            let error = if hidden {
                outside(failure.kind).to_owned()
            } else {
                failure.to_string()
            };
            builder.json(ErrorText { error })
        }
    }
}

/// What the client gets to know of a fault of ours.
fn outside(kind: Kind) -> &'static str {
    match kind {
        Kind::Unavailable => "The service is not available right now. Please try again later.",
        _ => "Something went wrong on our side.",
    }
}
