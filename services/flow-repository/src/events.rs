//! What this service reacts to.

pub(crate) mod flows;
pub(crate) mod iam;
