use actix_web::{
    HttpRequest, HttpResponse, delete, patch, put,
    web::{Data, Path},
};
use flowmate_common::{
    Failure, Kind,
    auth::{Authenticated, Caller, UsersDelete, UsersUpdate, Visibility},
    ids::{RoleId, TenantId},
    model::AccountStatus,
};
use flowmate_web::{Allowed, ApiError, Body, ErrorMessage, client_address};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    answer::{are_permissions, forbidden, input, invalid, is_name, not_found, ok},
    login::guess,
    users::{MAX_ROLES, check_grants, check_name, is_password, must_exist},
};
use crate::{State, records::UserRecord};

/// What users may change of themselves; what is left out stays.
#[derive(Deserialize, ToSchema)]
pub(crate) struct OwnChange {
    /// First name.
    #[schema(example = "Ada")]
    firstname: Option<String>,
    /// Last name.
    #[schema(example = "Byron")]
    lastname: Option<String>,
    /// A new password; all other tokens of the user end.
    #[schema(example = "correct horse battery staple", min_length = 1, max_length = 1024)]
    password: Option<String>,
    /// The present password; needed with a new one.
    #[serde(rename = "oldPassword")]
    #[schema(example = "tr0ub4dor&3")]
    old_password: Option<String>,
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
    /// Whether the user may log in; where not, the user's tokens are no longer valid.
    #[serde(rename = "canLogin")]
    can_login: Option<bool>,
    /// With anything but `ACTIVE` the user's tokens are no longer valid.
    status: Option<AccountStatus>,
    /// System administrators only: the tenant the user belongs to from now on.
    tenant: Option<TenantId>,
    /// Ids of roles; valid at once.
    roles: Option<Vec<RoleId>>,
    /// What the user may do; valid at once.
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
    /// Whether the user may log in; stays as it is where nothing is said.
    #[serde(rename = "canLogin")]
    can_login: Option<bool>,
    /// With anything but `ACTIVE`, the default, the user's tokens are no longer valid.
    #[serde(default)]
    status: AccountStatus,
    /// System administrators only: the tenant the user belongs to from now on.
    tenant: Option<TenantId>,
    /// Ids of roles; valid at once.
    #[serde(default)]
    roles: Vec<RoleId>,
    /// What the user may do; valid at once.
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

/// Changes the caller's own names and password.
#[utoipa::path(tag = "Users", operation_id = "updateMe", security(("bearer" = [])), extensions(("x-any-caller" = json!(true))), request_body = OwnChange, responses(
    (status = 200, description = "OK", body = String, content_type = "text/plain"),
    (status = 400, description = "INPUT_INVALID, or PASSWORD_INCORRECT where the old password is not right", body = ErrorMessage),
    (status = 429, description = "TOO_MANY_ATTEMPTS", body = ErrorMessage)))]
#[patch("/users/me")]
pub(crate) async fn update_me(
    state: Data<State>,
    caller: Allowed<Authenticated>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let OwnChange {
        firstname,
        lastname,
        password,
        old_password,
    } = input(&body)?;
    let own = caller.user.as_str();
    let hash = match password {
        Some(new) => {
            let old = old_password.unwrap_or_default();
            Some(new_hash(&state, &caller, &request, old, new).await?)
        }
        None => None,
    };
    let changed = state.store.change_user(&Visibility::All, own, |record| {
        let user = &mut record.user;
        user.firstname = firstname.clone().or_else(|| user.firstname.take());
        user.lastname = lastname.clone().or_else(|| user.lastname.take());
        if let Some((from, to)) = &hash {
            if record.password_hash.as_ref() != Some(from) {
                return Err(changed_by_others());
            }
            record.password_hash = Some(to.clone());
        }
        Ok(())
    });
    changed.await?.ok_or_else(not_found)?;
    if hash.is_some() {
        // Whoever knew the old one is out; who changed it stays.
        state
            .store
            .revoke_tokens_of(&caller.user, Some(&caller.token))
            .await?;
    }
    Ok(ok())
}

/// The present hash and the new one, if the old password is right. Guessing it is as slow as at a login.
async fn new_hash(
    state: &State,
    caller: &Caller,
    request: &HttpRequest,
    old: String,
    new: String,
) -> Result<(String, String), Failure> {
    if !is_password(&new) {
        return Err(invalid());
    }
    let record = state.store.user(&Visibility::All, caller.user.as_str()).await?;
    let present = record.and_then(|record| record.password_hash);
    let address = client_address(request);
    let is_right = guess(state, &caller.username, address, old, present.clone()).await?;
    match present.filter(|_| is_right) {
        Some(present) => Ok((present, state.passwords.hash(new).await?)),
        None => Err(Failure::coded(Kind::Invalid, "PASSWORD_INCORRECT")),
    }
}

