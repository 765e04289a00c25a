//! Free space of the disk that the log is on.

use std::{fmt, io, path::Path, sync::Arc};

use parking_lot::RwLock;

use crate::Error;

/// The automatic reserve is a twentieth of the disk, and not more than this.
const RESERVE: u64 = 1 << 30;

/// How a disk is.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// Bytes that this process may still write.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Asks how the disk of a directory is.
type Ask = dyn Fn(&Path) -> io::Result<Space> + Send + Sync;

/// Who is asked how the disk is: the system, or a test.
#[derive(Clone)]
pub struct Disk(Arc<Ask>);

impl Disk {
    /// Another way to know.
    pub fn new(ask: impl Fn(&Path) -> io::Result<Space> + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }
}

impl Default for Disk {
    fn default() -> Self {
        Self::new(|directory| {
            let found = rustix::fs::statvfs(directory)?;
            Ok(Space {
                free: found.f_bavail.saturating_mul(found.f_frsize),
                total: found.f_blocks.saturating_mul(found.f_frsize),
            })
        })
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

/// Whether there is room for new work.
#[derive(Default)]
pub(super) struct Room(RwLock<Option<String>>);

impl Room {
    /// Looks at the disk; `reserve` bytes stay free for what runs, 0 for an automatic reserve.
    pub(super) fn measure(&self, disk: &Disk, directory: &Path, reserve: u64) {
        // A disk that does not tell is as it was; writing will tell.
        let Ok(Space { free, total }) = (disk.0)(directory) else {
            return;
        };
        let reserve = if reserve == 0 {
            (total / 20).min(RESERVE)
        } else {
            reserve
        };
        let was_short = self.0.read().is_some();
        if free >= reserve {
            if was_short {
                tracing::info!(free, reserve, "the disk has room again: new executions are taken");
                *self.0.write() = None;
            }
            return;
        }
        if !was_short {
            tracing::warn!(
                free,
                reserve,
                "the disk is nearly full: new executions are refused"
            );
        }
        *self.0.write() = Some(format!(
            "the disk of {} is nearly full: {free} bytes are free, {reserve} are kept for running work \
             (data.reserve_bytes)",
            directory.display()
        ));
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        match &*self.0.read() {
            Some(reason) => Err(Error::Unavailable(reason.clone())),
            None => Ok(()),
        }
    }
}
