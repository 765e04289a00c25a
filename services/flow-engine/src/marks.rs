//! What is at work, in a file that outlives the process but not the machine: whoever starts after an unclean end learns what
//! was in hand, runs that first and alone, and fails what ends the process once more. Written without a sync: the system
//! keeps what a process wrote that died, and a machine that died has killed no process.
//!
//! ```text
//! one slot of 64 bytes for each place: u8 state (0 free, 1 at work, 2 computes alone) | u8 tries | u8 length | id
//! ```

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use flowmate_common::ids::ExecutionId;
use parking_lot::Mutex;

const SLOT: usize = 64;
const AT_WORK: u8 = 1;
const ALONE: u8 = 2;
/// Engines that may share a directory.
const ENGINES: u32 = 64;
/// An execution whose process ended that often while it ran alone is not run again.
const TRIES: u8 = 1;

/// An execution that was at work when the process before this one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Suspect {
    /// Unclean ends so far, with this one.
    pub(crate) tries: u8,
    /// It computed alone: nothing else of ours can have ended the process.
    pub(crate) was_alone: bool,
    slot: usize,
}

impl Suspect {
    /// Whether it is known to end the process: it did so among others, and then alone.
    pub(crate) fn is_convicted(self) -> bool {
        self.was_alone && self.tries > TRIES
    }
}

/// The file.
pub(crate) struct Marks {
    file: File,
    free: Mutex<Vec<usize>>,
}

/// An execution at work; its mark goes when this is dropped.
pub(crate) struct Mark {
    marks: Arc<Marks>,
    slot: Option<usize>,
}

impl Marks {
    /// Opens the marks in `directory` that no other engine has, for `places` executions at a time, and reads who was at
    /// work.
    pub(crate) fn open(
        directory: &Path,
        places: usize,
    ) -> io::Result<(Arc<Self>, HashMap<ExecutionId, Suspect>)> {
        std::fs::create_dir_all(directory)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let open = |number: u32| {
            let file = options
                .open(directory.join(format!("engine-{number}.marks")))
                .ok()?;
            file.try_lock().is_ok().then_some(file)
        };
        let taken = || io::Error::other("all marks are in use by other engines");
        let file = (0..ENGINES).find_map(open).ok_or_else(taken)?;
        let length = usize::try_from(file.metadata()?.len()).unwrap_or_default();
        let mut content = vec![0; length];
        file.read_exact_at(&mut content, 0)?;
        let mut suspects = HashMap::new();
        let mut free = Vec::new();
        for slot in 0..places.max(length / SLOT) {
            let bytes = content.get(slot * SLOT..(slot + 1) * SLOT).unwrap_or_default();
            match read(bytes, slot) {
                Some((id, suspect)) => drop(suspects.insert(id, suspect)),
                None => free.push(slot),
            }
        }
        let marks = Self {
            file,
            free: Mutex::new(free),
        };
        Ok((Arc::new(marks), suspects))
    }

    /// Marks an execution as being at work. Without a mark where there is no free slot: it is only not told of then.
    pub(crate) fn mark(self: &Arc<Self>, id: &ExecutionId) -> Mark {
        let slot = self.free.lock().pop();
        if let Some(slot) = slot {
            self.write(slot, AT_WORK, 0, id);
        }
        Mark {
            marks: Arc::clone(self),
            slot,
        }
    }

    /// Marks a suspect as being at work alone.
    pub(crate) fn mark_alone(self: &Arc<Self>, id: &ExecutionId, suspect: Suspect) -> Mark {
        self.write(suspect.slot, ALONE, suspect.tries, id);
        Mark {
            marks: Arc::clone(self),
            slot: Some(suspect.slot),
        }
    }

    /// The suspect is not here any more.
    pub(crate) fn acquit(&self, suspect: Suspect) {
        self.clear(suspect.slot);
    }

    fn write(&self, slot: usize, state: u8, tries: u8, id: &ExecutionId) {
        let id = id.as_str().as_bytes();
        let mut bytes = Vec::with_capacity(SLOT);
        bytes.extend([
            state,
            tries,
            u8::try_from(id.len().min(SLOT - 3)).unwrap_or_default(),
        ]);
        bytes.extend(id.iter().take(SLOT - 3));
        bytes.resize(SLOT, 0);
        self.put(&bytes, slot);
    }

