use flowmate_common::{
    Event, EventType, Failure,
    auth::{AccessChange, TenantAccess, Visibility},
    ids::TenantId,
    model::{AccountStatus, TenantChanged},
};
use flowmate_storage::{Change, Error, Filter, Query};

use super::{SWEEP, Store, WHOLE};
use crate::records::TenantRecord;

impl Store {
    pub(crate) async fn tenant(&self, see: &Visibility, id: &str) -> Result<Option<TenantRecord>, Failure> {
        self.tenants.get(see, id).await
    }

    pub(crate) async fn list_tenants(&self, see: &Visibility) -> Result<Vec<TenantRecord>, Failure> {
        let query = Query::new(Filter::All, WHOLE);
        self.tenants.find(see, &query).await
    }

    pub(crate) async fn add_tenant(&self, record: &TenantRecord) -> Result<(), Failure> {
        let events = self.tenant_events(EventType::TenantCreated, record)?;
        self.tenants.add(record, events).await?;
        self.heard(AccessChange::Tenant(record.access()));
        Ok(())
    }

    pub(crate) async fn change_tenant(
        &self,
        see: &Visibility,
        id: &str,
        mut change: impl FnMut(&mut TenantRecord),
    ) -> Result<Option<TenantRecord>, Failure> {
        let changed = self.tenants.change(see, id, |record| {
            change(record);
            record.tenant.updated_at = self.later_than(record.tenant.updated_at);
            Ok(Change::Write(
                self.tenant_events(EventType::TenantModified, record)?,
            ))
        });
        let changed = changed.await?;
        if let Some(record) = &changed {
            self.heard(AccessChange::Tenant(record.access()));
        }
        Ok(changed)
    }

    /// Removes a tenant. Its users and roles follow by the event.
    pub(crate) async fn delete_tenant(&self, see: &Visibility, id: &str) -> Result<Option<()>, Failure> {
        let mut last = None;
        let deleted = self.tenants.delete(see, id, |record| {
            let closed = AccessChange::Tenant(TenantAccess {
                version: self.later_than(record.tenant.updated_at),
                open: false,
                ..record.access()
            });
            let events = vec![
                self.tenant_event(EventType::TenantDeleted, record)?,
                self.access_event(&closed)?,
            ];
            last = Some(closed);
            Ok(events)
        });
        let deleted = deleted.await?;
        last.filter(|_| deleted.is_some())
            .into_iter()
            .for_each(|closed| self.heard(closed));
        Ok(deleted)
    }

    /// Removes a tenant's roles; may be called again.
    pub(crate) async fn delete_roles_of(&self, tenant: &TenantId) -> Result<(), Failure> {
        let see = Visibility::OwnedBy(vec![tenant.to_string()]);
        let query = Query::new(Filter::All, SWEEP);
        loop {
            let roles = self.roles.find(&see, &query).await?;
            if roles.is_empty() {
                return Ok(());
            }
            for record in roles {
                self.delete_role(&see, record.role.id.as_str(), |_| Ok(()))
                    .await?;
            }
        }
    }

    fn tenant_events(&self, kind: EventType, record: &TenantRecord) -> Result<Vec<Event>, Error> {
        let access = AccessChange::Tenant(record.access());
        Ok(vec![
            self.tenant_event(kind, record)?,
            self.access_event(&access)?,
        ])
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
