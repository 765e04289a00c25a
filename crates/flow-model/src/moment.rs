//! What an expression knows beside its input, and who evaluates what is not known to be cheap.
//!
//! An execution is computed again after a crash and has to decide the same again. So time in expressions is the time
//! that the execution was asked for, and chance is a seed made of the execution, the run of the step and the place of
//! the expression in it.

use std::{
    fmt,
    sync::atomic::{AtomicU8, Ordering},
};

use flowmate_common::{
    Timestamp,
    ids::{ExecutionId, StepRunId},
    model::Json,
};
use serde_json::value::RawValue;

use crate::ExpressionError;

/// When and where in an execution something is evaluated: the same at every replay. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Moment<'a> {
    at: Timestamp,
    seed: u64,
    host: Option<&'a Host<'a>>,
}

impl<'a> Moment<'a> {
    /// The run `run` of a step of `execution`, which was asked for at `at`. `at` has to be recorded with the request:
    /// it is what `$now()` and `$millis()` say, also when the execution is computed again.
    pub fn of(at: Timestamp, execution: &ExecutionId, run: &StepRunId) -> Self {
        Self::new(at, mix(mix(SEED, execution.as_str()), run.as_str()))
    }

    /// A moment with a seed of one's own.
    pub const fn new(at: Timestamp, seed: u64) -> Self {
        Self { at, seed, host: None }
    }

    /// The time in expressions.
    pub const fn at(&self) -> Timestamp {
        self.at
    }

    /// What `$random` and `$shuffle` depend on.
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// The same moment at another place inside the step: a field, an edge, a message. Places have to be the same at
    /// every replay, so they are names and positions, never a count of what was evaluated so far.
    #[must_use]
    pub fn within(self, place: &str) -> Self {
        Self {
            seed: mix(self.seed, place),
            ..self
        }
    }

    /// The same for the item at a position.
    #[must_use]
    pub fn item(self, index: usize) -> Self {
        Self {
            seed: scramble(self.seed ^ scramble(index as u64 + 1)),
            ..self
        }
    }

    /// The same moment, with `host` for what is not known to be cheap.
    #[must_use]
    pub fn hosted<'b>(self, host: &'b Host<'b>) -> Moment<'b> {
        Moment {
            at: self.at,
            seed: self.seed,
            host: Some(host),
        }
    }

    pub(crate) fn host(&self) -> Option<&'a Host<'a>> {
        self.host
    }
}

impl fmt::Debug for Moment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Moment({}, {:x})", self.at, self.seed)
    }
}

/// One evaluation for an [`Evaluator`].
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The expression's text.
    pub source: &'a str,
    /// The same for the same parsed expression, and for no other one in this process.
    pub id: u64,
    /// What it is evaluated on.
    pub input: &'a RawValue,
    /// The time in it.
    pub at: Timestamp,
    /// The chance in it.
    pub seed: u64,
    /// Whether only its truth is asked for: the answer is `true` or `false`.
    pub truth: bool,
}

/// Evaluates expressions where they can hurt nobody. Calls wait for the answer: not for threads that others need.
pub trait Evaluator: Send + Sync {
    /// The result; `None` where JSONata yields nothing.
    fn evaluate(&self, request: Request<'_>) -> Result<Option<Json>, ExpressionError>;
}

/// Decides where expressions are evaluated that are not known to be cheap, and remembers what kept one from being
/// evaluated at all. That is no property of the errors of steps, which are for people to read.
///
/// Without a host they are evaluated where they stand, with a bound on time only.
pub struct Host<'a> {
    evaluator: Option<&'a dyn Evaluator>,
    interrupted: AtomicU8,
}

/// Why something has to be computed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// An expression on this input has to be evaluated elsewhere.
    Elsewhere,
    /// No expression's fault, and it passes: there was no process for it.
    Transient,
}

impl<'a> Host<'a> {
    /// For threads that everything runs on: only what is cheap, everything else is an interruption.
    pub const fn inline() -> Self {
        Self {
            evaluator: None,
            interrupted: AtomicU8::new(0),
        }
    }

    /// For threads that may wait: what is not cheap goes to `evaluator`.
    pub const fn waiting(evaluator: &'a dyn Evaluator) -> Self {
        Self {
            evaluator: Some(evaluator),
            interrupted: AtomicU8::new(0),
        }
    }

    /// What kept an expression from being evaluated since the host was made; everything has to be computed again then.
    pub fn interruption(&self) -> Option<Interruption> {
        match self.interrupted.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(Interruption::Elsewhere),
            _ => Some(Interruption::Transient),
        }
    }

    pub(crate) fn evaluate(&self, request: Request<'_>) -> Result<Option<Json>, ExpressionError> {
        let result = match self.evaluator {
            None => Err(ExpressionError::Elsewhere),
            Some(evaluator) => evaluator.evaluate(request),
        };
        match &result {
            Err(ExpressionError::Elsewhere) => self.interrupted.store(1, Ordering::Relaxed),
            Err(error) if error.is_transient() => self.interrupted.store(2, Ordering::Relaxed),
            _ => {}
        }
        result
    }
}

impl fmt::Debug for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("inline", &self.evaluator.is_none())
            .field("interruption", &self.interruption())
            .finish()
    }
}

const SEED: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, scrambled. Recorded executions depend on it: it never changes.
fn mix(seed: u64, text: &str) -> u64 {
    scramble(text.bytes().fold(seed ^ SEED, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    }))
}

/// The finisher of SplitMix64.
pub(crate) const fn scramble(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_the_same_for_ever_and_differ_by_execution_run_and_place() {
        let at = Timestamp::from_millis(0);
        let moment = Moment::of(at, &"e".into(), &"r".into());
        assert_eq!(moment.seed(), Moment::of(at, &"e".into(), &"r".into()).seed());
        let all = [
            moment.seed(),
            Moment::of(at, &"f".into(), &"r".into()).seed(),
            Moment::of(at, &"e".into(), &"s".into()).seed(),
            moment.within("edge").seed(),
            moment.within("after").seed(),
            moment.item(0).seed(),
            moment.item(1).seed(),
        ];
        let distinct: std::collections::HashSet<u64> = all.into_iter().collect();
        assert_eq!(distinct.len(), all.len());
        // Recorded executions depend on this number.
        assert_eq!(Moment::new(at, 1).within("edge").item(2).seed(), GOLDEN);
    }

    const GOLDEN: u64 = 0xbb05_3391_3340_8983;
}
