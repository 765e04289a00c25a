//! A view of the tenants that may not work: their flows do not run.

use flowmate_common::{
    Failure, Timestamp,
    auth::Visibility,
    ids::TenantId,
    model::{Flow, OwnerKind, TenantChanged},
};
use flowmate_runtime::Context;
use flowmate_storage::{Change, Collection, CollectionSpec, Document, Error};
use serde::{Deserialize, Serialize};

use crate::store::fault;

/// A tenant that was changed, as it was last heard of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KnownTenant {
    id: TenantId,
    disabled: bool,
    /// When it was changed: what was said before is older.
    at: Timestamp,
}

impl Document for KnownTenant {
    const SPEC: &'static CollectionSpec = &CollectionSpec {
        name: "flow_tenants",
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

/// The view.
pub(crate) struct Tenants {
    known: Collection<KnownTenant>,
}

impl Tenants {
    pub(crate) async fn open(context: &Context) -> Result<Self, Failure> {
        Ok(Self {
            known: Collection::open(&context.storage).await.map_err(fault)?,
        })
    }

    /// Takes in what was said of a tenant; whether it is disabled, by the latest that is known. What is older changes
    /// nothing: it may come again after the tenant was enabled.
    pub(crate) async fn note(&self, said: &TenantChanged) -> Result<bool, Error> {
        let new = KnownTenant {
            id: said.id.clone(),
            disabled: said.disabled,
            at: said.updated_at,
        };
        let updated = self.known.update(&Visibility::All, new.id.as_str(), |known| {
            if known.at > new.at {
                return Ok::<_, Error>(Change::Keep);
            }
            known.clone_from(&new);
            Ok(Change::Write(Vec::new()))
        });
        if let Some(known) = updated.await? {
            return Ok(known.disabled);
        }
        match self.known.insert(&new, Vec::new()).await {
            Ok(()) => Ok(new.disabled),
            // Another replica was first: this is looked at again.
            Err(Error::Duplicate) => Err(Error::VersionConflict),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn forget(&self, id: &str) -> Result<(), Error> {
        let deleted = self
            .known
            .delete(&Visibility::All, id, |_| Ok::<_, Error>(Vec::new()));
        deleted.await.map(|_| ())
    }

    /// Whether the flow may not run: its tenant is disabled.
    pub(crate) async fn closes(&self, flow: &Flow) -> Result<bool, Error> {
        let Some(tenant) = flow.body.owner(OwnerKind::Tenant) else {
            return Ok(false);
        };
        let known = self.known.get(&Visibility::All, tenant).await?;
        Ok(known.is_some_and(|known| known.disabled))
    }
}
