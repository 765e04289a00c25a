use actix_web::{
    HttpResponse, get, post,
    web::{Data, Path},
};
use flowmate_common::{
    Failure, Kind,
    auth::{Authenticated, Caller, UsersCreate, UsersRead, Visibility},
    ids::{RoleId, TenantId, UserId, is_document_id},
    model::{AccountStatus, User},
};
use flowmate_storage::Filter;
use flowmate_web::{Allowed, ApiError, Body, ErrorMessage, Params};
use serde::Deserialize;
use utoipa::ToSchema;

use super::answer::{Created, are_permissions, forbidden, input, invalid, is_name, many, not_found, one};
use crate::{
    State,
    records::{UserRecord, tenant_name, unique_name},
};

/// The whole of what a user may be created with.
#[derive(Deserialize, ToSchema)]
pub(crate) struct UserBody {
    /// Unique: an e-mail address or the partner's own id.
    #[schema(example = "ada@example.com", min_length = 1, max_length = 320)]
    pub(crate) username: String,
    /// To log in with; needed unless `canLogin` is false.
    #[schema(example = "correct horse battery staple", min_length = 1, max_length = 1024)]
    pub(crate) password: Option<String>,
    /// Whether the user may log in; true where nothing is said.
    #[serde(rename = "canLogin")]
    pub(crate) can_login: Option<bool>,
    /// First name.
    #[schema(example = "Ada")]
    pub(crate) firstname: Option<String>,
    /// Last name.
    #[schema(example = "Byron")]
    pub(crate) lastname: Option<String>,
    /// `ACTIVE` where nothing is said.
    #[serde(default)]
    pub(crate) status: AccountStatus,
    /// System administrators only; everybody else creates inside the own tenant.
    pub(crate) tenant: Option<TenantId>,
    /// Ids of roles of the user's tenant, or of global ones.
    #[serde(default)]
    pub(crate) roles: Vec<RoleId>,
    /// What the user may do.
    #[serde(default)]
    #[schema(example = json!(["flows.read", "flows.control"]))]
    pub(crate) permissions: Vec<String>,
    /// Whether the address was confirmed.
    #[serde(default)]
    pub(crate) confirmed: bool,
    /// URL of a picture.
    #[schema(example = "https://example.com/ada.png")]
    pub(crate) img: Option<String>,
}

/// Lists users: a system administrator sees all, others those of their tenant.
#[utoipa::path(tag = "Users", operation_id = "getUsers", security(("bearer" = [])), params(
    ("meta" = Option<String>, Query, description = "Any value wraps the list in {data, meta}"),
    ("username" = Option<Vec<String>>, Query, description = "External id, exactly; may be repeated"),
    ("userId" = Option<Vec<String>>, Query, description = "Internal id; may be repeated")), responses(
    (status = 200, description = "The users", body = Vec<User>),
    (status = 400, description = "The filter is invalid.", body = ErrorMessage),
    (status = 403, description = "FORBIDDEN", body = ErrorMessage)))]
#[get("/users")]
pub(crate) async fn list(
    state: Data<State>,
    caller: Allowed<Authenticated>,
    params: Params,
) -> Result<HttpResponse, ApiError> {
    if !caller.may::<UsersRead>() {
        return Err(forbidden().into());
    }
    params.only(&["username", "userId"])?;
    let mut filters = Vec::new();
    let names: Vec<_> = params.all("username").map(Into::into).collect();
    if !names.is_empty() {
        filters.push(Filter::In("username", names));
    }
    let ids: Vec<&str> = params.all("userId").collect();
    if !ids.iter().all(|id| is_document_id(id)) {
        return Err(Failure::invalid("The filter is invalid.").into());
    }
    if !ids.is_empty() {
        // A user is among its own owners, and no tenant has a user's id.
        let owned = |id: &&str| Filter::OwnedBy((*id).to_owned());
        filters.push(Filter::Or(ids.iter().map(owned).collect()));
    }
    let users = state
        .store
        .list_users(&caller.visibility(), Filter::And(filters))
        .await?;
    Ok(many(&params, &users))
}

/// Creates a user.
#[utoipa::path(tag = "Users", operation_id = "createUser", security(("bearer" = [])), request_body = UserBody, params(
    ("meta" = Option<String>, Query, description = "Any value wraps the answer in {data}")), responses(
    (status = 200, description = "The new user's id", body = Created),
    (status = 400, description = "INPUT_INVALID", body = ErrorMessage),
    (status = 409, description = "DUPLICATE_KEY", body = ErrorMessage)))]
