//! JSONata behind one interface, with bounds on time, depth, length and size.
//!
//! The engine is `jsonata-core`; nothing outside this file knows it. An expression is parsed once and may be evaluated
//! from any thread; its compiled form is kept per thread, because the engine's values are not `Send`.

use std::{
    cell::RefCell,
    collections::HashMap,
    fmt,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use flowmate_common::model::Json;
use jsonata_core::{
    Expression as Compiled,
    ast::AstNode,
    evaluator::{Context, Evaluator, EvaluatorError, EvaluatorOptions},
    parser,
    value::JValue,
};
use serde_json::value::RawValue;

use crate::Moment;

/// Bytes of an expression's text.
pub const MAX_SOURCE: usize = 64 << 10;
/// Bytes of a result.
pub const MAX_RESULT: usize = 10 << 20;
/// How long one evaluation may take.
pub const MAX_MILLIS: u64 = 250;
/// Levels of nesting.
const MAX_DEPTH: usize = 500;
/// Items of an intermediate sequence.
const MAX_SEQUENCE: usize = 100_000;
/// Characters that `$pad` may produce: the engine looks at the clock only between its steps.
const MAX_PAD: i64 = 1 << 20;
/// Compiled forms kept by each thread.
const CACHE: usize = 512;

/// Why an expression has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// It is not JSONata.
    #[error("not a valid JSONata expression: {0}")]
    Syntax(String),
    /// It failed on this input.
    #[error("the JSONata expression failed: {message}")]
    Evaluation {
        /// JSONata's code, such as `T2001`.
        code: Option<String>,
        /// What went wrong.
        message: String,
    },
    /// The result is larger than allowed.
    #[error("the JSONata expression's result has {0} bytes, {MAX_RESULT} are allowed")]
    TooLarge(usize),
    /// One of the bounds of an evaluation was reached; says which.
    #[error("the JSONata expression {0}")]
    Bound(String),
    /// It could not be evaluated for a reason that is not its own and that passes.
    #[error("the JSONata expression was not evaluated: {0}")]
    Transient(String),
    /// It is not known to be cheap on this input, and nothing else may be evaluated here.
    #[error("the JSONata expression has to be evaluated elsewhere")]
    Elsewhere,
}

impl ExpressionError {
    /// Whether it may be evaluated when it is tried again. Everything else is the expression's own, or its input's.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Transient(_))
    }
}

/// A parsed expression. Cheap to clone.
#[derive(Clone)]
pub struct Expression {
    inner: Arc<Inner>,
}

struct Inner {
    id: u64,
    source: String,
    ast: AstNode,
    /// Whether it names a function that has to be bounded by an override, which only the slower evaluator knows.
    guarded: bool,
}

thread_local! {
    static COMPILED: RefCell<HashMap<u64, Rc<Compiled>>> = RefCell::default();
}

impl Expression {
    /// Parses `source`.
    pub fn parse(source: &str) -> Result<Self, ExpressionError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        if source.len() > MAX_SOURCE {
            return Err(ExpressionError::Syntax(format!(
                "{} bytes, {MAX_SOURCE} are allowed",
                source.len()
            )));
        }
        let ast = parser::parse(source).map_err(|error| ExpressionError::Syntax(error.to_string()))?;
        let guarded = source.contains("$pad") || source.contains("$eval");
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            inner: Arc::new(Inner {
                id,
                source: source.to_owned(),
                ast,
                guarded,
            }),
        })
    }

    /// The text it was parsed from.
    pub fn source(&self) -> &str {
        &self.inner.source
    }

    /// The result on `input`; `None` where JSONata yields nothing (`undefined`). May take [`MAX_MILLIS`].
    pub fn evaluate(&self, input: &RawValue, _moment: &Moment<'_>) -> Result<Option<Json>, ExpressionError> {
        let result = self.value(input)?;
        if result.is_undefined() {
            return Ok(None);
        }
        let text = result
            .to_json_string()
            .map_err(|error| ExpressionError::Evaluation {
                code: None,
                message: format!("its result is not JSON: {error}"),
            })?;
        if text.len() > MAX_RESULT {
            return Err(ExpressionError::TooLarge(text.len()));
        }
        let raw = RawValue::from_string(text).map_err(|error| ExpressionError::Evaluation {
            code: None,
            message: format!("its result is not JSON: {error}"),
        })?;
        Ok(Some(raw.into()))
    }

    /// Whether the result on `input` counts as true: JSONata's `$boolean`.
    pub fn is_truthy(&self, input: &RawValue, _moment: &Moment<'_>) -> Result<bool, ExpressionError> {
        Ok(truthy(&self.value(input)?))
    }

    fn value(&self, input: &RawValue) -> Result<JValue, ExpressionError> {
        let data = JValue::from_json_str(input.get()).map_err(|error| ExpressionError::Evaluation {
            code: None,
            message: format!("its input is not JSON: {error}"),
        })?;
        let options = EvaluatorOptions {
            timeout_ms: Some(MAX_MILLIS),
            max_stack_depth: Some(MAX_DEPTH),
            max_sequence_length: Some(MAX_SEQUENCE),
            ..EvaluatorOptions::default()
        };
        if self.inner.guarded {
            let mut evaluator = Evaluator::with_options(Context::new(), options);
            // Whether the override is taken decides the engine; where it is not, its other bounds hold.
            let _ = evaluator.register_fn_override("pad", pad);
            return evaluator
                .evaluate(&self.inner.ast, &data)
                .map_err(|error| failed(&error));
        }
        self.compiled()
            .evaluate_with_options(&data, options)
            .map_err(|error| failed(&error))
    }

    fn compiled(&self) -> Rc<Compiled> {
        COMPILED.with_borrow_mut(|cache| {
            if cache.len() >= CACHE && !cache.contains_key(&self.inner.id) {
                cache.clear();
            }
            let compile = || Rc::new(Compiled::from_ast(self.inner.ast.clone()));
            Rc::clone(cache.entry(self.inner.id).or_insert_with(compile))
        })
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.inner.source).finish()
    }
}

