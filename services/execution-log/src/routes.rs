//! The operations.

mod executions;
mod logs;
mod usage;

use flowmate_web::ServiceConfig;

pub(crate) fn configure(config: &mut ServiceConfig<'_>) {
    config
        .service(executions::list)
        .service(executions::get)
        .service(usage::usage)
        .service(logs::logs)
        .service(logs::step_logs);
}
