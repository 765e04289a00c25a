//! Effects: made ready, tried, tried again later, and followed by what comes behind them.

use std::{sync::Arc, time::Duration};

use flowmate_bus::lease::Lease;
use flowmate_common::{Timestamp, model::Message};
use flowmate_connectors::{Attempt, Call, Effect, Emitted, Failure, RetryPolicy, StepError};
use flowmate_flow_model::Moment;

use super::{Run, cancel, not_there};
use crate::step::{self, StepOutput, Task};

/// How long one try may take, whatever the step's own limit is.
const MAX_TRY: Duration = Duration::from_secs(330);
/// How long what is on its way may still take when the flow was stopped.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// What is known of an effect that was not done yet.
#[derive(Clone)]
pub(super) struct Tried {
    pub(super) tries: u32,
    pub(super) began: Timestamp,
    pub(super) due: Timestamp,
    pub(super) reason: String,
}

/// An effect with what it takes to do it.
pub(super) struct Trying {
    pub(super) task: Task,
    pub(super) attempt: Box<dyn Attempt>,
    pub(super) retry: RetryPolicy,
    pub(super) tried: Tried,
}

/// What came of one try.
pub(super) enum Answer {
    Given(Result<Vec<Emitted>, Failure>),
    /// The flow was stopped while it was on its way.
    Abandoned,
    /// Somebody else has the execution, or will: it was not tried.
    Lost,
}

impl Run {
    /// Moves what is due to what may be tried.
    pub(super) fn wake_due(&mut self, now: Timestamp) {
        if self.later.iter().any(|one| one.tried.due <= now) {
            let all = std::mem::take(&mut self.later);
            let (due, later): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| one.tried.due <= now);
            self.later = later;
            self.ready.extend(due);
        }
    }

    /// The effect, unless its target is given rest; then it waits.
    pub(super) fn unless_it_rests(&mut self, mut next: Trying, now: Timestamp) -> Option<Trying> {
        let target = next.attempt.target();
        match self.state.breakers.ask(&self.of.flow_id, target, now) {
            Ok(()) => Some(next),
            Err(until) => {
                next.tried.reason = format!("{target} failed again and again and is given rest");
                next.tried.due = until;
                self.later.push(next);
                None
            }
        }
    }

    /// Makes an effect ready: evaluates what its node says.
    pub(super) async fn prepare(&mut self, effect: &Arc<dyn Effect>, mut task: Task, tried: Tried) {
        let running = Arc::clone(&self.running);
        let step = running.plan.step(task.step);
        // What was stored is as the function gets it.
        let is_first = tried.tries == 0 && tried.reason.is_empty();
        let maps = is_first && step.is_some_and(|step| step.settings.before.is_some());
        let (doing, again, execution) = (Arc::clone(effect), task.clone(), self.of.execution_id.clone());
        let plan = Arc::clone(&running);
        let work = move |moment: &Moment<'_>| {
            let step = plan.plan.step(again.step).ok_or_else(not_there)?;
            let message = if maps {
                step::prepare(step, &again.message, moment)?
            } else {
                again.message.clone()
            };
            let attempt = doing.prepare(&Call {
                message: &message,
                execution: &execution,
                step_run: &again.run,
                moment: moment.within("function"),
            })?;
            Ok((message, attempt))
        };
        let prepared: Result<(Message, Box<dyn Attempt>), StepError> = if maps || effect.has_expressions() {
            self.compute(&task, work).await
        } else {
            work(&Moment::of(self.asked, &self.of.execution_id, &task.run))
        };
        match prepared {
            Ok((message, attempt)) => {
                task.message = message;
                self.ready.push_back(Trying {
                    task,
                    attempt,
                    retry: effect.retry(),
                    tried,
                });
            }
            Err(error) => self.ended(&task, tried.began, Err(error), 1).await,
        }
    }

    /// One try.
    pub(super) fn attempt(
        &self,
        mut trying: Trying,
        lease: Lease,
    ) -> impl Future<Output = (Trying, Answer)> + Send + use<> {
        let stopped = self.running.stopped.clone();
        trying.tried.tries += 1;
        async move {
            let abandoned = async {
                stopped.cancelled().await;
                tokio::time::sleep(STOP_GRACE).await;
            };
            // Not a moment earlier: a process that was stopped meanwhile may have lost it.
            if !lease.held().await {
                return (trying, Answer::Lost);
            }
            let answer = tokio::select! {
                result = tokio::time::timeout(MAX_TRY, trying.attempt.run()) => {
                    Answer::Given(result.unwrap_or_else(|_| Err(took_too_long())))
                }
                () = abandoned => Answer::Abandoned,
            };
            (trying, answer)
        }
    }

    /// What a try leads to: the steps behind it, another try, or the step's failure. Unless it is the last thing that this
    /// execution does, the end of an effect has to be durable before anything else happens.
    pub(super) async fn answered(&mut self, mut trying: Trying, answer: Answer, is_last: bool) {
        let (tries, began) = (trying.tried.tries, trying.tried.began);
        let result = match answer {
            Answer::Lost => return,
            Answer::Abandoned => {
                return self.cancelled_step(&trying.task, &trying.tried, cancel::ON_ITS_WAY);
            }
            Answer::Given(Ok(emitted)) => {
                self.state.worked(&self.of.flow_id, trying.attempt.target());
                self.follow(&trying.task, emitted).await
            }
            Answer::Given(Err(failure)) => {
                let now = self.state.context.clock.now();
                if failure.transient {
                    let (flow, target) = (&self.of.flow_id, trying.attempt.target());
                    self.state.failed(flow, target, failure.after);
                } else {
                    self.state.worked(&self.of.flow_id, trying.attempt.target());
                }
                if failure.transient && tries <= trying.retry.retries {
                    let wait = trying.retry.wait(tries, failure.after, rand::random());
                    trying.tried.due = now.plus_millis(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX));
                    trying.tried.reason = failure.message;
                    self.later.push(trying);
                    return;
                }
                Err(StepError {
                    message: failure.message,
                    attempts: tries,
                })
            }
        };
        self.ended(&trying.task, began, result, tries).await;
        if !is_last || !self.queue.is_empty() {
            self.flush().await;
        }
    }

    /// What follows an effect.
    async fn follow(&self, task: &Task, emitted: Vec<Emitted>) -> Result<StepOutput, StepError> {
        let (running, again) = (Arc::clone(&self.running), task.clone());
        let work = move |moment: &Moment<'_>| step::follow(&running.plan, &again, emitted.clone(), moment);
        self.compute(task, work).await
    }
}

fn took_too_long() -> Failure {
    Failure {
        message: format!("a try took longer than {} s", MAX_TRY.as_secs()),
        transient: true,
        after: None,
    }
}
