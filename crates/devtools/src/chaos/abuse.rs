//! What strangers do: flows that hang, run away and fill what they can, and evaluators that die.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use flowmate_testkit::{Client, Receiver, Reply};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Between two webhooks of one flow.
const PAUSE: Duration = Duration::from_millis(250);
/// Bytes of the largest bodies.
const LARGE: usize = 4 << 20;
/// Between two looks for evaluators.
const LOOK: Duration = Duration::from_secs(3);

/// A tenant whose flows do their worst until it is stopped.
pub(crate) struct Hostile {
    sending: JoinSet<()>,
    taken: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    _receivers: [Receiver; 2],
}

impl Hostile {
    pub(crate) async fn start(client: &Client) -> anyhow::Result<Self> {
        let hangs = Receiver::responding(|_, _| Reply::json(200, "{}").held())?;
        let busy = Receiver::responding(|_, _| Reply::busy(6))?;
        let request = |url: &str| json!({"id": "worst", "componentId": "666c6f776d61746500000002", "function": "request", "fields": {"url": url, "timeoutMs": 300_000}});
        let transform = |expression: &str| json!({"id": "worst", "componentId": "666c6f776d61746500000003", "function": "jsonata", "fields": {"expression": expression}});
        let small = json!({"n": 1});
        let large = json!({"texts": vec!["x".repeat(1 << 10); LARGE >> 10]});
        let flows = [
            (request(&hangs.url), &small),
            (request(&busy.url), &small),
            (request("http://127.0.0.1:1/"), &small),
            (
                transform("$reduce([1..40], function($a, $b){ $a & $a }, \"xxxxxxxx\")"),
                &small,
            ),
            (transform("($f := function(){ $f() }; $f())"), &small),
            (transform("[texts, texts]"), &large),
        ];
        let (taken, refused) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let mut sending = JoinSet::new();
        for (node, body) in flows {
            let flow = json!({"name": "hostile", "type": "ordinary", "graph": {
                "nodes": [{"id": "in", "componentId": "666c6f776d61746500000001", "function": "receive"}, node],
                "edges": [{"source": "in", "target": "worst"}]}});
            let flow = client.active_flow(&flow).await?;
            let counts = (Arc::clone(&taken), Arc::clone(&refused));
            sending.spawn(send(
                client.clone(),
                format!("/webhooks/{flow}"),
                body.clone(),
                counts,
            ));
        }
        Ok(Self {
            sending,
            taken,
            refused,
            _receivers: [hangs, busy],
        })
    }

    /// Sends no more; what it did, for people. Its flows stay as they are.
    pub(crate) fn stop(mut self) -> String {
        self.sending.abort_all();
        let (taken, refused) = (
            self.taken.load(Ordering::Relaxed),
            self.refused.load(Ordering::Relaxed),
        );
        format!("{taken} webhooks of the hostile tenant were taken, {refused} refused")
    }
}

async fn send(client: Client, path: String, body: Value, (taken, refused): (Arc<AtomicU64>, Arc<AtomicU64>)) {
    loop {
        let answer = client.post(&path, &body).await;
        let count = if answer.is_ok_and(|answer| answer.status == 200) {
            &taken
        } else {
            &refused
        };
        count.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Kills every evaluator that it finds, until it is stopped.
pub(crate) struct Killer {
    killing: JoinSet<()>,
    killed: Arc<AtomicU64>,
}

impl Killer {
    pub(crate) fn start() -> Self {
        let (mut killing, killed) = (JoinSet::new(), Arc::<AtomicU64>::default());
        let count = Arc::clone(&killed);
        killing.spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                for evaluator in evaluators() {
                    let is_killed = kill_process(evaluator, Signal::KILL).is_ok();
                    count.fetch_add(u64::from(is_killed), Ordering::Relaxed);
                }
            }
        });
        Self { killing, killed }
    }

    /// Kills no more; how many there were, for people.
    pub(crate) fn stop(mut self) -> anyhow::Result<String> {
        self.killing.abort_all();
        let killed = self.killed.load(Ordering::Relaxed);
        anyhow::ensure!(killed > 0, "no evaluator was found");
        Ok(format!("{killed} evaluators were killed"))
    }
}

/// The evaluators of the services that this process started.
fn evaluators() -> Vec<Pid> {
    let is_evaluator = |id: &u32| {
        let command = std::fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
        command.split('\0').nth(1) == Some("evaluator")
    };
    let services = children(std::process::id());
    let evaluators = services.into_iter().flat_map(children).filter(is_evaluator);
    evaluators
        .filter_map(|id| Pid::from_raw(id.cast_signed()))
        .collect()
}

fn children(of: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{of}/task"))
        .into_iter()
        .flatten();
    let lists =
        threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("children")).ok());
    let lists: Vec<String> = lists.collect();
    lists
        .iter()
        .flat_map(|list| list.split_whitespace())
        .filter_map(|id| id.parse().ok())
        .collect()
}