fn changed_by_others() -> Failure {
    Failure::coded(Kind::Conflict, "CHANGED_BY_OTHERS")
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
        can_login: new.can_login,
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
    mut change: UserChange,
    before: impl Fn(&mut UserRecord),
) -> Result<HttpResponse, ApiError> {
    let permissions = change.permissions.as_deref().unwrap_or_default();
    let is_valid = change.username.as_deref().is_none_or(is_name)
        && change.password.as_deref().is_none_or(is_password)
        && are_permissions(permissions)
        && change.roles.as_ref().is_none_or(|roles| roles.len() <= MAX_ROLES);
    if !is_valid {
        return Err(invalid().into());
    }
    let moves_to = change
        .tenant
        .clone()
        .filter(|tenant| present.user.tenant.as_ref() != Some(tenant));
    if moves_to.is_some() && !caller.is_admin() {
        return Err(forbidden().into());
    }
    drop_repeated(&mut change, &present, moves_to.is_some());
    must_exist(state, moves_to.as_ref()).await?;
    let is_renamed = moves_to.is_some()
        || change
            .username
            .as_ref()
            .is_some_and(|name| *name != present.user.username);
    if is_renamed {
        let tenant = moves_to.as_ref().or(present.user.tenant.as_ref());
        let name = change.username.as_ref().unwrap_or(&present.user.username);
        check_name(state, tenant, name, Some(&present.user.id)).await?;
    }
    let reached = if is_about_rights(&present, &change) {
        Some(Reached::check(state, caller, &present).await?)
    } else {
        None
    };
    check_added(state, caller, &present, &change, moves_to.as_ref()).await?;
    let kept_roles = match &moves_to {
        Some(_) => global_roles(state, &present.role_ids).await?,
        None => present.role_ids.clone(),
    };
    let is_locked = |status| status != AccountStatus::Active;
    if present.user.id == caller.user && change.status.is_some_and(is_locked) {
        return Err(forbidden().into());
    }
    let password_hash = match change.password.clone() {
        Some(password) => Some(state.passwords.hash(password).await?),
        None => None,
    };
    let see = caller.visibility();
    let changed = state.store.change_user(&see, present.user.id.as_str(), |record| {
        if let Some(reached) = &reached {
            reached.holds(record)?;
            record.role_ids.clone_from(&kept_roles);
        }
        before(record);
        merge(record, &change, moves_to.clone());
        if let Some(hash) = &password_hash {
            record.password_hash = Some(hash.clone());
        }
        Ok(())
    });
    let record = changed.await?.ok_or_else(not_found)?;
    // Deleted meanwhile: its users may have been swept before this one was there.
    if moves_to.is_some() && !belongs_somewhere(state, &record).await? {
        let (all, id) = (&Visibility::All, record.user.id.as_str());
        state.store.delete_user(all, id, |_| Ok(())).await?;
        return Err(invalid().into());
    }
    let no_longer_logs_in = present.user.can_login && !record.user.can_login;
    if is_locked(record.user.status) || password_hash.is_some() || moves_to.is_some() || no_longer_logs_in {
        state.store.revoke_tokens_of(&record.user.id, None).await?;
    }
    Ok(ok())
}

async fn belongs_somewhere(state: &State, record: &UserRecord) -> Result<bool, Failure> {
    let Some(tenant) = &record.user.tenant else {
        return Ok(true);
    };
    let found = state.store.tenant(&Visibility::All, tenant.as_str()).await?;
    Ok(found.is_some())
}

/// What is sent as it is is no change: written, it would undo what somebody else takes away or locks meanwhile.
fn drop_repeated(change: &mut UserChange, present: &UserRecord, moves: bool) {
    fn drop_one<T: PartialEq>(new: &mut Option<T>, old: &T) {
        if new.as_ref() == Some(old) {
            *new = None;
        }
    }
    let user = &present.user;
    drop_one(&mut change.username, &user.username);
    drop_one(&mut change.can_login, &user.can_login);
    drop_one(&mut change.status, &user.status);
    drop_one(&mut change.permissions, &user.permissions);
    // Who moves leaves the roles of the old tenant, unless they are given anew.
    if !moves {
        drop_one(&mut change.roles, &present.role_ids);
    }
}

