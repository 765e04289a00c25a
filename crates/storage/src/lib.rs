//! Documents on disk, behind two narrow interfaces that every backend implements and one conformance suite checks.
//!
//! - [`DocumentStore`]: collections of JSON documents with conditional writes, a closed filter language, an owner
//!   on every read, and an outbox inside each document. Services use it through the typed [`Collection`].
//! - [`ExecutionStore`]: executions and their steps, which are append-heavy and read by time.
//!
//! Only single-document atomicity is promised, so that MongoDB and whatever speaks its protocol can stand behind the
//! same interface.

mod collection;
#[expect(clippy::indexing_slicing, clippy::too_many_lines, reason = "a test suite")]
pub mod conformance;
pub mod executions;
mod filter;
#[cfg(feature = "mongodb")]
pub mod mongo;
pub mod relay;
pub mod sqlite;

use std::sync::Arc;

use async_trait::async_trait;
use flowmate_common::{Event, Failure, Fault, Kind, auth::Visibility};
use serde_json::Value;
use tokio::sync::Notify;

pub use collection::{Change, Collection, Document, Portable};
pub use executions::ExecutionStore;
pub use filter::{Filter, Query, Sort};

/// Why a store did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Another document has this id or this unique value.
    #[error("a document with this id or unique value exists already")]
    Duplicate,
    /// The document changed since it was read, or is gone.
    #[error("the document was changed by somebody else")]
    VersionConflict,
    /// The request names a field that the collection does not declare: a mistake in our code.
    #[error("the collection {collection} declares no field {field}")]
    UnknownField {
        /// The collection.
        collection: &'static str,
        /// The field.
        field: String,
    },
    /// A stored document does not have the form that the code expects.
    #[error("a stored document cannot be read: {0}")]
    Corrupt(String),
    /// The backend does not answer or refuses; worth another try.
    #[error("storage is not available: {0}")]
    Unavailable(String),
}

/// What a fault of the store means for who asked for something. Said once, here: services let `?` do it.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Duplicate => {
                Self::conflict("Another one has this id or name already.").with_code("DUPLICATE_KEY")
            }
            Error::VersionConflict => Self::conflict("It is being changed by others. Please try again.")
                .with_code("CHANGED_BY_OTHERS"),
            Error::Unavailable(_) => Self::new(Kind::Unavailable, error.to_string()),
            Error::UnknownField { .. } | Error::Corrupt(_) => Self::internal(error),
        }
    }
}

impl Fault for Error {
    fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::VersionConflict => true,
            Self::Duplicate | Self::UnknownField { .. } | Self::Corrupt(_) => false,
        }
    }
}

/// What a collection is called and which parts of its documents can be filtered, sorted and searched.
#[derive(Debug)]
pub struct CollectionSpec {
    /// The table or collection name.
    pub name: &'static str,
    /// Declared fields.
    pub fields: &'static [Field],
    /// Names of fields whose value no two documents share.
    pub unique: &'static [&'static str],
}

/// A declared field.
#[derive(Debug)]
pub struct Field {
    /// How filters call it.
    pub name: &'static str,
    /// Where it is in the document, `$.a.b`.
    pub path: &'static str,
}

impl CollectionSpec {
    /// The declared field of that name.
    pub fn field(&'static self, name: &str) -> Result<&'static Field, Error> {
        self.fields
            .iter()
            .find(|field| field.name == name)
            .ok_or_else(|| Error::UnknownField {
                collection: self.name,
                field: name.to_owned(),
            })
    }
}

/// A document as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Unique in the collection.
    pub id: String,
    /// 1 at the insert, one more at each replacement.
    pub version: u64,
    /// JSON text.
    pub doc: String,
}

/// A write of one document: the document, who may see it, and the events that tell of the change. All of it
/// becomes durable together or not at all.
#[derive(Clone, Debug)]
pub struct Write {
    /// Unique in the collection.
    pub id: String,
    /// JSON text.
    pub doc: String,
    /// Users and tenants that own it.
    pub owners: Vec<String>,
    /// To be published, in this order, after the write.
    pub events: Vec<Event>,
}

