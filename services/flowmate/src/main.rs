//! `flowmate`: run everything, or one service. A link to this program that has a service's name is that service.

mod allocator;
mod commands;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
#[cfg(feature = "distributed")]
use commands::{export, import, key, service, topics};
use commands::{load, openapi, run};
#[cfg(feature = "distributed")]
use flowmate::distributed::Role;

/// FlowMate: an embedded integration backend in one process.
#[derive(Parser)]
#[command(version, about, after_help = AFTER_HELP)]
struct Arguments {
    /// A TOML file with configuration; variables of the environment go over it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the server (the default).
    Run,
    /// Prints the OpenAPI specification, of everything or of one service.
    Openapi(openapi::Arguments),
    /// Prints the configuration as it would be used, without secrets.
    Config,
    /// Evaluates expressions for the process that started it, and for nobody else.
    #[command(hide = true)]
    Evaluator,
    #[cfg(feature = "distributed")]
    #[command(flatten)]
    Apart(Apart),
}

/// Where services run apart.
#[cfg(feature = "distributed")]
#[derive(Subcommand)]
enum Apart {
    #[command(flatten)]
    Service(Role),
    /// Makes the topics that do not exist.
    Topics(topics::Arguments),
    /// Writes everything in the data directory to another directory, for `import`. FlowMate must not be running.
    Export(export::Arguments),
    /// Reads what `export` wrote into the empty database that `storage.url` names.
    Import(import::Arguments),
    /// Makes the key that tokens are signed with, where there is none.
    Key(key::Arguments),
}

const AFTER_HELP: &str = "\
Configuration: FLOWMATE__SECTION__KEY, for example
  FLOWMATE__HTTP__LISTEN      address and port          127.0.0.1:8080
  FLOWMATE__DATA__DIR         where data is kept        ./data
  FLOWMATE__ADMIN__USERNAME   first administrator       admin
  FLOWMATE__ADMIN__PASSWORD   its password              generated and shown once
  FLOWMATE__LOG__FORMAT       pretty or json            pretty
`flowmate config` prints all keys.";

fn main() -> ExitCode {
    allocator::set_up();
    private_files();
    let arguments = Arguments::parse_from(words());
    if matches!(arguments.command, Some(Command::Evaluator)) {
        return flowmate_evaluator::serve();
    }
    match start(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flowmate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the process writes is for its own user: databases, log and keys hold what passes through flows.
fn private_files() {
    use rustix::{fs::Mode, process::umask};
    umask(Mode::RWXG | Mode::RWXO);
}

/// The command line. A link with a service's name stands for the command of that name.
fn words() -> Vec<OsString> {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    #[cfg(feature = "distributed")]
    if let Some(name) = words
        .first()
        .and_then(|program| std::path::Path::new(program).file_name()?.to_str())
        && let Some(role) = Role::parse(name)
    {
        words.insert(1, role.name().into());
    }
    words
}

fn start(arguments: Arguments) -> anyhow::Result<()> {
    let file = arguments.config.as_deref();
    match arguments.command.unwrap_or(Command::Run) {
        Command::Run => run::start(load(file)?),
        Command::Openapi(which) => openapi::start(which),
        Command::Config => commands::config::start(load(file)?),
        // It has ended before.
        Command::Evaluator => Ok(()),
        #[cfg(feature = "distributed")]
        Command::Apart(apart) => start_apart(apart, load(file)?),
    }
}

#[cfg(feature = "distributed")]
fn start_apart(apart: Apart, config: flowmate::config::Config) -> anyhow::Result<()> {
    match apart {
        Apart::Service(role) => service::start(role, config),
        Apart::Topics(arguments) => topics::start(arguments, config),
        Apart::Export(arguments) => export::start(arguments, config),
        Apart::Import(arguments) => import::start(arguments, config),
        Apart::Key(arguments) => key::start(arguments),
    }
}
