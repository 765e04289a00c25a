//! How many requests one client may make.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::atomic::{AtomicUsize, Ordering},
};

use actix_web::HttpRequest;
use flowmate_web::client_address;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock, clock::DefaultClock};

/// Clients after which those that were quiet are forgotten, at first.
const CLIENTS: usize = 100_000;

pub(super) struct Limiter {
    clients: DefaultKeyedRateLimiter<Option<IpAddr>>,
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

/// Who has the address, or for IPv6 the network that one customer gets. What else a request says is for the client to choose.
fn client(request: &HttpRequest) -> Option<IpAddr> {
    client_address(request).map(|address| match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() >> 64 << 64;
            Ipv6Addr::from_bits(network).into()
        }
        address @ IpAddr::V4(_) => address,
    })
}

#[cfg(test)]
mod tests {
    use actix_web::{http::header, test::TestRequest};

    use super::*;

    #[test]
    fn one_client_is_limited_and_another_is_not_whatever_they_say() {
        assert!(Limiter::new(0).is_none());
        let limiter = Limiter::new(1).unwrap();
        let from = |address: &str, token: &str| {
            TestRequest::default()
                .peer_addr(format!("{address}:1").parse().unwrap())
                .insert_header((header::AUTHORIZATION, format!("Bearer {token}")))
                .insert_header(("x-forwarded-for", token))
                .to_http_request()
        };
        for token in ["10.0.0.1", "10.0.0.2"] {
            assert!(limiter.check(&from("192.0.2.1", token)).is_ok(), "twice at once");
        }
        assert_eq!(limiter.check(&from("192.0.2.1", "10.0.0.3")), Err(1));
        assert!(limiter.check(&from("192.0.2.2", "10.0.0.1")).is_ok());
        for host in ["1", "2"] {
            assert!(limiter.check(&from(&format!("[2001:db8::{host}]"), "")).is_ok());
        }
        assert_eq!(limiter.check(&from("[2001:db8::3]", "")), Err(1));
        assert!(limiter.check(&from("[2001:db8:0:1::1]", "")).is_ok());
    }
}
