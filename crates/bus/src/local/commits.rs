//! Where each consumer group is, in memory and in `commits.json`.

use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use flowmate_common::Topic;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Shared, segments::replace_file, tail::Tail, unavailable};
use crate::{Commit, Error};

const FILE: &str = "commits.json";
const FORM: u32 = 1;

/// One consumer group on one topic.
pub(super) struct Consumer(Mutex<Progress>);

#[derive(Clone, Copy)]
struct Progress {
    /// Everything before is done.
    committed: u64,
    /// Everything before was handed out.
    delivered: u64,
}

impl Consumer {
    pub(super) fn new(next: u64) -> Self {
        Self(Mutex::new(Progress {
            committed: next,
            delivered: next,
        }))
    }

    pub(super) fn committed(&self) -> u64 {
        self.0.lock().committed
    }

    /// Goes back to the commit, for a new member of the group.
    pub(super) fn rewind(&self) -> u64 {
        let mut progress = self.0.lock();
        progress.delivered = progress.committed;
        progress.committed
    }

    pub(super) fn delivered(&self, next: u64) {
        let mut progress = self.0.lock();
        progress.delivered = progress.delivered.max(next);
    }

    /// There was nothing to hand out before `cursor`.
    pub(super) fn scanned(&self, cursor: u64) {
        let mut progress = self.0.lock();
        if progress.committed >= progress.delivered {
            progress.committed = progress.committed.max(cursor);
        }
        progress.delivered = progress.delivered.max(cursor);
    }

    /// Moves a group with nothing to do and nothing in hand up to `end`; returns its commit.
    pub(super) fn advance_if_idle(&self, tail: &Tail, end: u64) -> u64 {
        let mut progress = self.0.lock();
        if progress.committed >= progress.delivered && tail.is_quiet_since(progress.committed) {
            progress.committed = progress.committed.max(end);
            progress.delivered = progress.delivered.max(end);
        }
        progress.committed
    }
}

impl Commit for Consumer {
    fn commit(&self, _partition: u32, next: u64) {
        let mut progress = self.0.lock();
        progress.committed = progress.committed.max(next);
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    commits: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    topic: String,
    group: String,
    next: u64,
}

/// What `commits.json` says; nothing where there is no such file.
pub(super) fn read(directory: &Path) -> Result<BTreeMap<(Topic, String), u64>, Error> {
    let text = match std::fs::read_to_string(directory.join(FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(unavailable(error)),
    };
    let file: File = serde_json::from_str(&text)
        .map_err(|error| Error::Unavailable(format!("{}: {error}", directory.join(FILE).display())))?;
    if file.version != FORM {
        return Err(Error::Unavailable(format!(
            "{FILE} has form {}, this version knows {FORM}",
            file.version
        )));
    }
    let commits = file.commits.into_iter();
    Ok(commits
        .filter_map(|entry| Some(((Topic::parse(&entry.topic)?, entry.group), entry.next)))
        .collect())
}

/// The flusher: writes commits down where they changed, and removes what every group has passed. The segment goes
/// after the commits are on disk, never before.
pub(super) fn keep(shared: &Arc<Shared>) {
    let mut written = BTreeMap::new();
    loop {
        let closing = {
            let mut closing = shared.closing.lock();
            if !*closing {
                shared.closed.wait_for(&mut closing, shared.options.flush_every);
            }
            *closing
        };
        if let Err(error) = flush(shared, &mut written) {
            tracing::warn!(%error, "commits of the event log could not be written");
        }
        if closing {
            return;
        }
    }
}

fn flush(shared: &Shared, written: &mut BTreeMap<(Topic, String), u64>) -> io::Result<()> {
    let consumers: Vec<_> = shared
        .consumers
        .lock()
        .iter()
        .map(|(key, one)| (key.clone(), Arc::clone(one)))
        .collect();
    let present: BTreeMap<_, _> = consumers
        .into_iter()
        .map(|(key, consumer)| {
            let next = shared.effective_commit(key.0, &consumer);
            (key, next)
        })
        .collect();
    if present == *written {
        return Ok(());
    }
    let commits = present
        .iter()
        .map(|((topic, group), next)| Entry {
            topic: topic.name().to_owned(),
            group: group.clone(),
            next: *next,
        })
        .collect();
    let content = serde_json::to_vec_pretty(&File {
        version: FORM,
        commits,
    })?;
    replace_file(&shared.directory, FILE, &content)?;
    // What is on disk counts, not what was committed since; and a group that joined meanwhile counts, too.
    let consumers = shared.consumers.lock();
    let kept = |(key, consumer): (&(Topic, String), &Arc<Consumer>)| {
        let written = present.get(key).copied();
        written.unwrap_or_else(|| consumer.committed())
    };
    let lowest = consumers.iter().map(kept).min().unwrap_or(0);
    shared.segments.drop_before(lowest)?;
    drop(consumers);
    *written = present;
    Ok(())
}
