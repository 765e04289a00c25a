//! The operations.

mod create;
mod generate;
mod list;
mod one;

use flowmate_web::ServiceConfig;

pub(crate) fn configure(config: &mut ServiceConfig<'_>) {
    config
        .service(list::list_templates)
        .service(create::create_template)
        .service(one::get_template)
        .service(one::update_template)
        .service(one::delete_template)
        .service(generate::generate_flow);
}
