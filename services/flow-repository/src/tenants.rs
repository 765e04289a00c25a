//! A view of the tenants that may not work: their flows do not run.

use flowmate_common::{
    Failure, Timestamp,
    auth::Visibility,
    ids::TenantId,
    model::{Flow, OwnerKind, TenantChanged},
};
use flowmate_runtime::Repository;
use flowmate_storage::{Change, CollectionSpec, Document, Storage};
use serde::{Deserialize, Serialize};

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
    known: Repository<KnownTenant>,
}

impl Tenants {
    pub(crate) async fn open(storage: &Storage) -> Result<Self, Failure> {
        Ok(Self {
            known: Repository::open(storage).await?,
        })
    }

    /// Takes in what was said of a tenant; whether it is disabled, by the latest that is known. What is older changes
    /// nothing: it may come again after the tenant was enabled.
    pub(crate) async fn note(&self, said: &TenantChanged) -> Result<bool, Failure> {
        let new = KnownTenant {
            id: said.id.clone(),
            disabled: said.disabled,
            at: said.updated_at,
        };
        let updated = self.known.change(&Visibility::All, new.id.as_str(), |known| {
            if known.at > new.at {
                return Ok(Change::Keep);
            }
            known.clone_from(&new);
            Ok(Change::Write(Vec::new()))
        });
        if let Some(known) = updated.await? {
            return Ok(known.disabled);
        }
        self.known.add(&new, Vec::new()).await?;
        Ok(new.disabled)
    }

    pub(crate) async fn forget(&self, id: &str) -> Result<(), Failure> {
        let deleted = self.known.delete(&Visibility::All, id, |_| Ok(Vec::new()));
        deleted.await.map(|_| ())
    }

    /// Whether the flow may not run: its tenant is disabled.
    pub(crate) async fn closes(&self, flow: &Flow) -> Result<bool, Failure> {
        let Some(tenant) = flow.body.owner(OwnerKind::Tenant) else {
            return Ok(false);
        };
        let known = self.known.get(&Visibility::All, tenant).await?;
        Ok(known.is_some_and(|known| known.disabled))
    }
}