/// Collections of documents.
///
/// Contract, checked by [`conformance::documents`] on every backend:
/// - A write that returned `Ok` survives a crash of the process and of the machine.
/// - `replace` and `delete` succeed only if the document still has the given version; of two concurrent ones with the
///   same version exactly one succeeds, the other gets [`Error::VersionConflict`].
/// - `insert` of a taken id or unique value is [`Error::Duplicate`]; it changes nothing, also for neighbours in the
///   same group commit.
/// - Reads see every write that returned before they began. They see only what [`Visibility`] allows.
/// - Events given to a write are returned by `pending` until `published` clears them, in the order of the writes of
///   their document, also after the document was deleted and after a restart.
#[async_trait]
pub trait DocumentStore: Send + Sync {
    /// Makes the collection and its indexes where they do not exist.
    async fn open(&self, spec: &'static CollectionSpec) -> Result<(), Error>;
    /// The document with this id.
    async fn get(
        &self,
        spec: &'static CollectionSpec,
        see: &Visibility,
        id: &str,
    ) -> Result<Option<Row>, Error>;
    /// The documents that match, sorted, ties by id.
    async fn find(
        &self,
        spec: &'static CollectionSpec,
        see: &Visibility,
        query: &Query,
    ) -> Result<Vec<Row>, Error>;
    /// The same without the documents: their ids, with the value of the field that they are sorted by (null where none is
    /// named).
    async fn heads(
        &self,
        spec: &'static CollectionSpec,
        see: &Visibility,
        query: &Query,
    ) -> Result<Vec<(String, Value)>, Error>;
    /// How many documents match.
    async fn count(
        &self,
        spec: &'static CollectionSpec,
        see: &Visibility,
        filter: &Filter,
    ) -> Result<u64, Error>;
    /// Adds a document with version 1.
    async fn insert(&self, spec: &'static CollectionSpec, write: Write) -> Result<(), Error>;
    /// Replaces the document if it still has `version`.
    async fn replace(&self, spec: &'static CollectionSpec, version: u64, write: Write) -> Result<(), Error>;
    /// Removes the document if it still has `version`; `events` outlive it.
    async fn delete(
        &self,
        spec: &'static CollectionSpec,
        id: &str,
        version: u64,
        events: Vec<Event>,
    ) -> Result<(), Error>;
    /// Events not published yet, by document, at most `limit` documents.
    async fn pending(
        &self,
        spec: &'static CollectionSpec,
        limit: usize,
    ) -> Result<Vec<(String, Vec<Event>)>, Error>;
    /// Forgets these events of this document.
    async fn published(
        &self,
        spec: &'static CollectionSpec,
        id: &str,
        event_ids: Vec<String>,
    ) -> Result<(), Error>;
    /// Whether the store answers.
    async fn ping(&self) -> Result<(), Error>;
}

/// What a service gets to store things with. Cheap to clone.
#[derive(Clone)]
pub struct Storage {
    documents: Arc<dyn DocumentStore>,
    executions: Arc<dyn ExecutionStore>,
    outbox: Arc<Notify>,
}

impl Storage {
    /// Storage on these backends.
    pub fn new(documents: Arc<dyn DocumentStore>, executions: Arc<dyn ExecutionStore>) -> Self {
        Self {
            documents,
            executions,
            outbox: Arc::default(),
        }
    }

    /// The documents.
    pub fn documents(&self) -> &Arc<dyn DocumentStore> {
        &self.documents
    }

    /// The executions.
    pub fn executions(&self) -> &Arc<dyn ExecutionStore> {
        &self.executions
    }

    /// Rings whenever a write in this process left events to publish.
    pub(crate) fn outbox(&self) -> &Arc<Notify> {
        &self.outbox
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_others_did_to_the_document_is_told_as_a_conflict() {
        let told = |error: Error| {
            let failure = Failure::from(error);
            (failure.kind, failure.code)
        };
        assert_eq!(told(Error::Duplicate), (Kind::Conflict, Some("DUPLICATE_KEY")));
        assert_eq!(
            told(Error::VersionConflict),
            (Kind::Conflict, Some("CHANGED_BY_OTHERS"))
        );
        assert_eq!(told(Error::Unavailable("x".into())), (Kind::Unavailable, None));
        assert_eq!(told(Error::Corrupt("x".into())), (Kind::Internal, None));
    }
}
