//! Rest for receivers that fail again and again: a breaker for each flow and target (host and port). While one rests, the
//! flow's requests to it wait, and no other flow's do.

use std::collections::HashMap;

use flowmate_common::{Timestamp, ids::FlowId};
use parking_lot::Mutex;

/// Failures in a row after which a target is given rest.
const FAILURES: u32 = 10;
/// The first rest in milliseconds; each further one is twice as long.
const FIRST_REST: i64 = 1_000;
/// The longest rest in milliseconds.
const LONGEST_REST: i64 = 60_000;
/// Targets that are remembered. Those that work are not.
const REMEMBERED: usize = 10_000;

/// The targets that failed lately.
#[derive(Default)]
pub(crate) struct Breakers(Mutex<HashMap<(FlowId, String), Breaker>>);

#[derive(Clone, Copy, Default)]
struct Breaker {
    /// Failures in a row.
    failures: u32,
    /// How often it was given rest since it worked last.
    rests: u32,
    /// It rests until then.
    until: Option<Timestamp>,
    /// Whether one tries it after its rest.
    is_tried: bool,
}

impl Breakers {
    /// Whether the target may be asked now; otherwise until when it rests. After a rest one request may try; the others
    /// wait for what comes of it.
    pub(crate) fn ask(&self, flow: &FlowId, target: &str, now: Timestamp) -> Result<(), Timestamp> {
        let mut all = self.0.lock();
        if all.is_empty() {
            return Ok(());
        }
        let Some(breaker) = all.get_mut(&(flow.clone(), target.to_owned())) else {
            return Ok(());
        };
        match breaker.until {
            None => Ok(()),
            Some(until) if now < until => Err(until),
            Some(_) => {
                // This one tries. Should nothing come of it, another may after the same rest.
                breaker.until = Some(now.plus_millis(breaker.rest()));
                breaker.is_tried = true;
                Ok(())
            }
        }
    }

    /// The target answered as it should, or with a failure that is not its own. Whether it had failed before.
    pub(crate) fn worked(&self, flow: &FlowId, target: &str) -> bool {
        let mut all = self.0.lock();
        !all.is_empty() && all.remove(&(flow.clone(), target.to_owned())).is_some()
    }

    /// The target failed for now, and may have asked for some milliseconds of rest. Returns until when it rests, if a rest
    /// begins.
    pub(crate) fn failed(
        &self,
        flow: &FlowId,
        target: &str,
        now: Timestamp,
        asked: Option<i64>,
    ) -> Option<Timestamp> {
        let mut all = self.0.lock();
        let key = (flow.clone(), target.to_owned());
        if all.len() >= REMEMBERED && !all.contains_key(&key) {
            // Only for as long as over ten thousand fail at once: they begin to count anew.
            all.clear();
        }
        let breaker = all.entry(key).or_default();
        breaker.failures += 1;
        // Those that were on their way when a rest began make it no longer, but for the one that tried after a rest.
        let rests = breaker.until.is_some_and(|until| now < until);
        if breaker.failures >= FAILURES && (!rests || breaker.is_tried) {
            breaker.is_tried = false;
            breaker.rests += 1;
            let rest = breaker.rest().max(asked.unwrap_or_default().min(LONGEST_REST));
            breaker.until = Some(now.plus_millis(rest));
            return breaker.until;
        }
        None
    }
}

impl Breaker {
    fn rest(self) -> i64 {
        FIRST_REST
            .saturating_mul(1 << self.rests.saturating_sub(1).min(10))
            .min(LONGEST_REST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn who_fails_again_and_again_rests_longer_and_longer_and_only_for_this_flow() {
        let (breakers, flow, other) = (Breakers::default(), FlowId::from("a"), FlowId::from("b"));
        for _ in 0..FAILURES - 1 {
            breakers.failed(&flow, "host:1", at(0), None);
        }
        assert_eq!(breakers.ask(&flow, "host:1", at(0)), Ok(()));
        breakers.failed(&flow, "host:1", at(0), None);
        assert_eq!(breakers.ask(&flow, "host:1", at(10)), Err(at(1_000)));
        assert_eq!(breakers.ask(&other, "host:1", at(10)), Ok(()));
        assert_eq!(breakers.ask(&flow, "host:2", at(10)), Ok(()));
        // Those that were on their way when the rest began make it no longer.
        breakers.failed(&flow, "host:1", at(20), None);
        assert_eq!(breakers.ask(&flow, "host:1", at(30)), Err(at(1_000)));
        assert_eq!(breakers.ask(&flow, "host:1", at(1_000)), Ok(()), "one tries");
        assert_eq!(
            breakers.ask(&flow, "host:1", at(1_001)),
            Err(at(2_000)),
            "the others wait"
        );
        breakers.failed(&flow, "host:1", at(2_500), None);
        assert_eq!(
            breakers.ask(&flow, "host:1", at(2_501)),
            Err(at(4_500)),
            "twice as long"
        );
        assert_eq!(breakers.ask(&flow, "host:1", at(4_500)), Ok(()));
        breakers.worked(&flow, "host:1");
        assert_eq!(breakers.ask(&flow, "host:1", at(4_501)), Ok(()));
    }

    #[test]
    fn rests_are_bounded_and_so_is_what_is_remembered() {
        let (breakers, flow) = (Breakers::default(), FlowId::from("a"));
        for round in 0..100 {
            breakers.failed(&flow, "host:1", at(round * 1_000_000), None);
        }
        assert_eq!(
            breakers.ask(&flow, "host:1", at(99_000_001)),
            Err(at(99_000_000 + LONGEST_REST))
        );
        for number in 0..2 * REMEMBERED {
            breakers.failed(&flow, &number.to_string(), at(0), None);
        }
        assert!(breakers.0.lock().len() <= REMEMBERED);
    }
}
