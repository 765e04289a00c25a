//! Around every request: an id, the body of failures, and a line in the metrics.

use std::{cell::RefCell, collections::HashMap, time::Instant};

use actix_web::{
    Error,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::header::{HeaderName, HeaderValue},
    middleware::Next,
    web::Data,
};
use flowmate_common::ids::IdGenerator;

use crate::{Styles, error::render};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Middleware for [`actix_web::middleware::from_fn`]. Needs [`Styles`] and [`IdGenerator`] as application data.
pub async fn observe<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let started = Instant::now();
    let id = request_id(&request);
    let styles = request.app_data::<Data<Styles>>().cloned();
    let mut response = match next.call(request).await {
        Ok(response) => {
            let empty = Styles::default();
            render(
                response,
                styles.as_ref().map_or(&empty, |styles| styles),
                id.to_str().unwrap_or_default(),
            )
        }
        Err(error) => return Err(error),
    };
    measure(&response, started);
    response.headers_mut().insert(REQUEST_ID, id);
    Ok(response)
}

/// The caller's request id where it is a sensible one, or a new one.
fn request_id(request: &ServiceRequest) -> HeaderValue {
    let given = request
        .headers()
        .get(REQUEST_ID)
        .filter(|value| value.len() <= 128 && value.as_bytes().iter().all(|byte| byte.is_ascii_graphic()));
    if let Some(given) = given {
        return given.clone();
    }
    let new = request
        .app_data::<Data<IdGenerator>>()
        .map(|ids| ids.long())
        .unwrap_or_default();
    HeaderValue::try_from(new).unwrap_or_else(|_| HeaderValue::from_static(""))
}

type Key = (String, u16);

thread_local! {
    /// Looking a metric up by its labels costs more than the request's own work; each thread remembers.
    static HISTOGRAMS: RefCell<HashMap<Key, metrics::Histogram>> = RefCell::default();
}

fn measure(response: &ServiceResponse<BoxBody>, started: Instant) {
    let request = response.request();
    // The pattern, never the path: ids in labels would make a new series for each flow.
    let pattern = request.match_pattern().unwrap_or_else(|| "unmatched".into());
    let route = format!("{} {pattern}", request.method());
    let status = response.status().as_u16();
    HISTOGRAMS.with_borrow_mut(|known| {
        known
            .entry((route, status))
            .or_insert_with_key(|(route, status)| {
                metrics::histogram!("flowmate_http_request_seconds", "route" => route.clone(), "status" => status.to_string())
            })
            .record(started.elapsed());
    });
}
