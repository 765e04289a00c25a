//! Executions that wait. One is made to wait by a receiver that answers 429; the others are copies of what is stored of
//! it, written while the server does not run: after ten failures in a row a receiver is given rest, so that waits of a
//! chosen length cannot be had from one by the thousand.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use flowmate_common::Timestamp;
use flowmate_testkit::Server;
use rusqlite::{Connection, params};
use serde_json::{Value, json};

use crate::{
    load::percentile_ms,
    process::{cpu_micros, memory_mib},
    report::{Latency, Parking},
    rivals::now_micros,
    workloads::{Sink, active_w2, order, progress},
};

const PARKED: u64 = 100_000;
/// Of these, due in the same second.
const DUE: u64 = 60_000;
const LAG_PER_SECOND: u64 = 500;
const LAG_SECONDS: u64 = 10;
/// When a copy is due that is not to go on.
const FAR: u64 = 24 * 3_600_000_000;
/// From writing copies to when the first is due: the server starts meanwhile.
const AHEAD: u64 = 15_000_000;
const SETTLES: Duration = Duration::from_secs(3);
const IDLE: Duration = Duration::from_secs(10);
/// How long all may take to go on.
const PATIENCE: Duration = Duration::from_secs(300);
/// Stands for the due time in what is stored: microseconds, by which the sink knows how late a request is.
const MARK: u64 = 1_111_111_111_111_111;

pub(crate) async fn measure(binary: &Path) -> anyhow::Result<Parking> {
    progress("an execution that waits");
    let sink = Sink::start(Duration::ZERO)?;
    sink.client.get("/busy/true").await?.expect(200)?;
    let server = Server::start(binary, &[]).await?;
    let admin = server.admin().await?;
    let flow = active_w2(&admin, &sink).await?;
    let body: Value = serde_json::from_str(&order(MARK))?;
    let id = admin.webhook(&flow, &body).await?;
    admin.waits(&id).await?;
    sink.client.get("/busy/false").await?.expect(200)?;
    let server = again(server, |_| Ok(())).await?;
    let one = at_rest(&server).await?;

    progress("a hundred thousand of them, at rest");
    let far = |_: u64| now_micros() + FAR;
    let server = again(server, |data| write(data, PARKED, far)).await?;
    let all = at_rest(&server).await?;

    progress("sixty thousand due in one second");
    let first = now_micros() + AHEAD;
    let due = |number: u64| {
        if number < DUE {
            first + number * 1_000_000 / DUE
        } else {
            first + FAR
        }
    };
    let server = again(server, |data| write(data, PARKED, due)).await?;
    let pid = server.pid().context("no process")?;
    let cpu = until(first, pid).await?;
    sink.count_to(DUE, PATIENCE).await?;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let (due_seconds, due_cpu_micros) = (
        (now_micros() - first) as f64 / 1e6,
        (cpu_micros(pid)? - cpu) / DUE as f64,
    );
    sink.latencies().await?;

    progress("five hundred due in each second");
    let count = LAG_PER_SECOND * LAG_SECONDS;
    let first = now_micros() + AHEAD;
    let due = |number: u64| first + number * 1_000_000 / LAG_PER_SECOND;
    // Ids of their own: what ended stays ended.
    let server = again(server, |data| write_from(data, PARKED, count, due)).await?;
    until(first, server.pid().context("no process")?).await?;
    sink.count_to(DUE + count, PATIENCE).await?;
    let latencies = sink.latencies().await?;
    Ok(Parking {
        parked: PARKED,
        rss_mib: (one.rss_mib, all.rss_mib),
        idle_cpu_ms: (one.idle_cpu_ms, all.idle_cpu_ms),
        ready_ms: (one.ready_ms, all.ready_ms),
        due: DUE,
        due_seconds,
        due_cpu_micros,
        lag_per_second: LAG_PER_SECOND,
        lag: Latency {
            p50_ms: percentile_ms(&latencies, 50),
            p99_ms: percentile_ms(&latencies, 99),
            samples: latencies.len(),
        },
    })
}