/// Whether a change without repetitions touches what somebody may do, or how they come in.
fn is_about_rights(present: &UserRecord, change: &UserChange) -> bool {
    change.password.is_some()
        || (change.tenant.is_some() && change.tenant != present.user.tenant)
        || change.username.is_some()
        || change.status.is_some()
        || change.can_login.is_some()
        || change.permissions.is_some()
        || change.roles.is_some()
}

/// What the account gets beyond what it has has to be the caller's to give.
async fn check_added(
    state: &State,
    caller: &Caller,
    present: &UserRecord,
    change: &UserChange,
    moves_to: Option<&TenantId>,
) -> Result<(), Failure> {
    let had = &present.user.permissions;
    let permissions = change.permissions.iter().flatten();
    let permissions: Vec<String> = permissions.filter(|one| !had.contains(one)).cloned().collect();
    let is_new = |id: &&RoleId| moves_to.is_some() || !present.role_ids.contains(id);
    let roles = change.roles.iter().flatten();
    let roles: Vec<RoleId> = roles.filter(is_new).cloned().collect();
    let belongs_to = moves_to.or(present.user.tenant.as_ref());
    check_grants(state, caller, belongs_to, &permissions, &roles).await
}

/// Who leaves a tenant leaves its roles there.
async fn global_roles(state: &State, ids: &[RoleId]) -> Result<Vec<RoleId>, Failure> {
    let mut global = Vec::new();
    for id in ids {
        let role = state.store.role(&Visibility::All, id.as_str()).await?;
        global.extend(role.filter(|role| role.role.is_global).map(|role| role.role.id));
    }
    Ok(global)
}

/// An account whose effective rights the caller has, so that taking it over gives nothing.
pub(crate) struct Reached {
    permissions: Vec<String>,
    roles: Vec<RoleId>,
    tenant: Option<TenantId>,
    status: AccountStatus,
    can_login: bool,
}

impl Reached {
    /// Refuses what goes beyond the caller.
    pub(crate) async fn check(state: &State, caller: &Caller, record: &UserRecord) -> Result<Self, Failure> {
        let effective = state.store.effective_permissions(record).await?;
        if !caller.covers(&effective) {
            return Err(forbidden());
        }
        Ok(Self {
            permissions: record.user.permissions.clone(),
            roles: record.role_ids.clone(),
            tenant: record.user.tenant.clone(),
            status: record.user.status,
            can_login: record.user.can_login,
        })
    }

    /// Whether it still is what was looked at.
    pub(crate) fn holds(&self, record: &UserRecord) -> Result<(), Failure> {
        let user = &record.user;
        let is_the_same = user.permissions == self.permissions
            && record.role_ids == self.roles
            && user.tenant == self.tenant
            && user.status == self.status
            && user.can_login == self.can_login;
        if is_the_same {
            Ok(())
        } else {
            Err(changed_by_others())
        }
    }
}

fn merge(record: &mut UserRecord, change: &UserChange, tenant: Option<TenantId>) {
    let user = &mut record.user;
    let named = (user.username.clone(), user.can_login, user.tenant.clone());
    if let Some(username) = &change.username {
        user.username.clone_from(username);
    }
    user.firstname = change.firstname.clone().or_else(|| user.firstname.take());
    user.lastname = change.lastname.clone().or_else(|| user.lastname.take());
    user.img = change.img.clone().or_else(|| user.img.take());
    user.can_login = change.can_login.unwrap_or(user.can_login);
    user.status = change.status.unwrap_or(user.status);
    user.confirmed = change.confirmed.unwrap_or(user.confirmed);
    user.tenant = tenant.or_else(|| user.tenant.take());
    if let Some(permissions) = &change.permissions {
        user.permissions.clone_from(permissions);
    }
    if let Some(roles) = &change.roles {
        record.role_ids.clone_from(roles);
    }
    // Who was stored before names were unique keeps a doubled name until it changes.
    if named != (user.username.clone(), user.can_login, user.tenant.clone()) {
        record.rename();
    }
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
    let reached = Reached::check(&state, &caller, &present).await?;
    let deleted = state.store.delete_user(&see, &id, |record| reached.holds(record));
    deleted.await?.ok_or_else(not_found)?;
    state.store.revoke_tokens_of(&present.user.id, None).await?;
    Ok(ok())
}
