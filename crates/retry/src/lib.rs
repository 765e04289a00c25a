//! Trying again: the one back-off of whatever waits between two tries, and one line in the log now and then while it
//! lasts. What is worth another try is told by [`Fault`].

use std::{borrow::Cow, fmt::Display, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use flowmate_common::Fault;
use tokio::time::Instant;

/// The first wait; jitter makes it up to twice as long.
const SHORTEST: Duration = Duration::from_millis(25);
/// The longest wait, with its jitter.
const LONGEST: Duration = Duration::from_secs(5);
/// After that long without success it is an outage, and said so that often.
const SAID: Duration = Duration::from_secs(10);
/// What passes within that is told to nobody.
const HICCUP: Duration = Duration::from_secs(1);

/// Waits between tries of one thing: exponential, jittered, five seconds at most. It knows how long the thing has failed,
/// and says so with one line every ten seconds.
pub struct Backoff {
    what: Cow<'static, str>,
    waits: ExponentialBackoff,
    outage: Option<Outage>,
}

struct Outage {
    since: Instant,
    said: Option<Instant>,
    tries: u64,
}

impl Backoff {
    /// For `what` is tried, as the log names it.
    pub fn new(what: impl Into<Cow<'static, str>>) -> Self {
        Self {
            what: what.into(),
            waits: waits(),
            outage: None,
        }
    }

    /// It failed once more: how long to wait before the next try.
    pub fn failed(&mut self, reason: &impl Display) -> Duration {
        let now = Instant::now();
        let outage = self.outage.get_or_insert(Outage {
            since: now,
            said: None,
            tries: 0,
        });
        outage.tries += 1;
        let lasts = now.duration_since(outage.since);
        let is_due = match outage.said {
            None => lasts >= HICCUP,
            Some(said) => now.duration_since(said) >= SAID,
        };
        if is_due {
            outage.said = Some(now);
            let (what, tries) = (&*self.what, outage.tries);
            tracing::warn!(what, tries, seconds = lasts.as_secs(), %reason, "tried again until it passes");
        }
        self.waits.next().unwrap_or(LONGEST).min(LONGEST)
    }

    /// It failed once more: returns when it is time for the next try.
    pub async fn wait(&mut self, reason: &impl Display) {
        let wait = self.failed(reason);
        tokio::time::sleep(wait).await;
    }

    /// Whether it failed when it was tried last.
    pub fn is_failing(&self) -> bool {
        self.outage.is_some()
    }

    /// It passed: the next failure is a first one.
    pub fn passed(&mut self) {
        let Some(outage) = self.outage.take() else {
            return;
        };
        if outage.said.is_some() {
            let seconds = outage.since.elapsed().as_secs();
            tracing::info!(what = &*self.what, tries = outage.tries, seconds, "passes again");
        }
        self.waits = waits();
    }
}

fn waits() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(SHORTEST)
        .with_max_delay(LONGEST / 2)
        .with_jitter()
        .without_max_times()
        .build()
}

/// Tries until it passes, however long that takes; only an error that is not transient ends it.
pub async fn until_passes<T, E: Fault, F>(
    what: impl Into<Cow<'static, str>>,
    mut attempt: impl FnMut() -> F,
) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let mut backoff = Backoff::new(what);
    loop {
        match attempt().await {
            Err(error) if error.is_transient() => backoff.wait(&error).await,
            result => {
                backoff.passed();
                return result;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use flowmate_common::{Failure, Kind};

    use super::*;

    #[test]
    fn waits_grow_to_five_seconds_at_most_and_never_end() {
        let mut backoff = Backoff::new("a test");
        let waits: Vec<_> = (0..1_000).map(|_| backoff.failed(&"no")).collect();
        assert!(waits[0] >= SHORTEST && waits[0] <= 2 * SHORTEST);
        assert!(waits.iter().all(|wait| *wait <= LONGEST));
        assert!(
            waits[20..].iter().all(|wait| *wait >= LONGEST / 2),
            "they stay long"
        );
        backoff.passed();
        assert!(backoff.failed(&"no") <= 2 * SHORTEST, "a success begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_transient_is_tried_for_ever_and_what_is_permanent_once() {
        let begun = Instant::now();
        let passed = until_passes("a test", || async {
            if begun.elapsed() < Duration::from_secs(3_600) {
                Err(Failure::new(Kind::Unavailable, "away"))
            } else {
                Ok(begun.elapsed())
            }
        });
        let passed = passed.await.unwrap();
        assert!(
            passed < Duration::from_secs(3_606),
            "found within one wait: {passed:?}"
        );
        let mut tries = 0;
        let refused: Result<(), Failure> = until_passes("a test", || {
            tries += 1;
            async { Err(Failure::invalid("no")) }
        })
        .await;
        assert!(refused.is_err());
        assert_eq!(tries, 1);
    }
}
