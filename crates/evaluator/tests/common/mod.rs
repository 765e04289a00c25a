//! What the tests of the pool share.

#![allow(dead_code, reason = "each test uses a part")]

use flowmate_common::Timestamp;
use flowmate_evaluator::{Limits, Pool, Program};
use flowmate_flow_model::{Expression, ExpressionError, Host, Moment};
use serde_json::value::RawValue;

/// The time of all moments.
pub(crate) const AT: Timestamp = Timestamp::from_millis(1_700_000_000_123);

/// The chance of all moments.
pub(crate) const SEED: u64 = 7;

/// A pool of the program for tests.
pub(crate) fn pool(limits: Limits, size: usize) -> Pool {
    Pool::new(program(), limits, size).unwrap()
}

pub(crate) fn program() -> Program {
    Program {
        path: env!("CARGO_BIN_EXE_flowmate-evaluator").into(),
        arguments: Vec::new(),
    }
}

/// A bound on processor time that a debug build reaches only where an expression runs away.
pub(crate) fn patient() -> Limits {
    Limits {
        processor_ms: 20_000,
        ..Limits::default()
    }
}

/// The most memory that this process has had so far, in mebibytes.
pub(crate) fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

/// The result as text.
pub(crate) fn evaluate(pool: &Pool, source: &str, input: &str) -> Result<Option<String>, ExpressionError> {
    let host = Host::waiting(pool);
    let input = RawValue::from_string(input.to_owned()).unwrap();
    let result = Expression::parse(source)?.evaluate(&input, &Moment::new(AT, SEED).hosted(&host))?;
    Ok(result.map(|json| json.get().to_owned()))
}

/// Expressions that take much: each for its kind.
pub(crate) const HOSTILE: &[&str] = &[
    // The issue's.
    r#"$length($join($map([1..100000],function($v){$pad("a",1000000,"a")})))"#,
    r#"$length($join($map([1..10000],function($v){$pad("a",1000000,"a")})))"#,
    r#"$reduce([1..40],function($a,$b){$a & $a},"xxxxxxxx")"#,
    // Growth by one native each.
    r#"$pad("x", 2000000000)"#,
    r#"$pad("x", -2000000000, "ab")"#,
    r#"$length($pad("x", 1e300))"#,
    r#"$reduce([1..40],function($a,$b){$append($a,$a)},[1,2,3,4])"#,
    r#"$reduce([1..40],function($a,$b){[$a,$a]},[1])"#,
    r#"$string($reduce([1..40],function($a,$b){[[$a],[$a]]},[1]))"#,
    r#"$reduce([1..40],function($a,$b){{"a":$a,"b":$a}},1)"#,
    r#"$reduce([1..40],function($a,$b){$merge([$a, {$string($b): $a}])},{"x":1})"#,
    r#"$reduce([1..40],function($a,$b){$join([$a,$a,$a])},"xxxxxxxx")"#,
    r#"$reduce([1..40],function($a,$b){$replace($a,"x","xxxx")},"xxxx")"#,
    r#"$reduce([1..40],function($a,$b){$replace($a,/x/,"xxxx")},"xxxx")"#,
    r#"$count($map([1..1000],function($v){$split($pad("a",1000000,"a"),"")}))"#,
    r#"$count($match($pad("a",1000000,"a"),/a/))"#,
    r#"$map([1..100000],function($v){$spread({"a":$v,"b":$v})}).a"#,
    r#"$formatNumber(1, $pad("0", 100000000, "0"))"#,
    r#"$formatNumber(1e300, "0." & $pad("0", 1000000, "0"))"#,
    r#"$fromMillis(1, "[Y,9-999999999]")"#,
    r#"$formatInteger(1e300, "w")"#,
    r#"$round(1.5, 2000000000)"#,
    r#"$formatBase(1e308, 2)"#,
    r#"$base64encode($pad("a",100000000,"a"))"#,
    r#"$encodeUrlComponent($pad("ä",100000000,"ä"))"#,
    r#"$zip([1..100000],[1..100000],[1..100000]) ~> $map(function($v){$string($v)}) ~> $join ~> $length"#,
    // Quadratic and worse.
    r#"$match($pad("a",100000,"a"),/(a*)*b/)"#,
    r#"$replace($pad("a",1000000,"a"),/a*b/,"")"#,
    r#"$match($pad("a",1000000,"a"),/a.*?b|a/)"#,
    r#"$split($pad("a",1000000,"a"),/a*?b|a/)"#,
    r#"$count($distinct([1..100000]))"#,
    r#"$count($distinct($map([1..100000],function($v){$string($v)})))"#,
    r#"$sort([1..100000],function($a,$b){$a < $b})"#,
    r#"$sort([1..100000],function($a,$b){$sum([1..1000]) > $b})"#,
    r#"($a := $reduce([1..40],function($x,$y){[$x,$x]},[1]); $b := $reduce([1..40],function($x,$y){[$x,$x]},[1]); $a = $b)"#,
    r#"($a := $reduce([1..40],function($x,$y){{"a":$x,"b":$x}},1); $count($a.**))"#,
    r#"$boolean($reduce([1..60],function($x,$y){[$x,$x]},[0,0]))"#,
    r#"$reduce([1..60],function($x,$y){[$x,$x]},[0,0]) ? 1 : 2"#,
    r#"$map([1..100000],function($v){$map([1..100000],function($w){$v * $w})})"#,
    r#"$count([1..100000][$ in [1..100000]])"#,
    r#"$filter([1..10000],function($v){$v in [1..100000]})"#,
    // Depth.
    r#"($f := function($n){ 1 + $f($n + 1) }; $f(0))"#,
    r#"($f := function(){ $f() }; $f())"#,
    r#"($f := function($n){ $n > 100000 ? [] : [$f($n + 1)] }; $f(0))"#,
    r#"$reduce([1..100000],function($a,$b){[[$a]]},[])"#,
    r#"$string($reduce([1..100000],function($a,$b){[[$a]]},[]))"#,
    r#"$eval($reduce([1..20000],function($a,$b){"[" & $a & "]"},"1"))"#,
    // The same, out of a text.
    r#"$eval("$reduce([1..40],function($a,$b){$a & $a},\"xxxxxxxx\")")"#,
    r#"$map([1..100000],function($v){$eval("[1..100000]")})"#,
    r#"($f := function(){ $eval("$f()") }; $f())"#,
];
