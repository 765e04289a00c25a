//! When a request is sent again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest wait that a receiver may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);

/// Retries after connection errors, 429 and 5xx (contract 5, point 26).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryPolicy {
    /// Retries after the first try.
    pub retries: u32,
    /// The first wait in milliseconds; each further one is twice as long, all with jitter.
    pub base_ms: u64,
    /// The longest wait in milliseconds, unless `Retry-After` asks for a longer one.
    pub max_ms: u64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retries: 5,
            base_ms: 300,
            max_ms: 60_000,
        }
    }
}

impl RetryPolicy {
    /// How long to wait before retry number `retry`, from 1. What whoever was asked said (`after`) goes before, up to an
    /// hour. `jitter` is from 0 to 1.
    pub fn wait(self, retry: u32, after: Option<Duration>, jitter: f64) -> Duration {
        let longest = Duration::from_millis(self.max_ms);
        if let Some(after) = after {
            return after.min(LONGEST_ASKED);
        }
        let doubled = Duration::from_millis(self.base_ms).saturating_mul(1 << (retry - 1).min(20));
        doubled.min(longest).mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_have_jitter_and_an_upper_bound() {
        let policy = RetryPolicy {
            retries: 5,
            base_ms: 100,
            max_ms: 1_000,
        };
        assert_eq!(policy.wait(1, None, 1.0), Duration::from_millis(100));
        assert_eq!(policy.wait(3, None, 1.0), Duration::from_millis(400));
        assert_eq!(policy.wait(3, None, 0.0), Duration::from_millis(200));
        assert_eq!(policy.wait(30, None, 1.0), Duration::from_secs(1));
        assert_eq!(
            policy.wait(1, Some(Duration::from_secs(90)), 1.0),
            Duration::from_secs(90),
            "the receiver knows better"
        );
        assert_eq!(policy.wait(1, Some(Duration::MAX), 1.0), LONGEST_ASKED);
    }
}
