//! `flowmate-bench`: how fast FlowMate is, beside ceilings measured in the same run on the same machine.
//!
//! - W1: a 600-byte order to a live webhook, 64 connections, acknowledged durably. Ceilings: an actix-web handler that
//!   parses the same JSON, and the same with one SQLite append, synced by group commit, before it answers.
//! - W2: webhook, JSONata, HTTP POST to a sink. Ceiling: a program that does only that, without any platform.
//!
//! - Neighbours: a quiet tenant beside tenants whose receivers hang or are slow, and one that floods.
//! - Parking: what a hundred thousand executions that wait take, and how they go on.
//! - Peak: memory under the largest bodies and the worst expressions.
//!
//! All on loopback, bounded in count and time.

mod isolation;
mod load;
mod neighbours;
mod parking;
mod peak;
mod process;
mod report;
mod rivals;
mod workloads;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures FlowMate beside its ceilings.
#[derive(Parser)]
pub(crate) struct Arguments {
    /// The server's binary; the one beside this program where nothing is said.
    #[arg(long)]
    flowmate: Option<PathBuf>,
    /// Prints the figures as JSON.
    #[arg(long)]
    json: bool,
    /// Seconds of each W1 measurement.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Webhooks of each W2 measurement.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(100..=200_000))]
    orders: u64,
    /// Measures the distributed shape too; needs `make services-up`.
    #[arg(long)]
    distributed: bool,
    /// What is measured: `speed` (start, W1, W2) and `neighbours` where nothing is said; `parking` and `peak` take longer.
    #[arg(long, value_delimiter = ',', default_values_t = [Part::Speed, Part::Neighbours])]
    only: Vec<Part>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// A part of the benchmark.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    Speed,
    Neighbours,
    Parking,
    Peak,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Speed => "speed",
            Self::Neighbours => "neighbours",
            Self::Parking => "parking",
            Self::Peak => "peak",
        })
    }
}

/// The processes that the benchmark starts by itself.
#[derive(Subcommand)]
enum Role {
    /// Parses the order and answers.
    #[command(hide = true)]
    Parse,
    /// The same, with a durable append before the answer.
    #[command(hide = true)]
    Append,
    /// W2 without a platform.
    #[command(hide = true)]
    Hardcoded {
        /// The sink.
        sink: String,
    },
    /// Takes what W2 sends.
    #[command(hide = true)]
    Sink {
        /// Milliseconds before it answers.
        delay: u64,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.role {
        Some(Role::Parse) => rivals::parse(),
        Some(Role::Append) => rivals::append(),
        Some(Role::Hardcoded { sink }) => rivals::hardcoded(sink),
        Some(Role::Sink { delay }) => rivals::sink(*delay),
        None => workloads::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("The benchmark failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