#[post("/users")]
pub(crate) async fn create(
    state: Data<State>,
    caller: Allowed<UsersCreate>,
    params: Params,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let new: UserBody = input(&body)?;
    let can_login = new.can_login.unwrap_or(true);
    let is_complete = new.password.is_some() || !can_login;
    let is_valid = is_name(&new.username)
        && is_complete
        && new.password.as_deref().is_none_or(is_password)
        && are_permissions(&new.permissions);
    if !is_valid {
        return Err(invalid().into());
    }
    let tenant = if caller.is_admin() {
        must_exist(&state, new.tenant.as_ref()).await?;
        new.tenant
    } else {
        caller.tenant.clone()
    };
    check_name(&state, tenant.as_ref(), &new.username, None).await?;
    check_grants(&state, &caller, tenant.as_ref(), &new.permissions, &new.roles).await?;
    let password_hash = match new.password {
        Some(password) => Some(state.passwords.hash(password).await?),
        None => None,
    };
    let now = state.context.clock.now();
    let record = UserRecord {
        unique_name: unique_name(&new.username, can_login, tenant.as_ref()),
        tenant_name: tenant_name(&new.username, tenant.as_ref()),
        user: User {
            id: state.context.ids.document(now).into(),
            username: new.username,
            firstname: new.firstname,
            lastname: new.lastname,
            status: new.status,
            confirmed: new.confirmed,
            can_login,
            tenant,
            roles: Vec::new(),
            permissions: new.permissions,
            img: new.img,
            created_at: now,
            updated_at: now,
        },
        role_ids: new.roles,
        password_hash,
    };
    add_member(&state, &record).await?;
    let id = record.user.id.to_string();
    Ok(one(&params, Created { id }))
}

/// Nobody belongs to a tenant that is not there.
pub(crate) async fn must_exist(state: &State, tenant: Option<&TenantId>) -> Result<(), Failure> {
    match tenant {
        Some(id) if !exists(state, id).await? => Err(invalid()),
        _ => Ok(()),
    }
}

async fn exists(state: &State, tenant: &TenantId) -> Result<bool, Failure> {
    let found = state.store.tenant(&Visibility::All, tenant.as_str()).await?;
    Ok(found.is_some())
}

/// Refuses a name that another user of the tenant has. At the same moment only the unique index can tell.
pub(crate) async fn check_name(
    state: &State,
    tenant: Option<&TenantId>,
    username: &str,
    own: Option<&UserId>,
) -> Result<(), Failure> {
    let other = state.store.user_of_tenant(tenant, username).await?;
    match other {
        Some(other) if Some(&other.user.id) != own => {
            Err(Failure::conflict("Another one has this name already.").with_code("DUPLICATE_KEY"))
        }
        _ => Ok(()),
    }
}

/// Adds a user, who does not stay if the tenant is deleted meanwhile: its users may have been swept before this one
/// was there.
pub(crate) async fn add_member(state: &State, record: &UserRecord) -> Result<(), Failure> {
    let Some(tenant) = &record.user.tenant else {
        return state.store.add_user(record).await;
    };
    // A tenant that nobody registered is only a name.
    let was_there = exists(state, tenant).await?;
    state.store.add_user(record).await?;
    if was_there && !exists(state, tenant).await? {
        let id = record.user.id.as_str();
        state.store.delete_user(&Visibility::All, id, |_| Ok(())).await?;
        return Err(invalid());
    }
    Ok(())
}

pub(crate) fn is_password(text: &str) -> bool {
    (1..=1024).contains(&text.len())
}

/// Roles of a user.
pub(crate) const MAX_ROLES: usize = 100;

/// Whether the caller may give a user of that tenant these permissions and roles.
pub(crate) async fn check_grants(
    state: &State,
    caller: &Caller,
    tenant: Option<&TenantId>,
    permissions: &[String],
    roles: &[RoleId],
) -> Result<(), Failure> {
    if !caller.may_grant(permissions) {
        return Err(forbidden());
    }
    if roles.len() > MAX_ROLES {
        return Err(invalid());
    }
    for id in roles {
        let role = state.store.role(&Visibility::All, id.as_str()).await?;
        let role = role.ok_or_else(invalid)?.role;
        let belongs = role.is_global || role.tenant.as_ref() == tenant;
        if !belongs || !caller.may_grant(&role.permissions) {
            return Err(forbidden());
        }
    }
    Ok(())
}

/// The user that the token stands for.
#[utoipa::path(tag = "Users", operation_id = "getMe", security(("bearer" = [])), extensions(("x-any-caller" = json!(true))), params(
    ("meta" = Option<String>, Query, description = "Any value wraps the answer in {data}")), responses(
    (status = 200, description = "The user", body = User)))]
#[get("/users/me")]
pub(crate) async fn me(
    state: Data<State>,
    caller: Allowed<Authenticated>,
    params: Params,
) -> Result<HttpResponse, ApiError> {
    let record = state.store.user(&Visibility::All, caller.user.as_str()).await?;
    let gone = || Failure::coded(Kind::Unauthenticated, "USER_NOT_FOUND");
    let user = state.store.with_roles(record.ok_or_else(gone)?).await?;
    Ok(one(&params, user))
}

/// One user.
#[utoipa::path(tag = "Users", operation_id = "getUser", security(("bearer" = [])), params(
    ("id" = String, Path, description = "The internal id"),
    ("meta" = Option<String>, Query, description = "Any value wraps the answer in {data}")), responses(
    (status = 200, description = "The user", body = User)))]
#[get("/users/{id}")]
pub(crate) async fn get(
    state: Data<State>,
    caller: Allowed<UsersRead>,
    id: Path<String>,
    params: Params,
) -> Result<HttpResponse, ApiError> {
    let record = state.store.user(&caller.visibility(), &id).await?;
    let user = state.store.with_roles(record.ok_or_else(not_found)?).await?;
    Ok(one(&params, user))
}
