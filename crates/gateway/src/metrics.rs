//! Metrics, for who collects them and for administrators: they tell how much work which part has.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, http::header, web::Data};
use flowmate_common::auth::SystemAdministration;
use flowmate_web::{Allowed, ApiError};
use subtle::ConstantTimeEq;

/// The metrics of the process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    render: Arc<dyn Fn() -> String + Send + Sync>,
    token: Option<Arc<str>>,
}

impl Metrics {
    /// `render` gives Prometheus text. Whoever has `token` may read it, beside administrators of the system.
    pub fn new(render: impl Fn() -> String + Send + Sync + 'static, token: Option<&str>) -> Self {
        Self {
            render: Arc::new(render),
            token: token.map(Into::into),
        }
    }

    fn is_collector(&self, request: &HttpRequest) -> bool {
        let given = request
            .headers()
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        match (given, &self.token) {
            (Some(given), Some(token)) => given.trim().as_bytes().ct_eq(token.as_bytes()).into(),
            _ => false,
        }
    }
}

pub(crate) async fn metrics(
    request: HttpRequest,
    metrics: Data<Metrics>,
    caller: Result<Allowed<SystemAdministration>, ApiError>,
) -> Result<HttpResponse, ApiError> {
    if !metrics.is_collector(&request) {
        caller?;
    }
    Ok(HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4")
        .body((metrics.render)()))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn only_the_whole_token_is_a_collectors() {
        let asked = |value: &str| {
            TestRequest::default()
                .insert_header((header::AUTHORIZATION, value.to_owned()))
                .to_http_request()
        };
        let closed = Metrics::new(String::new, None);
        let open = Metrics::new(String::new, Some("a token"));
        for (value, may) in [
            ("Bearer a token", true),
            ("Bearer a toke", false),
            ("Bearer a token2", false),
            ("Bearer ", false),
            ("a token", false),
        ] {
            assert_eq!(open.is_collector(&asked(value)), may, "{value}");
            assert!(!closed.is_collector(&asked(value)), "{value}");
        }
        assert!(!open.is_collector(&TestRequest::default().to_http_request()));
    }
}
