//! `flowmate`: run everything, or one service. A link to this program that has a service's name is that service.

#[cfg(feature = "distributed")]
use std::path::Path;
use std::{ffi::OsString, io::Write, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
#[cfg(feature = "distributed")]
use flowmate::distributed::{Process, Role, bus_options};
#[cfg(feature = "distributed")]
use flowmate::moving;
use flowmate::{Embedded, Workers, config::Config, specification};
use flowmate_bus::Bus;
#[cfg(feature = "distributed")]
use flowmate_bus::kafka::{TopicSettings, create_topics};
use flowmate_common::Priority;
#[cfg(feature = "distributed")]
use flowmate_common::give_way;
use flowmate_runtime::{
    config,
    telemetry::{self, Metrics},
    terminated,
};
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
    Topics {
        /// Partitions of each: as many processes can share the work.
        #[arg(long, default_value_t = 12)]
        partitions: i32,
        /// Copies of everything.
        #[arg(long, default_value_t = 3)]
        replication: i32,
    },
    /// Writes everything in the data directory to another directory, for `import`. FlowMate must not be running.
    Export {
        /// The other directory.
        directory: PathBuf,
    },
    /// Reads what `export` wrote into the empty database that `storage.url` names.
    Import {
        /// The directory.
        directory: PathBuf,
    },
    /// Makes the key that tokens are signed with, where there is none.
    Key {
        /// The directory.
        directory: PathBuf,
    },
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

/// How long the allocator keeps what was freed, in milliseconds. With its own second the memory of the first password's
/// hash is partly never given back.
const PURGE_DELAY: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "10");

/// Becomes the same program with the allocator set up: it reads its settings before `main` begins.
#[cfg(unix)]
fn set_up_allocator() {
    use std::os::unix::process::CommandExt;
    let (name, value) = PURGE_DELAY;
    let mut words = std::env::args_os();
    if std::env::var_os(name).is_some() {
        return;
    }
    if let (Ok(program), Some(called)) = (std::env::current_exe(), words.next()) {
        let mut same = std::process::Command::new(program);
        // Returns only where it failed; then memory is the only thing that suffers.
        let _ = same.arg0(called).args(words).env(name, value).exec();
    }
}

