//! How many requests one client may make.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicUsize, Ordering},
};

use actix_web::{HttpRequest, http::header};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock, clock::DefaultClock};

/// Clients after which those that were quiet are forgotten, at first.
const CLIENTS: usize = 100_000;

pub(super) struct Limiter {
    clients: DefaultKeyedRateLimiter<u64>,
    /// Clients at which those that were quiet are forgotten next.
    forgets_at: AtomicUsize,
    clock: DefaultClock,
}

impl Limiter {
    /// `None`: no limit.
    pub(super) fn new(per_second: u32) -> Option<Self> {
        let rate = NonZeroU32::new(per_second)?;
        let burst = rate.saturating_mul(NonZeroU32::MIN.saturating_add(1));
        Some(Self {
            clients: RateLimiter::keyed(Quota::per_second(rate).allow_burst(burst)),
            forgets_at: AtomicUsize::new(CLIENTS),
            clock: DefaultClock::default(),
        })
    }

    /// Whether the client may make this request; otherwise in how many seconds.
    pub(super) fn check(&self, request: &HttpRequest) -> Result<(), u64> {
        self.forget_quiet();
        self.clients
            .check_key(&client(request))
            .map_err(|until| until.wait_time_from(self.clock.now()).as_secs() + 1)
    }
}

impl Limiter {
    /// All are looked through, so not again before there are twice as many as stayed.
    fn forget_quiet(&self) {
        if self.clients.len() > self.forgets_at.load(Ordering::Relaxed) {
            self.clients.retain_recent();
            let next = self.clients.len().saturating_mul(2).max(CLIENTS);
            self.forgets_at.store(next, Ordering::Relaxed);
        }
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
