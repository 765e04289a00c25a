//! Expressions that take all they can get: each ends in a result or an error, and this process keeps its memory.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use common::*;

#[test]
fn probe() {
    let pool = pool(default_limits(), 2);
    let source = std::env::args().last().unwrap();
    let _ = source;
    for source in HOSTILE {
        let began = std::time::Instant::now();
        let result = evaluate(&pool, source, "{}");
        let shown = format!("{result:?}").chars().take(150).collect::<String>();
        println!(
            "{:>6} ms {source}\n          {shown}",
            began.elapsed().as_millis()
        );
    }
}
