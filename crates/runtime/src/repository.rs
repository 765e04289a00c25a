//! What a service keeps of one kind of thing, as its operations see it: only what the caller may see, faults of the
//! store as failures of the request, every change with the events that tell of it.

use flowmate_common::{Event, Failure, auth::Visibility};
use flowmate_storage::{Change, Collection, Document, Filter, Query, Storage};
use flowmate_web::ListEnvelope;

use crate::listing::Listing;

/// Documents that a sweep takes at a time.
const SWEEP: u64 = 200;

/// A collection of `D`. Events that its changes leave are published by [`crate::Context::relay`] with `D::SPEC`.
pub struct Repository<D>(Collection<D>);

impl<D: Document> Repository<D> {
    /// Makes the collection where it does not exist.
    pub async fn open(storage: &Storage) -> Result<Self, Failure> {
        Ok(Self(Collection::open(storage).await?))
    }

    /// The document, if it exists for who asks.
    pub async fn get(&self, see: &Visibility, id: &str) -> Result<Option<D>, Failure> {
        Ok(self.0.get(see, id).await?)
    }

    /// The documents that match.
    pub async fn find(&self, see: &Visibility, query: &Query) -> Result<Vec<D>, Failure> {
        Ok(self.0.find(see, query).await?)
    }

    /// How many documents match.
    pub async fn count(&self, see: &Visibility, filter: &Filter) -> Result<u64, Failure> {
        Ok(self.0.count(see, filter).await?)
    }

    /// The page that a list operation answers with; `show` makes of a document what clients get.
    pub async fn list<T>(
        &self,
        see: &Visibility,
        listing: Listing,
        filter: Filter,
        show: impl Fn(D) -> T,
    ) -> Result<ListEnvelope<T>, Failure> {
        let query = listing.query(filter);
        let found = self.find(see, &query).await?;
        let total = self.count(see, &query.filter).await?;
        Ok(ListEnvelope {
            data: found.into_iter().map(show).collect(),
            meta: listing.paging.page(total),
        })
    }

    /// Adds a document and the events that tell of it, in one atomic write.
    pub async fn add(&self, document: &D, events: Vec<Event>) -> Result<(), Failure> {
        Ok(self.0.insert(document, events).await?)
    }

    /// Changes a document, see [`Collection::update`]. `None`: it does not exist for who asks.
    pub async fn change(
        &self,
        see: &Visibility,
        id: &str,
        change: impl FnMut(&mut D) -> Result<Change, Failure>,
    ) -> Result<Option<D>, Failure> {
        self.0.update(see, id, change).await
    }

    /// Removes a document if `check` agrees; the events it returns are published. `None`: it does not exist for who
    /// asks.
    pub async fn delete(
        &self,
        see: &Visibility,
        id: &str,
        check: impl FnMut(&D) -> Result<Vec<Event>, Failure>,
    ) -> Result<Option<()>, Failure> {
        self.0.delete(see, id, check).await
    }

    /// `change` takes the user or tenant out of the owners of those documents that it `leaves`, and returns the events that
    /// tell of it. May be called again.
    pub async fn release(
        &self,
        owner: &str,
        leaves: impl Fn(&D) -> bool,
        mut change: impl FnMut(&mut D) -> Result<Vec<Event>, Failure>,
    ) -> Result<(), Failure> {
        let see = Visibility::OwnedBy(vec![owner.to_owned()]);
        let mut query = Query::new(Filter::All, SWEEP);
        loop {
            let owned = self.find(&see, &query).await?;
            if owned.is_empty() {
                return Ok(());
            }
            for document in owned {
                let mut stays = !leaves(&document);
                if !stays {
                    let released = self.change(&see, document.id(), |document| {
                        if !leaves(document) {
                            stays = true;
                            return Ok(Change::Keep);
                        }
                        let events = change(document)?;
                        stays = document.owners().iter().any(|one| one == owner);
                        Ok(Change::Write(events))
                    });
                    released.await?;
                }
                query.skip += u64::from(stays);
            }
        }
    }

    /// The user or tenant is no more: `change` takes it out of the owners of each document that it owns, and returns
    /// the events that tell of it. May be called again.
    pub async fn disown(
        &self,
        owner: &str,
        mut change: impl FnMut(&mut D) -> Result<Vec<Event>, Failure>,
    ) -> Result<(), Failure> {
        let see = Visibility::OwnedBy(vec![owner.to_owned()]);
        let query = Query::new(Filter::All, SWEEP);
        loop {
            let owned = self.find(&see, &query).await?;
            if owned.is_empty() {
                return Ok(());
            }
            for document in owned {
                let disowned = self.change(&Visibility::All, document.id(), |document| {
                    let events = change(document)?;
                    if document.owners().iter().any(|one| one == owner) {
                        return Err(Failure::internal(
                            "it is owned as before: the sweep would not end",
                        ));
                    }
                    Ok(Change::Write(events))
                });
                disowned.await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use flowmate_storage::{CollectionSpec, sqlite};
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Thing {
        id: String,
        owners: Vec<String>,
    }

    impl Document for Thing {
        const SPEC: &'static CollectionSpec = &CollectionSpec {
            name: "things",
            fields: &[],
            unique: &[],
        };

        fn id(&self) -> &str {
            &self.id
        }

        fn owners(&self) -> Vec<String> {
            self.owners.clone()
        }
    }

    async fn things(directory: &std::path::Path, count: u64) -> Repository<Thing> {
        let things = Repository::open(&sqlite::open(directory).unwrap()).await.unwrap();
        for number in 0..count {
            let thing = Thing {
                id: number.to_string(),
                owners: vec!["gone".into(), "here".into()],
            };
            things.add(&thing, Vec::new()).await.unwrap();
        }
        things
    }

    #[tokio::test]
    async fn who_is_gone_owns_nothing_of_more_than_one_sweep_takes() {
        let directory = tempfile::tempdir().unwrap();
        let things = things(directory.path(), SWEEP + 1).await;
        let disowned = things.disown("gone", |thing| {
            thing.owners.retain(|one| one != "gone");
            Ok(Vec::new())
        });
        disowned.await.unwrap();
        let owned_by = |owner: &str| Visibility::OwnedBy(vec![owner.to_owned()]);
        let (gone, here) = (owned_by("gone"), owned_by("here"));
        assert_eq!(things.count(&gone, &Filter::All).await.unwrap(), 0);
        assert_eq!(things.count(&here, &Filter::All).await.unwrap(), SWEEP + 1);
    }

    #[tokio::test]
    async fn only_what_an_owner_leaves_is_released_of_more_than_one_sweep_takes() {
        let directory = tempfile::tempdir().unwrap();
        let things = things(directory.path(), 2 * SWEEP + 2).await;
        let is_even = |thing: &Thing| thing.id.parse::<u64>().unwrap().is_multiple_of(2);
        let released = things.release("gone", is_even, |thing| {
            thing.owners.retain(|one| one != "gone");
            Ok(Vec::new())
        });
        released.await.unwrap();
        let gone = Visibility::OwnedBy(vec!["gone".into()]);
        assert_eq!(things.count(&gone, &Filter::All).await.unwrap(), SWEEP + 1);
    }

    #[tokio::test]
    async fn a_sweep_that_changes_nothing_ends_with_a_failure() {
        let directory = tempfile::tempdir().unwrap();
        let things = things(directory.path(), 1).await;
        let failure = things.disown("gone", |_| Ok(Vec::new())).await.unwrap_err();
        assert_eq!(failure.kind, flowmate_common::Kind::Internal);
    }
}
