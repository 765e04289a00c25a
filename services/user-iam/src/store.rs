//! Users, tokens, roles and tenants in their collections, each change with the event that tells of it.

mod tenants;
mod tokens;
mod users;

use flowmate_common::{
    Event, EventType, Failure, Timestamp,
    auth::{AccessChange, AccessSnapshot, RoleAccess, Visibility},
};
use flowmate_runtime::{Context, Repository};
use flowmate_storage::{Change, Error, Filter, Query};

use crate::records::{RoleRecord, TenantRecord, TokenRecord, UserRecord};

/// The contract has no paging here: a list is whole, and never ends silently.
const WHOLE: u64 = u32::MAX as u64;
/// Documents that a sweep over a collection takes at a time.
const SWEEP: u64 = 500;

pub(crate) struct Store {
    context: Context,
    users: Repository<UserRecord>,
    tokens: Repository<TokenRecord>,
    roles: Repository<RoleRecord>,
    tenants: Repository<TenantRecord>,
}

impl Store {
    pub(crate) async fn open(context: &Context) -> Result<Self, Failure> {
        Ok(Self {
            context: context.clone(),
            users: Repository::open(&context.storage).await?,
            tokens: Repository::open(&context.storage).await?,
            roles: Repository::open(&context.storage).await?,
            tenants: Repository::open(&context.storage).await?,
        })
    }

    fn event(&self, kind: EventType, key: &str, body: &impl serde::Serialize) -> Result<Event, Error> {
        self.context.event(kind, key, body)
    }

    pub(crate) async fn role(&self, see: &Visibility, id: &str) -> Result<Option<RoleRecord>, Failure> {
        self.roles.get(see, id).await
    }

    /// The roles that the caller sees and those that all tenants have.
    pub(crate) async fn list_roles(&self, see: &Visibility) -> Result<Vec<RoleRecord>, Failure> {
        let global = Query::new(Filter::eq("isGlobal", true), WHOLE);
        let own = Query::new(Filter::eq("isGlobal", false), WHOLE);
        let mut roles = self.roles.find(&Visibility::All, &global).await?;
        roles.extend(self.roles.find(see, &own).await?);
        Ok(roles)
    }

    pub(crate) async fn add_role(&self, record: &RoleRecord) -> Result<(), Failure> {
        let change = AccessChange::Role(record.access());
        let event = self.access_event(&change)?;
        self.roles.add(record, vec![event]).await?;
        self.heard(change);
        Ok(())
    }

    pub(crate) async fn change_role(
        &self,
        see: &Visibility,
        id: &str,
        mut change: impl FnMut(&mut RoleRecord) -> Result<(), Failure>,
    ) -> Result<Option<RoleRecord>, Failure> {
        let changed = self.roles.change(see, id, |record| {
            change(record)?;
            record.role.updated_at = self.later_than(record.role.updated_at);
            let event = self.access_event(&AccessChange::Role(record.access()))?;
            Ok(Change::Write(vec![event]))
        });
        let changed = changed.await?;
        if let Some(record) = &changed {
            self.heard(AccessChange::Role(record.access()));
        }
        Ok(changed)
    }

    /// Removes a role if `check` agrees: who had it has it no longer.
    pub(crate) async fn delete_role(
        &self,
        see: &Visibility,
        id: &str,
        mut check: impl FnMut(&RoleRecord) -> Result<(), Failure>,
    ) -> Result<Option<()>, Failure> {
        let mut last = None;
        let deleted = self.roles.delete(see, id, |record| {
            check(record)?;
            let gone = AccessChange::Role(RoleAccess {
                version: self.later_than(record.role.updated_at),
                permissions: Vec::new(),
                ..record.access()
            });
            let event = self.access_event(&gone)?;
            last = Some(gone);
            Ok(vec![event])
        });
        let deleted = deleted.await?;
        last.filter(|_| deleted.is_some())
            .into_iter()
            .for_each(|gone| self.heard(gone));
        Ok(deleted)
    }

    /// Of two changes within a millisecond, others have to know which is the later.
    fn later_than(&self, before: Timestamp) -> Timestamp {
        self.context.clock.now().max(before.plus_millis(1))
    }

    fn access_event(&self, change: &AccessChange) -> Result<Event, Error> {
        let key = match change {
            AccessChange::Account(account) => account.id.as_str(),
            AccessChange::Role(role) => role.id.as_str(),
            AccessChange::Tenant(tenant) => tenant.id.as_str(),
        };
        self.event(EventType::AccessChanged, key, change)
    }

    /// This process knows at once what it has stored; the others hear of it.
    fn heard(&self, change: AccessChange) {
        self.context.tokens.access().apply(change);
    }

    /// All that is stored of rights, for a process that starts.
    pub(crate) async fn stored_access(&self) -> Result<AccessSnapshot, Failure> {
        let as_of = self.context.clock.now();
        let latest = self.context.tokens.access().latest();
        let (all, everything) = (&Visibility::All, Query::new(Filter::All, WHOLE));
        let users = self.users.find(all, &everything).await?;
        let users = users.iter().map(|record| AccessChange::Account(record.access()));
        let mut stored: Vec<AccessChange> = users.collect();
        let roles = self.roles.find(all, &everything).await?;
        stored.extend(roles.iter().map(|record| AccessChange::Role(record.access())));
        let tenants = self.tenants.find(all, &everything).await?;
        stored.extend(tenants.iter().map(|record| AccessChange::Tenant(record.access())));
        Ok(AccessSnapshot {
            as_of,
            latest,
            stored,
        })
    }
}