fn failed(error: &EvaluatorError) -> ExpressionError {
    ExpressionError::Evaluation {
        code: error.code().map(ToOwned::to_owned),
        message: error.message().to_owned(),
    }
}

/// `$pad` with a bound: `$pad(text, width, fill = " ")`, to the left where the width is negative.
fn pad(arguments: &[JValue]) -> Result<JValue, EvaluatorError> {
    let [text, width, rest @ ..] = arguments else {
        return Err(EvaluatorError::EvaluationError(
            "T0410: $pad takes a string and a width".into(),
        ));
    };
    if text.is_undefined() {
        return Ok(text.clone());
    }
    let (Some(text), Some(width)) = (text.as_str(), width.as_f64()) else {
        return Err(EvaluatorError::TypeError(
            "T0410: $pad takes a string and a width".into(),
        ));
    };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the cast saturates, and the bound comes next"
    )]
    let width = width.trunc() as i64;
    if width.abs() > MAX_PAD {
        return Err(EvaluatorError::EvaluationError(format!(
            "$pad makes {MAX_PAD} characters at most"
        )));
    }
    let fill = rest
        .first()
        .and_then(JValue::as_str)
        .filter(|fill| !fill.is_empty())
        .unwrap_or(" ");
    let missing = usize::try_from(width.abs())
        .unwrap_or_default()
        .saturating_sub(text.chars().count());
    let padding: String = fill.chars().cycle().take(missing).collect();
    Ok(JValue::from(if width < 0 {
        format!("{padding}{text}")
    } else {
        format!("{text}{padding}")
    }))
}

/// JSONata's `$boolean`.
fn truthy(value: &JValue) -> bool {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MOMENT: Moment<'static> = Moment::new(flowmate_common::Timestamp::from_millis(0), 7);

    fn evaluate(source: &str, input: &serde_json::Value) -> Result<Option<String>, ExpressionError> {
        let input = serde_json::value::to_raw_value(input).unwrap();
        let result = Expression::parse(source)?.evaluate(&input, &MOMENT)?;
        Ok(result.map(|json| json.get().to_owned()))
    }

    #[test]
    fn an_expression_maps_json_to_json() {
        let order = json!({"total": 120.5, "items": [{"n": 2}, {"n": 3}]});
        assert_eq!(
            evaluate("{\"sum\": $sum(items.n), \"t\": total}", &order)
                .unwrap()
                .unwrap(),
            r#"{"sum":5,"t":120.5}"#
        );
        assert_eq!(evaluate("missing.path", &order).unwrap(), None);
    }

    #[test]
    fn syntax_and_evaluation_errors_are_told_apart() {
        assert!(matches!(
            evaluate("{", &json!(1)),
            Err(ExpressionError::Syntax(_))
        ));
        let failed = evaluate("\"a\" * 2", &json!(1));
        assert!(
            matches!(&failed, Err(ExpressionError::Evaluation { code: Some(code), .. }) if code == "T2001"),
            "{failed:?}"
        );
    }

    #[test]
    fn nothing_runs_away() {
        for source in [
            "($f := function(){ $f() }; $f())",
            "($f := function($n){ 1 + $f($n + 1) }; $f(0))",
            "[1..10000000]",
            "$pad(\"x\", 300000000)",
            "$pad(\"x\", -300000000)",
        ] {
            let result = evaluate(source, &json!({}));
            assert!(
                matches!(result, Err(ExpressionError::Evaluation { .. })),
                "{source}: {result:?}"
            );
        }
        assert_eq!(
            evaluate("$pad(\"x\", -4, \"ab\")", &json!({})).unwrap().unwrap(),
            "\"abax\""
        );
    }

    #[test]
    fn truth_is_jsonatas() {
        let input = serde_json::value::to_raw_value(&json!({"a": 1})).unwrap();
        for (source, expected) in [
            ("a", true),
            ("a > 1", false),
            ("b", false),
            ("[0, \"\"]", false),
            ("{\"x\": 1}", true),
            ("\"0\"", true),
        ] {
            assert_eq!(
                Expression::parse(source)
                    .unwrap()
                    .is_truthy(&input, &MOMENT)
                    .unwrap(),
                expected,
                "{source}"
            );
        }
    }
}
