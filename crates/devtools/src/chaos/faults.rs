//! What dies, pauses, joins and leaves.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

use anyhow::Context;
use flowmate_testkit::{Load, Replica, Server};

use crate::{Arguments, backends, tell};

/// Kills services in turn and two at once, lets replicas join, leave and die, and takes broker and database away.
pub(crate) async fn deaths(arguments: &Arguments, server: &mut Server, load: &Load) -> anyhow::Result<()> {
    let has = |fault| arguments.has(fault);
    let services: &[&[&str]] = &[
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
    for victims in services.iter().filter(|_| has("services")) {
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
    Ok(())
}

/// Stops parts where they are or kills them, in random order, with nobody's help. What is paused goes on by itself; what is
/// killed is started again at once, as an orchestrator does. Returns the second replicas, so that they stay.
pub(crate) async fn pauses(
    arguments: &Arguments,
    server: &mut Server,
    load: &Load,
) -> anyhow::Result<Vec<Replica>> {
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