    fn clear(&self, slot: usize) {
        self.put(&[0], slot);
        self.free.lock().push(slot);
    }

    fn put(&self, bytes: &[u8], slot: usize) {
        if let Err(error) = self.file.write_at(bytes, (slot * SLOT) as u64) {
            tracing::debug!(%error, "a mark cannot be written");
        }
    }
}

impl Mark {
    /// Whether it computes alone, or waits or is at work among others.
    pub(crate) fn is_alone(&self, is_alone: bool) {
        if let Some(slot) = self.slot {
            self.marks.put(&[if is_alone { ALONE } else { AT_WORK }], slot);
        }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.marks.clear(slot);
        }
    }
}

fn read(bytes: &[u8], slot: usize) -> Option<(ExecutionId, Suspect)> {
    let [state @ (AT_WORK | ALONE), tries, length, rest @ ..] = bytes else {
        return None;
    };
    let id = std::str::from_utf8(rest.get(..usize::from(*length))?).ok()?;
    let suspect = Suspect {
        tries: tries.saturating_add(1),
        was_alone: *state == ALONE,
        slot,
    };
    Some((ExecutionId::from(id), suspect))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a process that ends here leaves behind.
    fn after_the_end(marks: Arc<Marks>, directory: &Path) -> (Arc<Marks>, HashMap<ExecutionId, Suspect>) {
        // The process took its lock with it.
        marks.file.unlock().unwrap();
        Marks::open(directory, 4).unwrap()
    }

    #[test]
    fn who_was_at_work_is_told_after_an_unclean_end_and_who_ended_it_alone_is_convicted() {
        let directory = tempfile::tempdir().unwrap();
        let (marks, suspects) = Marks::open(directory.path(), 4).unwrap();
        assert!(suspects.is_empty());
        let (a, b, c) = (
            ExecutionId::from("a"),
            ExecutionId::from("b"),
            ExecutionId::from("c"),
        );
        drop(marks.mark(&c));
        for id in [&a, &b] {
            std::mem::forget(marks.mark(id));
        }
        let (marks, suspects) = after_the_end(marks, directory.path());
        assert_eq!(suspects.len(), 2, "who had ended is not told of");
        assert!(suspects.values().all(|one| one.tries == 1 && !one.is_convicted()));
        drop(marks.mark_alone(&b, suspects[&b]));
        std::mem::forget(marks.mark_alone(&a, suspects[&a]));
        let (marks, suspects) = after_the_end(marks, directory.path());
        assert_eq!(suspects.len(), 1);
        assert!(suspects[&a].is_convicted());
        marks.acquit(suspects[&a]);
        assert!(after_the_end(marks, directory.path()).1.is_empty());
    }

    #[test]
    fn who_ends_the_process_among_others_again_is_not_convicted() {
        let directory = tempfile::tempdir().unwrap();
        let (marks, _) = Marks::open(directory.path(), 4).unwrap();
        let a = ExecutionId::from("a");
        std::mem::forget(marks.mark(&a));
        let (marks, suspects) = after_the_end(marks, directory.path());
        let mark = marks.mark_alone(&a, suspects[&a]);
        mark.is_alone(false);
        std::mem::forget(mark);
        let (_, suspects) = after_the_end(marks, directory.path());
        assert_eq!((suspects[&a].tries, suspects[&a].is_convicted()), (2, false));
    }

    #[test]
    fn more_than_there_are_places_for_run_unmarked_and_a_second_engine_has_marks_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let (marks, _) = Marks::open(directory.path(), 1).unwrap();
        let first = marks.mark(&ExecutionId::from("a"));
        let second = marks.mark(&ExecutionId::from("b"));
        assert!(first.slot.is_some() && second.slot.is_none());
        let (_other, suspects) = Marks::open(directory.path(), 1).unwrap();
        assert!(suspects.is_empty(), "those of the first are its own");
    }
}
