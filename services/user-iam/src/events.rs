//! What follows from the events of this service itself. The operations do most of it at once; this makes sure of it
//! where the process ended in between. May be called again with the same event.

use std::sync::Arc;

use flowmate_bus::dispatch::Refusal;
use flowmate_common::{
    Event, EventType, Failure,
    auth::Visibility,
    model::{AccountStatus, TenantChanged, UserChanged},
};

use crate::{State, issue::may_work};

pub(crate) async fn handle(state: &Arc<State>, event: Event) -> Result<(), Refusal> {
    let done = match event.kind {
        EventType::UserDeleted | EventType::UserModified => {
            user_changed(state, event.body().map_err(Refusal::permanent)?).await
        }
        EventType::TenantModified => tenant_changed(state, event.body().map_err(Refusal::permanent)?).await,
        EventType::TenantDeleted => tenant_deleted(state, event.body().map_err(Refusal::permanent)?).await,
        _ => Ok(()),
    };
    done.map_err(Refusal::from)
}

/// Who may not work has no tokens.
async fn user_changed(state: &State, user: UserChanged) -> Result<(), Failure> {
    let works = match state.store.user(&Visibility::All, user.id.as_str()).await? {
        Some(record) => may_work(state, &record).await?,
        None => false,
    };
    if works {
        return Ok(());
    }
    state.store.revoke_tokens_of(&user.id, None).await
}

async fn tenant_changed(state: &State, tenant: TenantChanged) -> Result<(), Failure> {
    let found = state.store.tenant(&Visibility::All, tenant.id.as_str()).await?;
    let is_open = found.is_some_and(|record| record.tenant.status == AccountStatus::Active);
    if is_open {
        return Ok(());
    }
    state.store.revoke_tokens_in(&tenant.id).await
}

/// Its users and roles go with it.
async fn tenant_deleted(state: &State, tenant: TenantChanged) -> Result<(), Failure> {
    state.store.delete_users_of(&tenant.id).await?;
    state.store.delete_roles_of(&tenant.id).await
}
