//! Keeps the letters within bounds, whatever poison comes, and says how many wait.

use std::time::Duration;

use flowmate_common::auth::Visibility;
use flowmate_storage::{Error, Filter, Query, Sort};

use super::{Letters, Status};

/// How many letters are kept, how large and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Letters.
    pub(crate) letters: u64,
    /// Bytes of their events.
    pub(crate) bytes: u64,
    /// Milliseconds.
    pub(crate) age: i64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            letters: 10_000,
            bytes: 1024 * 1024 * 1024,
            age: 90 * 86_400_000,
        }
    }
}

/// Letters looked at in one go.
const PAGE: u64 = 500;
/// How long to wait before looking again where nothing came: for the age.
const IDLE: Duration = Duration::from_secs(600);
/// The least time between two looks, while poison comes.
const PAUSE: Duration = Duration::from_secs(5);

/// For ever.
pub(super) async fn run(letters: &Letters, bounds: Bounds) {
    loop {
        let rung = letters.rung.notified();
        tokio::pin!(rung);
        rung.as_mut().enable();
        match once(letters, bounds).await {
            Ok(0) => {}
            Ok(count) => tracing::warn!(count, "the oldest dead letters were removed"),
            Err(error) => tracing::warn!(%error, "old dead letters could not be removed"),
        }
        tokio::time::sleep(PAUSE).await;
        let _ = tokio::time::timeout(IDLE, rung).await;
    }
}

/// Counts what waits, and removes the oldest beyond the bounds; how many.
pub(super) async fn once(letters: &Letters, bounds: Bounds) -> Result<u64, Error> {
    let removed = trim(letters, bounds).await?;
    metrics::counter!("flowmate_dead_letters_removed_total").increment(removed);
    let waiting = Filter::eq("status", Status::Waiting.as_str());
    let waiting = letters.kept.count(&Visibility::All, &waiting).await?;
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a double")]
    metrics::gauge!("flowmate_dead_letters_waiting").set(waiting as f64);
    Ok(removed)
}

/// From the newest to the oldest: what is beyond a bound goes, and so does all that is older.
async fn trim(letters: &Letters, bounds: Bounds) -> Result<u64, Error> {
    let oldest = letters.context.clock.now().plus_millis(-bounds.age);
    let (mut kept, mut bytes, mut removed) = (0, 0, 0);
    let mut is_over = false;
    loop {
        let query = Query {
            sort: Some(Sort {
                field: "at",
                descending: true,
            }),
            skip: kept,
            ..Query::new(Filter::All, PAGE)
        };
        let page = letters.kept.find(&Visibility::All, &query).await?;
        if page.is_empty() {
            return Ok(removed);
        }
        for letter in page {
            bytes += letter.bytes;
            is_over |= kept >= bounds.letters || bytes > bounds.bytes || letter.at < oldest;
            if is_over {
                removed += u64::from(letters.remove(&letter.id).await?);
            } else {
                kept += 1;
            }
        }
    }
}
