//! The pool and its children.

#![expect(clippy::unwrap_used, reason = "a test")]
#![allow(
    clippy::needless_raw_string_hashes,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test"
)]

mod common;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use common::{AT, SEED, evaluate, patient, pool, program};
use flowmate_evaluator::{Limits, Pool, Program};
use flowmate_flow_model::{Evaluator, Expression, ExpressionError, Host, Moment, moment::Interruption};
use proptest::prelude::*;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::value::RawValue;

/// Never cheap, and quick.
const SMALL: &str = "$count([1..10])";

fn pid(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

/// Waits for something that another process does soon.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_killed_evaluator_is_replaced_and_nobody_notices() {
    let pool = pool(patient(), 1);
    assert_eq!(evaluate(&pool, SMALL, "{}"), Ok(Some("10".into())));
    let first = pool.idle();
    kill_process(pid(first[0]), Signal::KILL).unwrap();
    assert_eq!(evaluate(&pool, SMALL, "{}"), Ok(Some("10".into())));
    assert_ne!(pool.idle(), first);
}

/// Processor time, in hundredths of a second, that no child takes to start: who had more of it evaluates.
const STARTED: u64 = 100;

/// Kills the one child that is at work, as soon as there is another than `known`.
fn kill_the_busy(known: &mut Vec<u32>) {
    let own = std::process::id();
    eventually("a child is at work", || {
        let children = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let id: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
            let (_, rest) = stat.rsplit_once(')')?;
            let mut fields = rest.split_whitespace();
            let (state, parent) = (fields.next()?, fields.next()?);
            let used: u64 = fields.nth(9)?.parse().ok()?;
            let command = std::fs::read(format!("/proc/{id}/environ")).ok()?;
            let is_ours = command.windows(12).any(|text| text == b"KILL_ME=busy");
            (parent == own.to_string() && state == "R" && used > STARTED && is_ours && !known.contains(&id))
                .then_some(id)
        });
        let Some(busy) = children.collect::<Vec<_>>().pop() else {
            return false;
        };
        known.push(busy);
        kill_process(pid(busy), Signal::KILL).is_ok()
    });
}

#[test]
fn an_expression_that_two_evaluators_are_lost_with_fails_and_says_so() {
    let marked = Program {
        path: "/bin/sh".into(),
        arguments: [
            "-c",
            "export KILL_ME=busy; exec \"$0\"",
            env!("CARGO_BIN_EXE_flowmate-evaluator"),
        ]
        .map(str::to_owned)
        .into(),
    };
    let pool = Pool::new(marked, patient(), 1).unwrap();
    let failed = std::thread::scope(|scope| {
        let endless = scope.spawn(|| evaluate(&pool, "($f := function(){ $f() }; $f())", "{}"));
        let mut killed = Vec::new();
        kill_the_busy(&mut killed);
        kill_the_busy(&mut killed);
        endless.join().unwrap()
    });
    let Err(ExpressionError::Bound(bound)) = failed else {
        panic!("{failed:?}")
    };
    assert!(
        bound.contains("2 evaluators were lost with it (signal 9)"),
        "{bound}"
    );
    assert_eq!(evaluate(&pool, SMALL, "{}"), Ok(Some("10".into())));
}

#[test]
fn where_no_evaluator_can_be_started_that_is_nobodys_fault_and_passes() {
    let nothing = Program {
        path: "/nowhere/at/all".into(),
        arguments: Vec::new(),
    };
    let ends_at_once = Program {
        path: "/bin/false".into(),
        arguments: Vec::new(),
    };
    for program in [nothing, ends_at_once] {
        let pool = Pool::new(program, Limits::default(), 1).unwrap();
        let host = Host::waiting(&pool);
        let input = RawValue::from_string("{}".into()).unwrap();
        let moment = Moment::new(AT, SEED).hosted(&host);
        let failed = Expression::parse(SMALL)
            .unwrap()
            .evaluate(&input, &moment)
            .unwrap_err();
        assert!(failed.is_transient(), "{failed}");
        assert_eq!(host.interruption(), Some(Interruption::Transient));
    }
}

