//! The next segment, made before it is needed.
//!
//! A file that grows tells the file system so at each sync, and the sync then waits for all that the file system's journal
//! holds, of other files too: pages of the database, blocks of removed segments. A sync of blocks that were written before
//! writes data only.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

use flowmate_common::Priority;

const FILE: &str = "next";
/// Bytes written between two syncs: what is appended meanwhile waits for no more than that.
const STEP: u64 = 1 << 20;

/// Makes files of zeros.
pub(super) struct Ahead {
    path: PathBuf,
    bytes: u64,
    making: Option<JoinHandle<io::Result<()>>>,
}

impl Ahead {
    /// Makes files of so many bytes in this directory.
    pub(super) fn new(directory: &Path, bytes: u64) -> Self {
        let path = directory.join(FILE);
        // From before the last start; whether it was made whole is unknown.
        let _ = fs::remove_file(&path);
        Self {
            path,
            bytes,
            making: None,
        }
    }

    /// Begins to make the next file; does nothing while there is one.
    pub(super) fn make(&mut self) {
        if self.making.is_some() {
            return;
        }
        let (path, bytes) = (self.path.clone(), self.bytes);
        let thread = thread::Builder::new().name("log-ahead".into());
        let made = thread.spawn(move || {
            Priority::Background.take();
            fill(&path, bytes)
        });
        self.making = made.ok();
    }

    /// Gives the next file this name, if it is there by now. Without it, a segment grows.
    pub(super) fn take(&mut self, name: &Path) {
        let Some(making) = self.making.take_if(|making| making.is_finished()) else {
            return;
        };
        let made = making
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("it panicked")));
        if let Err(error) = made.and_then(|()| fs::rename(&self.path, name)) {
            tracing::debug!(%error, "the next segment could not be made ahead");
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        if let Some(making) = self.making.take() {
            let _ = making.join();
        }
    }
}

fn fill(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    let zeros = vec![0; usize::try_from(STEP.min(bytes)).unwrap_or_default()];
    let mut left = bytes;
    while left > 0 {
        let step = usize::try_from(left).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all(zeros.get(..step).unwrap_or_default())?;
        file.sync_data()?;
        left -= step as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_ready_gets_its_name_and_one_that_is_not_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("1.log"), directory.path().join("2.log"));
        let mut ahead = Ahead::new(directory.path(), STEP + 7);
        ahead.take(&first);
        assert!(!first.exists());
        ahead.make();
        while !ahead.making.as_ref().unwrap().is_finished() {
            thread::yield_now();
        }
        ahead.take(&first);
        assert_eq!(fs::metadata(&first).unwrap().len(), STEP + 7);
        ahead.take(&second);
        assert!(!second.exists());
    }

    #[test]
    fn a_file_that_cannot_be_made_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().join("1.log");
        let mut ahead = Ahead::new(&directory.path().join("no such"), 1);
        ahead.make();
        while !ahead.making.as_ref().unwrap().is_finished() {
            thread::yield_now();
        }
        ahead.take(&name);
        assert!(!name.exists());
    }
}
