//! SQLite: one file for documents, one for executions, each with one writer that commits in groups and a few readers.

mod documents;
mod executions;
mod pool;

use std::{path::Path, sync::Arc};

use crate::{Error, Storage};

pub use documents::SqliteDocuments;
pub use executions::SqliteExecutions;

/// Opens or makes `documents.db` and `executions.db` in `directory`.
pub fn open(directory: &Path) -> Result<Storage, Error> {
    let documents = SqliteDocuments::open(&directory.join("documents.db"))?;
    let executions = SqliteExecutions::open(&directory.join("executions.db"))?;
    Ok(Storage::new(Arc::new(documents), Arc::new(executions)))
}
