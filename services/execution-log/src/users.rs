//! A view of the users' external ids, for the usage counts.

use std::sync::Arc;

use flowmate_bus::dispatch::Refusal;
use flowmate_common::{Event, EventType, Failure, auth::Visibility, ids::UserId, model::UserChanged};
use flowmate_runtime::Context;
use flowmate_storage::{Change, Collection, CollectionSpec, Document, Error};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub(crate) struct KnownUser {
    id: UserId,
    username: String,
}

impl Document for KnownUser {
    const SPEC: &'static CollectionSpec = &CollectionSpec {
        name: "execution_users",
        fields: &[],
        unique: &[],
    };

    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn owners(&self) -> Vec<String> {
        vec![self.id.to_string()]
    }
}

/// The view. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Users {
    stored: Arc<Collection<KnownUser>>,
}

impl Users {
    pub(crate) async fn open(context: &Context) -> Result<Self, Failure> {
        let stored = Collection::open(&context.storage)
            .await
            .map_err(Failure::internal)?;
        Ok(Self {
            stored: Arc::new(stored),
        })
    }

    /// The external id, where it is known already.
    pub(crate) async fn name(&self, id: &str) -> Result<Option<String>, Error> {
        Ok(self
            .stored
            .get(&Visibility::All, id)
            .await?
            .map(|user| user.username))
    }

    pub(crate) async fn handle(&self, event: Event) -> Result<(), Refusal> {
        match event.kind {
            EventType::UserCreated | EventType::UserModified => {}
            EventType::UserDeleted => return self.forget(event).await,
            _ => return Ok(()),
        }
        let UserChanged { id, username, .. } = event.body().map_err(Refusal::permanent)?;
        let user = KnownUser { id, username };
        let updated = self.stored.update(
            &Visibility::All,
            user.id.as_str(),
            |known| -> Result<Change, Error> {
                known.username.clone_from(&user.username);
                Ok(Change::Write(Vec::new()))
            },
        );
        if updated.await.map_err(Refusal::from)?.is_none() {
            self.stored
                .insert(&user, Vec::new())
                .await
                .map_err(Refusal::from)?;
        }
        Ok(())
    }

    /// Counts of a deleted user go on under its internal id alone.
    async fn forget(&self, event: Event) -> Result<(), Refusal> {
        let UserChanged { id, .. } = event.body().map_err(Refusal::permanent)?;
        let forgotten = self
            .stored
            .delete(&Visibility::All, id.as_str(), |_| Ok::<_, Error>(Vec::new()));
        forgotten.await.map_err(Refusal::from)?;
        Ok(())
    }
}
