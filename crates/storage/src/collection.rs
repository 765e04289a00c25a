//! The typed face of a collection, which is what services use.

use std::marker::PhantomData;

use flowmate_common::{Event, auth::Visibility};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{CollectionSpec, Error, Filter, Query, Row, Storage, Write};

/// A type that is stored as a document.
pub trait Document: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Its collection.
    const SPEC: &'static CollectionSpec;
    /// Unique in the collection.
    fn id(&self) -> &str;
    /// Users and tenants that own it.
    fn owners(&self) -> Vec<String>;
}

/// A collection that can be carried from one storage to another without knowing its type.
#[derive(Clone, Copy, Debug)]
pub struct Portable {
    /// The collection.
    pub spec: &'static CollectionSpec,
    /// Who owns a document of it.
    pub owners: fn(&str) -> Result<Vec<String>, Error>,
}

impl Portable {
    /// The collection of these documents.
    pub const fn of<D: Document>() -> Self {
        Self {
            spec: D::SPEC,
            owners: |doc| {
                let document: D =
                    serde_json::from_str(doc).map_err(|error| Error::Corrupt(error.to_string()))?;
                Ok(document.owners())
            },
        }
    }
}

/// What [`Collection::update`] is to do with the document that the closure saw.
#[derive(Debug)]
pub enum Change {
    /// Write it, and publish these events.
    Write(Vec<Event>),
    /// Leave it as it was.
    Keep,
}

/// How often an update is tried again when others change the same document.
const UPDATE_ATTEMPTS: u32 = 32;

/// Documents that one query of [`Collection::get_many`] asks for.
const IDS_AT_ONCE: usize = 1_000;

/// A collection of documents of one type. Cheap to clone.
pub struct Collection<D> {
    storage: Storage,
    of: PhantomData<fn() -> D>,
}

impl<D> Clone for Collection<D> {
    fn clone(&self) -> Self {
        Self {
            storage: self.storage.clone(),
            of: PhantomData,
        }
    }
}

impl<D: Document> Collection<D> {
    /// Makes the collection and its indexes where they do not exist.
    pub async fn open(storage: &Storage) -> Result<Self, Error> {
        storage.documents().open(D::SPEC).await?;
        Ok(Self {
            storage: storage.clone(),
            of: PhantomData,
        })
    }

    /// The document, if it exists for who asks.
    pub async fn get(&self, see: &Visibility, id: &str) -> Result<Option<D>, Error> {
        self.storage
            .documents()
            .get(D::SPEC, see, id)
            .await?
            .map(|row| read(&row))
            .transpose()
    }

    /// Those of these documents that exist for who asks, by id.
    pub async fn get_many(&self, see: &Visibility, ids: &[&str]) -> Result<Vec<D>, Error> {
        let mut found = Vec::with_capacity(ids.len());
        for ids in ids.chunks(IDS_AT_ONCE) {
            let filter = Filter::Ids(ids.iter().map(ToString::to_string).collect());
            let query = Query::new(filter, ids.len() as u64);
            found.append(&mut self.find(see, &query).await?);
        }
        Ok(found)
    }

    /// The documents that match.
    pub async fn find(&self, see: &Visibility, query: &Query) -> Result<Vec<D>, Error> {
        self.storage
            .documents()
            .find(D::SPEC, see, query)
            .await?
            .iter()
            .map(read)
            .collect()
    }

    /// The ids of the documents that match, with the value of the field that they are sorted by.
    pub async fn heads(&self, see: &Visibility, query: &Query) -> Result<Vec<(String, Value)>, Error> {
        self.storage.documents().heads(D::SPEC, see, query).await
    }

    /// How many documents match.
    pub async fn count(&self, see: &Visibility, filter: &Filter) -> Result<u64, Error> {
        self.storage.documents().count(D::SPEC, see, filter).await
    }

    /// Adds a document and the events that tell of it, in one atomic write.
    pub async fn insert(&self, document: &D, events: Vec<Event>) -> Result<(), Error> {
        let ring = !events.is_empty();
        self.storage
            .documents()
            .insert(D::SPEC, write(document, events)?)
            .await?;
        self.ring(ring);
        Ok(())
    }

    /// Changes a document: `change` sees the present state and decides. If somebody else changed it meanwhile, it
    /// sees the new state and decides again, so no update is lost. `None`: it does not exist for who asks.
    pub async fn update<E: From<Error>>(
        &self,
        see: &Visibility,
        id: &str,
        mut change: impl FnMut(&mut D) -> Result<Change, E>,
    ) -> Result<Option<D>, E> {
        for _ in 0..UPDATE_ATTEMPTS {
            let Some(row) = self.storage.documents().get(D::SPEC, see, id).await? else {
                return Ok(None);
            };
            let mut document: D = read(&row)?;
            let Change::Write(events) = change(&mut document)? else {
                return Ok(Some(document));
            };
            let ring = !events.is_empty();
            match self
                .storage
                .documents()
                .replace(D::SPEC, row.version, write(&document, events)?)
                .await
            {
                Ok(()) => {
                    self.ring(ring);
                    return Ok(Some(document));
                }
                Err(Error::VersionConflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::VersionConflict.into())
    }

    /// Removes a document if `check` agrees; the events it returns are published. `None`: it does not exist for who
    /// asks.
    pub async fn delete<E: From<Error>>(
        &self,
        see: &Visibility,
        id: &str,
        mut check: impl FnMut(&D) -> Result<Vec<Event>, E>,
    ) -> Result<Option<()>, E> {
        for _ in 0..UPDATE_ATTEMPTS {
            let Some(row) = self.storage.documents().get(D::SPEC, see, id).await? else {
                return Ok(None);
            };
            let events = check(&read(&row)?)?;
            let ring = !events.is_empty();
            match self
                .storage
                .documents()
                .delete(D::SPEC, id, row.version, events)
                .await
            {
                Ok(()) => {
                    self.ring(ring);
                    return Ok(Some(()));
                }
                Err(Error::VersionConflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::VersionConflict.into())
    }

    fn ring(&self, ring: bool) {
        if ring {
            // Several relays listen, each for its own collections.
            self.storage.outbox().notify_waiters();
        }
    }
}

fn read<D: Document>(row: &Row) -> Result<D, Error> {
    serde_json::from_str(&row.doc)
        .map_err(|error| Error::Corrupt(format!("{}/{}: {error}", D::SPEC.name, row.id)))
}

fn write<D: Document>(document: &D, events: Vec<Event>) -> Result<Write, Error> {
    let doc = serde_json::to_string(document).map_err(|error| Error::Corrupt(error.to_string()))?;
    Ok(Write {
        id: document.id().to_owned(),
        doc,
        owners: document.owners(),
        events,
    })
}