#[test]
fn a_child_has_no_descriptors_and_no_environment_of_its_parent_and_ends_when_it_is_idle() {
    let file = std::env::current_exe().unwrap();
    let _open = std::fs::File::open(&file).unwrap();
    let _listening = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let pool = Pool::with_idle(program(), patient(), 1, Duration::from_millis(200)).unwrap();
    evaluate(&pool, SMALL, "{}").unwrap();
    let [child] = pool.idle()[..] else {
        panic!("it is not idle")
    };
    // Others may be there that this process was itself started with.
    let links = |process: &str| -> Vec<PathBuf> {
        let open = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
        open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .collect()
    };
    let (own, its) = (links("self"), links(&child.to_string()));
    assert!(own.contains(&file) && !its.contains(&file), "{its:?}");
    let is_socket = |link: &&PathBuf| link.to_string_lossy().starts_with("socket:");
    assert!(
        !its.iter().filter(is_socket).any(|socket| own.contains(socket)),
        "{its:?}"
    );
    let environment = std::fs::read_to_string(format!("/proc/{child}/environ")).unwrap();
    let names: Vec<&str> = environment
        .split('\0')
        .filter_map(|one| Some(one.split_once('=')?.0))
        .collect();
    assert!(
        names.iter().all(|name| name.starts_with("MIMALLOC_")),
        "{names:?}"
    );
    eventually("the child ends", || test_kill_process(pid(child)).is_err());
    assert!(pool.idle().is_empty());
    assert_eq!(evaluate(&pool, SMALL, "{}"), Ok(Some("10".into())));
}

#[test]
fn no_more_children_work_than_the_pool_may_have_and_the_time_of_others_does_not_count() {
    let limits = Limits {
        processor_ms: 3_000,
        ..Limits::default()
    };
    let pool = pool(limits, 2);
    // Some tens of milliseconds each, 64 at once: by the clock the last takes far longer than its own time.
    let source = "$sum($map([1..20000], function($v) { $v + 1 }))";
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..64)
            .map(|_| scope.spawn(|| evaluate(&pool, source, "{}")))
            .collect();
        for one in asked {
            assert_eq!(one.join().unwrap(), Ok(Some("200030000".into())));
        }
    });
    assert!(pool.idle().len() <= 2);
}

#[test]
fn replay_gives_the_same_time_and_the_same_chance_in_any_child() {
    let (one, other) = (pool(patient(), 1), pool(patient(), 1));
    let input = "{\"l\": [1, 2, 3, 4, 5, 6, 7, 8, 9]}";
    for source in [
        "[$millis(), $count([1..2])]",
        "[$now(), $count([1..2])]",
        "[$random(), $random(), $count([1..2])]",
        "$sort($shuffle(l)) & $string($shuffle(l))",
        "$eval(\"$shuffle(l)\")",
        "$map([1..20], $random)",
    ] {
        let first = evaluate(&one, source, input);
        assert!(matches!(&first, Ok(Some(_))), "{source}: {first:?}");
        assert_eq!(first, evaluate(&one, source, input), "{source}");
        assert_eq!(first, evaluate(&other, source, input), "{source}");
    }
    assert_eq!(
        evaluate(&one, "[$millis(), $count([1..2])]", "{}"),
        Ok(Some("[1700000000123,2]".into()))
    );
}

#[test]
fn on_threads_that_everything_runs_on_only_cheap_expressions_are_evaluated() {
    let host = Host::inline();
    let moment = Moment::new(AT, SEED).hosted(&host);
    let input = RawValue::from_string("{\"a\": 1}".into()).unwrap();
    let get = |source: &str| Expression::parse(source).unwrap().evaluate(&input, &moment);
    assert_eq!(get("a + 1").unwrap().unwrap().get(), "2");
    assert_eq!(host.interruption(), None);
    assert_eq!(get(SMALL).unwrap_err(), ExpressionError::Elsewhere);
    assert_eq!(host.interruption(), Some(Interruption::Elsewhere));
}

