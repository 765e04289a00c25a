//! What is measured.

use std::{
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use flowmate_testkit::{Client, Server, Shape, eventually};
use serde_json::{Value, json};

use crate::{
    Arguments, Part,
    load::{self, Connection, Outcome, Until, percentile_ms},
    neighbours, parking, peak,
    process::{Rival, cpu_micros, memory_mib},
    report::{Apart, Figures, Latency, Measured, Speed},
    rivals::now_micros,
};

/// Webhooks sent before anything is measured.
pub(crate) const WARM_UP: u64 = 200;
const APART_WARM_UP: Until = Until::Elapsed(Duration::from_secs(6));
const CONNECTIONS: usize = 64;
/// Engines that share the work, in turn; partitions that each number of them divides evenly.
const CURVE_ENGINES: [u32; 5] = [1, 2, 3, 4, 6];
const CURVE_PARTITIONS: u32 = 12;
/// Orders for each engine, and how long the sink takes for an answer.
const CURVE_ORDERS: u64 = 1_000;
const CURVE_DELAY: Duration = Duration::from_millis(50);
/// Requests in a second, and seconds, of the latency measurement.
const STEADY_RATE: u64 = 20;
const STEADY_SECONDS: u64 = 10;

const EXPRESSION: &str = "{ \"order\": id, \"name\": customer.first & \" \" & customer.last, \
    \"email\": $lowercase(customer.email), \"sum\": $sum(items.(quantity * price)), \"total\": total, \"sentAt\": sentAt }";

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let beside = std::env::current_exe()?.with_file_name("flowmate");
    let binary = arguments.flowmate.clone().unwrap_or(beside);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let figures = runtime.block_on(measure(arguments, &binary))?;
    if arguments.json {
        writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&figures)?)?;
    } else {
        writeln!(std::io::stdout(), "{figures}")?;
    }
    Ok(())
}

pub(crate) fn progress(text: &str) {
    eprintln!("· {text}");
}

/// An order of about 600 bytes, as a shop would send it.
pub(crate) fn order(sent_at: u64) -> String {
    json!({
        "id": "A-2041", "sentAt": sent_at, "placedAt": "2026-11-23T09:41:00Z", "currency": "EUR",
        "customer": {"first": "Ada", "last": "Byron", "email": "Ada.Byron@Example.org", "phone": "+44 20 7946 0958",
            "address": {"street": "12 St James's Square", "city": "London", "zip": "SW1Y 4JH", "country": "GB"}},
        "items": [
            {"sku": "BOOK-1843", "title": "Notes on the Analytical Engine", "quantity": 2, "price": 42.5},
            {"sku": "PEN-07", "title": "Fountain pen, fine nib, black", "quantity": 1, "price": 65.9},
            {"sku": "INK-31", "title": "Ink, blue-black, 50 ml", "quantity": 3, "price": 9.5}],
        "note": "Please wrap it as a present.", "total": 179.4
    })
    .to_string()
}

async fn measure(arguments: &Arguments, binary: &Path) -> anyhow::Result<Figures> {
    let mut figures = Figures {
        speed: None,
        neighbours: None,
        parking: None,
        peak: None,
    };
    if arguments.only.contains(&Part::Speed) {
        figures.speed = Some(speed(arguments, binary).await?);
    }
    if arguments.only.contains(&Part::Neighbours) {
        figures.neighbours = Some(neighbours::measure(binary).await?);
    }
    if arguments.only.contains(&Part::Parking) {
        figures.parking = Some(parking::measure(binary).await?);
    }
    if arguments.only.contains(&Part::Peak) {
        figures.peak = Some(peak::measure(binary).await?);
    }
    Ok(figures)
}

