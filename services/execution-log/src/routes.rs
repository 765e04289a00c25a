//! The operations.

mod dead_letters;
mod executions;
mod logs;
mod usage;

use flowmate_common::auth::Caller;
use flowmate_storage::executions::Within;
use flowmate_web::ServiceConfig;

pub(crate) fn configure(config: &mut ServiceConfig<'_>) {
    config
        .service(executions::list)
        .service(executions::get)
        .service(usage::usage)
        .service(logs::logs)
        .service(logs::step_logs)
        .service(dead_letters::list)
        .service(dead_letters::replay_many)
        .service(dead_letters::delete_many)
        .service(dead_letters::get)
        .service(dead_letters::replay)
        .service(dead_letters::delete);
}

/// Who left a tenant sees no longer what they did there.
fn within(caller: &Caller) -> Option<Within> {
    (!caller.is_admin()).then(|| Within(caller.tenant.clone()))
}
