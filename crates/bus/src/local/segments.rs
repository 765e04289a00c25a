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
    recent::{PIECE, Recent},
    record::{Decoded, HEADER, MARK, decode, is_mark},
    unavailable,
};
use crate::{Delivery, Error};

/// Bytes read at once.
const CHUNK: usize = 1 << 20;

/// The positions at which the files begin, oldest first; never empty.
pub(super) struct Segments {
    directory: PathBuf,
    bases: RwLock<Vec<u64>>,
    recent: Recent,
}

impl Segments {
    /// Finds the files and cuts off what a crash left half-written at the end; returns the end of the log. What is
    /// unreadable although it was synced, which is everything before `synced`, is an error: it was acknowledged.
    pub(super) fn open(directory: &Path, synced: u64) -> Result<(Self, u64), Error> {
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
            recent: Recent::default(),
        };
        segments.check_sizes()?;
        let Some(last) = segments.bases.read().last().copied() else {
            segments.check_end(0, 0, synced)?;
            segments.begin(0).map_err(unavailable)?;
            return Ok((segments, 0));
        };
        let end = segments.repair(last, synced)?;
        Ok((segments, end))
    }

    /// A sealed file ends where the next one begins.
    fn check_sizes(&self) -> Result<(), Error> {
        let bases = self.bases.read().clone();
        for (base, next) in bases.iter().zip(bases.iter().skip(1)) {
            let length = self.file(*base)?.metadata().map_err(unavailable)?.len();
            let expected = next - base;
            if length != expected {
                return Err(self.damaged(
                    *base,
                    length.min(expected),
                    &format!(
                        "it has {length} bytes and should have {expected}, or the file after it is missing"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// The position of the oldest record.
    pub(super) fn first(&self) -> u64 {
        self.bases.read().first().copied().unwrap_or_default()
    }

    /// The position at which the newest file begins.
    pub(super) fn last(&self) -> u64 {
        self.bases.read().last().copied().unwrap_or_default()
    }

    /// Begins a new file at `base`, or takes the one that is there.
    pub(super) fn begin(&self, base: u64) -> io::Result<File> {
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .open(self.path(base))?;
        // The name has to survive a power cut as well.
        sync_directory(&self.directory)?;
        self.bases.write().push(base);
        Ok(file)
    }

    /// The newest file, to write to.
    pub(super) fn newest(&self) -> io::Result<File> {
        OpenOptions::new().write(true).open(self.path(self.last()))
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
            // In this order also after a power cut: no file goes before an older one.
            sync_directory(&self.directory)?;
        }
    }

    /// The events of `topic` in the chunk from `cursor` on, not beyond `end`, and where to go on.
    pub(super) fn read(&self, topic: Topic, cursor: u64, end: u64) -> Result<(Vec<Delivery>, u64), Error> {
        let (base, next_base) = self.containing(cursor);
        // What was before the oldest file is gone.
        let cursor = cursor.max(base);
        let limit = next_base.unwrap_or(end).min(end);
        let file = self.file(base)?;
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
                        return Err(self.damaged(base, position - base, "a record is longer than its file"));
                    }
                }
                // What is before it is delivered first.
                Decoded::Damaged if !deliveries.is_empty() => break,
                Decoded::Damaged => {
                    return Err(self.damaged(base, position - base, "its checksum is wrong"));
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
        let file = self.file(base)?;
        let mut wanted = PIECE;
        loop {
            let bytes = read_at(&file, position - base, limit - position, wanted).map_err(unavailable)?;
            match decode(&bytes) {
                Decoded::Record { event, .. } => {
                    if wanted == PIECE {
                        self.recent.keep(position, bytes);
                    }
                    return Ok(event);
                }
                Decoded::Short { needed } if bytes.len() == wanted && needed > wanted => wanted = needed,
                Decoded::Short { .. } | Decoded::Damaged => {
                    return Err(Error::Unavailable(format!(
                        "there is no record at position {position} of the log"
                    )));
                }
            }
        }
    }

    /// The event at `position`, where it was read together with another one.
    pub(super) fn recent(&self, position: u64) -> Option<Event> {
        match decode(&self.recent.at(position)?) {
            Decoded::Record { event, .. } => event,
            Decoded::Short { .. } | Decoded::Damaged => None,
        }
    }

    /// The file that holds `position`, and where the next one begins.
    fn containing(&self, position: u64) -> (u64, Option<u64>) {
        let bases = self.bases.read();
        let after = bases.partition_point(|base| *base <= position);
        let base = bases.get(after.saturating_sub(1)).copied().unwrap_or_default();
        (base, bases.get(after).copied())
    }

    fn file(&self, base: u64) -> Result<File, Error> {
        let path = self.path(base);
        File::open(&path).map_err(|error| Error::Unavailable(format!("{}: {error}", path.display())))
    }

    /// The name of the file that begins at `base`.
    pub(super) fn path(&self, base: u64) -> PathBuf {
        self.directory.join(format!("{base:020}.log"))
    }

    /// Walks the newest file and cuts it after its last whole record, if what follows was never synced.
    fn repair(&self, base: u64, synced: u64) -> Result<u64, Error> {
        let path = self.path(base);
        let named = |error: io::Error| Error::Unavailable(format!("{}: {error}", path.display()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(named)?;
        let length = file.metadata().map_err(named)?.len();
        let good = readable(&file, length).map_err(named)?;
        if is_zero(&file, good, length).map_err(named)? {
            self.check_end(base, good, synced)?;
            return Ok(base + good);
        }
        if good < length
            && let Some(proof) = later_mark(&file, base, good + 1, length).map_err(named)?
        {
            self.check_end(base, good, synced.max(proof))?;
        }
        self.check_end(base, good, synced)?;
        if good < length {
            tracing::warn!(
                file = %path.display(),
                offset = good,
                bytes = length - good,
                "cut off a half-written group at the end of the log"
            );
            file.set_len(good).map_err(named)?;
            file.sync_all().map_err(named)?;
        }
        Ok(base + good)
    }

    /// Whether the log may end at `offset` of the file, where everything before `synced` was acknowledged; or somebody
    /// has agreed to that.
    fn check_end(&self, base: u64, offset: u64, synced: u64) -> Result<(), Error> {
        let end = base + offset;
        if end >= synced || agreed(&self.directory, end).exists() {
            return Ok(());
        }
        let path = self.path(base);
        Err(Error::Unavailable(format!(
            "the event log is damaged: {} cannot be read from byte {offset} (position {end}) on, but was written and \
             acknowledged up to position {synced}. Restore the directory from a backup. To go on with what is before and \
             lose the rest, create the empty file {} and start again",
            path.display(),
            agreed(&self.directory, end).display(),
        )))
    }

    /// What is said of a sealed file that cannot be read.
    fn damaged(&self, base: u64, offset: u64, what: &str) -> Error {
        Error::Unavailable(format!(
            "the event log is damaged: {} cannot be read from byte {offset} (position {}) on: {what}. Restore the file \
             from a backup. To go on without what it holds, stop, and move it and all .log files with lower numbers away",
            self.path(base).display(),
            base + offset,
        ))
    }
}

/// Who creates this file agrees that the log ends at `position`, and that what was behind it is lost.
pub(super) fn agreed(directory: &Path, position: u64) -> PathBuf {
    directory.join(format!("ends-at-{position}"))
}

/// Bytes at the beginning of the file that are whole records.
fn readable(file: &File, length: u64) -> io::Result<u64> {
    let (mut good, mut chunk) = (0, Bytes::new());
    loop {
        match decode(&chunk) {
            Decoded::Record { length, .. } => {
                good += length as u64;
                chunk = chunk.slice(length..);
            }
            Decoded::Short { needed } if good + (needed.max(HEADER) as u64) <= length => {
                chunk = read_at(file, good, length - good, CHUNK.max(needed))?;
            }
            Decoded::Short { .. } | Decoded::Damaged => return Ok(good),
        }
    }
}

/// Whether nothing was written from `offset` on: the file was made ahead, or ends there.
fn is_zero(file: &File, mut offset: u64, length: u64) -> io::Result<bool> {
    while offset < length {
        let chunk = read_at(file, offset, length - offset, CHUNK)?;
        if chunk.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        offset += chunk.len() as u64;
    }
    Ok(true)
}

/// The position of a mark at or after `offset`: everything before it was synced.
fn later_mark(file: &File, base: u64, mut offset: u64, length: u64) -> io::Result<Option<u64>> {
    while offset + MARK as u64 <= length {
        let chunk = read_at(file, offset, length - offset, CHUNK)?;
        for (at, bytes) in chunk.windows(MARK).enumerate() {
            let position = base + offset + at as u64;
            if is_mark(bytes, position) {
                return Ok(Some(position));
            }
        }
        // A mark may stand across two chunks.
        offset += (chunk.len() + 1).saturating_sub(MARK) as u64;
    }
    Ok(None)
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
    fs::rename(temporary, directory.join(name))?;
    sync_directory(directory)
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
