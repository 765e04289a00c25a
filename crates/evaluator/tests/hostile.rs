//! Expressions that take all they can get: each ends in a result or an error, this process keeps its memory, and whoever
//! evaluates beside it is not held up. In a process of its own, since it looks at the memory of the whole.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{HOSTILE, evaluate, peak_mib, pool};
use flowmate_evaluator::Limits;
use flowmate_flow_model::ExpressionError;

/// What this process may grow by: the largest result, read and kept.
const GROWTH_MIB: u64 = 64;

#[test]
fn nothing_that_an_expression_does_ends_or_fills_this_process() {
    let pool = pool(Limits::default(), 2);
    let before = peak_mib();
    assert_eq!(evaluate(&pool, "$count([1..10])", "{}"), Ok(Some("10".into())));
    let mut bounds = 0;
    for source in HOSTILE {
        match evaluate(&pool, source, "{}") {
            Ok(_) | Err(ExpressionError::Evaluation { .. } | ExpressionError::TooLarge(_)) => {}
            Err(ExpressionError::Bound(bound)) => {
                assert!(
                    bound.contains("128 MiB of memory")
                        || bound.contains("250 ms of processor time")
                        || bound.contains("nest"),
                    "{source}: {bound}"
                );
                bounds += 1;
            }
            Err(other) => panic!("{source}: {other}"),
        }
        // The neighbour.
        assert_eq!(
            evaluate(&pool, "$count([1..10])", "{}"),
            Ok(Some("10".into())),
            "after {source}"
        );
    }
    assert!(
        bounds > HOSTILE.len() / 2,
        "{bounds} of {} reached a bound",
        HOSTILE.len()
    );
    let grown = peak_mib() - before;
    assert!(grown < GROWTH_MIB, "this process grew by {grown} MiB");
}
