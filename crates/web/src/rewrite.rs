//! Several spellings of one path, and HEAD for GET.

use actix_web::{
    Error,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{Method, Uri},
    middleware::Next,
    web::Data,
};

/// The path that a path stands for, or `None` where it stands for itself.
#[derive(Clone, Copy)]
pub struct Rewrite(pub fn(&str) -> Option<String>);

/// Webhooks have a HEAD of their own, which executes nothing.
const OWN_HEAD: &str = "/webhooks/";

/// Middleware for [`actix_web::middleware::from_fn`]: rewrites the path before it is routed, and makes GET of HEAD, whose
/// answer is the same without its body (RFC 9110, 9.3.2); the server leaves that out. Needs [`Rewrite`] as application
/// data.
pub async fn rewrite<B: MessageBody>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let rule = request.app_data::<Data<Rewrite>>().map(|rule| rule.0);
    if let Some(path) = rule.and_then(|rule| rule(request.path())) {
        let target = match request.query_string() {
            "" => path,
            query => format!("{path}?{query}"),
        };
        if let Ok(uri) = target.parse::<Uri>() {
            request.match_info_mut().get_mut().update(&uri);
            request.head_mut().uri = uri;
        }
    }
    if request.method() == Method::HEAD && !request.path().starts_with(OWN_HEAD) {
        request.head_mut().method = Method::GET;
    }
    next.call(request).await
}
