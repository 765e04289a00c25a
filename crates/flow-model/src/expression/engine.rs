//! One evaluation. The engine is `jsonata-core`; nothing outside this folder knows it. Its compiled form of an
//! expression is kept per thread, because its values are not `Send`.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
};

use flowmate_common::{Timestamp, model::Json};
use jsonata_core::{
    Expression as Compiled,
    evaluator::{CancelToken, Context, Evaluator, EvaluatorError, EvaluatorOptions},
    value::JValue,
};
use serde_json::value::RawValue;

use super::{ExpressionError, Inner, MAX_MESSAGE, MAX_RESULT};
use crate::moment::scramble;

/// Levels of nesting.
const MAX_DEPTH: usize = 500;
/// Items of an intermediate sequence.
const MAX_SEQUENCE: usize = 100_000;
/// Compiled forms kept by each thread.
const CACHE: usize = 512;

/// What has to be told when and by which chance it is evaluated, and what may name it at run time.
pub(super) const DECIDING: [&str; 5] = ["$now", "$millis", "$random", "$shuffle", "$eval"];

thread_local! {
    static COMPILED: RefCell<HashMap<u64, Rc<Compiled>>> = RefCell::default();
}

/// Ends an evaluation from another thread, at the next step of the engine. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Cancel(CancelToken);

impl Cancel {
    /// Ends every evaluation that was given this.
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

/// What ends an evaluation that goes on and on.
pub(super) enum Bound<'a> {
    /// So much time by the clock.
    Millis(u64),
    /// Somebody who watches it.
    Cancelled(&'a Cancel),
}

impl Inner {
    pub(super) fn value(
        &self,
        input: &RawValue,
        at: Timestamp,
        seed: u64,
        bound: Bound<'_>,
    ) -> Result<JValue, ExpressionError> {
        let mut options = EvaluatorOptions {
            max_stack_depth: Some(MAX_DEPTH),
            max_sequence_length: Some(MAX_SEQUENCE),
            ..EvaluatorOptions::default()
        };
        match bound {
            Bound::Millis(millis) => options.timeout_ms = Some(millis),
            Bound::Cancelled(cancel) => options.cancel = Some(cancel.0.clone()),
        }
        // What the engine keeps is made anew for each evaluation or not changed by one.
        let evaluated = catch_unwind(AssertUnwindSafe(|| {
            let data = JValue::from_json_str(input.get())
                .map_err(|error| fault(&format!("its input is not JSON: {error}")))?;
            let result = if self.decides {
                deciding(options, at, seed).evaluate(&self.ast, &data)
            } else {
                self.compiled().evaluate_with_options(&data, options)
            };
            result.map_err(|error| failed(&error))
        }));
        evaluated.unwrap_or_else(|_| Err(fault("the engine broke off; that is a fault of the engine")))
    }

    fn compiled(&self) -> Rc<Compiled> {
        COMPILED.with_borrow_mut(|cache| {
            if cache.len() >= CACHE && !cache.contains_key(&self.id) {
                cache.clear();
            }
            let compile = || Rc::new(Compiled::from_ast(self.ast.clone()));
            Rc::clone(cache.entry(self.id).or_insert_with(compile))
        })
    }
}

/// An evaluator whose time and chance are those of the execution.
fn deciding(options: EvaluatorOptions, at: Timestamp, seed: u64) -> Evaluator {
    let mut evaluator = Evaluator::with_options(Context::new(), options);
    let chance = Rc::new(Chance(Cell::new(seed)));
    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds of this age are exact in a double"
    )]
    let millis = at.as_millis() as f64;
    let again = Rc::clone(&chance);
    // None of the four is compiled by the engine, so none is refused; a test says so for each.
    let _ = evaluator.register_fn_override("millis", move |_: &[JValue]| Ok(JValue::Number(millis)));
    let _ = evaluator.register_fn_override("now", move |picture: &[JValue]| now(at, millis, picture));
    let _ = evaluator.register_fn_override("random", move |_: &[JValue]| Ok(JValue::Number(again.next())));
    let _ = evaluator.register_fn_override("shuffle", move |items: &[JValue]| chance.shuffle(items));
    evaluator
}

