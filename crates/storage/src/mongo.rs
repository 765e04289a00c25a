//! MongoDB, and whatever speaks its protocol: one database, a collection for each collection, nothing but single-document
//! atomicity assumed. Documents are kept as JSON text beside the declared fields, so that no key or number of a client
//! means anything to the database.

mod documents;
mod executions;

use std::{future::Future, sync::Arc, time::Duration};

use mongodb::{
    Client, Database,
    error::{Error as Fault, ErrorKind, WriteFailure},
    options::{Acknowledgment, ClientOptions, WriteConcern},
};

use crate::{Error, Storage};

pub use documents::MongoDocuments;
pub use executions::MongoExecutions;

/// How long an operation looks for a server before it is refused.
const PATIENCE: Duration = Duration::from_secs(5);

/// Opens the database that `url` names, `mongodb://host:port/database?…`. Fails where no server answers.
pub async fn connect(url: &str) -> Result<Storage, Error> {
    let database = database(url).await?;
    let executions = MongoExecutions::open(&database).await?;
    Ok(Storage::new(
        Arc::new(MongoDocuments::new(database)),
        Arc::new(executions),
    ))
}

/// The database that `url` names, when a server has answered.
pub async fn database(url: &str) -> Result<Database, Error> {
    let mut options = ClientOptions::parse(url).await.map_err(fault)?;
    options.app_name.get_or_insert_with(|| "flowmate".into());
    options.server_selection_timeout.get_or_insert(PATIENCE);
    // Acknowledged means durable: on the disks of a majority.
    let durable = WriteConcern::builder()
        .w(Acknowledgment::Majority)
        .journal(true)
        .build();
    options.write_concern.get_or_insert(durable);
    let name = options.default_database.clone().ok_or_else(|| {
        Error::Unavailable("the URL names no database: mongodb://host:port/database".into())
    })?;
    let client = Client::with_options(options).map_err(fault)?;
    let database = client.database(&name);
    ping(&database).await?;
    Ok(database)
}

/// Whether a server answers. After it was started again the first command meets a connection that is none any more; the
/// driver drops those with it, so the second gets a new one. The driver itself tries reads again, and this is none to it.
async fn ping(database: &Database) -> Result<(), Error> {
    let database = database.clone();
    whole(async move {
        let ask = || database.run_command(mongodb::bson::doc! { "ping": 1 });
        let answer = match ask().await {
            Err(error)
                if matches!(
                    &*error.kind,
                    ErrorKind::Io(_) | ErrorKind::ConnectionPoolCleared { .. }
                ) =>
            {
                ask().await
            }
            answer => answer,
        };
        answer.map(|_| ())
    })
    .await
}

/// Runs an operation to its end, also where nobody waits for it any more: the driver must not be dropped half-way
/// (RUST-937), and a request's future is dropped when its client goes.
async fn whole<T: Send + 'static>(
    operation: impl Future<Output = Result<T, Fault>> + Send + 'static,
) -> Result<T, Error> {
    match tokio::spawn(operation).await {
        Ok(result) => result.map_err(fault),
        Err(ended) => Err(Error::Unavailable(ended.to_string())),
    }
}

/// A unique value that exists already.
const DUPLICATE_KEY: i32 = 11_000;

fn fault(error: Fault) -> Error {
    let code = match &*error.kind {
        ErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
        ErrorKind::Command(error) => Some(error.code),
        _ => None,
    };
    if code == Some(DUPLICATE_KEY) {
        Error::Duplicate
    } else {
        Error::Unavailable(error.to_string())
    }
}

/// Adds what is not there yet; returns the positions of what was there.
fn taken(result: Result<(), Fault>) -> Result<Vec<usize>, Fault> {
    let Err(error) = result else {
        return Ok(Vec::new());
    };
    let ErrorKind::InsertMany(failures) = &*error.kind else {
        return Err(error);
    };
    let errors = failures.write_errors.as_deref().unwrap_or_default();
    let only_taken = errors.iter().all(|error| error.code == DUPLICATE_KEY);
    if failures.write_concern_error.is_some() || errors.is_empty() || !only_taken {
        return Err(error);
    }
    Ok(errors.iter().map(|error| error.index).collect())
}
