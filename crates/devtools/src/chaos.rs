//! `flowmate-chaos`: the distributed shape while its parts die. Webhooks come all the time, and every event comes twice;
//! every topic gets poison; services are killed in turn and two at once; replicas join, leave and are killed; Kafka is
//! killed for a while, then the database; and brokers, database and services are stopped where they are (SIGSTOP) and killed,
//! in random order, with a second replica of those that share their work. Afterwards everything that was acknowledged has to have arrived, each execution
//! to be logged once, nothing to have been done after its execution was finished, and the counts to be exact, without
//! anybody's help.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::Parser;
use flowmate_testkit::{Load, Receiver, Replica, Server, Shape};
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
    #[arg(long, value_delimiter = ',', default_values = ["services", "replicas", "kafka", "mongo", "pauses"])]
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
    /// Seconds that broker and database are away.
    #[arg(long, default_value_t = 30)]
    away: u64,
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

/// Which services are killed, some two at once.
const VICTIMS: &[&[&str]] = &[
    &["user-iam"],
    &["flow-repository"],
    &["template-repository"],
    &["webhook"],
    &["execution-log"],
    &["flow-engine"],
    &["api-gateway"],
    &["flow-engine", "webhook"],
    &["execution-log", "flow-repository"],
];

async fn survive(arguments: &Arguments) -> anyhow::Result<()> {
    let beside = std::env::current_exe()?.with_file_name("flowmate");
    let binary = arguments.flowmate.clone().unwrap_or(beside);
    backends(&arguments.services, "up").await?;
    let mongo = format!("mongodb://127.0.0.1:{MONGO_PORT}/chaos?directConnection=true");
    let kafka = format!("kafka://127.0.0.1:{KAFKA_PORT}");
    let own = [
        ("FLOWMATE__STORAGE__URL", mongo.as_str()),
        ("FLOWMATE__BUS__URL", kafka.as_str()),
        ("FLOWMATE__LOG__FILTER", "error"),
    ];
    let mut server = Server::shaped(Shape::Distributed, &binary, &own).await?;
    let admin = server.admin().await?;
    let receiver = Receiver::start()?;
    let flow = admin
        .active_flow(&json!({"name": "chaos", "type": "ordinary", "graph": {
            "nodes": [
                {"id": "in", "componentId": "666c6f776d61746500000001", "function": "receive"},
                {"id": "out", "componentId": "666c6f776d61746500000002", "function": "request",
                 "fields": {"url": receiver.url}}],
            "edges": [{"source": "in", "target": "out"}]}}))
        .await?;
    let duplicator = server.broker()?.duplicate()?;
    let load = Load::start(&admin, &flow, 4, Duration::from_millis(20));
    load.pass(20).await?;
    let poison = server.broker()?.poison().await?;
    tell(&format!(
        "{poison} poison events, some on every topic; from now on every event comes twice"
    ));
    let has = |fault: &str| arguments.faults.iter().any(|one| one == fault);
    for victims in VICTIMS.iter().filter(|_| has("services")) {
        tell(&format!("kill -9 {}", victims.join(" and ")));
        server.kill_and_restart(victims).await?;
        load.pass(50).await?;
    }
    for name in ["flow-engine", "webhook", "execution-log", "flow-repository"]
        .into_iter()
        .filter(|_| has("replicas"))
    {
        tell(&format!("two more of {name} join; one leaves, one is killed"));
        let (first, second) = (server.replica(name).await?, server.replica(name).await?);
        load.pass(50).await?;
        first.leave().await?;
        load.pass(50).await?;
        second.kill().await?;
        load.pass(50).await?;
    }
    for part in ["kafka", "mongo"].into_iter().filter(|part| has(part)) {
        tell(&format!("kill -9 {part}, {} s without it", arguments.away));
        backends(&arguments.services, &format!("kill-{part}")).await?;
        tokio::time::sleep(Duration::from_secs(arguments.away)).await;
        backends(&arguments.services, &format!("start-{part}")).await?;
        load.pass(200).await?;
    }
    let second = if has("pauses") {
        Some(pauses(arguments, &mut server, &load).await?)
    } else {
        None
    };
    let copies = duplicator.copies();
    drop(duplicator);
    tell("Waiting until everything is where it belongs");
    let verdict = match load.settle(&admin, &receiver).await {
        Ok(verdict) => verdict,
        Err(error) => {
            for status in ["running", "success", "error", "cancelled"] {
                let path = format!("/executions?page[size]=1&filter[status]={status}");
                let list = admin.get(&path).await?;
                let (total, one) = (list.at("/meta/total"), list.at("/data/0"));
                tell(&format!(
                    "{total} executions with status {status}, one of them: {one}"
                ));
            }
            return Err(error);
        }
    };
    for replica in second.into_iter().flatten() {
        replica.leave().await?;
    }
    let status = admin.get(&format!("/flows/{flow}")).await?;
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

/// Stops parts where they are or kills them, in random order, with nobody's help. What is paused goes on by itself; what is
/// killed is started again at once, as an orchestrator does. Returns the second replicas, so that they stay.
async fn pauses(arguments: &Arguments, server: &mut Server, load: &Load) -> anyhow::Result<Vec<Replica>> {
    let seed = arguments
        .seed
        .unwrap_or_else(|| RandomState::new().build_hasher().finish());
    tell(&format!(
        "{} rounds of pauses and kills; --seed {seed} repeats their order",
        arguments.rounds
    ));
    let mut replicas = Vec::new();
    for name in ["flow-engine", "execution-log"] {
        replicas.push(server.replica(name).await?);
    }
    let parts = [
        "kafka",
        "flow-engine",
        "execution-log",
        "webhook",
        "mongo",
        "kafka",
        "flow-engine",
        "flow-repository",
        "user-iam",
    ];
    let (least, most) = (
        arguments.pause.first().copied().unwrap_or(5),
        arguments.pause.last().copied().unwrap_or(60),
    );
    let mut random = Random(seed);
    for round in 1..=arguments.rounds {
        let part = *random.of(&parts).context("no parts")?;
        let (is_killed, seconds) = (random.below(4) == 0, least + random.below(most - least + 1));
        let is_backend = ["kafka", "mongo"].contains(&part);
        let what = if is_killed { "kill -9" } else { "pause" };
        tell(&format!("{round}: {what} {part}, {seconds} s"));
        let away = tokio::time::sleep(Duration::from_secs(seconds));
        match (is_backend, is_killed) {
            (true, true) => {
                backends(&arguments.services, &format!("kill-{part}")).await?;
                away.await;
                backends(&arguments.services, &format!("start-{part}")).await?;
            }
            (true, false) => {
                backends(&arguments.services, &format!("pause-{part}")).await?;
                away.await;
                backends(&arguments.services, &format!("resume-{part}")).await?;
            }
            (false, true) => server.kill_and_restart(&[part]).await?,
            (false, false) => {
                server.pause(part, true).await?;
                away.await;
                server.pause(part, false).await?;
            }
        }
        load.pass(50).await?;
    }
    Ok(replicas)
}

/// `SplitMix64`: an order that a seed repeats needs no more.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).checked_rem(bound).unwrap_or_default()
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let index = self.below(u64::try_from(all.len()).ok()?);
        all.get(usize::try_from(index).ok()?)
    }
}
