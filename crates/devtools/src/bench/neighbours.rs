//! A quiet tenant beside others that hang, are slow and flood.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use flowmate_testkit::Server;
use tokio::task::JoinSet;

use crate::{
    load::{self, Connection, Until, percentile_ms},
    report::{Latency, Neighbours},
    rivals::now_micros,
    workloads::{Sink, WARM_UP, active_w2, address, order, progress, warm_up},
};

/// Webhooks to the receiver that hangs.
const HANGING: u64 = 5_000;
/// Longer than all of it takes.
const HANGS: Duration = Duration::from_secs(3_600);
const SLOW: Duration = Duration::from_secs(2);
/// Webhooks to the slow receiver in a second.
const SLOW_RATE: u64 = 20;
const FLOOD_CONNECTIONS: usize = 16;
/// Of the quiet tenant: in a second, seconds, and connections that take turns.
const RATE: u64 = 20;
const SECONDS: u64 = 15;
const LANES: u64 = 4;
/// How long the others are at it before the quiet tenant is measured.
const SETTLES: Duration = Duration::from_secs(3);

pub(crate) async fn measure(binary: &Path) -> anyhow::Result<Neighbours> {
    let server = Server::start(binary, &[]).await?;
    let admin = server.admin().await?;
    let (quiet, hanging) = (Sink::start(Duration::ZERO)?, Sink::start(HANGS)?);
    let (slow, flooded) = (Sink::start(SLOW)?, Sink::start(Duration::ZERO)?);
    let mut paths = Vec::new();
    for (name, sink) in [
        ("quiet", &quiet),
        ("hanging", &hanging),
        ("slow", &slow),
        ("flood", &flooded),
    ] {
        let flow = active_w2(&server.tenant(&admin, name).await?.1, sink).await?;
        paths.push(format!("/webhooks/{flow}"));
    }
    let path = |index: usize| paths.get(index).context("no flow");
    let at = address(&server);
    warm_up(at, path(0)?).await?;
    quiet.wait_for(WARM_UP).await?;

    progress("a quiet tenant alone");
    let alone = at_steady_rate(at, path(0)?, &quiet).await?;
    progress("the same beside receivers that hang and are slow");
    load::run(
        at,
        path(1)?,
        &order(0),
        FLOOD_CONNECTIONS,
        Until::Requests(HANGING),
    )
    .await?;
    let mut others = JoinSet::new();
    others.spawn(paced(at.to_owned(), path(2)?.clone()));
    tokio::time::sleep(SETTLES).await;
    let beside_waiting = at_steady_rate(at, path(0)?, &quiet).await?;
    progress("the same beside a tenant that floods too");
    let (taken, refused) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let began = Instant::now();
    for _ in 0..FLOOD_CONNECTIONS {
        let counts = (Arc::clone(&taken), Arc::clone(&refused));
        others.spawn(flood(at.to_owned(), path(3)?.clone(), counts));
    }
    tokio::time::sleep(SETTLES).await;
    let beside_all = at_steady_rate(at, path(0)?, &quiet).await?;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let flood_per_second = taken.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    others.abort_all();
    Ok(Neighbours {
        alone,
        beside_waiting,
        beside_all,
        flood_per_second,
        flood_refused: refused.load(Ordering::Relaxed),
    })
}

/// Latencies count from when a webhook was to be sent: what makes the sender late counts too.
async fn at_steady_rate(address: &str, path: &str, sink: &Sink) -> anyhow::Result<Latency> {
    sink.latencies().await?;
    let before = sink.count().await?;
    let mut lanes = JoinSet::new();
    let begins = tokio::time::Instant::now();
    for lane in 0..LANES {
        let (address, path) = (address.to_owned(), path.to_owned());
        lanes.spawn(async move {
            let first = begins + Duration::from_millis(1_000 / RATE * lane);
            let mut tick = tokio::time::interval_at(first, Duration::from_millis(1_000 / RATE * LANES));
            let mut connection = Connection::open(&address).await?;
            for _ in 0..RATE * SECONDS / LANES {
                let late = tick.tick().await.elapsed();
                let sent_at = now_micros() - u64::try_from(late.as_micros())?;
                let request = load::request(&address, &path, &order(sent_at));
                let before = std::time::Instant::now();
                connection.exchange(request.as_bytes()).await?;
                let took = before.elapsed().as_micros();
                if took > 4000 {
                    eprintln!("ACK {took} late {} at {:?}", late.as_micros(), begins.elapsed());
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(lane) = lanes.join_next().await {
        lane??;
    }
    sink.wait_for(before + RATE * SECONDS).await?;
    let latencies = sink.latencies().await?;
    let mut sorted: Vec<_> = latencies.iter().enumerate().map(|(i, l)| (*l / 100, i)).collect();
    sorted.sort_unstable();
    sorted.reverse();
    sorted.truncate(12);
    eprintln!("TOP (0.1ms, index) {sorted:?}");
    Ok(Latency {
        p50_ms: percentile_ms(&latencies, 50),
        p99_ms: percentile_ms(&latencies, 99),
        samples: latencies.len(),
    })
}

/// Webhooks at a steady rate until it is aborted.
async fn paced(address: String, path: String) {
    let request = load::request(&address, &path, &order(0));
    let mut tick = tokio::time::interval(Duration::from_millis(1_000 / SLOW_RATE));
    while let Ok(mut connection) = Connection::open(&address).await {
        while connection.exchange(request.as_bytes()).await.is_ok() {
            tick.tick().await;
        }
    }
}

/// Webhooks without a pause until it is aborted.
async fn flood(address: String, path: String, (taken, refused): (Arc<AtomicU64>, Arc<AtomicU64>)) {
    let request = load::request(&address, &path, &order(0));
    while let Ok(mut connection) = Connection::open(&address).await {
        while connection.exchange(request.as_bytes()).await.is_ok() {
            taken.fetch_add(1, Ordering::Relaxed);
        }
        refused.fetch_add(1, Ordering::Relaxed);
    }
}
