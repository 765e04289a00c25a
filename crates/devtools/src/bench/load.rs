//! The load generator: keep-alive connections that send a prepared request again and again. It does next to nothing
//! itself, since it shares the machine with what it measures.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

/// What a load did.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) elapsed: Duration,
    /// Sorted.
    pub(crate) latencies: Vec<Duration>,
}

impl Outcome {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub(crate) fn rate(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }

    pub(crate) fn percentile_ms(&self, percent: usize) -> f64 {
        percentile_ms(&self.latencies, percent)
    }
}

/// Of a sorted list.
pub(crate) fn percentile_ms(sorted: &[Duration], percent: usize) -> f64 {
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted
        .get(index)
        .map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
}

/// When to end.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    /// After this time.
    Elapsed(Duration),
    /// After this many requests.
    Requests(u64),
}

/// Sends `body` to `path` over `connections` connections, each as fast as it gets answers. Anything but 200 ends it.
pub(crate) async fn run(
    address: &str,
    path: &str,
    body: &str,
    connections: usize,
    until: Until,
) -> anyhow::Result<Outcome> {
    let request: Arc<[u8]> = request(address, path, body).into_bytes().into();
    let sent = Arc::new(AtomicU64::new(0));
    let latencies = Arc::new(Mutex::new(Vec::new()));
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let (address, request, sent) = (address.to_owned(), Arc::clone(&request), Arc::clone(&sent));
        let latencies = Arc::clone(&latencies);
        tasks.spawn(async move {
            let mut connection = Connection::open(&address).await?;
            let mut own = Vec::new();
            loop {
                let goes_on = match until {
                    Until::Elapsed(limit) => began.elapsed() < limit,
                    Until::Requests(limit) => sent.fetch_add(1, Ordering::Relaxed) < limit,
                };
                if !goes_on {
                    break;
                }
                let started = Instant::now();
                connection.exchange(&request).await?;
                own.push(started.elapsed());
            }
            latencies.lock().append(&mut own);
            anyhow::Ok(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    let elapsed = began.elapsed();
    let mut latencies = std::mem::take(&mut *latencies.lock());
    latencies.sort_unstable();
    Ok(Outcome {
        requests: latencies.len() as u64,
        elapsed,
        latencies,
    })
}

pub(crate) fn request(address: &str, path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A keep-alive connection.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| address.to_owned())?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(4096),
        })
    }

    /// Sends a request and reads the answer, which has to be 200 with a content length.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            let count = self.stream.read_buf(&mut self.buffer).await?;
            ensure!(count > 0, "the connection was closed");
            let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
                continue;
            };
            let head = std::str::from_utf8(self.buffer.get(..end).unwrap_or_default())?;
            ensure!(
                head.starts_with("HTTP/1.1 200"),
                "answered {}",
                head.lines().next().unwrap_or_default()
            );
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .unwrap_or("0");
            if self.buffer.len() >= end + 4 + length.parse::<usize>()? {
                return Ok(());
            }
        }
    }
}
