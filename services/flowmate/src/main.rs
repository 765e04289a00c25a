//! `flowmate`: run everything, or print the API's specification.

use std::{io::Write, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use flowmate::{Embedded, Workers, config::Config, specification};
use flowmate_common::Priority;
use flowmate_runtime::{config, telemetry, terminated};
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    Openapi {
        /// The service, such as user-iam.
        service: Option<String>,
    },
    /// Prints the configuration as it would be used, without secrets.
    Config,
}

const AFTER_HELP: &str = "\
Configuration: FLOWMATE__SECTION__KEY, for example
  FLOWMATE__HTTP__LISTEN      address and port          127.0.0.1:8080
  FLOWMATE__DATA__DIR         where data is kept        ./data
  FLOWMATE__ADMIN__USERNAME   first administrator       admin
  FLOWMATE__ADMIN__PASSWORD   its password              generated and shown once
  FLOWMATE__LOG__FORMAT       pretty or json            pretty
`flowmate config` prints all keys.";

/// How often metrics and memory are looked after.
const UPKEEP: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flowmate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command.unwrap_or(Command::Run) {
        Command::Openapi { service } => {
            let spec = specification(service.as_deref())
                .with_context(|| format!("there is no service {}", service.unwrap_or_default()))?;
            Ok(print(std::str::from_utf8(&spec.json())?)?)
        }
        Command::Config => {
            let mut config = load(arguments.config)?;
            config.admin.password = config
                .admin
                .password
                .map(|_| flowmate_common::mask::MASK.to_owned());
            Ok(print(&serde_json::to_string_pretty(&config)?)?)
        }
        Command::Run => {
            let config = load(arguments.config)?;
            let (background, spare) = (runtime(Priority::Background)?, runtime(Priority::Spare)?);
            let workers = Workers {
                background: background.handle().clone(),
                spare: spare.handle().clone(),
            };
            runtime(Priority::Foreground)?.block_on(serve(config, &workers))
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

/// The threads of one priority. Requests are served by the server's own; what it needs around them is little.
fn runtime(priority: Priority) -> std::io::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    // Half of the cores for executing: the server's threads and the writers want the others, and more threads than
    // cores cost more in switching than they bring.
    let threads = match priority {
        Priority::Foreground => 1,
        Priority::Background => cores().div_ceil(2),
        Priority::Spare => cores(),
    };
    builder
        .worker_threads(threads)
        .enable_all()
        .on_thread_start(move || priority.take())
        .build()
}

fn load(file: Option<PathBuf>) -> anyhow::Result<Config> {
    let config: Config = config::load(file.as_deref(), config::environment())?;
    config.validate()?;
    Ok(config)
}

async fn serve(config: Config, workers: &Workers) -> anyhow::Result<()> {
    telemetry::logs(config.log.format, &config.log.filter)
        .map_err(|error| anyhow::anyhow!("configuration key `log.filter`: {error}"))?;
    let metrics = Arc::new(telemetry::metrics().map_err(anyhow::Error::msg)?);
    let (admin, data) = (config.admin.username.clone(), config.data.dir.clone());
    let rendered = Arc::clone(&metrics);
    let flowmate = Embedded::start(config, workers, move || rendered.render()).await?;
    let bus = flowmate.bus();
    let upkeep = tokio::spawn(async move {
        loop {
            metrics.run_upkeep();
            for (topic, group, bytes) in bus.lag() {
                #[expect(clippy::cast_precision_loss, reason = "a gauge is a double")]
                metrics::gauge!("flowmate_bus_lag_bytes", "topic" => topic.name(), "group" => group)
                    .set(bytes as f64);
            }
            give_memory_back();
            tokio::time::sleep(UPKEEP).await;
        }
    });
    if let Err(error) = print(&welcome(&flowmate, &admin, &data.display().to_string())) {
        tracing::warn!(%error, "the welcome could not be printed");
    }
    terminated().await;
    tracing::info!("ending");
    upkeep.abort();
    flowmate.stop().await;
    Ok(())
}

/// mimalloc looks for what was freed a second ago, and returns it to the system, when a thread ends. Without that, the
/// memory of the last password hash or burst of webhooks would stay for as long as the server has nothing to do.
fn give_memory_back() {
    let thread = std::thread::spawn(|| drop(std::hint::black_box(Box::new(0_u8))));
    let _ = thread.join();
}

/// What a person who has just started it wants to know.
fn welcome(flowmate: &Embedded, admin: &str, data: &str) -> String {
    let url = format!("http://{}", flowmate.address);
    let password = match &flowmate.first_admin {
        Some(first) => match &first.generated_password {
            Some(password) => format!("{password}   (generated, shown only this once)"),
            None => "as configured".into(),
        },
        None => format!("as set at the first start with this data directory ({data})"),
    };
    format!(
        "\nFlowMate is ready.\n\n  URL        {url}\n  API docs   {url}/docs\n  Admin      {admin}\n  Password   {password}\n\n\
         Next, in another terminal:\n\n  curl -s {url}/login -H 'content-type: application/json' \\\n    \
         -d '{{\"username\":\"{admin}\",\"password\":\"…\"}}'\n"
    )
}

/// Standard output without the panic of `println!` where nobody reads it any more.
fn print(text: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{text}")
}
