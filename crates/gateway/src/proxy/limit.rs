//! How many requests one client may make.

use std::num::NonZeroU32;

use actix_web::{HttpRequest, http::header};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock, clock::DefaultClock};

/// Clients after which those that were quiet are forgotten.
const CLIENTS: usize = 100_000;

pub(super) struct Limiter {
    limiter: DefaultKeyedRateLimiter<u64>,
    clock: DefaultClock,
}

impl Limiter {
    /// `None`: no limit.
    pub(super) fn new(per_second: u32) -> Option<Self> {
        let rate = NonZeroU32::new(per_second)?;
        let burst = rate.saturating_mul(NonZeroU32::MIN.saturating_add(1));
        Some(Self {
            limiter: RateLimiter::keyed(Quota::per_second(rate).allow_burst(burst)),
            clock: DefaultClock::default(),
        })
    }

    /// Whether the client may make this request; otherwise in how many seconds.
    pub(super) fn check(&self, request: &HttpRequest) -> Result<(), u64> {
        if self.limiter.len() > CLIENTS {
            self.limiter.retain_recent();
        }
        self.limiter
            .check_key(&client(request))
            .map_err(|until| until.wait_time_from(self.clock.now()).as_secs() + 1)
    }
}

/// Who has the token, or without one who has the address.
fn client(request: &HttpRequest) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    match request.headers().get(header::AUTHORIZATION) {
        Some(token) => token.as_bytes().hash(&mut hasher),
        None => request.peer_addr().map(|address| address.ip()).hash(&mut hasher),
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn one_client_is_limited_and_another_is_not() {
        assert!(Limiter::new(0).is_none());
        let limiter = Limiter::new(1).unwrap();
        let from = |token: &str| {
            let header = (header::AUTHORIZATION, format!("Bearer {token}"));
            TestRequest::default().insert_header(header).to_http_request()
        };
        assert!(
            limiter.check(&from("a")).is_ok() && limiter.check(&from("a")).is_ok(),
            "twice at once"
        );
        assert_eq!(limiter.check(&from("a")), Err(1));
        assert!(limiter.check(&from("b")).is_ok());
    }
}
