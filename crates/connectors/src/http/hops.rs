//! Following redirects. A receiver may say where else to ask, and another system learns from that only what it would
//! learn from anybody: no credentials, no body, no address that holds a secret.

use reqwest::{
    Method, Request, Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderName},
};

use super::{Client, answer::connection_failure, without_secrets};
use crate::Failure;

/// Redirects followed.
const MAX_REDIRECTS: usize = 5;
/// What may be told to another system than the one that the step names.
const HARMLESS: [HeaderName; 4] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::USER_AGENT,
];

/// Sends `request`, and goes where the answers lead.
pub(super) async fn follow(client: &Client, request: &Request) -> Result<Response, Failure> {
    let mut request = copy(request)?;
    for _ in 0..=MAX_REDIRECTS {
        let sent = client.http.execute(copy(&request)?).await;
        let response = sent.map_err(|error| connection_failure(&error))?;
        let Some(target) = target(&response)? else {
            return Ok(response);
        };
        client
            .guard
            .check(&target)
            .map_err(|reason| Failure::permanent(format!("the request was not sent on: {reason}")))?;
        request = next(request, response.status(), target)?;
    }
    Err(Failure::permanent(format!("more than {MAX_REDIRECTS} redirects")))
}

fn copy(request: &Request) -> Result<Request, Failure> {
    request
        .try_clone()
        .ok_or_else(|| Failure::permanent("the request cannot be repeated"))
}

/// Where the answer leads; nowhere where it is none that redirects.
fn target(response: &Response) -> Result<Option<Url>, Failure> {
    let redirects = [
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::SEE_OTHER,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ];
    let status = response.status();
    let location = response.headers().get(header::LOCATION);
    let Some(location) = location.filter(|_| redirects.contains(&status)) else {
        return Ok(None);
    };
    let bad = || {
        Failure::permanent(format!(
            "the receiver answered {status} with a malformed Location"
        ))
    };
    let location = std::str::from_utf8(location.as_bytes()).map_err(|_| bad())?;
    let mut url = response.url().join(location).map_err(|_| bad())?;
    // Whom we are is for the step to say, not for a receiver.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    Ok(Some(url))
}

/// The request to `target` after an answer with `status`, as browsers do it.
fn next(mut request: Request, status: StatusCode, target: Url) -> Result<Request, Failure> {
    let becomes_get = match status {
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => *request.method() == Method::POST,
        StatusCode::SEE_OTHER => *request.method() != Method::HEAD,
        _ => false,
    };
    if becomes_get {
        *request.method_mut() = Method::GET;
        *request.body_mut() = None;
        let headers = std::mem::take(request.headers_mut());
        *request.headers_mut() = only(headers, |name| !describes_body(name));
    }
    if request.url().origin() != target.origin() {
        if has_body(&request) {
            return Err(Failure::permanent(format!(
                "the receiver answered {status} and leads to {}: the body is not sent to another origin; if it shall go \
                 there, let the step's \"url\" name it",
                without_secrets(&target)
            )));
        }
        let headers = std::mem::take(request.headers_mut());
        *request.headers_mut() = only(headers, |name| HARMLESS.contains(name));
    }
    *request.url_mut() = target;
    Ok(request)
}

fn has_body(request: &Request) -> bool {
    let body = request.body();
    // A body that is not in memory may be any.
    body.is_some_and(|body| body.as_bytes().is_none_or(|bytes| !bytes.is_empty()))
}

fn describes_body(name: &HeaderName) -> bool {
    name.as_str().starts_with("content-") || [header::TRANSFER_ENCODING, header::EXPECT].contains(name)
}

fn only(headers: HeaderMap, wanted: impl Fn(&HeaderName) -> bool) -> HeaderMap {
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in &headers {
        if wanted(name) {
            kept.append(name, value.clone());
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, body: Option<&'static str>) -> Request {
        let mut request = Request::new(method, "http://one.example/a?key=secret".parse().unwrap());
        let headers = request.headers_mut();
        for (name, value) in [
            ("accept", "application/json"),
            ("content-type", "application/json"),
            ("x-api-key", "secret"),
            ("authorization", "Bearer secret"),
            ("cookie", "secret"),
            ("idempotency-key", "1-2"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        *request.body_mut() = body.map(Into::into);
        request
    }

    fn after(request: Request, status: u16, target: &str) -> Result<Request, Failure> {
        next(
            request,
            StatusCode::from_u16(status).unwrap(),
            target.parse().unwrap(),
        )
    }

    fn names(request: &Request) -> Vec<&str> {
        request.headers().keys().map(HeaderName::as_str).collect()
    }

    #[test]
    fn another_origin_learns_neither_credentials_nor_body() {
        for elsewhere in [
            "http://two.example/",
            "https://one.example/",
            "http://one.example:81/",
        ] {
            for status in [301, 302, 303] {
                let next = after(request(Method::POST, Some("{}")), status, elsewhere).unwrap();
                assert_eq!((next.method(), names(&next)), (&Method::GET, vec!["accept"]));
                assert!(next.body().is_none());
            }
            for status in [307, 308] {
                let refused = after(request(Method::POST, Some("{}")), status, elsewhere).unwrap_err();
                assert!(
                    !refused.transient && refused.message.contains("another origin"),
                    "{refused:?}"
                );
                let next = after(request(Method::GET, None), status, elsewhere).unwrap();
                assert_eq!(names(&next), ["accept"]);
            }
            assert!(after(request(Method::PUT, Some("{}")), 302, elsewhere).is_err());
        }
    }

    #[test]
    fn the_same_origin_gets_what_it_got_before() {
        let here = "http://one.example/b";
        let kept = after(request(Method::POST, Some("{}")), 308, here).unwrap();
        assert_eq!((kept.method(), kept.headers().len()), (&Method::POST, 6));
        assert!(has_body(&kept));
        let got = after(request(Method::POST, Some("{}")), 302, here).unwrap();
        assert_eq!(got.method(), Method::GET);
        assert!(!has_body(&got) && !names(&got).contains(&"content-type"));
        assert!(names(&got).contains(&"authorization"));
        let head = after(request(Method::HEAD, None), 303, here).unwrap();
        assert_eq!(head.method(), Method::HEAD);
    }
}
