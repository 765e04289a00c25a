//! What evaluations cost, in place and in a child: `cargo run --release -p flowmate-evaluator --example cost -- <program>`,
//! where the program is `target/release/flowmate-evaluator`.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement")]

use std::time::Instant;

use flowmate_common::Timestamp;
use flowmate_evaluator::{Limits, Pool, Program};
use flowmate_flow_model::{Expression, Host, Moment};
use serde_json::value::RawValue;

const W2: &str = "{ \"order\": id, \"name\": customer.first & \" \" & customer.last, \"email\": $lowercase(customer.email), \
    \"sum\": $sum(items.(quantity * price)), \"total\": total, \"sentAt\": sentAt }";
const ORDER: &str = r#"{"id": "o-1", "customer": {"first": "Ada", "last": "Lovelace", "email": "ADA@EXAMPLE.COM"}, "total": 120.5,
    "sentAt": 1700000000000, "items": [{"sku": "A", "quantity": 2, "price": 10}, {"sku": "B", "quantity": 1, "price": 100.5}]}"#;

fn each(times: u32, mut work: impl FnMut()) -> f64 {
    work();
    let began = Instant::now();
    for _ in 0..times {
        work();
    }
    began.elapsed().as_secs_f64() * 1e6 / f64::from(times)
}

fn main() {
    let path = std::env::args().nth(1).unwrap();
    let program = Program {
        path: path.into(),
        arguments: Vec::new(),
    };
    let pool = Pool::new(program, Limits::default(), 2).unwrap();
    let (inline, waiting) = (Host::inline(), Host::waiting(&pool));
    let moment = Moment::new(Timestamp::from_millis(0), 1);
    let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
    let order = raw(ORDER);
    let w2 = Expression::parse(W2).unwrap();
    let here = each(50_000, || drop(w2.evaluate(&order, &moment).unwrap()));
    let hosted = each(50_000, || {
        drop(w2.evaluate(&order, &moment.hosted(&inline)).unwrap());
    });
    println!("W2's expression without a host {here:.2} us, with one {hosted:.2} us");
    println!(
        "parsing it {:.1} us",
        each(2_000, || drop(Expression::parse(W2).unwrap()))
    );
    let began = Instant::now();
    let small = Expression::parse("$count([1..2])").unwrap();
    small.evaluate(&order, &moment.hosted(&waiting)).unwrap();
    println!("the first in a child {} us", began.elapsed().as_micros());
    let there = each(5_000, || {
        drop(small.evaluate(&order, &moment.hosted(&waiting)).unwrap());
    });
    println!("a small one in a child {there:.1} us, memory of the child:");
    for pid in pool.idle() {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        for line in status.lines().filter(|line| {
            line.starts_with("VmRSS") || line.starts_with("VmSize") || line.starts_with("RssAnon")
        }) {
            println!("  {line}");
        }
    }
    // The worst that is evaluated in place: as many values as fit.
    for source in [
        W2,
        "items.{\"a\": $, \"b\": $ & \"x\"}",
        "items[$ > 0]",
        "$.items",
        "$map(items, function($v) { {\"v\": $v, \"w\": $v + 1} })",
    ] {
        let expression = Expression::parse(source).unwrap();
        let list = |items: usize| raw(&format!("{{\"items\": [{}]}}", vec!["1"; items].join(",")));
        let mut items = 1 << 20;
        while items > 1 && !expression.is_cheap(&list(items)) {
            items -= items / 8 + 1;
        }
        let input = list(items);
        let worst = each(10, || drop(expression.evaluate(&input, &moment.hosted(&inline))));
        println!("{:.2} ms for {items} numbers: {source}", worst / 1e3);
    }
    for mib in [1, 5, 9] {
        let one = r#"{"sku": "SKU-1", "qty": 3, "price": 1.5, "name": "Thing number 1"}"#;
        let count = (mib << 20) / (one.len() + 1);
        let input = raw(&format!("{{\"items\": [{}]}}", vec![one; count].join(",")));
        let count = Expression::parse("items.{\"s\": sku}").unwrap();
        let result = count.evaluate(&input, &moment.hosted(&waiting));
        let began = Instant::now();
        let again = count
            .evaluate(&input, &moment.hosted(&waiting))
            .map(|json| json.map(|json| json.get().len()));
        println!(
            "{mib} MiB of objects, mapped: {again:?} after {} ms (first: {})",
            began.elapsed().as_millis(),
            result.is_ok()
        );
    }
}
