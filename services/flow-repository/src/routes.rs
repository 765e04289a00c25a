//! The operations.

pub(crate) mod create;
mod delete;
mod get;
mod list;
mod start_stop;
mod update;

use flowmate_web::ServiceConfig;

pub(crate) fn configure(config: &mut ServiceConfig<'_>) {
    config
        .service(list::list_flows)
        .service(create::create_flow)
        .service(get::get_flow)
        .service(update::update_flow)
        .service(delete::delete_flow)
        .service(start_stop::start_flow)
        .service(start_stop::stop_flow);
}
