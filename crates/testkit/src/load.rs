//! Webhooks without a pause, and what has to be true of them afterwards, whatever happened meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use flowmate_common::Timestamp;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::{Answer, Client, Receiver, eventually};

/// How long what is left may take to settle, and how often to look: what is behind has to catch up first.
const SETTLING: Duration = Duration::from_secs(240);
const LOOK: Duration = Duration::from_millis(250);
const TRIES: u32 = 8;

/// Webhooks on their way.
pub struct Load {
    task: JoinHandle<Sent>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
}

/// What was sent.
#[derive(Default)]
struct Sent {
    acknowledged: BTreeSet<u64>,
    refused: u64,
    told_when: u64,
}

/// What became of it.
#[derive(Debug)]
pub struct Verdict {
    /// Answered with 200.
    pub acknowledged: u64,
    /// Answered with anything else, or not at all: the sender knows that it has to send them again.
    pub refused: u64,
    /// Those of the refused that were answered with 503 and `Retry-After`.
    pub told_when: u64,
    /// Requests that the receiver got more than once, always with the same idempotency key.
    pub repeated: u64,
    /// Executions in the log, all of them successful.
    pub executions: u64,
}

impl Load {
    /// Sends `{"n": 0}`, `{"n": 1}`, … to the flow, one after the other from each of `senders`, until it is stopped.
    pub fn start(client: &Client, flow: &str, senders: u64, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (client, path, ends) = (client.clone(), format!("/webhooks/{flow}"), Arc::clone(&stop));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&acknowledged);
        let task = tokio::spawn(async move {
            let mut sending = tokio::task::JoinSet::new();
            for sender in 0..senders {
                let (client, path, ends) = (client.clone(), path.clone(), Arc::clone(&ends));
                let count = Arc::clone(&count);
                sending.spawn(async move {
                    let (mut sent, mut number) = (Sent::default(), sender);
                    while !ends.load(Ordering::Acquire) {
                        match client.post(&path, &json!({ "n": number })).await {
                            Ok(answer) if answer.status == 200 => {
                                sent.acknowledged.insert(number);
                                count.fetch_add(1, Ordering::Relaxed);
                            }
                            Ok(answer) if answer.status == 503 && answer.retry_after.is_some() => {
                                sent.told_when += 1;
                                sent.refused += 1;
                            }
                            _ => sent.refused += 1,
                        }
                        number += senders;
                        tokio::time::sleep(pause).await;
                    }
                    sent
                });
            }
            let mut all = Sent::default();
            for one in sending.join_all().await {
                all.acknowledged.extend(one.acknowledged);
                all.refused += one.refused;
                all.told_when += one.told_when;
            }
            all
        });
        Self {
            task,
            stop,
            acknowledged,
        }
    }

    /// Returns when that many more were acknowledged.
    pub async fn pass(&self, count: u64) -> anyhow::Result<()> {
        let enough = self.acknowledged.load(Ordering::Relaxed) + count;
        eventually("webhooks to be acknowledged", async || {
            Ok((self.acknowledged.load(Ordering::Relaxed) >= enough).then_some(()))
        })
        .await
    }

    /// Stops sending and waits until everything that was acknowledged is where it belongs: at the receiver, in the log
    /// and in the counts of `client`'s user, of whom this is the only flow.
    pub async fn settle(self, client: &Client, receiver: &Receiver) -> anyhow::Result<Verdict> {
        self.stop.store(true, Ordering::Release);
        let Sent {
            acknowledged,
            refused,
            told_when,
        } = self.task.await?;
        let arrived = || {
            let mut by_number: BTreeMap<u64, Vec<String>> = BTreeMap::new();
            for request in receiver.received() {
                if let Some(number) = request.body.get("n").and_then(serde_json::Value::as_u64) {
                    by_number.entry(number).or_default().push(request.key);
                }
            }
            by_number
        };
        settled("acknowledged webhooks to arrive", async || {
            let arrived = arrived();
            let there = acknowledged.iter().filter(|number| arrived.contains_key(number));
            Ok((there.count(), acknowledged.len()))
        })
        .await?;
        let total = async |filter: &str| -> anyhow::Result<usize> {
            let path = format!("/executions?page[size]=1{filter}");
            let list = answered(client, &path).await?;
            let total = list.at("/meta/total").as_u64().context("no total")?;
            Ok(usize::try_from(total)?)
        };
        settled("executions to be logged as successful", async || {
            Ok((total("&filter[status]=success").await?, arrived().len()))
        })
        .await?;
        let arrived = arrived();
        let executions = total("").await?;
        ensure!(
            executions == arrived.len(),
            "{executions} executions for {} webhooks",
            arrived.len()
        );
        settled("step runs to be counted, exactly", async || {
            let usage = client
                .get("/icenter/executions?groupby=flow")
                .await?
                .expect(200)?;
            let counted = usage.at("/data/0/executions").as_u64().unwrap_or_default();
            Ok((usize::try_from(counted)?, 2 * executions))
        })
        .await?;
        never_after_its_end(client, receiver).await?;
        let mut repeated = 0;
        for (number, keys) in &arrived {
            repeated += keys.len() as u64 - 1;
            let same = keys.iter().all(|key| Some(key) == keys.first());
            ensure!(same, "{number} came with different idempotency keys: {keys:?}");
        }
        Ok(Verdict {
            acknowledged: acknowledged.len() as u64,
            refused,
            told_when,
            repeated,
            executions: executions as u64,
        })
    }
}