fn main() -> ExitCode {
    #[cfg(unix)]
    set_up_allocator();
    match run(Arguments::parse_from(words())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flowmate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The command line. A link with a service's name stands for the command of that name.
fn words() -> Vec<OsString> {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    #[cfg(feature = "distributed")]
    if let Some(name) = words
        .first()
        .and_then(|program| Path::new(program).file_name()?.to_str())
        && let Some(role) = Role::parse(name)
    {
        words.insert(1, role.name().into());
    }
    words
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command.unwrap_or(Command::Run) {
        Command::Openapi { service } => {
            let spec = specification(service.as_deref())
                .with_context(|| format!("there is no service {}", service.unwrap_or_default()))?;
            Ok(print(std::str::from_utf8(&spec.json())?)?)
        }
        Command::Config => {
            let config = load(arguments.config)?.masked();
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
        #[cfg(feature = "distributed")]
        Command::Apart(apart) => run_apart(apart, load(arguments.config)?),
    }
}

#[cfg(feature = "distributed")]
fn run_apart(apart: Apart, config: Config) -> anyhow::Result<()> {
    if matches!(&apart, Apart::Service(role) if role.gives_way()) {
        // Before there are threads, so that all have it, those of libraries too.
        give_way();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores())
        .enable_all()
        .build()?;
    let result = apart_on(&runtime, apart, config);
    if result.is_err() {
        // The process ends. The database driver's tasks panic where they are ended one after the other, and what is to
        // be read is why the start failed.
        std::mem::forget(runtime);
    }
    result
}

#[cfg(feature = "distributed")]
fn apart_on(runtime: &Runtime, apart: Apart, config: Config) -> anyhow::Result<()> {
    match apart {
        Apart::Service(role) => runtime.block_on(serve_apart(role, config)),
        Apart::Topics {
            partitions,
            replication,
        } => {
            let settings = TopicSettings {
                partitions,
                replication,
            };
            let made = runtime.block_on(create_topics(&bus_options(&config.bus)?, settings))?;
            let text = if made.is_empty() {
                "All topics exist.".into()
            } else {
                made.join("\n")
            };
            Ok(print(&text)?)
        }
        Apart::Export { directory } => {
            let keys = config.iam_keys();
            let export = moving::export(&config.data.dir, &keys, &directory);
            let text = carried("exported to", &directory, &runtime.block_on(export)?);
            Ok(print(&format!(
                "{text}\nThe signing key is in {}: give it to user-iam with iam.key_directory.",
                directory.join("keys").display()
            ))?)
        }
        Apart::Import { directory } => {
            let import = async {
                let storage = flowmate_storage::mongo::connect(&config.storage.url).await?;
                moving::import(&directory, &storage).await
            };
            let text = carried("imported from", &directory, &runtime.block_on(import)?);
            Ok(print(&format!(
                "{text}\nWhat arrived was read back and is the same."
            ))?)
        }
        Apart::Key { directory } => {
            flowmate_user_iam::keys::make(&directory).map_err(anyhow::Error::msg)?;
            Ok(print(&format!("The signing key is in {}.", directory.display()))?)
        }
    }
}

#[cfg(feature = "distributed")]
fn carried(how: &str, directory: &Path, summary: &moving::Summary) -> String {
    format!(
        "{how} {}: {} documents, {} executions, {} usage counts\nSHA-256 {}",
        directory.display(),
        summary.documents,
        summary.executions,
        summary.totals,
        summary.sha256
    )
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
    let metrics = observed(&config)?;
    let (admin, data) = (config.admin.username.clone(), config.data.dir.clone());
    let rendered = Arc::clone(&metrics);
    let flowmate = Embedded::start(config, workers, move || rendered.render()).await?;
    let upkeep = tokio::spawn(keep_up(metrics, Some(flowmate.bus())));
    if let Err(error) = print(&welcome(&flowmate, &admin, &data.display().to_string())) {
        tracing::warn!(%error, "the welcome could not be printed");
    }
    terminated().await;
    tracing::info!("ending");
    upkeep.abort();
    flowmate.stop().await;
    Ok(())
}

#[cfg(feature = "distributed")]
async fn serve_apart(role: Role, config: Config) -> anyhow::Result<()> {
    let metrics = observed(&config)?;
    let rendered = Arc::clone(&metrics);
    let process = Process::start(role, config, move || rendered.render()).await?;
    let upkeep = tokio::spawn(keep_up(metrics, process.bus()));
    let ready = format!(
        "{} is ready.\n  URL        http://{}",
        role.name(),
        process.address
    );
    if let Err(error) = print(&ready) {
        tracing::warn!(%error, "the start could not be told");
    }
    terminated().await;
    tracing::info!("ending");
    upkeep.abort();
    process.stop().await;
    Ok(())
}

/// Logs and metrics.
fn observed(config: &Config) -> anyhow::Result<Arc<Metrics>> {
    telemetry::logs(config.log.format, &config.log.filter)
        .map_err(|error| anyhow::anyhow!("configuration key `log.filter`: {error}"))?;
    Ok(Arc::new(telemetry::metrics().map_err(anyhow::Error::msg)?))
}

/// Looks after metrics and memory, for ever.
async fn keep_up(metrics: Arc<Metrics>, bus: Option<Arc<dyn Bus>>) {
    loop {
        metrics.run_upkeep();
        for (topic, group, behind) in bus.iter().flat_map(|bus| bus.lag()) {
            #[expect(clippy::cast_precision_loss, reason = "a gauge is a double")]
            metrics::gauge!("flowmate_bus_lag", "topic" => topic.name(), "group" => group).set(behind as f64);
        }
        give_memory_back();
        tokio::time::sleep(UPKEEP).await;
    }
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
