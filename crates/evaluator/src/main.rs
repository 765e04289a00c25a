//! A child without the rest of FlowMate, for the tests: what `flowmate evaluator` is, with the same allocator.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    flowmate_evaluator::serve()
}