/// `$now(picture, timezone)`.
fn now(at: Timestamp, millis: f64, picture: &[JValue]) -> Result<JValue, EvaluatorError> {
    thread_local! {
        static FORMAT: Option<Compiled> = Compiled::compile("$fromMillis($[0], $[1], $[2])").ok();
    }
    if picture.iter().all(JValue::is_undefined) {
        return Ok(JValue::from(at.to_string()));
    }
    let arguments = [JValue::Number(millis)]
        .into_iter()
        .chain(picture.iter().take(2).cloned());
    let arguments = JValue::array(arguments.collect());
    FORMAT.with(|format| match format {
        Some(format) => format.evaluate(&arguments),
        None => Ok(JValue::Undefined),
    })
}

/// SplitMix64: as good as `$random` needs, and the same for ever.
struct Chance(Cell<u64>);

impl Chance {
    fn bits(&self) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        scramble(self.0.get())
    }

    /// From 0 to below 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are exact in a double")]
    fn next(&self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// `$shuffle`, by Fisher and Yates.
    fn shuffle(&self, arguments: &[JValue]) -> Result<JValue, EvaluatorError> {
        let Some(items) = arguments.first() else {
            return Err(EvaluatorError::TypeError("T0410: $shuffle takes an array".into()));
        };
        let Some(items) = items.as_array() else {
            return Ok(items.clone());
        };
        let mut items: Vec<JValue> = items.iter().cloned().collect();
        for last in (1..items.len()).rev() {
            let bound = last as u64 + 1;
            let other = usize::try_from(self.bits() % bound).unwrap_or_default();
            items.swap(last, other);
        }
        Ok(JValue::array(items))
    }
}

/// The result as it leaves; `None` for `undefined`.
pub(super) fn json(value: &JValue) -> Result<Option<Json>, ExpressionError> {
    if value.is_undefined() {
        return Ok(None);
    }
    let not_json = |error: &dyn std::fmt::Display| fault(&format!("its result is not JSON: {error}"));
    let text = value.to_json_string().map_err(|error| not_json(&error))?;
    if text.len() > MAX_RESULT {
        return Err(ExpressionError::TooLarge(text.len()));
    }
    let raw = RawValue::from_string(text).map_err(|error| not_json(&error))?;
    Ok(Some(raw.into()))
}

/// Levels of lists and objects in a JSON text.
pub(super) fn nesting(json: &str) -> usize {
    let (mut level, mut most, mut inside, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = inside,
            b'"' => inside = !inside,
            b'[' | b'{' if !inside => {
                level += 1;
                most = most.max(level);
            }
            b']' | b'}' if !inside => level = level.saturating_sub(1),
            _ => {}
        }
    }
    most
}

/// JSONata's `$boolean`.
pub(super) fn truthy(value: &JValue) -> bool {
    if value.is_undefined() || value.is_null() || value.is_function() {
        return false;
    }
    if let Some(flag) = value.as_bool() {
        return flag;
    }
    if let Some(number) = value.as_f64() {
        return number != 0.0;
    }
    if let Some(text) = value.as_str() {
        return !text.is_empty();
    }
    if let Some(items) = value.as_array() {
        return items.iter().any(truthy);
    }
    value.as_object().is_some_and(|map| !map.is_empty())
}

pub(super) fn fault(message: &str) -> ExpressionError {
    ExpressionError::Evaluation {
        code: None,
        message: message.to_owned(),
    }
}

fn failed(error: &EvaluatorError) -> ExpressionError {
    ExpressionError::Evaluation {
        code: error.code().map(ToOwned::to_owned),
        message: error.message().chars().take(MAX_MESSAGE).collect(),
    }
}
