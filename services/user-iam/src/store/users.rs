use flowmate_common::{
    Event, EventType, Failure,
    auth::{AccessChange, AccountAccess, Visibility},
    ids::TenantId,
    model::{Role, User, UserChanged},
};
use flowmate_storage::{Change, Error, Filter, Query};

use super::{SWEEP, Store, WHOLE};
use crate::records::{UserRecord, unique_name};

impl Store {
    pub(crate) async fn user(&self, see: &Visibility, id: &str) -> Result<Option<UserRecord>, Failure> {
        self.users.get(see, id).await
    }

    /// Who logs in with that name.
    pub(crate) async fn user_by_login(&self, username: &str) -> Result<Option<UserRecord>, Failure> {
        self.user_by_unique_name(unique_name(username, true, None)).await
    }

    /// The user of the tenant that the partner calls by that name: one made by impersonation before any other.
    pub(crate) async fn user_of_tenant(
        &self,
        tenant: Option<&TenantId>,
        username: &str,
    ) -> Result<Option<UserRecord>, Failure> {
        if let Some(user) = self
            .user_by_unique_name(unique_name(username, false, tenant))
            .await?
        {
            return Ok(Some(user));
        }
        let other = self.user_by_login(username).await?;
        Ok(other.filter(|record| record.user.tenant.as_ref() == tenant))
    }

    async fn user_by_unique_name(&self, name: String) -> Result<Option<UserRecord>, Failure> {
        let query = Query::new(Filter::eq("uniqueName", name), 1);
        let mut found = self.users.find(&Visibility::All, &query).await?;
        Ok(found.pop())
    }

    pub(crate) async fn list_users(&self, see: &Visibility, filter: Filter) -> Result<Vec<User>, Failure> {
        let query = Query::new(filter, WHOLE);
        let records = self.users.find(see, &query).await?;
        let mut users = Vec::with_capacity(records.len());
        for record in records {
            users.push(self.with_roles(record).await?);
        }
        Ok(users)
    }

    /// The user as it is shown: with its roles.
    pub(crate) async fn with_roles(&self, record: UserRecord) -> Result<User, Failure> {
        let roles = self.roles_of(&record).await?;
        Ok(User { roles, ..record.user })
    }

    /// The user's own permissions and those of its roles.
    pub(crate) async fn effective_permissions(&self, record: &UserRecord) -> Result<Vec<String>, Failure> {
        let mut permissions = record.user.permissions.clone();
        for role in self.roles_of(record).await? {
            permissions.extend(role.permissions);
        }
        permissions.sort();
        permissions.dedup();
        Ok(permissions)
    }

    /// A role that was deleted is no longer there, and one of another tenant means nothing.
    async fn roles_of(&self, user: &UserRecord) -> Result<Vec<Role>, Failure> {
        let mut roles = Vec::with_capacity(user.role_ids.len());
        for id in &user.role_ids {
            let found = self.role(&Visibility::All, id.as_str()).await?;
            roles.extend(found.filter(|record| record.access().counts_in(user.user.tenant.as_ref())));
        }
        Ok(roles.into_iter().map(|record| record.role).collect())
    }

    pub(crate) async fn has_users(&self) -> Result<bool, Failure> {
        let count = self.users.count(&Visibility::All, &Filter::All);
        Ok(count.await? > 0)
    }

    pub(crate) async fn add_user(&self, record: &UserRecord) -> Result<(), Failure> {
        let events = self.user_events(EventType::UserCreated, record)?;
        self.users.add(record, events).await?;
        self.heard(AccessChange::Account(record.access()));
        Ok(())
    }

    pub(crate) async fn change_user(
        &self,
        see: &Visibility,
        id: &str,
        mut change: impl FnMut(&mut UserRecord) -> Result<(), Failure>,
    ) -> Result<Option<UserRecord>, Failure> {
        let changed = self.users.change(see, id, |record| {
            change(record)?;
            record.user.updated_at = self.later_than(record.user.updated_at);
            Ok(Change::Write(self.user_events(EventType::UserModified, record)?))
        });
        let changed = changed.await?;
        if let Some(record) = &changed {
            self.heard(AccessChange::Account(record.access()));
        }
        Ok(changed)
    }

    /// Removes a user if `check` agrees. What the user owned is told by the event.
    pub(crate) async fn delete_user(
        &self,
        see: &Visibility,
        id: &str,
        mut check: impl FnMut(&UserRecord) -> Result<(), Failure>,
    ) -> Result<Option<()>, Failure> {
        let mut last = None;
        let deleted = self.users.delete(see, id, |record| {
            check(record)?;
            let gone = AccessChange::Account(AccountAccess {
                version: self.later_than(record.user.updated_at),
                active: false,
                permissions: Vec::new(),
                roles: Vec::new(),
                ..record.access()
            });
            let events = vec![
                self.user_event(EventType::UserDeleted, record)?,
                self.access_event(&gone)?,
            ];
            last = Some(gone);
            Ok(events)
        });
        let deleted = deleted.await?;
        last.filter(|_| deleted.is_some())
            .into_iter()
            .for_each(|gone| self.heard(gone));
        Ok(deleted)
    }

    /// Removes a tenant's users; may be called again.
    pub(crate) async fn delete_users_of(&self, tenant: &TenantId) -> Result<(), Failure> {
        let query = Query::new(Filter::eq("tenant", tenant.as_str()), SWEEP);
        loop {
            let users = self.users.find(&Visibility::All, &query).await?;
            if users.is_empty() {
                return Ok(());
            }
            for record in users {
                self.revoke_tokens_of(&record.user.id, None).await?;
                let id = record.user.id.as_str();
                self.delete_user(&Visibility::All, id, |_| Ok(())).await?;
            }
        }
    }

    pub(crate) async fn users_of(&self, tenant: &TenantId) -> Result<Vec<User>, Failure> {
        let filter = Filter::eq("tenant", tenant.as_str());
        self.list_users(&Visibility::All, filter).await
    }

    fn user_events(&self, kind: EventType, record: &UserRecord) -> Result<Vec<Event>, Error> {
        let access = AccessChange::Account(record.access());
        Ok(vec![self.user_event(kind, record)?, self.access_event(&access)?])
    }

    fn user_event(&self, kind: EventType, record: &UserRecord) -> Result<Event, Error> {
        let User {
            id, username, tenant, ..
        } = &record.user;
        let body = UserChanged {
            id: id.clone(),
            username: username.clone(),
            tenant: tenant.clone(),
        };
        self.event(kind, id.as_str(), &body)
    }
}