/// Returns when `probe` has as many as it wants; an error where it ever has more, or not enough in time.
async fn settled(
    what: &str,
    mut probe: impl AsyncFnMut() -> anyhow::Result<(usize, usize)>,
) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + SETTLING;
    loop {
        let result = probe().await;
        match &result {
            Ok((there, wanted)) if there == wanted => return Ok(()),
            Ok((there, wanted)) => ensure!(there < wanted, "{there} {what} instead of {wanted}"),
            // Services that were killed, or whose database was, may still be on their way back.
            Err(_) => {}
        }
        if tokio::time::Instant::now() > deadline {
            let (there, wanted) = result?;
            anyhow::bail!("gave up waiting for {what}: {there} of {wanted}");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The answer, also where services or their database are so busy with what is behind that they refuse once or twice.
async fn answered(client: &Client, path: &str) -> anyhow::Result<Answer> {
    let mut tries = 0;
    loop {
        tries += 1;
        let answer = client.get(path).await?;
        if answer.status == 200 || tries == TRIES {
            return answer.expect(200);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Executions of one page.
const PAGE: usize = 1_000;

/// Looks whether nothing of an execution that was recorded as finished was done after that: `client` sees the executions,
/// `receiver` got all that they did.
///
/// # Errors
/// Where something was, or an execution is not logged.
pub async fn never_after_its_end(client: &Client, receiver: &Receiver) -> anyhow::Result<()> {
    let mut finished = BTreeMap::new();
    for page in 1.. {
        let path = format!("/executions?page[size]={PAGE}&page[number]={page}");
        let list = answered(client, &path).await?;
        let rows = list.at("/data").as_array().context("no list")?;
        for row in rows {
            let text = |key: &str| {
                row.get(key)
                    .and_then(serde_json::Value::as_str)
                    .unwrap_or_default()
            };
            let at: Timestamp = text("finishedAt")
                .parse()
                .map_err(|_| anyhow::anyhow!("no time: {row}"))?;
            finished.insert(text("id").to_owned(), at);
        }
        if rows.len() < PAGE {
            break;
        }
    }
    for request in receiver.received() {
        // `execution-run`
        let execution = request.key.split('-').next().unwrap_or_default();
        let end = finished
            .get(execution)
            .with_context(|| format!("{execution} is not logged"))?;
        ensure!(
            request.at <= *end,
            "{execution} was recorded as finished at {end} and did something at {}",
            request.at
        );
    }
    Ok(())
}
