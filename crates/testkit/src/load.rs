//! Webhooks without a pause, and what has to be true of them afterwards, whatever happened meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::{Client, Receiver, eventually};

/// Webhooks on their way.
pub struct Load {
    task: JoinHandle<Sent>,
    stop: Arc<AtomicBool>,
}

/// What was sent.
#[derive(Default)]
struct Sent {
    acknowledged: BTreeSet<u64>,
    refused: u64,
}

/// What became of it.
#[derive(Debug)]
pub struct Verdict {
    /// Answered with 200.
    pub acknowledged: u64,
    /// Answered with anything else, or not at all: the sender knows that it has to send them again.
    pub refused: u64,
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
        let task = tokio::spawn(async move {
            let mut sending = tokio::task::JoinSet::new();
            for sender in 0..senders {
                let (client, path, ends) = (client.clone(), path.clone(), Arc::clone(&ends));
                sending.spawn(async move {
                    let (mut sent, mut number) = (Sent::default(), sender);
                    while !ends.load(Ordering::Acquire) {
                        match client.post(&path, &json!({ "n": number })).await {
                            Ok(answer) if answer.status == 200 => drop(sent.acknowledged.insert(number)),
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
            }
            all
        });
        Self { task, stop }
    }

    /// Stops sending and waits until everything that was acknowledged is where it belongs: at the receiver, in the log
    /// and in the counts of `client`'s user, of whom this is the only flow.
    pub async fn settle(self, client: &Client, receiver: &Receiver) -> anyhow::Result<Verdict> {
        self.stop.store(true, Ordering::Release);
        let Sent {
            acknowledged,
            refused,
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
        eventually("everything acknowledged to arrive", async || {
            let arrived = arrived();
            let missing = acknowledged
                .iter()
                .filter(|number| !arrived.contains_key(number))
                .count();
            Ok((missing == 0).then_some(()))
        })
        .await?;
        let total = async |filter: &str| -> anyhow::Result<u64> {
            let list = client
                .get(&format!("/executions?page[size]=1{filter}"))
                .await?
                .expect(200)?;
            list.at("/meta/total").as_u64().context("no total")
        };
        let arrived = arrived();
        let expected = arrived.len() as u64;
        eventually("every execution to be logged as successful", async || {
            Ok((total("&filter[status]=success").await? >= expected).then_some(()))
        })
        .await?;
        let executions = total("").await?;
        ensure!(
            executions == expected,
            "{executions} executions for {expected} webhooks"
        );
        let counted = eventually("the counts to be exact", async || {
            let usage = client
                .get("/icenter/executions?groupby=flow")
                .await?
                .expect(200)?;
            let counted = usage.at("/data/0/executions").as_u64().unwrap_or_default();
            Ok((counted >= 2 * executions).then_some(counted))
        })
        .await?;
        ensure!(
            counted == 2 * executions,
            "{counted} step runs counted, {} ran",
            2 * executions
        );
        let mut repeated = 0;
        for (number, keys) in &arrived {
            repeated += keys.len() as u64 - 1;
            let same = keys.iter().all(|key| Some(key) == keys.first());
            ensure!(same, "{number} came with different idempotency keys: {keys:?}");
        }
        Ok(Verdict {
            acknowledged: acknowledged.len() as u64,
            refused,
            repeated,
            executions,
        })
    }
}
