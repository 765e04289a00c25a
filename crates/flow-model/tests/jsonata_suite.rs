//! The official JSONata cases (jsonata-js, MIT), from `../shared/data/jsonata-suite` beside the project's root.
//! Runs the engine as it is, without FlowMate's bounds where a case needs bindings or its own limits.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use jsonata_core::{
    evaluator::{Context, Evaluator, EvaluatorOptions},
    parser,
    value::JValue,
};
use serde_json::Value;

/// Cases that pass with the pinned engine. A new version has to pass as many.
const EXPECTED: usize = 1_680;

fn suite() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/jsonata-suite")
}

#[test]
fn the_official_cases_pass() {
    let root = suite();
    if !root.is_dir() {
        println!("JSONata suite: NOT RUN, there is no {}", root.display());
        return;
    }
    // The engine recurses deeply on purpose; give it the stack of a main thread and more.
    let run = std::thread::Builder::new().stack_size(256 << 20).spawn(move || {
        let (mut passed, mut failed) = (0, Vec::new());
        let mut groups: Vec<PathBuf> = entries(&root.join("groups"));
        groups.sort();
        for group in groups {
            let mut files = entries(&group);
            files.sort();
            for file in files
                .iter()
                .filter(|file| file.extension().is_some_and(|kind| kind == "json"))
            {
                let text = fs::read_to_string(file).unwrap();
                // A few cases hold lone surrogates, which no Rust string can.
                let Ok(content) = serde_json::from_str::<Value>(&text) else {
                    failed.push(format!("{}: not readable JSON", file.display()));
                    continue;
                };
                let cases = match content {
                    Value::Array(cases) => cases,
                    one => vec![one],
                };
                for (index, case) in cases.iter().enumerate() {
                    match check(&root, &group, case) {
                        Ok(()) => passed += 1,
                        Err(reason) => failed.push(format!("{} [{index}]: {reason}", file.display())),
                    }
                }
            }
        }
        (passed, failed)
    });
    let (passed, failed) = run.unwrap().join().unwrap();
    for line in &failed {
        println!("{line}");
    }
    println!("JSONata suite: {passed} of {} cases pass", passed + failed.len());
    assert!(passed >= EXPECTED, "{passed} pass, {EXPECTED} have to");
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

fn check(root: &Path, group: &Path, case: &Value) -> Result<(), String> {
    let expression = match (case.get("expr"), case.get("expr-file")) {
        (Some(Value::String(text)), _) => text.clone(),
        (_, Some(Value::String(file))) => {
            fs::read_to_string(group.join(file)).map_err(|error| error.to_string())?
        }
        _ => return Err("no expression".into()),
    };
    let data = match (case.get("dataset"), case.get("data")) {
        (Some(Value::String(name)), _) => {
            let text = fs::read_to_string(root.join(format!("datasets/{name}.json")))
                .map_err(|error| error.to_string())?;
            JValue::from_json_str(&text).map_err(|error| error.to_string())?
        }
        (_, Some(data)) => JValue::from(data.clone()),
        _ => JValue::Undefined,
    };
    let outcome = evaluate(&expression, &data, case);
    let expected_code = case
        .get("code")
        .or_else(|| case.pointer("/error/code"))
        .and_then(Value::as_str);
    match (expected_code, outcome) {
        (Some(code), Err(message)) if message.contains(code) => Ok(()),
        (Some(code), other) => Err(format!("expected error {code}, got {other:?}")),
        (None, Err(message)) => Err(message),
        (None, Ok(result)) if case.get("undefinedResult") == Some(&Value::Bool(true)) => {
            if result.is_none() {
                Ok(())
            } else {
                Err(format!("expected nothing, got {result:?}"))
            }
        }
        (None, Ok(result)) => {
            let expected = case.get("result").cloned();
            if same(result.as_ref(), expected.as_ref()) {
                Ok(())
            } else {
                Err(format!("expected {expected:?}, got {result:?}"))
            }
        }
    }
}

fn evaluate(expression: &str, data: &JValue, case: &Value) -> Result<Option<Value>, String> {
    let ast = parser::parse(expression).map_err(|error| error.to_string())?;
    let mut context = Context::new();
    for (name, value) in case
        .get("bindings")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        context.bind(name.clone(), JValue::from(value.clone()));
    }
    let options = EvaluatorOptions {
        timeout_ms: Some(case.get("timelimit").and_then(Value::as_u64).unwrap_or(10_000)),
        max_stack_depth: case
            .get("depth")
            .and_then(Value::as_u64)
            .and_then(|depth| usize::try_from(depth).ok()),
        ..EvaluatorOptions::default()
    };
    let result = Evaluator::with_options(context, options)
        .evaluate(&ast, data)
        .map_err(|error| error.to_string())?;
    if result.is_undefined() {
        return Ok(None);
    }
    let text = result.to_json_string().map_err(|error| error.to_string())?;
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| error.to_string())
}

/// Equal, with numbers compared as doubles.
fn same(left: Option<&Value>, right: Option<&Value>) -> bool {
    match (left, right) {
        (None, None) => true,
        (Some(Value::Number(left)), Some(Value::Number(right))) => left.as_f64() == right.as_f64(),
        (Some(Value::Array(left)), Some(Value::Array(right))) => {
            left.len() == right.len()
                && left
                    .iter()
                    .zip(right)
                    .all(|(left, right)| same(Some(left), Some(right)))
        }
        (Some(Value::Object(left)), Some(Value::Object(right))) => {
            left.len() == right.len() && left.iter().all(|(key, value)| same(Some(value), right.get(key)))
        }
        (left, right) => left == right,
    }
}
