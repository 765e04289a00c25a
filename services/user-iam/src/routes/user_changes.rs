use actix_web::{
    HttpResponse, delete, patch, put,
    web::{Data, Path},
};
use flowmate_common::{
    Failure,
    auth::{Authenticated, Caller, UsersDelete, UsersUpdate, Visibility},
    ids::{RoleId, TenantId},
    model::AccountStatus,
};
use flowmate_web::{Allowed, ApiError, Body, ErrorMessage};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    answer::{forbidden, input, invalid, is_name, not_found, ok},
    users::{check_grants, is_password},
};
use crate::{
    State,
    records::{UserRecord, unique_name},
};

/// What users may change of themselves; what is left out stays.
#[derive(Deserialize, ToSchema)]
pub(crate) struct OwnChange {
    /// First name.
    #[schema(example = "Ada")]
    firstname: Option<String>,
    /// Last name.
    #[schema(example = "Byron")]
    lastname: Option<String>,
}

/// What may be changed of a user; what is left out stays.
#[derive(Deserialize, ToSchema)]
pub(crate) struct UserChange {
    /// Unique: an e-mail address or the partner's own id.
    #[schema(example = "ada@example.com", min_length = 1, max_length = 320)]
    username: Option<String>,
    /// A new password.
    #[schema(example = "correct horse battery staple", min_length = 1, max_length = 1024)]
    password: Option<String>,
    /// First name.
    #[schema(example = "Ada")]
    firstname: Option<String>,
    /// Last name.
    #[schema(example = "Byron")]
    lastname: Option<String>,
    /// With anything but `ACTIVE` the user's tokens are no longer valid.
    status: Option<AccountStatus>,
    /// System administrators only: the tenant the user belongs to from now on.
    tenant: Option<TenantId>,
    /// Ids of roles; valid with the next login.
    roles: Option<Vec<RoleId>>,
    /// What the user may do; valid with the next login.
    #[schema(example = json!(["flows.read"]))]
    permissions: Option<Vec<String>>,
    /// Whether the address was confirmed.
    confirmed: Option<bool>,
    /// URL of a picture.
    #[schema(example = "https://example.com/ada.png")]
    img: Option<String>,
}

/// A user as it is to be; what is left out is removed. The password stays where none is given.
#[derive(Deserialize, ToSchema)]
pub(crate) struct UserReplacement {
    /// Unique: an e-mail address or the partner's own id.
    #[schema(example = "ada@example.com", min_length = 1, max_length = 320)]
    username: String,
    /// A new password.
    #[schema(example = "correct horse battery staple", min_length = 1, max_length = 1024)]
    password: Option<String>,
    /// First name.
    #[schema(example = "Ada")]
    firstname: Option<String>,
    /// Last name.
    #[schema(example = "Byron")]
    lastname: Option<String>,
    /// With anything but `ACTIVE`, the default, the user's tokens are no longer valid.
    #[serde(default)]
    status: AccountStatus,
    /// System administrators only: the tenant the user belongs to from now on.
    tenant: Option<TenantId>,
    /// Ids of roles; valid with the next login.
    #[serde(default)]
    roles: Vec<RoleId>,
    /// What the user may do; valid with the next login.
    #[serde(default)]
    #[schema(example = json!(["flows.read"]))]
    permissions: Vec<String>,
    /// Whether the address was confirmed.
    #[serde(default)]
    confirmed: bool,
    /// URL of a picture.
    #[schema(example = "https://example.com/ada.png")]
    img: Option<String>,
}

/// Changes the caller's own names.
#[utoipa::path(tag = "Users", operation_id = "updateMe", security(("bearer" = [])), extensions(("x-any-caller" = json!(true))), request_body = OwnChange, responses(
    (status = 200, description = "OK", body = String, content_type = "text/plain"),
    (status = 400, description = "INPUT_INVALID", body = ErrorMessage)))]
#[patch("/users/me")]
pub(crate) async fn update_me(
    state: Data<State>,
    caller: Allowed<Authenticated>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let OwnChange { firstname, lastname } = input(&body)?;
    let own = caller.user.as_str();
    let changed = state.store.change_user(&Visibility::All, own, |record| {
        let user = &mut record.user;
        user.firstname = firstname.clone().or_else(|| user.firstname.take());
        user.lastname = lastname.clone().or_else(|| user.lastname.take());
        Ok(())
    });
    changed.await?.ok_or_else(not_found)?;
    Ok(ok())
}

/// Changes a user. A user that is no longer active is logged out everywhere.
#[utoipa::path(tag = "Users", operation_id = "updateUser", security(("bearer" = [])), request_body = UserChange, params(
    ("id" = String, Path, description = "The internal id")), responses(
    (status = 200, description = "OK", body = String, content_type = "text/plain"),
    (status = 400, description = "INPUT_INVALID", body = ErrorMessage),
    (status = 409, description = "DUPLICATE_KEY", body = ErrorMessage)))]
#[patch("/users/{id}")]
pub(crate) async fn update(
    state: Data<State>,
    caller: Allowed<UsersUpdate>,
    id: Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let present = visible(&state, &caller, &id).await?;
    let change: UserChange = input(&body)?;
    apply(&state, &caller, present, change, |_| {}).await
}

