//! What this service reacts to.

pub(crate) mod flows;
pub(crate) mod iam;

use flowmate_bus::dispatch::Refusal;
use flowmate_common::{Failure, Kind};

/// What passes is tried again; what would fail again ends this event alone.
fn refusal(failure: Failure) -> Refusal {
    match failure.kind {
        Kind::Unavailable | Kind::Conflict => Refusal::transient(failure),
        _ => Refusal::permanent(failure),
    }
}
