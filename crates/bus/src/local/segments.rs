//! The files of the log.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use flowmate_common::{Event, Topic};
use parking_lot::RwLock;

use super::{
    record::{Decoded, HEADER, decode},
    unavailable,
};
use crate::{Delivery, Error};

/// Bytes read at once.
const CHUNK: usize = 1 << 20;

/// The positions at which the files begin, oldest first; never empty.
pub(super) struct Segments {
    directory: PathBuf,
    bases: RwLock<Vec<u64>>,
}

impl Segments {
    /// Finds the files and cuts off what a crash left half-written; returns the end of the log.
    pub(super) fn open(directory: &Path) -> Result<(Self, u64), Error> {
        let mut bases = Vec::new();
        for entry in fs::read_dir(directory).map_err(unavailable)? {
            let name = entry.map_err(unavailable)?.file_name();
            let base = name
                .to_str()
                .and_then(|name| name.strip_suffix(".log"))
                .map(str::parse::<u64>);
            if let Some(Ok(base)) = base {
                bases.push(base);
            }
        }
        bases.sort_unstable();
        let segments = Self {
            directory: directory.to_owned(),
            bases: RwLock::new(bases),
        };
        let Some(last) = segments.bases.read().last().copied() else {
            segments.begin(0).map_err(unavailable)?;
            return Ok((segments, 0));
        };
        let end = segments.repair(last).map_err(unavailable)?;
        Ok((segments, end))
    }

    /// The position of the oldest record.
    pub(super) fn first(&self) -> u64 {
        self.bases.read().first().copied().unwrap_or_default()
    }

    /// The position at which the newest file begins.
    pub(super) fn last(&self) -> u64 {
        self.bases.read().last().copied().unwrap_or_default()
    }

    /// Begins a new file at `base`.
    pub(super) fn begin(&self, base: u64) -> io::Result<File> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .open(self.path(base))?;
        // The name has to survive a power cut as well.
        File::open(&self.directory)?.sync_all()?;
        self.bases.write().push(base);
        Ok(file)
    }

    /// The newest file, to append to.
    pub(super) fn newest(&self) -> io::Result<File> {
        OpenOptions::new()
            .append(true)
            .read(true)
            .open(self.path(self.last()))
    }

    /// Removes files that end before `position`; never the newest.
    pub(super) fn drop_before(&self, position: u64) -> io::Result<()> {
        loop {
            let oldest = {
                let mut bases = self.bases.write();
                match bases.as_slice() {
                    [_, second, ..] if *second <= position => bases.remove(0),
                    _ => return Ok(()),
                }
            };
            fs::remove_file(self.path(oldest))?;
        }
    }

    /// The events of `topic` in the chunk from `cursor` on, not beyond `end`, and where to go on.
    pub(super) fn read(&self, topic: Topic, cursor: u64, end: u64) -> Result<(Vec<Delivery>, u64), Error> {
        let (base, next_base) = self.containing(cursor);
        let limit = next_base.unwrap_or(end).min(end);
        let file = File::open(self.path(base)).map_err(unavailable)?;
        let mut chunk =
            read_at(&file, cursor - base, limit.saturating_sub(cursor), CHUNK).map_err(unavailable)?;
        let mut position = cursor;
        let mut deliveries = Vec::new();
        while position < limit {
            match decode(&chunk) {
                Decoded::Record { length, event } => {
                    let next = position + length as u64;
                    if let Some(event) = event.filter(|event| event.topic() == topic) {
                        deliveries.push(Delivery {
                            partition: 0,
                            position,
                            next,
                            epoch: 0,
                            event,
                        });
                    }
                    position = next;
                    chunk = chunk.slice(length..);
                }
                // The chunk ends inside a record: the next call begins there, unless the record is larger than it.
                Decoded::Short { .. } if position > cursor => break,
                Decoded::Short { needed } => {
                    chunk = read_at(&file, cursor - base, limit.saturating_sub(cursor), needed)
                        .map_err(unavailable)?;
                    if chunk.len() < needed {
                        return Err(Error::Unavailable(format!(
                            "the log is damaged at position {position}"
                        )));
                    }
                }
                Decoded::Damaged => {
                    return Err(Error::Unavailable(format!(
                        "the log is damaged at position {position}"
                    )));
                }
            }
        }
        Ok((deliveries, position))
    }

    /// The event at `position`; `None`: it is gone, or of a type that this version does not know.
    pub(super) fn read_one(&self, position: u64, end: u64) -> Result<Option<Event>, Error> {
        let (base, next_base) = self.containing(position);
        let limit = next_base.unwrap_or(end).min(end);
        if position < base || position >= limit {
            return Ok(None);
        }
        let file = File::open(self.path(base)).map_err(unavailable)?;
        let mut wanted = HEADER;
        loop {
            let bytes = read_at(&file, position - base, limit - position, wanted).map_err(unavailable)?;
            match decode(&bytes) {
                Decoded::Record { event, .. } => return Ok(event),
                Decoded::Short { needed } if bytes.len() == wanted && needed > wanted => wanted = needed,
                Decoded::Short { .. } | Decoded::Damaged => {
                    return Err(Error::Unavailable(format!(
                        "there is no record at position {position} of the log"
                    )));
                }
            }
        }
    }

    /// The file that holds `position`, and where the next one begins.
    fn containing(&self, position: u64) -> (u64, Option<u64>) {
        let bases = self.bases.read();
        let after = bases.partition_point(|base| *base <= position);
        let base = bases.get(after.saturating_sub(1)).copied().unwrap_or_default();
        (base, bases.get(after).copied())
    }

    fn path(&self, base: u64) -> PathBuf {
        self.directory.join(format!("{base:020}.log"))
    }

    /// Walks the newest file and cuts it after its last whole record.
    fn repair(&self, base: u64) -> io::Result<u64> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(base))?;
        let length = file.metadata()?.len();
        let (mut good, mut chunk) = (0, Bytes::new());
        loop {
            match decode(&chunk) {
                Decoded::Record { length, .. } => {
                    good += length as u64;
                    chunk = chunk.slice(length..);
                }
                Decoded::Short { needed } if good + (needed.max(HEADER) as u64) <= length => {
                    chunk = read_at(&file, good, length - good, CHUNK.max(needed))?;
                }
                Decoded::Short { .. } | Decoded::Damaged => break,
            }
        }
        if good < length {
            tracing::warn!(
                bytes = length - good,
                "cut off a half-written record at the end of the log"
            );
            file.set_len(good)?;
            file.sync_all()?;
        }
        Ok(base + good)
    }
}

fn read_at(file: &File, offset: u64, available: u64, wanted: usize) -> io::Result<Bytes> {
    let length = usize::try_from(available).unwrap_or(usize::MAX).min(wanted);
    let mut buffer = vec![0; length];
    file.read_exact_at(&mut buffer, offset)?;
    Ok(buffer.into())
}

/// Writes a whole file so that after a crash either the old or the new one is there.
pub(super) fn replace_file(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!("{name}.new"));
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_data()?;
    fs::rename(temporary, directory.join(name))
}
