//! The operations.

mod bulk;
pub(crate) mod create;
mod delete;
pub(crate) mod get;
mod list;
mod start_stop;
mod update;

use flowmate_web::ServiceConfig;

/// Fixed paths before those with an id in the same place.
pub(crate) fn configure(config: &mut ServiceConfig<'_>) {
    config
        .service(list::list_flows)
        .service(create::create_flows)
        .service(create::create_flow)
        .service(bulk::update_flows)
        .service(start_stop::start_flows)
        .service(start_stop::stop_flows)
        .service(get::get_flow)
        .service(update::update_flow)
        .service(delete::delete_flow)
        .service(start_stop::start_flow)
        .service(start_stop::stop_flow);
}
