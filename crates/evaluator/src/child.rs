//! The child: answers until its parent closes the pipe, and ends where an evaluation goes over a bound.

mod confine;
mod watch;

use std::{
    io::{self, Read, Write},
    process::ExitCode,
    sync::Arc,
};

use flowmate_flow_model::{Expression, ExpressionError};
use rustix::process::Signal;
use serde_json::value::RawValue;

use self::{confine::Confinement, watch::Watch};
use crate::{
    Limits,
    cache::ExpressionCache,
    protocol::{self, Answer, Hello, Question},
};

/// By which the process ends itself because of its processor time.
pub(crate) const OVER_TIME: Signal = Signal::XCPU;
/// By which the process ends itself because of the clock.
pub(crate) const OVER_WAIT: Signal = Signal::ALARM;

/// Answers on standard output what is asked on standard input. The subcommand `evaluator` is this and nothing else.
pub fn serve() -> ExitCode {
    // Stands in nobody's log; the answer says what happened.
    std::panic::set_hook(Box::new(|_| {}));
    match talk(&mut io::stdin().lock(), &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("evaluator: {error}");
            ExitCode::FAILURE
        }
    }
}

fn talk(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let Some((Hello { limits }, _)) = protocol::read(from, 1 << 10)? else {
        return Ok(());
    };
    let watch = Watch::start()?;
    let confinement = Confinement::take(limits)?;
    protocol::write(to, &(Answer::Ready, false), &[])?;
    let mut cache = ExpressionCache::default();
    while let Some((question, input)) = protocol::read(from, protocol::MAX_QUESTION)? {
        let limits = limits.with_input(input.len());
        confinement.allow(limits)?;
        let (answer, value) = match answer(question, &input, &mut cache, &watch, limits) {
            Ok(Some(value)) => (Answer::Value, Some(value)),
            Ok(None) => (Answer::Nothing, None),
            Err(error) => (error.into(), None),
        };
        drop(input);
        let value = value.as_deref().map_or("", RawValue::get);
        protocol::write(to, &(answer, confinement.is_worn()), value.as_bytes())?;
    }
    Ok(())
}

fn answer(
    question: Question,
    input: &[u8],
    cache: &mut ExpressionCache<Expression>,
    watch: &Watch,
    limits: Limits,
) -> Result<Option<Arc<RawValue>>, ExpressionError> {
    let failed = |message: String| ExpressionError::Evaluation { code: None, message };
    let Question {
        id,
        source,
        at,
        seed,
        truth,
    } = question;
    let expression = match source {
        Some(source) => cache.insert(id, source.len(), Expression::parse(&source)?),
        None => cache
            .get(id)
            .ok_or_else(|| failed("the evaluator does not have it".into()))?,
    };
    let watched = watch.begin(limits);
    let input: &RawValue =
        serde_json::from_slice(input).map_err(|error| failed(format!("its input is not JSON: {error}")))?;
    let result = expression.evaluate_at_any_cost(input, at, seed, truth, watched.cancel());
    if watched.is_over() && result.is_err() {
        return Err(ExpressionError::Bound(limits.over_time()));
    }
    result
}
