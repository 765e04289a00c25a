//! What every HTTP surface shares: who calls, what they sent, how failures look, envelopes, paging, request ids and
//! metrics. `actix-web` is known here, in the gateway and in the routes of services, and nowhere else.

mod body;
mod caller;
mod envelope;
mod error;
mod incoming;
mod json;
mod observe;
mod proxies;
mod query;
mod rewrite;
mod seldom;

pub use body::{Body, discard, receive};
pub use caller::Allowed;
pub use envelope::{Empty, Envelope, ListEnvelope, Page};
pub use error::{
    ApiError, ErrorEntry, ErrorMessage, ErrorOfFlow, ErrorStyle, ErrorText, Errors, FlowErrors, InvalidId,
    Styles,
};
pub use incoming::Pace;
pub use json::Survey;
pub use observe::{Segments, observe};
pub use proxies::{Proxies, TrustedProxies, client_address};
pub use query::{Paging, Params};
pub use rewrite::{Rewrite, rewrite};
/// What services register their operations with.
pub use utoipa_actix_web::service_config::ServiceConfig;

use std::borrow::Cow;

use flowmate_common::{
    Failure,
    ids::{canonical_id, is_document_id},
};

/// The id of a path in its one spelling, or 400 `Invalid id` (contract section 2).
pub fn document_id(text: &str) -> Result<Cow<'_, str>, Failure> {
    if is_document_id(text) {
        Ok(canonical_id(text))
    } else {
        Err(Failure::invalid("Invalid id"))
    }
}
