//! For tests, the demo and the benchmark: FlowMate as a real process, a client for its API, and a receiver that stands
//! for another system.

mod broker;
mod client;
mod load;
mod receiver;
mod server;

use std::time::Duration;

pub use broker::{Broker, Duplicator};
pub use client::{Answer, Client};
pub use load::{Load, Verdict, never_after_its_end};
pub use receiver::{Received, Receiver, Reply};
pub use server::{Replica, Server, Shape};

/// How long something that has to happen may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `probe` again and again until it has an answer.
///
/// # Errors
/// Where it has none after [`PATIENCE`].
pub async fn eventually<T, F>(what: &str, mut probe: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<Option<T>>>,
{
    let asking = async {
        loop {
            if let Some(answer) = probe().await? {
                return Ok(answer);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking)
        .await
        .map_err(|_| anyhow::anyhow!("gave up waiting for {what}"))?
}
