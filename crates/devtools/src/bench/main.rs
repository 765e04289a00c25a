//! `flowmate-bench`: how fast FlowMate is, beside ceilings measured in the same run on the same machine.
//!
//! - W1: a 600-byte order to a live webhook, 64 connections, acknowledged durably. Ceilings: an actix-web handler that
//!   parses the same JSON, and the same with one SQLite append, synced by group commit, before it answers.
//! - W2: webhook, JSONata, HTTP POST to a sink. Ceiling: a program that does only that, without any platform.
//!
//! All on loopback, bounded in count and time.

mod load;
mod process;
mod report;
mod rivals;
mod workloads;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

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
    #[command(subcommand)]
    role: Option<Role>,
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
