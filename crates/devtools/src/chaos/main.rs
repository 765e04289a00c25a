//! `flowmate-chaos`: the distributed shape while its parts die. Webhooks come all the time, and every event comes twice;
//! another tenant's flows do their worst; evaluators are killed; every topic gets poison; services are killed in turn and two
//! at once; replicas join, leave and are killed; Kafka is killed for a while, then the database; and brokers, database and
//! services are stopped where they are (SIGSTOP) and killed, in random order, with a second replica of those that share their
//! work. Afterwards everything that was acknowledged has to have arrived, each execution to be logged once, nothing to have
//! been done after its execution was finished, and the counts to be exact, without anybody's help.

mod abuse;
mod faults;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::Parser;
use flowmate_testkit::{Client, Load, Receiver, Server, Shape};
use serde_json::json;
use tokio::process::Command;

/// Lets parts of FlowMate die under load. Starts a Kafka and a MongoDB stand-in of its own.
#[derive(Parser)]
struct Arguments {
    /// The server's binary; the one beside this program where nothing is said.
    #[arg(long)]
    flowmate: Option<PathBuf>,
    /// What starts and stops broker and database.
    #[arg(long, default_value = "deploy/services/services.sh")]
    services: PathBuf,
    /// Only these faults.
    #[arg(long, value_delimiter = ',', default_values = ["hostile", "evaluators", "poison", "services", "replicas", "kafka", "mongo", "pauses"])]
    faults: Vec<String>,
    /// How many parts are paused or killed in random order.
    #[arg(long, default_value_t = 30)]
    rounds: u32,
    /// Seconds that a pause takes at least and at most.
    #[arg(long, value_delimiter = ',', default_values_t = [5, 60])]
    pause: Vec<u64>,
    /// What the order follows from; a random one where nothing is said.
    #[arg(long)]
    seed: Option<u64>,
    /// What the services log.
    #[arg(long, default_value = "error")]
    log: String,
    /// Seconds that broker and database are away.
    #[arg(long, default_value_t = 30)]
    away: u64,
}

impl Arguments {
    fn has(&self, fault: &str) -> bool {
        self.faults.iter().any(|one| one == fault)
    }
}

const KAFKA_PORT: &str = "19292";
const MONGO_PORT: &str = "27317";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = survive(&arguments).await;
    let ended = backends(&arguments.services, "down").await;
    match result.and(ended) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nChaos won: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn tell(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

async fn backends(script: &Path, what: &str) -> anyhow::Result<()> {
    let status = Command::new(script)
        .arg(what)
        .env("FLOWMATE_KAFKA_PORT", KAFKA_PORT)
        .env("FLOWMATE_MONGO_PORT", MONGO_PORT)
        .env("FLOWMATE_RUN_DIR", ".run/chaos")
        .status()
        .await
        .with_context(|| script.display().to_string())?;
    ensure!(status.success(), "{} {what} failed", script.display());
    Ok(())
}

async fn survive(arguments: &Arguments) -> anyhow::Result<()> {
    let beside = std::env::current_exe()?.with_file_name("flowmate");
    let binary = arguments.flowmate.clone().unwrap_or(beside);
    backends(&arguments.services, "up").await?;
    let mongo = format!("mongodb://127.0.0.1:{MONGO_PORT}/chaos?directConnection=true");
    let kafka = format!("kafka://127.0.0.1:{KAFKA_PORT}");
    let own = [
        ("FLOWMATE__STORAGE__URL", mongo.as_str()),
        ("FLOWMATE__BUS__URL", kafka.as_str()),
        ("FLOWMATE__LOG__FILTER", arguments.log.as_str()),
    ];
    let mut server = Server::shaped(Shape::Distributed, &binary, &own).await?;
    let has = |fault| arguments.has(fault);
    let admin = server.admin().await?;
    let (_, client) = server.tenant(&admin, "quiet").await?;
    let receiver = Receiver::start()?;
    // What it computes before each request goes to an evaluator.
    let computed = "{{ $merge([data, {\"sum\": $sum($map([1..2000], function($v) { $v }))}]) }}";
    let flow = client
        .active_flow(&json!({"name": "chaos", "type": "ordinary", "graph": {
            "nodes": [
                {"id": "in", "componentId": "666c6f776d61746500000001", "function": "receive"},
                {"id": "out", "componentId": "666c6f776d61746500000002", "function": "request",
                 "fields": {"url": receiver.url, "body": computed}}],
            "edges": [{"source": "in", "target": "out"}]}}))
        .await?;
    let duplicator = server.broker()?.duplicate()?;
    let load = Load::start(&client, &flow, 4, Duration::from_millis(20));
    load.pass(20).await?;
    let hostile = if has("hostile") {
        let (_, client) = server.tenant(&admin, "hostile").await?;
        tell("Another tenant's flows do their worst from now on");
        Some(abuse::Hostile::start(&client).await?)
    } else {
        None
    };
    let killer = has("evaluators").then(abuse::Killer::start);
    let poison = if has("poison") {
        server.broker()?.poison().await?
    } else {
        0
    };
    tell(&format!(
        "{poison} poison events, some on every topic; from now on every event comes twice"
    ));
    faults::deaths(arguments, &mut server, &load).await?;
    let second = if has("pauses") {
        faults::pauses(arguments, &mut server, &load).await?
    } else {
        Vec::new()
    };
    let copies = duplicator.copies();
    drop(duplicator);
    if let Some(hostile) = hostile {
        tell(&hostile.stop());
    }
    if let Some(killer) = killer {
        tell(&killer.stop()?);
    }
    tell("Waiting until everything is where it belongs");
    let verdict = match load.settle(&client, &receiver).await {
        Ok(verdict) => verdict,
        Err(error) => {
            tell_executions(&client).await?;
            return Err(error);
        }
    };
    for replica in second {
        replica.leave().await?;
    }
    let status = client.get(&format!("/flows/{flow}")).await?;
    ensure!(
        status.text("/data/status") == "active",
        "the flow is {}",
        status.text("/data/status")
    );
    tell(&format!(
        "{} webhooks acknowledged, all of them arrived; {} refused, and the sender knew it, {} of them with 503 and \
         Retry-After; {} requests repeated with the same key, none after the end of its execution; {copies} events came \
         twice; {} executions logged once each, counted exactly.",
        verdict.acknowledged, verdict.refused, verdict.told_when, verdict.repeated, verdict.executions
    ));
    Ok(())
}

/// What became of the executions, where it is not what it should be.
async fn tell_executions(client: &Client) -> anyhow::Result<()> {
    for status in ["running", "waiting", "success", "error", "cancelled"] {
        let path = format!("/executions?page[size]=1&filter[status]={status}");
        let list = client.get(&path).await?;
        let (total, one) = (list.at("/meta/total"), list.at("/data/0"));
        tell(&format!(
            "{total} executions with status {status}, one of them: {one}"
        ));
    }
    Ok(())
}
