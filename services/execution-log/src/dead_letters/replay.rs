//! Publishes again what was asked for.

use std::time::Duration;

use flowmate_common::{Fault, auth::Visibility};
use flowmate_storage::{Error, Filter, Query, Sort};

use super::{KeptLetter, Letters, Status};

/// Letters looked up at a time; their events are read one by one.
const AT_ONCE: u64 = 64;
/// How long to wait before looking again without being rung: another replica may have taken what was asked for, and ended.
const IDLE: Duration = Duration::from_secs(5);
/// How long to wait after a fault.
const PAUSE: Duration = Duration::from_secs(1);

/// For ever. What was published, but not noted before a crash, is published again.
pub(super) async fn run(letters: &Letters) {
    loop {
        // Listening before looking.
        let rung = letters.rung.notified();
        tokio::pin!(rung);
        rung.as_mut().enable();
        match once(letters).await {
            Ok(0) => {
                let _ = tokio::time::timeout(IDLE, rung).await;
            }
            Ok(_) => {}
            Err(reason) => {
                tracing::warn!(reason, "dead letters wait to be replayed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Publishes some; how many.
pub(super) async fn once(letters: &Letters) -> Result<usize, String> {
    let query = Query {
        sort: Some(Sort {
            field: "at",
            descending: false,
        }),
        ..Query::new(Filter::eq("status", Status::Replaying.as_str()), AT_ONCE)
    };
    let told = |error: Error| error.to_string();
    let found = letters.kept.find(&Visibility::All, &query).await.map_err(told)?;
    for letter in &found {
        replay(letters, letter).await?;
    }
    Ok(found.len())
}

async fn replay(letters: &Letters, letter: &KeptLetter) -> Result<(), String> {
    let told = |error: Error| error.to_string();
    let kept = letters.events.get(&Visibility::All, &letter.id).await;
    let event = match kept.map_err(told)? {
        Some(kept) => kept
            .parsed()
            .map_err(|error| format!("it is no event of ours ({error})")),
        None => Err("its event was not kept".into()),
    };
    let published = match event {
        Err(obstacle) => Err(obstacle),
        Ok(event) => match letters.context.bus.publish(vec![event]).await {
            Ok(()) => Ok(letters.context.clock.now()),
            Err(error) if error.is_transient() => return Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        },
    };
    match &published {
        Ok(_) => tracing::info!(letter.id = letter.id, "a dead letter was replayed"),
        Err(obstacle) => tracing::warn!(
            letter.id = letter.id,
            obstacle,
            "a dead letter cannot be replayed"
        ),
    }
    let noted = letters.change(&letter.id, |letter| match &published {
        // Another replica was first, or somebody deleted it and it came again.
        _ if letter.status != Status::Replaying => {}
        Ok(at) => {
            letter.status = Status::Replayed;
            letter.replayed_at = Some(*at);
        }
        Err(obstacle) => letter.refuse(obstacle),
    });
    noted.await.map_err(told)?;
    Ok(())
}
