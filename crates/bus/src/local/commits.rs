//! Where each consumer group is, in memory and in `commits.json`.

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use flowmate_common::Topic;
use flowmate_retry::Backoff;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Shared, segments::replace_file, tail::Tail};
use crate::{Commit, Error};

const FILE: &str = "commits.json";
const FORM: u32 = 1;

/// One consumer group on one topic.
pub(super) struct Consumer(Mutex<Progress>);

#[derive(Clone, Copy)]
struct Progress {
    /// Everything before is done.
    committed: u64,
    /// Behind the last event that was handed out.
    delivered: u64,
    /// Between what was handed out and here there is nothing for the group.
    passed: u64,
}

impl Progress {
    /// What was handed out is done, so what was passed without an event is done as well.
    fn settle(&mut self) {
        if self.committed >= self.delivered {
            self.committed = self.committed.max(self.passed);
        }
    }
}

impl Consumer {
    pub(super) fn new(next: u64) -> Self {
        Self(Mutex::new(Progress {
            committed: next,
            delivered: next,
            passed: next,
        }))
    }

    pub(super) fn committed(&self) -> u64 {
        self.0.lock().committed
    }

    /// Goes back to the commit, for a new member of the group.
    pub(super) fn rewind(&self) -> u64 {
        let mut progress = self.0.lock();
        progress.delivered = progress.committed;
        progress.passed = progress.committed;
        progress.committed
    }

    pub(super) fn delivered(&self, next: u64) {
        let mut progress = self.0.lock();
        progress.delivered = progress.delivered.max(next);
    }

    /// Everything before `cursor` was handed out, or is nothing for the group. Work that is in hand now holds the commit
    /// until it is done, and no longer.
    pub(super) fn scanned(&self, cursor: u64) {
        let mut progress = self.0.lock();
        progress.passed = progress.passed.max(cursor);
        progress.settle();
    }

    /// Moves a group with nothing to do and nothing in hand up to `end`; returns its commit.
    pub(super) fn advance_if_idle(&self, tail: &Tail, end: u64) -> u64 {
        let mut progress = self.0.lock();
        if progress.committed >= progress.delivered && tail.is_quiet_since(progress.committed) {
            progress.passed = progress.passed.max(end);
            progress.settle();
        }
        progress.committed
    }

    /// Everything that was handed out is done: for who watches, which commits nothing.
    pub(super) fn watched(&self) {
        let mut progress = self.0.lock();
        progress.committed = progress.committed.max(progress.delivered);
        progress.settle();
    }
}

impl Commit for Consumer {
    fn commit(&self, _partition: u32, next: u64) {
        let mut progress = self.0.lock();
        progress.committed = progress.committed.max(next);
        progress.settle();
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    /// Everything before this position was synced; older versions did not say.
    #[serde(default)]
    synced: u64,
    commits: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    topic: String,
    group: String,
    next: u64,
}

/// Where the groups are, and how far the log was synced at least.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Commits {
    pub(super) synced: u64,
    pub(super) groups: BTreeMap<(Topic, String), u64>,
}

impl Commits {
    /// What `commits.json` says; `None` where there is no such file.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, Error> {
        let path = directory.join(FILE);
        let named =
            |error: &dyn std::fmt::Display| Error::Unavailable(format!("{}: {error}", path.display()));
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(named(&error)),
        };
        let file: File = serde_json::from_str(&text).map_err(|error| named(&error))?;
        if file.version != FORM {
            return Err(named(&format_args!(
                "it has form {}, this version knows {FORM}",
                file.version
            )));
        }
        // A group commits what was synced.
        let synced = file
            .commits
            .iter()
            .map(|entry| entry.next)
            .fold(file.synced, u64::max);
        let commits = file.commits.into_iter();
        let groups = commits
            .filter_map(|entry| Some(((Topic::parse(&entry.topic)?, entry.group), entry.next)))
            .collect();
        Ok(Some(Self { synced, groups }))
    }

    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        let entry = |((topic, group), next): (&(Topic, String), &u64)| Entry {
            topic: topic.name().to_owned(),
            group: group.clone(),
            next: *next,
        };
        let content = serde_json::to_vec_pretty(&File {
            version: FORM,
            synced: self.synced,
            commits: self.groups.iter().map(entry).collect(),
        })?;
        replace_file(directory, FILE, &content)
    }

    /// Brings every group into the log, which reaches from `first` to `end`. Who is before it was restored from an older
    /// copy, and goes on with what is there; who is behind it had that agreed to.
    pub(super) fn bring_into(&mut self, first: u64, end: u64) {
        for ((topic, group), next) in &mut self.groups {
            if *next < first {
                tracing::warn!(
                    group,
                    topic = topic.name(),
                    position = *next,
                    first,
                    "commits.json names a position before the beginning of the log: it is older than the log, and the \
                     group goes on at the beginning, where events come again that were done"
                );
            }
            *next = (*next).min(end).max(first);
        }
        self.synced = self.synced.min(end);
    }
}

/// The flusher: writes commits down where they changed, and removes what every group has passed. The segment goes
/// after the commits are on disk, never before.
pub(super) fn keep(shared: &Arc<Shared>) {
    let mut written = Commits::default();
    let mut backoff = Backoff::new("writing commits.json");
    let mut pause = shared.options.flush_every;
    loop {
        let closing = {
            let mut closing = shared.closing.lock();
            if !*closing {
                shared.closed.wait_for(&mut closing, pause);
            }
            *closing
        };
        shared.measure();
        pause = shared.options.flush_every;
        match flush(shared, &mut written) {
            Ok(()) => backoff.passed(),
            Err(error) => pause = pause.max(backoff.failed(&error)),
        }
        if closing {
            return;
        }
    }
}

fn flush(shared: &Shared, written: &mut Commits) -> io::Result<()> {
    let consumers: Vec<_> = shared
        .consumers
        .lock()
        .iter()
        .map(|(key, one)| (key.clone(), Arc::clone(one)))
        .collect();
    let groups = consumers
        .into_iter()
        .map(|(key, consumer)| {
            let next = shared.effective_commit(key.0, &consumer);
            (key, next)
        })
        .collect();
    let synced = shared.end.load(Ordering::Acquire);
    let present = Commits { synced, groups };
    if present != *written {
        present.write(&shared.directory)?;
        *written = present;
    }
    // What is on disk counts, not what was committed since; and a group that joined meanwhile counts, too.
    let consumers = shared.consumers.lock();
    let kept = |(key, consumer): (&(Topic, String), &Arc<Consumer>)| {
        let written = written.groups.get(key).copied();
        written.unwrap_or_else(|| consumer.committed())
    };
    let lowest = consumers.iter().map(kept).min().unwrap_or(0);
    shared.segments.drop_before(lowest.min(shared.watched()))
}
