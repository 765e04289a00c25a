//! Around every request: an id, the body of failures, and a line in the metrics.

use std::{cell::RefCell, collections::HashMap, time::Instant};

use actix_web::{
    Error,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        ConnectionType, Method,
        header::{HeaderName, HeaderValue},
    },
    middleware::Next,
    web::Data,
};
use flowmate_common::{Pressure, ids::IdGenerator};

use crate::{Styles, error::render};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Middleware for [`actix_web::middleware::from_fn`]. Needs [`Styles`], [`Segments`],
/// [`IdGenerator`] and [`Pressure`] as application data.
pub async fn observe<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let started = Instant::now();
    let id = request_id(&request);
    let styles = request.app_data::<Data<Styles>>().cloned();
    let _answering = request
        .app_data::<Data<Pressure>>()
        .map(|pressure| pressure.enter());
    let mut response = match next.call(request).await {
        Ok(response) => {
            let empty = Styles::default();
            render(
                response,
                styles.as_ref().map_or(&empty, Data::get_ref),
                id.to_str().unwrap_or_default(),
            )
        }
        Err(error) => return Err(error),
    };
    measure(&response, started);
    // Java's client offers HTTP/2 on every new connection. The server closes what was so offered and would say `upgrade`
    // of it: the client would send its next request into a closed connection (RFC 9110, 7.6.1 and 7.8).
    if response.request().head().upgrade() {
        response
            .response_mut()
            .head_mut()
            .set_connection_type(ConnectionType::Close);
    }
    // An answer that was passed on has the id that the service logged it under.
    if !response.headers().contains_key(&REQUEST_ID) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    Ok(response)
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

/// Method, position in [`Segments`], status.
type Key = (Method, Option<usize>, u16);

thread_local! {
    /// Looking a metric up by its labels costs more than the request's own work; each thread remembers.
    static HISTOGRAMS: RefCell<HashMap<Key, metrics::Histogram>> = RefCell::default();
}

fn measure(response: &ServiceResponse<BoxBody>, started: Instant) {
    let request = response.request();
    let segments = request.app_data::<Data<Segments>>();
    let first = request
        .path()
        .trim_start_matches('/')
        .split('/')
        .next()
        .unwrap_or_default();
    let position = segments.and_then(|segments| segments.0.iter().position(|segment| segment == first));
    let key = (request.method().clone(), position, response.status().as_u16());
    HISTOGRAMS.with_borrow_mut(|known| {
        known
            .entry(key)
            .or_insert_with_key(|(method, position, status)| {
                let segment = position
                    .and_then(|position| segments?.0.get(position))
                    .map_or("", String::as_str);
                metrics::histogram!("flowmate_http_request_seconds", "method" => method.to_string(),
                    "route" => format!("/{segment}"), "status" => status.to_string())
            })
            .record(started.elapsed());
    });
}