async fn speed(arguments: &Arguments, binary: &Path) -> anyhow::Result<Speed> {
    let length = Until::Elapsed(Duration::from_secs(arguments.seconds));
    progress("start on an empty data directory, and memory at rest");
    let server = Server::start(binary, &[])
        .await
        .context("run `make bench`, which builds it first")?;
    let ready_ms = server.ready_after.as_secs_f64() * 1000.0;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let idle_rss_mib = memory_mib(server.pid().context("no process")?, "VmRSS")?;
    drop(server);

    progress("W1 ceilings");
    let parse = rival_w1("parse", length).await?;
    let append = rival_w1("append", length).await?;
    progress("W1");
    let (w1, w1_backlog_seconds) = flowmate_w1(binary, length).await?;
    progress("W2 ceiling");
    let hardcoded = rival_w2(arguments.orders).await?;
    progress("W2");
    let w2 = flowmate_w2(binary, arguments.orders).await?;
    progress("W2 at a steady rate");
    let latency = flowmate_latency(Shape::Embedded, binary).await?;
    let apart = if arguments.distributed {
        progress("the distributed shape: memory at rest, W1, W2 at a steady rate");
        Some(flowmate_apart(binary, length).await?)
    } else {
        None
    };
    Ok(Speed {
        ready_ms,
        idle_rss_mib,
        sync_ms: sync_ms()?,
        order_bytes: order(now_micros()).len(),
        parse,
        append,
        w1,
        w1_backlog_seconds,
        hardcoded,
        w2,
        latency,
        apart,
    })
}

/// How long one append of 4 KiB takes to be on disk.
fn sync_ms() -> anyhow::Result<f64> {
    let directory = tempfile::tempdir()?;
    let mut file = std::fs::File::create(directory.path().join("sync"))?;
    let block = [7_u8; 4096];
    let began = Instant::now();
    for _ in 0..200 {
        file.write_all(&block)?;
        file.sync_data()?;
    }
    Ok(began.elapsed().as_secs_f64() * 1000.0 / 200.0)
}

fn measured(outcome: &Outcome, pid: u32, cpu_before: f64) -> anyhow::Result<Measured> {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let cpu_micros = (cpu_micros(pid)? - cpu_before) / outcome.requests as f64;
    Ok(Measured {
        per_second: outcome.rate(),
        p50_ms: outcome.percentile_ms(50),
        p99_ms: outcome.percentile_ms(99),
        cpu_micros,
        peak_rss_mib: memory_mib(pid, "VmHWM")?,
    })
}

async fn rival_w1(role: &str, until: Until) -> anyhow::Result<Measured> {
    let rival = Rival::start(&[role])?;
    warm_up(&rival.address, "/").await?;
    let before = cpu_micros(rival.pid())?;
    let outcome = load::run(&rival.address, "/", &order(0), CONNECTIONS, until).await?;
    measured(&outcome, rival.pid(), before)
}

pub(crate) async fn warm_up(address: &str, path: &str) -> anyhow::Result<()> {
    load::run(address, path, &order(0), 4, Until::Requests(WARM_UP)).await?;
    Ok(())
}

pub(crate) fn address(server: &Server) -> &str {
    server.url.trim_start_matches("http://")
}

pub(crate) fn nodes(more: &[Value]) -> Value {
    let receive = json!({"id": "in", "componentId": "666c6f776d61746500000001", "function": "receive"});
    let nodes: Vec<Value> = std::iter::once(receive).chain(more.iter().cloned()).collect();
    let edges: Vec<Value> = nodes
        .windows(2)
        .filter_map(|pair| Some(json!({"source": pair.first()?["id"], "target": pair.last()?["id"]})))
        .collect();
    json!({"name": "benchmark", "graph": {"nodes": nodes, "edges": edges}})
}

/// W1 measures taking only; what the webhooks start is one step without effects, which runs at the same time. Also
/// returns how long the rest of that takes.
async fn flowmate_w1(binary: &Path, until: Until) -> anyhow::Result<(Measured, f64)> {
    let server = Server::start(binary, &[]).await?;
    let admin = server.admin().await?;
    let flow = admin.active_flow(&nodes(&[])).await?;
    warm_up(address(&server), &format!("/webhooks/{flow}")).await?;
    let (measured, requests) = take(&server, &flow, until).await?;
    let began = Instant::now();
    all_logged(&admin, WARM_UP + requests).await?;
    Ok((measured, began.elapsed().as_secs_f64()))
}

/// Webhooks of a flow that does nothing with them, and how many there were. Processor time and memory are those of the
/// process that requests arrive at.
async fn take(server: &Server, flow: &str, until: Until) -> anyhow::Result<(Measured, u64)> {
    let path = format!("/webhooks/{flow}");
    let pid = server.pid().context("no process")?;
    let before = cpu_micros(pid)?;
    let outcome = load::run(address(server), &path, &order(0), CONNECTIONS, until).await?;
    Ok((measured(&outcome, pid, before)?, outcome.requests))
}

