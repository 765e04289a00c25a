use flowmate_common::{
    Event, EventType, Failure,
    auth::Visibility,
    ids::TenantId,
    model::{AccountStatus, TenantChanged},
};
use flowmate_storage::{Change, Error, Filter, Query};

use super::{MAX_LISTED, Store};
use crate::records::TenantRecord;

impl Store {
    pub(crate) async fn tenant(&self, see: &Visibility, id: &str) -> Result<Option<TenantRecord>, Failure> {
        self.tenants.get(see, id).await
    }

    pub(crate) async fn list_tenants(&self, see: &Visibility) -> Result<Vec<TenantRecord>, Failure> {
        let query = Query::new(Filter::All, MAX_LISTED);
        self.tenants.find(see, &query).await
    }

    pub(crate) async fn add_tenant(&self, record: &TenantRecord) -> Result<(), Failure> {
        let event = self.tenant_event(EventType::TenantCreated, record)?;
        self.tenants.add(record, vec![event]).await
    }

    pub(crate) async fn change_tenant(
        &self,
        see: &Visibility,
        id: &str,
        mut change: impl FnMut(&mut TenantRecord),
    ) -> Result<Option<TenantRecord>, Failure> {
        let changed = self.tenants.change(see, id, |record| {
            change(record);
            // Of two changes within a millisecond, others have to know which is the later.
            let next = record.tenant.updated_at.plus_millis(1);
            record.tenant.updated_at = self.context.clock.now().max(next);
            let event = self.tenant_event(EventType::TenantModified, record)?;
            Ok(Change::Write(vec![event]))
        });
        changed.await
    }

    /// Removes a tenant. Its users and roles follow by the event.
    pub(crate) async fn delete_tenant(&self, see: &Visibility, id: &str) -> Result<Option<()>, Failure> {
        self.tenants
            .delete(see, id, |record| {
                Ok(vec![self.tenant_event(EventType::TenantDeleted, record)?])
            })
            .await
    }

    /// Removes a tenant's roles; may be called again.
    pub(crate) async fn delete_roles_of(&self, tenant: &TenantId) -> Result<(), Failure> {
        let see = Visibility::OwnedBy(vec![tenant.to_string()]);
        let query = Query::new(Filter::All, MAX_LISTED);
        for record in self.roles.find(&see, &query).await? {
            self.delete_role(&see, record.role.id.as_str()).await?;
        }
        Ok(())
    }

    fn tenant_event(&self, kind: EventType, record: &TenantRecord) -> Result<Event, Error> {
        let tenant = &record.tenant;
        let said = TenantChanged {
            id: tenant.id.clone(),
            disabled: tenant.status != AccountStatus::Active,
            updated_at: tenant.updated_at,
        };
        self.event(kind, tenant.id.as_str(), &said)
    }
}
