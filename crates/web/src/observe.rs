//! Around every request: an id, the body of failures, and a line in the metrics.

use std::{any::Any, cell::RefCell, collections::HashMap, panic::AssertUnwindSafe, time::Instant};

use actix_web::{
    Error,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    error::InternalError,
    http::{
        ConnectionType, Method,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
    middleware::Next,
    web::Data,
};
use flowmate_common::{Failure, Kind, Pressure, ids::IdGenerator};
use futures_util::FutureExt;

use crate::{
    ErrorStyle, Styles,
    error::{answer, render},
    incoming::Watch,
};

const POLICY: &str = "default-src 'none'; frame-ancestors 'none'";
const PAGE_POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                           object-src 'none'; frame-ancestors 'none'";
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Middleware for [`actix_web::middleware::from_fn`]. Needs [`Styles`], [`Segments`],
/// [`IdGenerator`] and [`Pressure`] as application data, and takes [`crate::Pace`] from there.
pub async fn observe<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let started = Instant::now();
    let id = request_id(&request);
    let told = id.to_str().unwrap_or_default();
    let route = Route::of(&request);
    let segments = request.app_data::<Data<Segments>>().cloned();
    let watch = Watch::over(&mut request, started);
    let answering = request
        .app_data::<Data<Pressure>>()
        .map(|pressure| pressure.enter());
    // A handler that panics costs its own request only: nothing of it is used again.
    let answered = AssertUnwindSafe(async { next.call(request).await })
        .catch_unwind()
        .await;
    drop(answering);
    let mut response = match answered {
        Ok(Ok(response)) => render(response, route.style, told),
        Ok(Err(error)) => return Err(error),
        Err(panic) => {
            let failure = Failure::internal(format!("a handler panicked: {}", said(&*panic)));
            let mut response = answer(&failure, route.style, told);
            response.headers_mut().insert(REQUEST_ID, id);
            protect(response.headers_mut(), route.exposure);
            measure(&route, segments.as_ref(), response.status().as_u16(), started);
            return Err(InternalError::from_response("a handler panicked", response).into());
        }
    };
    if let Some(watch) = watch {
        if watch.is_late() {
            let late = answer(&too_slow(), route.style, told);
            response = response.into_response(late).map_into_boxed_body();
        }
        response = watch.outlive(response);
    }
    measure(&route, segments.as_ref(), response.status().as_u16(), started);
    // Java's client offers HTTP/2 on every new connection. The server closes what was so offered and would say `upgrade`
    // of it: the client would send its next request into a closed connection (RFC 9110, 7.6.1 and 7.8).
    if response.request().head().upgrade() {
        response
            .response_mut()
            .head_mut()
            .set_connection_type(ConnectionType::Close);
    }
    protect(response.headers_mut(), route.exposure);
    // An answer that was passed on has the id that the service logged it under.
    if !response.headers().contains_key(&REQUEST_ID) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    Ok(response)
}

/// Tells browsers and caches to do nothing with an answer but show it.
fn protect(headers: &mut HeaderMap, exposure: Exposure) {
    let policy = match exposure {
        Exposure::Page => PAGE_POLICY,
        Exposure::Public | Exposure::Private => POLICY,
    };
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if exposure == Exposure::Private && !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

fn too_slow() -> Failure {
    Failure::new(Kind::TooSlow, "The body comes too slowly.")
}

/// What a panic says.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}

/// The caller's request id where it is a sensible one, or a new one.
fn request_id(request: &ServiceRequest) -> HeaderValue {
    let given = request
        .headers()
        .get(REQUEST_ID)
        .filter(|value| value.len() <= 128 && value.as_bytes().iter().all(u8::is_ascii_graphic));
    if let Some(given) = given {
        return given.clone();
    }
    let new = request
        .app_data::<Data<IdGenerator>>()
        .map(|ids| ids.long())
        .unwrap_or_default();
    HeaderValue::try_from(new).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// First path segments of the operations there are: the labels of the metrics. Paths themselves would make a new series
/// for each id, and for whatever somebody tries.
pub struct Segments(pub Vec<String>);

/// What of a request decides how it is measured and how its failure is told. Each is one of a few: what a stranger sends
/// makes none of its own.
#[derive(Clone, Copy)]
struct Route {
    method: &'static str,
    /// Position in [`Segments`].
    segment: Option<usize>,
    style: ErrorStyle,
    exposure: Exposure,
}

/// What an answer may hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Exposure {
    /// Tokens and payloads.
    Private,
    /// What everybody may know and keep.
    Public,
    /// The same, as a page with scripts of its own.
    Page,
}

impl Exposure {
    fn of(path: &str) -> Self {
        match path {
            "/openapi.json" => Self::Public,
            "/docs" => Self::Page,
            _ if path.starts_with("/docs/") => Self::Page,
            _ => Self::Private,
        }
    }
}

impl Route {
    fn of(request: &ServiceRequest) -> Self {
        let path = request.path();
        let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        let segments = request.app_data::<Data<Segments>>();
        let styles = request.app_data::<Data<Styles>>();
        Self {
            method: known(request.method()),
            segment: segments.and_then(|segments| segments.0.iter().position(|segment| segment == first)),
            style: styles.map_or(ErrorStyle::Errors, |styles| styles.of(path)),
            exposure: Exposure::of(path),
        }
    }
}

fn known(method: &Method) -> &'static str {
    const KNOWN: [Method; 7] = [
        Method::GET,
        Method::POST,
        Method::PATCH,
        Method::DELETE,
        Method::PUT,
        Method::HEAD,
        Method::OPTIONS,
    ];
    const NAMES: [&str; 7] = ["GET", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS"];
    let position = KNOWN.iter().position(|known| known == method);
    position
        .and_then(|position| NAMES.get(position))
        .copied()
        .unwrap_or("other")
}

/// Method, position in [`Segments`], status.
type Key = (&'static str, Option<usize>, u16);

thread_local! {
    /// Looking a metric up by its labels costs more than the request's own work; each thread remembers.
    static HISTOGRAMS: RefCell<HashMap<Key, metrics::Histogram>> = RefCell::default();
}

fn measure(route: &Route, segments: Option<&Data<Segments>>, status: u16, started: Instant) {
    let key = (route.method, route.segment, status);
    HISTOGRAMS.with_borrow_mut(|known| {
        known
            .entry(key)
            .or_insert_with_key(|(method, position, status)| {
                let segment = position
                    .and_then(|position| segments?.0.get(position))
                    .map_or("", String::as_str);
                metrics::histogram!("flowmate_http_request_seconds", "method" => *method,
                    "route" => format!("/{segment}"), "status" => status.to_string())
            })
            .record(started.elapsed());
    });
}

#[cfg(test)]
mod tests;