/// The distributed shape on this one machine, with broker and database on it too.
async fn flowmate_apart(binary: &Path, until: Until) -> anyhow::Result<Apart> {
    let start = async || {
        let server = Server::shaped(Shape::Distributed, binary, &[]).await;
        server.context("run `make services-up` first")
    };
    // A broker that has just started runs byte code that is not compiled yet, for seconds. What this leaves to be done is
    // nobody's afterwards: the next services have topics of their own.
    let before = start().await?;
    let flow = before.admin().await?.active_flow(&nodes(&[])).await?;
    take(&before, &flow, APART_WARM_UP).await?;
    drop(before);
    let server = start().await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut idle_rss_mib = Vec::new();
    for (name, pid) in server.pids() {
        idle_rss_mib.push((name, memory_mib(pid, "VmRSS")?));
    }
    let admin = server.admin().await?;
    let flow = admin.active_flow(&nodes(&[])).await?;
    warm_up(address(&server), &format!("/webhooks/{flow}")).await?;
    let processes = processes(&server)?;
    let before = cpu_of(&processes)?;
    let (w1, requests) = take(&server, &flow, until).await?;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let cpu_micros = (cpu_of(&processes)?.into_iter().zip(before))
        .map(|((name, after), (_, before))| (name, (after - before) / requests as f64))
        .collect();
    drop(server);
    let latency = flowmate_latency(Shape::Distributed, binary).await?;
    let engines = flowmate_curve(binary).await?;
    Ok(Apart {
        idle_rss_mib,
        w1,
        cpu_micros,
        latency,
        engines,
    })
}

/// All processes that take part: the services, this program, and broker and database where they were started by
/// `make services-up`.
fn processes(server: &Server) -> anyhow::Result<Vec<(&'static str, u32)>> {
    let mut processes = server.pids();
    processes.push(("load generator", std::process::id()));
    for (name, file) in [
        ("Kafka", ".run/services/kafka.pid"),
        ("database", ".run/services/mongo.pid"),
    ] {
        let pid = std::fs::read_to_string(file).context("run `make services-up` first")?;
        processes.push((name, pid.trim().parse()?));
    }
    Ok(processes)
}

