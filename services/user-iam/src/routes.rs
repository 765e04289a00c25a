//! The operations.

mod answer;
mod impersonate;
pub(crate) mod login;
mod roles;
mod tenant_keys;
mod tenants;
mod tokens;
mod user_changes;
mod users;

use flowmate_web::ServiceConfig;

/// Fixed paths before those with an id in the same place.
pub(crate) fn configure(config: &mut ServiceConfig<'_>) {
    config
        .service(login::login)
        .service(login::logout)
        .service(login::jwks)
        .service(impersonate::impersonate)
        .service(users::list)
        .service(users::create)
        .service(users::me)
        .service(user_changes::update_me)
        .service(users::get)
        .service(user_changes::update)
        .service(user_changes::replace)
        .service(user_changes::delete)
        .service(tenants::list)
        .service(tenants::create)
        .service(tenants::get)
        .service(tenants::replace)
        .service(tenants::update)
        .service(tenants::delete)
        .service(tenants::profile)
        .service(tenants::users)
        .service(tenants::remove_user)
        .service(tenant_keys::create)
        .service(tenant_keys::get)
        .service(tenant_keys::delete)
        .service(roles::list)
        .service(roles::create)
        .service(roles::get)
        .service(roles::update)
        .service(roles::delete)
        .service(roles::permissions)
        .service(tokens::list)
        .service(tokens::create)
        .service(tokens::introspect)
        .service(tokens::refresh)
        .service(tokens::get)
        .service(tokens::delete);
}
