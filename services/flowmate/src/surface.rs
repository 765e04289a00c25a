//! What clients see of all services, in both shapes alike.

use flowmate_gateway::{Spec, spec};
use flowmate_web::{ServiceConfig, Styles};

/// Registers the operations of one service.
pub type Operations = fn(&mut ServiceConfig<'_>);

/// The operations of all services, in the order of the specification.
pub const SERVICES: [(&str, Operations); 7] = [
    ("user-iam", flowmate_user_iam::operations),
    ("flow-repository", flowmate_flow_repository::operations),
    ("template-repository", flowmate_template_repository::operations),
    ("webhook", flowmate_webhook::operations),
    ("execution-log", flowmate_execution_log::operations),
    ("flow-engine", flowmate_flow_engine::operations),
    ("gateway", flowmate_gateway::operations),
];

/// How they tell failures.
pub(crate) fn styles() -> Styles {
    Styles([flowmate_user_iam::ERROR_STYLES, flowmate_webhook::ERROR_STYLES].concat())
}

/// The specification of one service, or of all on one host where no name is given; `None`: there is no such service.
pub fn specification(service: Option<&str>) -> Option<Spec> {
    let chosen: Vec<Operations> = SERVICES
        .iter()
        .filter(|(name, _)| service.is_none_or(|service| service == *name))
        .map(|(_, operations)| *operations)
        .collect();
    (!chosen.is_empty()).then(|| spec(&chosen, &styles()))
}

/// The specification of all on one host.
pub(crate) fn whole() -> Spec {
    spec(&SERVICES.map(|(_, operations)| operations), &styles())
}