fn cpu_of(processes: &[(&'static str, u32)]) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let used = processes.iter().map(|(name, pid)| Ok((*name, cpu_micros(*pid)?)));
    used.collect()
}

/// Returns when that many executions have succeeded by the log.
async fn all_logged(admin: &Client, count: u64) -> anyhow::Result<()> {
    eventually("every execution to be logged", async || {
        let answer = admin
            .get("/executions?filter[status]=success&page[size]=1")
            .await?;
        Ok((answer.at("/meta/total").as_u64() == Some(count)).then_some(()))
    })
    .await
}

pub(crate) struct Sink {
    rival: Rival,
    pub(crate) client: Client,
}

impl Sink {
    pub(crate) fn start(delay: Duration) -> anyhow::Result<Self> {
        let rival = Rival::start(&["sink", &delay.as_millis().to_string()])?;
        let client = Client::new(&format!("http://{}", rival.address))?;
        Ok(Self { rival, client })
    }

    /// How many have arrived.
    pub(crate) async fn count(&self) -> anyhow::Result<u64> {
        let answer = self.client.get("/count").await?;
        Ok(answer.body.as_u64().unwrap_or_default())
    }

    /// Returns when `count` have arrived.
    pub(crate) async fn wait_for(&self, count: u64) -> anyhow::Result<()> {
        eventually("everything at the sink", async || {
            Ok((self.count().await? >= count).then_some(()))
        })
        .await
    }

    pub(crate) async fn latencies(&self) -> anyhow::Result<Vec<Duration>> {
        let answer = self.client.get("/latencies").await?;
        let mut micros: Vec<Duration> = serde_json::from_value::<Vec<u64>>(answer.body)?
            .into_iter()
            .map(Duration::from_micros)
            .collect();
        micros.sort_unstable();
        Ok(micros)
    }
}

/// From the first request to the last arrival at the sink.
async fn w2(sink: &Sink, pid: u32, address: &str, path: &str, orders: u64) -> anyhow::Result<Measured> {
    load::run(address, path, &order(0), 4, Until::Requests(WARM_UP)).await?;
    sink.wait_for(WARM_UP).await?;
    let before = cpu_micros(pid)?;
    let began = Instant::now();
    let mut outcome = load::run(address, path, &order(0), CONNECTIONS, Until::Requests(orders)).await?;
    sink.wait_for(WARM_UP + orders).await?;
    outcome.elapsed = began.elapsed();
    measured(&outcome, pid, before)
}

async fn rival_w2(orders: u64) -> anyhow::Result<Measured> {
    let sink = Sink::start(Duration::ZERO)?;
    let rival = Rival::start(&["hardcoded", &sink.rival.address])?;
    w2(&sink, rival.pid(), &rival.address, "/", orders).await
}

async fn start_w2(shape: Shape, binary: &Path, sink: &Sink) -> anyhow::Result<(Server, Client, String)> {
    let server = Server::shaped(shape, binary, &[]).await?;
    let admin = server.admin().await?;
    let flow = active_w2(&admin, sink).await?;
    Ok((server, admin, flow))
}

pub(crate) async fn active_w2(admin: &Client, sink: &Sink) -> anyhow::Result<String> {
    let flow = nodes(&[
        json!({"id": "map", "componentId": "666c6f776d61746500000003", "function": "jsonata", "fields": {"expression": EXPRESSION}}),
        json!({"id": "out", "componentId": "666c6f776d61746500000002", "function": "request",
            "fields": {"url": format!("http://{}/", sink.rival.address)}}),
    ]);
    admin.active_flow(&flow).await
}

/// W2 with more and more engines, each of which has eight executions at work, while the sink takes its time: as long as
/// the cores are not full, waiting is what engines do, and what more of them do more of.
async fn flowmate_curve(binary: &Path) -> anyhow::Result<Vec<(u32, f64)>> {
    let mut curve = Vec::new();
    for engines in CURVE_ENGINES {
        progress(&format!("{engines} engines"));
        let sink = Sink::start(CURVE_DELAY)?;
        let server = Server::partitioned(
            binary,
            &[("FLOWMATE__ENGINE__CONCURRENCY", "8")],
            CURVE_PARTITIONS,
        )
        .await?;
        let mut more = Vec::new();
        for _ in 1..engines {
            more.push(server.replica("flow-engine").await?);
        }
        let flow = active_w2(&server.admin().await?, &sink).await?;
        let path = format!("/webhooks/{flow}");
        warm_up(address(&server), &path).await?;
        sink.wait_for(WARM_UP).await?;
        let orders = CURVE_ORDERS * u64::from(engines);
        let began = Instant::now();
        load::run(
            address(&server),
            &path,
            &order(0),
            CONNECTIONS,
            Until::Requests(orders),
        )
        .await?;
        sink.wait_for(WARM_UP + orders).await?;
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        curve.push((engines, orders as f64 / began.elapsed().as_secs_f64()));
    }
    Ok(curve)
}

/// Every execution has to be in the log at the end.
async fn flowmate_w2(binary: &Path, orders: u64) -> anyhow::Result<Measured> {
    let sink = Sink::start(Duration::ZERO)?;
    let (server, admin, flow) = start_w2(Shape::Embedded, binary, &sink).await?;
    let pid = server.pid().context("no process")?;
    let measured = w2(&sink, pid, address(&server), &format!("/webhooks/{flow}"), orders).await?;
    all_logged(&admin, WARM_UP + orders).await?;
    Ok(measured)
}

async fn flowmate_latency(shape: Shape, binary: &Path) -> anyhow::Result<Latency> {
    let sink = Sink::start(Duration::ZERO)?;
    let (server, _, flow) = start_w2(shape, binary, &sink).await?;
    let path = format!("/webhooks/{flow}");
    warm_up(address(&server), &path).await?;
    sink.wait_for(WARM_UP).await?;
    sink.latencies().await?;
    let mut connection = Connection::open(address(&server)).await?;
    let mut tick = tokio::time::interval(Duration::from_millis(1000 / STEADY_RATE));
    for _ in 0..STEADY_RATE * STEADY_SECONDS {
        tick.tick().await;
        let request = load::request(address(&server), &path, &order(now_micros()));
        connection.exchange(request.as_bytes()).await?;
    }
    sink.wait_for(WARM_UP + STEADY_RATE * STEADY_SECONDS).await?;
    let latencies = sink.latencies().await?;
    Ok(Latency {
        p50_ms: percentile_ms(&latencies, 50),
        p99_ms: percentile_ms(&latencies, 99),
        samples: latencies.len(),
    })
}
