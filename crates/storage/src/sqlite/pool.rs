//! One writer thread with group commit, and a pool of readers, for one database file.

use std::{path::Path, sync::Arc, thread};

use flowmate_common::Priority;
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::Error;

/// Writes that wait for the writer; more make callers wait.
const QUEUE: usize = 1024;
/// Writes in one transaction.
const GROUP: usize = 512;
/// Readers, which also bounds the blocking threads in use.
const READERS: usize = 4;

/// `synchronous=FULL`: in WAL mode anything less loses the last commits at a power cut.
const PRAGMAS: &str = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=5000;
    PRAGMA foreign_keys=ON; PRAGMA temp_store=MEMORY; PRAGMA mmap_size=268435456; PRAGMA cache_size=-8192;
    PRAGMA wal_autocheckpoint=4000; PRAGMA journal_size_limit=67108864;";

type Reply = Box<dyn FnOnce(Result<(), Error>) + Send>;
/// Does its work inside a savepoint and says whether to keep it, and how to answer once the group is on disk.
type Job = Box<dyn FnOnce(&Connection) -> (bool, Reply) + Send>;

/// Access to one database file.
pub(super) struct Pool {
    jobs: Option<mpsc::Sender<Job>>,
    readers: Arc<Mutex<Vec<Connection>>>,
    free: Arc<Semaphore>,
    writer: Option<thread::JoinHandle<()>>,
}

impl Pool {
    /// Opens or makes the file; `prepare` runs once on each connection.
    pub(super) fn open(
        path: &Path,
        priority: Priority,
        prepare: fn(&Connection) -> rusqlite::Result<()>,
    ) -> Result<Self, Error> {
        let connect = |flags: OpenFlags| -> Result<Connection, Error> {
            let connection = Connection::open_with_flags(path, flags).map_err(unavailable)?;
            connection.execute_batch(PRAGMAS).map_err(unavailable)?;
            connection.set_prepared_statement_cache_capacity(128);
            prepare(&connection).map_err(unavailable)?;
            Ok(connection)
        };
        let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_READ_WRITE;
        let connection = connect(flags | OpenFlags::SQLITE_OPEN_CREATE)?;
        // Readers open the file for writing as well, because a read-only connection cannot recover a WAL; they are
        // told to change nothing.
        let readers = (0..READERS)
            .map(|_| {
                let reader = connect(flags)?;
                reader
                    .execute_batch("PRAGMA query_only=ON; PRAGMA cache_size=-2048")
                    .map_err(unavailable)?;
                Ok(reader)
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let writer = thread::Builder::new()
            .name("sqlite-writer".into())
            .spawn(move || {
                priority.take();
                write(&connection, queue);
            })
            .map_err(unavailable)?;
        Ok(Self {
            jobs: Some(jobs),
            readers: Arc::new(Mutex::new(readers)),
            free: Arc::new(Semaphore::new(READERS)),
            writer: Some(writer),
        })
    }

    /// Runs `work` in the next group commit and returns once it is on disk. If `work` fails, its changes are undone
    /// and its neighbours in the group stay.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let result = work(connection);
            let keep = result.is_ok();
            let reply: Reply = Box::new(move |committed| {
                // Who asked may have gone away; the write stands.
                let _ = answer.send(committed.and(result));
            });
            (keep, reply)
        });
        let closed = || Error::Unavailable("the writer has stopped".into());
        let jobs = self.jobs.as_ref().ok_or_else(closed)?;
        jobs.send(job).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }

    /// Runs `work` on a reader.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let permit = Arc::clone(&self.free)
            .acquire_owned()
            .await
            .map_err(unavailable)?;
        let readers = Arc::clone(&self.readers);
        let done = tokio::task::spawn_blocking(move || {
            let reader = readers
                .lock()
                .pop()
                .ok_or_else(|| Error::Unavailable("no reader".into()))?;
            let result = work(&reader);
            readers.lock().push(reader);
            drop(permit);
            result
        });
        done.await.map_err(unavailable)?
    }
}

impl Drop for Pool {
    /// Waits for the writes that were asked for.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// The writer: takes what waits, up to [`GROUP`], into one transaction, and answers after its commit.
fn write(connection: &Connection, mut queue: mpsc::Receiver<Job>) {
    let mut group = Vec::with_capacity(GROUP);
    while queue.blocking_recv_many(&mut group, GROUP) > 0 {
        let mut replies = Vec::with_capacity(group.len());
        let committed = commit(connection, group.drain(..), &mut replies).map_err(unavailable);
        if committed.is_err() {
            let _ = connection.execute_batch("ROLLBACK");
        }
        for reply in replies {
            reply(committed.clone());
        }
    }
    let _ = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
}

fn commit(
    connection: &Connection,
    jobs: impl Iterator<Item = Job>,
    replies: &mut Vec<Reply>,
) -> rusqlite::Result<()> {
    let begun = connection
        .prepare_cached("BEGIN IMMEDIATE")
        .and_then(|mut begin| begin.execute([]));
    for job in jobs {
        // Without a transaction the job still has to be answered; what it writes is rolled back by its savepoint.
        connection.prepare_cached("SAVEPOINT job")?.execute([])?;
        let (keep, reply) = job(connection);
        replies.push(reply);
        if !keep || begun.is_err() {
            connection.prepare_cached("ROLLBACK TO job")?.execute([])?;
        }
        connection.prepare_cached("RELEASE job")?.execute([])?;
    }
    begun?;
    connection.prepare_cached("COMMIT")?.execute([])?;
    Ok(())
}

/// A fault of the database as our error.
pub(super) fn unavailable(error: impl std::fmt::Display) -> Error {
    Error::Unavailable(error.to_string())
}

/// A fault of a statement as our error, with constraint violations told apart.
pub(super) fn statement(error: rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::ConstraintViolation) => Error::Duplicate,
        _ => unavailable(error),
    }
}
