//! Users, tokens, roles and tenants in their collections, each change with the event that tells of it.

mod tenants;
mod tokens;
mod users;

use flowmate_common::{Event, EventType, Failure, auth::Visibility};
use flowmate_runtime::{Context, Repository};
use flowmate_storage::{Change, Error, Filter, Query};

use crate::records::{RoleRecord, TenantRecord, TokenRecord, UserRecord};

/// Documents that one answer may hold; the contract has no paging here.
const MAX_LISTED: u64 = 10_000;
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
        let global = Query::new(Filter::eq("isGlobal", true), MAX_LISTED);
        let own = Query::new(Filter::eq("isGlobal", false), MAX_LISTED);
        let mut roles = self.roles.find(&Visibility::All, &global).await?;
        roles.extend(self.roles.find(see, &own).await?);
        Ok(roles)
    }

    pub(crate) async fn add_role(&self, record: &RoleRecord) -> Result<(), Failure> {
        self.roles.add(record, Vec::new()).await
    }

    pub(crate) async fn change_role(
        &self,
        see: &Visibility,
        id: &str,
        mut change: impl FnMut(&mut RoleRecord) -> Result<(), Failure>,
    ) -> Result<Option<RoleRecord>, Failure> {
        let changed = self.roles.change(see, id, |record| {
            change(record)?;
            record.role.updated_at = self.context.clock.now();
            Ok(Change::Write(Vec::new()))
        });
        changed.await
    }

    pub(crate) async fn delete_role(&self, see: &Visibility, id: &str) -> Result<Option<()>, Failure> {
        self.roles.delete(see, id, |_| Ok(Vec::new())).await
    }
}
