//! JSONata behind one interface: where an expression is evaluated, and what bounds it there.
//!
//! An expression that is cheap in the size of its input, whatever the input ([`cost`]), is evaluated where it stands.
//! Everything else is for the moment's host, which has processes for it. Where there is no host, as in tests of what
//! stands around an expression, it is evaluated in place too, with a bound on time only.

mod cost;
mod engine;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use flowmate_common::{Timestamp, model::Json};
use jsonata_core::{ast::AstNode, parser};
use serde_json::value::RawValue;

pub use self::engine::Cancel;
use crate::{Moment, moment::Request};

/// Bytes of an expression's text.
pub const MAX_SOURCE: usize = 64 << 10;
/// Bytes of a result.
pub const MAX_RESULT: usize = 10 << 20;
/// How long a cheap evaluation may take by the clock: far more than it needs, since others may have the cores for long.
const BACKSTOP_MILLIS: u64 = 10_000;
/// The same for one that is not cheap and that no host takes.
const UNHOSTED_MILLIS: u64 = 250;
/// Levels of nesting of a result: whoever reads it has to be able to.
const MAX_NESTING: usize = 120;
/// Characters of an error's message: it may repeat what the expression was given.
const MAX_MESSAGE: usize = 2_000;

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
    /// Up to which weight of its input it is cheap.
    cheap_up_to: usize,
    /// Whether it may ask for time or chance, which only the slower evaluator can be told.
    decides: bool,
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
        Ok(Self {
            inner: Arc::new(Inner {
                id: NEXT.fetch_add(1, Ordering::Relaxed),
                source: source.to_owned(),
                cheap_up_to: cost::cheap_up_to(&ast),
                ast,
                decides: engine::DECIDING.iter().any(|name| source.contains(name)),
            }),
        })
    }

    /// The text it was parsed from.
    pub fn source(&self) -> &str {
        &self.inner.source
    }

    /// The result on `input`; `None` where JSONata yields nothing (`undefined`).
    pub fn evaluate(&self, input: &RawValue, moment: &Moment<'_>) -> Result<Option<Json>, ExpressionError> {
        match self.host(input, moment) {
            Some(host) => host.evaluate(self.request(input, moment, false)),
            None => engine::json(&self.here(input, moment)?),
        }
    }

    /// Whether the result on `input` counts as true: JSONata's `$boolean`.
    pub fn is_truthy(&self, input: &RawValue, moment: &Moment<'_>) -> Result<bool, ExpressionError> {
        match self.host(input, moment) {
            Some(host) => {
                let truth = host.evaluate(self.request(input, moment, true))?;
                Ok(truth.is_some_and(|truth| truth.get() == "true"))
            }
            None => Ok(engine::truthy(&self.here(input, moment)?)),
        }
    }

    /// Evaluates in this thread whatever it costs: for a process whose time and memory somebody else bounds. `cancel`
    /// ends it between two steps of the engine.
    pub fn evaluate_at_any_cost(
        &self,
        input: &RawValue,
        at: Timestamp,
        seed: u64,
        truth: bool,
        cancel: &Cancel,
    ) -> Result<Option<Json>, ExpressionError> {
        let value = self
            .inner
            .value(input, at, seed, engine::Bound::Cancelled(cancel))?;
        if truth {
            let truth = flowmate_common::model::json(&engine::truthy(&value));
            return truth.map(Some).map_err(|error| engine::fault(&error.to_string()));
        }
        let json = engine::json(&value)?;
        if json
            .as_ref()
            .is_some_and(|json| engine::nesting(json.get()) > MAX_NESTING)
        {
            return Err(ExpressionError::Bound(format!(
                "makes a result that is nested in more than {MAX_NESTING} levels"
            )));
        }
        Ok(json)
    }

    /// Whether it is cheap on `input`: evaluated in place, wherever that is.
    pub fn is_cheap(&self, input: &RawValue) -> bool {
        cost::is_within(input.get(), self.inner.cheap_up_to)
    }

    fn host<'a>(&self, input: &RawValue, moment: &Moment<'a>) -> Option<&'a crate::Host<'a>> {
        moment.host().filter(|_| !self.is_cheap(input))
    }

    fn request<'a>(&'a self, input: &'a RawValue, moment: &Moment<'_>, truth: bool) -> Request<'a> {
        Request {
            source: &self.inner.source,
            id: self.inner.id,
            input,
            at: moment.at(),
            seed: moment.seed(),
            truth,
        }
    }

    fn here(
        &self,
        input: &RawValue,
        moment: &Moment<'_>,
    ) -> Result<jsonata_core::value::JValue, ExpressionError> {
        let bound = if self.is_cheap(input) {
            engine::Bound::Millis(BACKSTOP_MILLIS)
        } else {
            engine::Bound::Millis(UNHOSTED_MILLIS)
        };
        self.inner.value(input, moment.at(), moment.seed(), bound)
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.inner.source).finish()
    }
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
        ] {
            let result = evaluate(source, &json!({}));
            assert!(
                matches!(result, Err(ExpressionError::Evaluation { .. })),
                "{source}: {result:?}"
            );
        }
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

    /// Classes of expressions, with the bytes of ordinary input up to which they are evaluated in place.
    #[test]
    fn what_mapping_takes_is_cheap_and_what_can_run_away_is_not() {
        let cheap = [
            "a",
            "data.total > 100",
            "customer.first & \" \" & customer.last",
            "{\"name\": customer.first & \" \" & customer.last, \"email\": $lowercase(customer.email), \"city\": customer.address.city}",
            "{\"order\": id, \"lines\": items.{\"text\": title, \"amount\": quantity * price}, \"total\": $sum(items.(quantity * price))}",
            "items[price > 10].{\"sku\": sku, \"at\": $now()}",
            "items[0].sku",
            "$map(items, function($i) {$i.price * 2})",
            "($t := $sum(items.price); {\"total\": $t, \"tax\": $round($t * 0.19, 2)})",
            "$exists(a) ? a : \"none\"",
            "items ~> $count",
            "$random()",
            "$join(items.sku, \", \")",
            "$fromMillis(1, \"[Y0001]-[M01]-[D01]\")",
            "items{sku: $sum(price)}",
        ];
        let order = json!({"items": (0..100).map(|n| json!({"sku": format!("SKU-{n}"), "price": n, "quantity": 1, "title": "A thing"})).collect::<Vec<_>>()});
        let order = serde_json::value::to_raw_value(&order).unwrap();
        for source in cheap {
            println!(
                "{} {source}",
                Expression::parse(source).unwrap().inner.cheap_up_to
            );
            assert!(
                Expression::parse(source).unwrap().is_cheap(&order),
                "{source} is not cheap"
            );
        }
        let never = [
            "$eval(a)",
            "$reduce(a, function($x, $y) {$x & $y})",
            "$map(a, $f)",
            "($f := function($x) {$f($x)}; $f(1))",
            "[1..1000]",
            "$match(a, /b/)",
            "$replace(a, \"b\", \"c\")",
            "$sort(a)",
            "a^(b)",
            "**.a",
            "a@$x.b@$y",
            "$distinct(a)",
            "$pad(a, b)",
            "$pad(\"x\", 300000000)",
            "$round(a, b)",
            "$fromMillis(1, \"[Y,9-999999999]\")",
            "$fromMillis(1, picture)",
            "($x := a; $x := b; $x)",
            "$nothing(a)",
            "($s := $string; $s(a))",
        ];
        for source in never {
            let tiny = serde_json::value::to_raw_value(&json!({})).unwrap();
            assert!(
                !Expression::parse(source).unwrap().is_cheap(&tiny),
                "{source} is cheap"
            );
        }
        // Cheap on little, but the loop over the same list inside the loop grows with its square.
        let square = Expression::parse("$map(items, function($i) {$count($$.items[sku = $i.sku])})").unwrap();
        assert!(!square.is_cheap(&order));
        let one = serde_json::value::to_raw_value(&json!({"items": [{"sku": 1}]})).unwrap();
        assert!(square.is_cheap(&one));
        // Each name doubles the text.
        let names: Vec<String> = (1..40)
            .map(|n| format!("$a{n} := $a{} & $a{}", n - 1, n - 1))
            .collect();
        let doubling = format!("($a0 := \"xxxxxxxx\"; {}; $a39)", names.join("; "));
        assert!(!Expression::parse(&doubling).unwrap().is_cheap(&one));
    }

    #[test]
    fn time_and_chance_are_those_of_the_moment() {
        let at = flowmate_common::Timestamp::from_millis(1_700_000_000_123);
        let input =
            serde_json::value::to_raw_value(&json!({"p": "$random()", "l": [1, 2, 3, 4, 5, 6, 7, 8]}))
                .unwrap();
        let get = |source: &str, seed| {
            let moment = Moment::new(at, seed);
            let result = Expression::parse(source).unwrap().evaluate(&input, &moment);
            result.unwrap().unwrap().get().to_owned()
        };
        assert_eq!(get("$millis()", 1), "1700000000123");
        assert_eq!(get("($f := $millis; $f())", 1), "1700000000123");
        assert_eq!(get("$now()", 1), "\"2023-11-14T22:13:20.123Z\"");
        assert_eq!(get("$now(\"[Y0001]/[M01]\")", 1), "\"2023/11\"");
        assert_eq!(get("$eval(\"$now()\")", 1), "\"2023-11-14T22:13:20.123Z\"");
        assert_eq!(get("l.$millis() ~> $distinct", 1), "1700000000123");
        for source in [
            "$random()",
            "$shuffle(l)",
            "l ~> $shuffle",
            "l ~> $shuffle()",
            "$map(l, $random)",
            "[$random(), $random()]",
            "$eval(p)",
            "($r := $random; $r())",
        ] {
            assert_eq!(get(source, 1), get(source, 1), "{source}");
            assert_ne!(get(source, 1), get(source, 2), "{source}");
        }
        // Recorded executions depend on these.
        assert_eq!(get("$random()", 1), "0.5665615751722809");
        assert_eq!(get("$shuffle(l)", 1), "[5,4,3,8,6,7,1,2]");
        let all = get("$sort($shuffle(l)) = l and $random() != $random()", 3);
        assert_eq!(all, "true");
    }
}