/// Replaces a user.
#[utoipa::path(tag = "Users", operation_id = "replaceUser", security(("bearer" = [])), request_body = UserReplacement, params(
    ("id" = String, Path, description = "The internal id")), responses(
    (status = 200, description = "OK", body = String, content_type = "text/plain"),
    (status = 400, description = "INPUT_INVALID", body = ErrorMessage),
    (status = 409, description = "DUPLICATE_KEY", body = ErrorMessage)))]
#[put("/users/{id}")]
pub(crate) async fn replace(
    state: Data<State>,
    caller: Allowed<UsersUpdate>,
    id: Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let present = visible(&state, &caller, &id).await?;
    let new: UserReplacement = input(&body)?;
    let change = UserChange {
        username: Some(new.username),
        password: new.password,
        firstname: new.firstname,
        lastname: new.lastname,
        status: Some(new.status),
        tenant: new.tenant,
        roles: Some(new.roles),
        permissions: Some(new.permissions),
        confirmed: Some(new.confirmed),
        img: new.img,
    };
    let clear = |record: &mut UserRecord| {
        let user = &mut record.user;
        (user.firstname, user.lastname, user.img) = (None, None, None);
    };
    apply(&state, &caller, present, change, clear).await
}

async fn visible(state: &State, caller: &Caller, id: &str) -> Result<UserRecord, Failure> {
    let record = state.store.user(&caller.visibility(), id).await?;
    record.ok_or_else(not_found)
}

/// Checks a change, makes it after `before`, and logs out who may no longer work.
async fn apply(
    state: &State,
    caller: &Caller,
    present: UserRecord,
    change: UserChange,
    before: impl Fn(&mut UserRecord),
) -> Result<HttpResponse, ApiError> {
    if !change.username.as_deref().is_none_or(is_name) || !change.password.as_deref().is_none_or(is_password)
    {
        return Err(invalid().into());
    }
    let tenant = change.tenant.clone().filter(|_| caller.is_admin());
    let permissions = change.permissions.as_deref().unwrap_or_default();
    let roles = change.roles.as_deref().unwrap_or_default();
    let belongs_to = tenant.as_ref().or(present.user.tenant.as_ref());
    check_grants(state, caller, belongs_to, permissions, roles).await?;
    if present.user.id == caller.user
        && change
            .status
            .is_some_and(|status| status != AccountStatus::Active)
    {
        return Err(forbidden().into());
    }
    let password_hash = match change.password.clone() {
        Some(password) => Some(state.passwords.hash(password).await?),
        None => None,
    };
    let see = caller.visibility();
    let changed = state.store.change_user(&see, present.user.id.as_str(), |record| {
        reach(caller, record)?;
        before(record);
        merge(record, &change, tenant.clone());
        if let Some(hash) = &password_hash {
            record.password_hash = Some(hash.clone());
        }
        Ok(())
    });
    let record = changed.await?.ok_or_else(not_found)?;
    if record.user.status != AccountStatus::Active || password_hash.is_some() || tenant.is_some() {
        state.store.revoke_tokens_of(&record.user.id).await?;
    }
    Ok(ok())
}

/// Whoever may change the tenant's users may not reach for a system administrator among them.
fn reach(caller: &Caller, record: &UserRecord) -> Result<(), Failure> {
    let is_admin = record
        .user
        .permissions
        .iter()
        .any(|permission| permission == "all");
    if is_admin && !caller.is_admin() {
        return Err(forbidden());
    }
    Ok(())
}

fn merge(record: &mut UserRecord, change: &UserChange, tenant: Option<TenantId>) {
    let user = &mut record.user;
    if let Some(username) = &change.username {
        user.username.clone_from(username);
    }
    user.firstname = change.firstname.clone().or_else(|| user.firstname.take());
    user.lastname = change.lastname.clone().or_else(|| user.lastname.take());
    user.img = change.img.clone().or_else(|| user.img.take());
    user.status = change.status.unwrap_or(user.status);
    user.confirmed = change.confirmed.unwrap_or(user.confirmed);
    user.tenant = tenant.or_else(|| user.tenant.take());
    if let Some(permissions) = &change.permissions {
        user.permissions.clone_from(permissions);
    }
    if let Some(roles) = &change.roles {
        record.role_ids.clone_from(roles);
    }
    record.unique_name = unique_name(&user.username, user.can_login, user.tenant.as_ref());
}

/// Deletes a user. Flows that nobody else owns are stopped and go on without an owner.
#[utoipa::path(tag = "Users", operation_id = "deleteUser", security(("bearer" = [])), params(
    ("id" = String, Path, description = "The internal id")), responses(
    (status = 200, description = "OK", body = String, content_type = "text/plain")))]
#[delete("/users/{id}")]
pub(crate) async fn delete(
    state: Data<State>,
    caller: Allowed<UsersDelete>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let present = visible(&state, &caller, &id).await?;
    // Nobody locks the last door from the outside.
    if present.user.id == caller.user {
        return Err(forbidden().into());
    }
    let see = caller.visibility();
    let deleted = state
        .store
        .delete_user(&see, &id, |record| reach(&caller, record));
    deleted.await?.ok_or_else(not_found)?;
    state.store.revoke_tokens_of(&present.user.id).await?;
    Ok(ok())
}
