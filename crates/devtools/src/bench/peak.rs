//! Memory under the largest bodies and the worst expressions.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use flowmate_testkit::{Client, Server};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    load::{self, Connection},
    process::{children_mib, memory_mib},
    report::Peak,
    workloads::{Sink, active_w2, address, nodes, order, progress},
};

const BUDGET_MIB: u32 = 128;
const BODY: usize = 9 << 20;
const CONNECTIONS: u64 = 40;
/// Bodies that each connection sends.
const ROUNDS: u64 = 3;
const PATIENCE: Duration = Duration::from_secs(300);
const SAMPLES: Duration = Duration::from_millis(100);

/// The list that the tests of the evaluator have.
const EXPRESSIONS: &str = include_str!("../../../evaluator/tests/common/mod.rs");

pub(crate) async fn measure(binary: &Path) -> anyhow::Result<Peak> {
    progress("memory under the largest bodies");
    let budget = (u64::from(BUDGET_MIB) << 20).to_string();
    let server = Server::start(binary, &[("FLOWMATE__ENGINE__IN_FLIGHT_BYTES", &budget)]).await?;
    let pid = server.pid().context("no process")?;
    let admin = server.admin().await?;
    let sink = Sink::start(Duration::ZERO)?;
    let flow = active_w2(&admin, &sink).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let idle_mib = memory_mib(pid, "VmRSS")?;
    let evaluators = Arc::<AtomicU64>::default();
    let mut tasks = JoinSet::new();
    tasks.spawn(sample(pid, Arc::clone(&evaluators)));
    let (bodies_taken, bodies_refused) = bodies(address(&server), &flow).await?;
    ended(&admin, bodies_taken).await?;
    let bodies_mib = memory_mib(pid, "VmHWM")?;

    progress("memory under the worst expressions");
    let hostile = EXPRESSIONS
        .lines()
        .filter_map(|line| line.trim().strip_prefix("r#\"")?.strip_suffix("\"#,"));
    let mut flows = Vec::new();
    for expression in hostile {
        let node = json!({"id": "map", "componentId": "666c6f776d61746500000003", "function": "jsonata",
            "fields": {"expression": expression}});
        flows.push(admin.active_flow(&nodes(&[node])).await?);
    }
    ensure!(!flows.is_empty(), "no expressions");
    for flow in &flows {
        admin.webhook(flow, &json!({})).await?;
    }
    ended(&admin, bodies_taken + flows.len() as u64).await?;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let evaluators_mib = evaluators.load(Ordering::Relaxed) as f64;
    Ok(Peak {
        budget_mib: f64::from(BUDGET_MIB),
        idle_mib,
        bodies_mib,
        expressions_mib: memory_mib(pid, "VmHWM")?,
        evaluators_mib,
        bodies_taken,
        bodies_refused,
        expressions: flows.len(),
    })
}

/// Sends large orders; how many were taken and how many were not.
async fn bodies(address: &str, flow: &str) -> anyhow::Result<(u64, u64)> {
    let mut body: Value = serde_json::from_str(&order(0))?;
    // Nothing takes more memory for its length than empty lists do.
    let filler = "[],".repeat(BODY / 3);
    if let Some(body) = body.as_object_mut() {
        body.insert("filler".into(), json!("FILLER"));
    }
    let list = format!("[{}]", filler.trim_end_matches(','));
    let body = body.to_string().replace("\"FILLER\"", &list);
    let request: Arc<[u8]> = load::request(address, &format!("/webhooks/{flow}"), &body)
        .into_bytes()
        .into();
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (address, request) = (address.to_owned(), Arc::clone(&request));
        connections.spawn(async move {
            let mut taken = 0;
            for _ in 0..ROUNDS {
                let mut connection = Connection::open(&address).await?;
                taken += u64::from(connection.exchange(&request).await.is_ok());
            }
            anyhow::Ok(taken)
        });
    }
    let mut taken = 0;
    while let Some(connection) = connections.join_next().await {
        taken += connection??;
    }
    Ok((taken, CONNECTIONS * ROUNDS - taken))
}

/// Returns when that many executions have ended.
async fn ended(admin: &Client, count: u64) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let mut ended = 0;
        for status in ["success", "error"] {
            let answer = admin
                .get(&format!("/executions?filter[status]={status}&page[size]=1"))
                .await?;
            ended += answer.at("/meta/total").as_u64().unwrap_or_default();
        }
        if ended >= count {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "{ended} of {count} executions ended");
        tokio::time::sleep(SAMPLES).await;
    }
}

/// Keeps the most that the process's children had together.
async fn sample(pid: u32, most: Arc<AtomicU64>) {
    loop {
        most.fetch_max(children_mib(pid), Ordering::Relaxed);
        tokio::time::sleep(SAMPLES).await;
    }
}
