//! The registry of components: the built-in ones, and those that users describe. Only the built-in ones can be run.

use flowmate_common::{
    Failure, Kind,
    auth::{Caller, Visibility},
    ids::ComponentId,
    model::{Access, Component, UserChanged},
};
use flowmate_connectors::Registry;
use flowmate_runtime::{Context, Repository, owning};
use flowmate_storage::{Change, CollectionSpec, Document, Field, Filter, Query, Sort};
use serde::{Deserialize, Serialize};

/// What stands among the owners of a component that everybody may see. No user or tenant has such an id.
const EVERYBODY: &str = "*";

/// A described component as it is stored.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct ComponentRecord {
    pub(crate) component: Component,
}

impl Document for ComponentRecord {
    const SPEC: &'static CollectionSpec = &CollectionSpec {
        name: "components",
        fields: &[
            Field {
                name: "name",
                path: "$.component.name",
            },
            Field {
                name: "description",
                path: "$.component.description",
            },
            Field {
                name: "createdAt",
                path: "$.component.createdAt",
            },
        ],
        unique: &[],
    };

    fn id(&self) -> &str {
        self.component.id.as_str()
    }

    fn owners(&self) -> Vec<String> {
        let body = &self.component.body;
        let everybody = (body.access == Access::Public).then(|| EVERYBODY.to_owned());
        body.owners
            .iter()
            .map(|owner| owner.id.clone())
            .chain(everybody)
            .collect()
    }
}

pub(crate) struct Components {
    described: Repository<ComponentRecord>,
}

/// What the caller may see: besides its own what everybody may.
fn sees(caller: &Caller) -> Visibility {
    match owning::sees_shared(caller) {
        Visibility::All => Visibility::All,
        Visibility::OwnedBy(mut owners) => {
            owners.push(EVERYBODY.to_owned());
            Visibility::OwnedBy(owners)
        }
    }
}

fn built_in(id: &str) -> Option<Component> {
    Registry::components()
        .into_iter()
        .find(|component| component.id.as_str() == id)
}

fn not_found() -> Failure {
    Failure::not_found("Component is not found")
}

impl Components {
    pub(crate) async fn open(context: &Context) -> Result<Self, Failure> {
        Ok(Self {
            described: Repository::open(&context.storage).await?,
        })
    }

    /// The built-in components and then the others that the caller sees, the oldest first; and how many there are.
    pub(crate) async fn page(
        &self,
        caller: &Caller,
        search: Option<&str>,
        skip: u64,
        limit: u64,
    ) -> Result<(Vec<Component>, u64), Failure> {
        let see = sees(caller);
        let mut page: Vec<Component> = Registry::components();
        if let Some(text) = search {
            let text = text.to_lowercase();
            page.retain(|one| {
                one.body.name.to_lowercase().contains(&text)
                    || one.body.description.to_lowercase().contains(&text)
            });
        }
        let filter = match search {
            None => Filter::All,
            Some(text) => Filter::Search(&["name", "description"], text.to_owned()),
        };
        let built_in = page.len() as u64;
        let total = built_in + self.described.count(&see, &filter).await?;
        let mut page: Vec<Component> = page
            .into_iter()
            .skip(usize::try_from(skip).unwrap_or(usize::MAX))
            .take(usize::try_from(limit).unwrap_or(usize::MAX))
            .collect();
        let query = Query {
            filter,
            sort: Some(Sort {
                field: "createdAt",
                descending: false,
            }),
            skip: skip.saturating_sub(built_in),
            limit: limit - page.len() as u64,
        };
        if query.limit > 0 {
            let described = self.described.find(&see, &query).await?;
            page.extend(described.into_iter().map(|record| record.component));
        }
        Ok((page, total))
    }

    pub(crate) async fn get(&self, caller: &Caller, id: &str) -> Result<Component, Failure> {
        if let Some(component) = built_in(id) {
            return Ok(component);
        }
        let found = self.described.get(&sees(caller), id).await?;
        Ok(found.ok_or_else(not_found)?.component)
    }

    pub(crate) async fn add(&self, component: Component) -> Result<Component, Failure> {
        let record = ComponentRecord { component };
        self.described.add(&record, Vec::new()).await?;
        Ok(record.component)
    }

    /// The component, if the caller may change it: what is seen but not owned is refused, what is not seen does not exist.
    pub(crate) async fn owned(&self, caller: &Caller, id: &str) -> Result<Component, Failure> {
        self.get(caller, id).await?;
        match self.described.get(&owning::sees(caller), id).await? {
            Some(record) => Ok(record.component),
            None => Err(Failure::coded(Kind::Forbidden, "MISSING_PERMISSION")),
        }
    }

    pub(crate) async fn change(
        &self,
        caller: &Caller,
        id: &str,
        mut change: impl FnMut(&mut Component) -> Result<(), Failure>,
    ) -> Result<Component, Failure> {
        let see = owning::sees(caller);
        let changed = self.described.change(&see, id, |record| {
            change(&mut record.component)?;
            Ok(Change::Write(Vec::new()))
        });
        Ok(changed.await?.ok_or_else(not_found)?.component)
    }

    pub(crate) async fn delete(&self, caller: &Caller, id: &ComponentId) -> Result<(), Failure> {
        let see = owning::sees(caller);
        let deleted = self.described.delete(&see, id.as_str(), |_| Ok(Vec::new()));
        deleted.await?.ok_or_else(not_found)
    }

    /// Who was taken out of a tenant leaves it what it owns.
    pub(crate) async fn left(&self, user: &UserChanged) -> Result<(), Failure> {
        let leaves = |record: &ComponentRecord| owning::has_left(&record.component.body.owners, user);
        let released = self.described.release(user.id.as_str(), leaves, |record| {
            let owners = &mut record.component.body.owners;
            owners.retain(|one| one.id != user.id.as_str());
            Ok(Vec::new())
        });
        released.await
    }

    /// The user or tenant is no more: it owns nothing. May be called again.
    pub(crate) async fn disown(&self, owner: &str) -> Result<(), Failure> {
        let disowned = self.described.disown(owner, |record| {
            record.component.body.owners.retain(|one| one.id != owner);
            Ok(Vec::new())
        });
        disowned.await
    }
}