struct AtRest {
    ready_ms: f64,
    rss_mib: f64,
    idle_cpu_ms: f64,
}

async fn at_rest(server: &Server) -> anyhow::Result<AtRest> {
    let pid = server.pid().context("no process")?;
    tokio::time::sleep(SETTLES).await;
    let (rss_mib, before) = (memory_mib(pid, "VmRSS")?, cpu_micros(pid)?);
    tokio::time::sleep(IDLE).await;
    Ok(AtRest {
        ready_ms: server.ready_after.as_secs_f64() * 1_000.0,
        rss_mib,
        idle_cpu_ms: (cpu_micros(pid)? - before) / 1_000.0,
    })
}

/// Ends the server in order, has the data changed, and starts it again.
async fn again(
    mut server: Server,
    change: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<Server> {
    ensure!(server.terminate().await?, "the server ended badly");
    change(&server.data())?;
    server.restart().await
}

/// The processor time that the process has used when the time has come.
async fn until(first: u64, pid: u32) -> anyhow::Result<f64> {
    let left = first.checked_sub(now_micros());
    let left = left.context("the machine is too busy: they were due before the server was ready")?;
    tokio::time::sleep(Duration::from_micros(left)).await;
    cpu_micros(pid)
}

fn write(data: &Path, count: u64, due: impl Fn(u64) -> u64) -> anyhow::Result<()> {
    write_from(data, 0, count, due)
}

/// Writes copies of what is stored in place of it, due as `due` says in microseconds.
fn write_from(data: &Path, from: u64, count: u64, due: impl Fn(u64) -> u64) -> anyhow::Result<()> {
    let mut database = Connection::open(data.join("documents.db"))?;
    let transaction = database.transaction()?;
    let (id, stored): (String, String) = transaction.query_row(
        "SELECT id, doc FROM parked_executions WHERE deleted = 0 ORDER BY id DESC LIMIT 1",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let mark = mark_of(&stored)?;
    let owners: Vec<String> = transaction
        .prepare("SELECT owner FROM parked_executions_owners WHERE id = ?1")?
        .query_map([&id], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    transaction.execute_batch("DELETE FROM parked_executions; DELETE FROM parked_executions_owners;")?;
    {
        let mut insert =
            transaction.prepare("INSERT INTO parked_executions(id, version, doc) VALUES (?1, 1, ?2)")?;
        let mut own =
            transaction.prepare("INSERT INTO parked_executions_owners(owner, id) VALUES (?1, ?2)")?;
        let prefix = id.get(..id.len().saturating_sub(12)).context("a short id")?;
        for number in 0..count {
            let copy = format!("{prefix}{:012x}", from + number);
            let at = due(number);
            let doc = stored.replace(&mark, &at.to_string()).replace(&id, &copy);
            let mut doc: Value = serde_json::from_str(&doc)?;
            let at = json!(Timestamp::from_millis(i64::try_from(at / 1_000)?).to_string());
            *doc.pointer_mut("/due").context("no due time")? = at.clone();
            let steps = doc.pointer_mut("/progress/steps").and_then(Value::as_array_mut);
            for step in steps.context("no steps")? {
                *step.pointer_mut("/due").context("no due time")? = at.clone();
            }
            insert.execute(params![copy, doc.to_string()])?;
            for owner in &owners {
                own.execute([owner, &copy])?;
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

/// What stands for the due time in the message.
fn mark_of(stored: &str) -> anyhow::Result<String> {
    let doc: Value = serde_json::from_str(stored)?;
    let mark = doc.pointer("/progress/steps/0/message/data/sentAt");
    Ok(mark.context("no time in the message")?.to_string())
}

impl Sink {
    /// Returns when `count` have arrived.
    async fn count_to(&self, count: u64, patience: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let arrived = self.count().await?;
            if arrived >= count {
                return Ok(());
            }
            ensure!(began.elapsed() < patience, "{arrived} of {count} arrived");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
