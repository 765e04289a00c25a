//! Where expressions are evaluated. What is cheap is computed where the execution runs. Everything else waits for its
//! turn on a thread that may wait, and is evaluated in a process of its own; as many at the same time as there are
//! cores, and of these no more of one flow, so that a flow with expensive expressions waits behind itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use flowmate_common::{Timestamp, ids::ExecutionId, ids::StepRunId, thread_time};
use flowmate_connectors::StepError;
use flowmate_flow_model::{Evaluator, Host, Moment};

use crate::{fair::Whose, turns::Turns};

/// A step that took longer than this where it stood is not computed there again.
const SLOW: Duration = Duration::from_millis(5);
/// The same for one that had to be computed elsewhere after that: it was for nothing.
const IN_VAIN: Duration = Duration::from_micros(100);
/// The first wait where there is no evaluator at the moment, and the longest.
const WAITS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Which run of a step computes.
pub(crate) struct Place {
    pub(crate) asked: Timestamp,
    pub(crate) execution: ExecutionId,
    pub(crate) run: StepRunId,
}

impl Place {
    fn moment(&self) -> Moment<'static> {
        Moment::of(self.asked, &self.execution, &self.run)
    }
}

/// Computes what is not cheap.
pub(crate) struct Elsewhere {
    evaluator: Arc<dyn Evaluator>,
    turns: Arc<Turns>,
}

impl Elsewhere {
    pub(crate) fn new(evaluator: Arc<dyn Evaluator>) -> Self {
        Self {
            evaluator,
            turns: Turns::new(places()),
        }
    }

    /// What `work` yields; it may be called several times. That no evaluator can be started is nobody's fault, and is
    /// tried until it passes.
    pub(crate) async fn compute<T: Send + 'static>(
        &self,
        place: Place,
        (slow, whose): (Option<&AtomicBool>, impl Fn() -> Whose),
        work: impl Fn(&Moment<'_>) -> Result<T, StepError> + Send + Sync + 'static,
    ) -> Result<T, StepError> {
        if !slow.is_some_and(|slow| slow.load(Ordering::Relaxed))
            && let Some(result) = inline(&place, slow, &work)
        {
            return result;
        }
        let (shared, whose) = (Arc::new((place, work)), whose());
        let mut wait = WAITS.0;
        loop {
            let result = {
                let _turn = self.turns.turn(&whose).await;
                let (shared, evaluator) = (Arc::clone(&shared), Arc::clone(&self.evaluator));
                let waiting = tokio::task::spawn_blocking(move || {
                    let host = Host::waiting(&*evaluator);
                    let (place, work) = &*shared;
                    let result = work(&place.moment().hosted(&host));
                    host.interruption().is_none().then_some(result)
                });
                waiting.await.map_err(StepError::new)?
            };
            if let Some(result) = result {
                return result;
            }
            tracing::warn!("an expression waits for an evaluator");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(WAITS.1);
        }
    }
}

/// The result, unless it takes something that is not cheap.
fn inline<T>(
    place: &Place,
    slow: Option<&AtomicBool>,
    work: &impl Fn(&Moment<'_>) -> Result<T, StepError>,
) -> Option<Result<T, StepError>> {
    let host = Host::inline();
    // Not the time that passed: where the cores are full, that is mostly others'.
    let began = thread_time();
    let result = work(&place.moment().hosted(&host));
    let taken = thread_time().saturating_sub(began);
    let is_whole = host.interruption().is_none();
    let most = if is_whole { SLOW } else { IN_VAIN };
    if taken > most
        && let Some(slow) = slow
    {
        slow.store(true, Ordering::Relaxed);
    }
    is_whole.then_some(result)
}

/// As many expressions are evaluated at the same time: on all cores, and one more, which is left to who comes next.
pub(crate) fn places() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get) + 1
}

#[cfg(test)]
mod tests {
    use flowmate_common::model::Json;
    use flowmate_flow_model::{Expression, ExpressionError, moment::Request};
    use parking_lot::Mutex;
    use serde_json::value::RawValue;

    use super::*;

    /// Gives these answers, one after the other.
    struct Scripted(Mutex<Vec<Result<Option<Json>, ExpressionError>>>);

    impl Evaluator for Scripted {
        fn evaluate(&self, _: Request<'_>) -> Result<Option<Json>, ExpressionError> {
            self.0.lock().pop().unwrap()
        }
    }

    fn place() -> Place {
        Place {
            asked: Timestamp::from_millis(5),
            execution: "e".into(),
            run: "r".into(),
        }
    }

    fn evaluate(source: &str) -> impl Fn(&Moment<'_>) -> Result<String, StepError> + use<> {
        let expression = Expression::parse(source).unwrap();
        move |moment| {
            let input = RawValue::from_string("{}".into()).unwrap();
            let result = expression.evaluate(&input, moment).map_err(StepError::new)?;
            Ok(result.unwrap().get().to_owned())
        }
    }

    #[tokio::test]
    async fn what_is_cheap_is_computed_in_place_and_the_rest_until_there_is_an_evaluator() {
        let value = RawValue::from_string("7".into()).unwrap();
        let lack = || Err(ExpressionError::Transient("no process".into()));
        let answers = vec![
            Err(ExpressionError::Bound("took too much".into())),
            Ok(Some(Json::from(value))),
            lack(),
            lack(),
        ];
        let elsewhere = Elsewhere::new(Arc::new(Scripted(Mutex::new(answers))));
        let whose = || Whose {
            flow: "f".into(),
            tenant: None,
        };
        let here = elsewhere
            .compute(place(), (None, whose), evaluate("$millis()"))
            .await;
        assert_eq!(here.unwrap(), "5");
        let after = elsewhere
            .compute(place(), (None, whose), evaluate("[1..9]"))
            .await;
        assert_eq!(after.unwrap(), "7");
        let over = elsewhere
            .compute(place(), (None, whose), evaluate("[1..9]"))
            .await;
        assert!(over.unwrap_err().message.contains("took too much"));
    }
}