#[test]
fn results_that_are_too_large_or_too_deep_are_refused_and_the_child_goes_on() {
    let pool = pool(patient(), 1);
    let large = evaluate(
        &pool,
        "$map([1..11], function($v) { $pad(\"a\", 1000000) })",
        "{}",
    );
    assert!(matches!(large, Err(ExpressionError::TooLarge(_))), "{large:?}");
    let deep = evaluate(&pool, "$reduce([1..1000], function($a, $b) {[[$a]]}, [])", "{}");
    assert!(
        matches!(&deep, Err(ExpressionError::Bound(bound)) if bound.contains("nested")),
        "{deep:?}"
    );
    let child = pool.idle();
    assert_eq!(evaluate(&pool, SMALL, "{}"), Ok(Some("10".into())));
    assert_eq!(pool.idle(), child);
}

#[test]
fn what_it_takes_to_read_a_large_input_is_not_the_expressions_and_is_bounded_too() {
    let pool = pool(patient(), 1);
    let list = |one: &str| {
        format!(
            "{{\"items\": [{}]}}",
            vec![one; (9 << 20) / (one.len() + 1)].join(",")
        )
    };
    let things = list(r#"{"sku": "SKU-1", "qty": 3, "price": 1.5, "name": "Thing number 1"}"#);
    assert!(matches!(evaluate(&pool, "items", &things), Ok(Some(_))));
    // Takes fifty times its size.
    let dense = evaluate(&pool, "items", &list("[]"));
    assert_eq!(
        dense,
        Err(ExpressionError::Bound(
            "needed more than 272 MiB of memory".into()
        ))
    );
}

/// Mapping expressions, as they are written.
fn mapping() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        prop::sample::select(vec![
            "a",
            "b",
            "items",
            "items.q",
            "items.p",
            "items[0]",
            "$",
            "$$.a",
            "items[p > 2].q"
        ])
        .prop_map(str::to_owned),
        (0..100_u32).prop_map(|n| n.to_string()),
        "[a-z]{0,6}".prop_map(|text| format!("\"{text}\"")),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            (
                inner.clone(),
                prop::sample::select(vec!["+", "*", "&", "=", "<", "and", "??", "in"]),
                inner.clone()
            )
                .prop_map(|(left, op, right)| format!("({left} {op} {right})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{{\"x\": {a}, \"y\": {b}}}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}]")),
            (
                prop::sample::select(vec![
                    "string",
                    "count",
                    "sum",
                    "uppercase",
                    "keys",
                    "exists",
                    "type",
                    "reverse",
                    "number",
                    "join"
                ]),
                inner.clone()
            )
                .prop_map(|(name, arg)| format!("${name}({arg})")),
            inner.clone().prop_map(|body| format!("items.({body})")),
            inner.clone().prop_map(|body| format!("items.{{\"k\": {body}}}")),
            inner
                .clone()
                .prop_map(|body| format!("$map(items, function($v, $i) {{ [$i, $v.q, {body}] }})")),
            (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// Where it is evaluated changes nothing.
    #[test]
    fn in_place_and_in_a_child_the_result_is_the_same(source in mapping(), q in 0..9_u32) {
        thread_local! {
            static POOL: Pool = pool(patient(), 1);
        }
        let input = format!("{{\"a\": {q}, \"b\": \"t\", \"items\": [{{\"q\": 1, \"p\": {q}}}, {{\"q\": \"z\", \"p\": 3}}]}}");
        let input = RawValue::from_string(input).unwrap();
        let expression = Expression::parse(&source).unwrap();
        prop_assume!(expression.is_cheap(&input));
        let here = expression.evaluate(&input, &Moment::new(AT, SEED));
        let there = POOL.with(|pool| pool.evaluate(flowmate_flow_model::moment::Request {
            source: &source, id: expression_id(&source), input: &input, at: AT, seed: SEED, truth: false,
        }));
        let text = |result: Result<Option<std::sync::Arc<RawValue>>, ExpressionError>| result.map(|json| json.map(|json| json.get().to_owned()));
        prop_assert_eq!(text(here), text(there), "{}", source);
    }
}

fn expression_id(source: &str) -> u64 {
    use std::hash::{Hash, Hasher};
    let mut hasher = std::hash::DefaultHasher::new();
    source.hash(&mut hasher);
    hasher.finish()
}
