//! The operations.

mod login;
mod users;

use flowmate_web::ServiceConfig;

pub(crate) fn configure(config: &mut ServiceConfig<'_>) {
    config
        .service(login::login)
        .service(login::logout)
        .service(login::jwks)
        .service(users::list)
        .service(users::create)
        .service(users::me)
        .service(users::get)
        .service(users::update);
}
