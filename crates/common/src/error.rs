//! Failures by kind. What a failure means is decided where it happens; which HTTP status and body it becomes is
//! decided once, in the `web` crate.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Spent;

/// What went wrong, from the caller's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The caller is not known: 401.
    Unauthenticated,
    /// The caller is known and may not: 403.
    Forbidden,
    /// The request is wrong: 400.
    Invalid,
    /// What is asked for does not exist, or not for this caller: 404.
    NotFound,
    /// The present state does not allow it: 409.
    Conflict,
    /// The body is larger than allowed: 413.
    TooLarge,
    /// The body comes too slowly: 408.
    TooSlow,
    /// The content type is missing: 415.
    UnsupportedMediaType,
    /// The caller asks too often: 429.
    TooManyRequests,
    /// Storage or bus do not answer now, or there is no room for more; worth another try: 503.
    Unavailable,
    /// A fault of ours: 500. The caller sees nothing of the inside.
    Internal,
}

/// A failure with the texts that the caller gets. For [`Kind::Internal`] and [`Kind::Unavailable`] the texts go to
/// the log only.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What went wrong.
    pub kind: Kind,
    /// One text for each thing that is wrong; at least one.
    pub messages: Vec<String>,
    /// The code in the bodies of services that answer with codes (contract 1.4).
    pub code: Option<&'static str>,
    /// Some endpoints answer with a bare text where others answer with a list (contract 1.3).
    pub bare: bool,
    /// In how many seconds another try counts.
    pub retry_after: Option<u64>,
}

impl Failure {
    /// A failure with one text.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            messages: vec![message.into()],
            code: None,
            bare: false,
            retry_after: None,
        }
    }

    /// A wrong request, with everything that is wrong about it.
    pub fn invalid_all(messages: Vec<String>) -> Self {
        Self {
            kind: Kind::Invalid,
            messages,
            code: None,
            bare: false,
            retry_after: None,
        }
    }

    /// A wrong request.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    /// A wrong request; `cause` says why.
    pub fn invalid_of(cause: impl fmt::Display) -> Self {
        Self::invalid(cause.to_string())
    }

    /// Something that does not exist for this caller.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// A state that does not allow what was asked.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, message)
    }

    /// A fault of ours; `cause` goes to the log.
    pub fn internal(cause: impl fmt::Display) -> Self {
        Self::new(Kind::Internal, cause.to_string())
    }

    /// A failure that is told by its code.
    pub fn coded(kind: Kind, code: &'static str) -> Self {
        Self {
            code: Some(code),
            ..Self::new(kind, code)
        }
    }

    /// The same failure with a code for the services that answer with codes.
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// The same failure; another try counts in so many seconds.
    pub fn after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The same failure, rendered as a bare text where the contract wants that.
    pub fn bare(mut self) -> Self {
        self.bare = true;
        self
    }
}

impl Failure {
    /// Whether another request would do better; if not, it is our own fault or of what we depend on.
    pub fn is_of_the_request(&self) -> bool {
        !matches!(self.kind, Kind::Internal | Kind::Unavailable)
    }
}

/// An error of something that many items go through, told apart in the one place that defines it.
pub trait Fault: fmt::Display {
    /// Whether everybody is refused for now, so that the same item may pass later: it is tried until it does. Otherwise
    /// it is this item that is refused, for good: it is ended alone, visibly.
    fn is_transient(&self) -> bool;
}

/// The code of a conflict about an id or a name that another one has.
pub const TAKEN: &str = "DUPLICATE_KEY";

impl Fault for Failure {
    /// A conflict is one of versions, where who reads again decides on the new state; a name that is taken stays taken.
    fn is_transient(&self) -> bool {
        match self.kind {
            Kind::Unavailable | Kind::TooManyRequests => true,
            Kind::Conflict => self.code != Some(TAKEN),
            _ => false,
        }
    }
}

impl From<Spent> for Failure {
    fn from(spent: Spent) -> Self {
        Self::new(Kind::Unavailable, spent.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.messages.join("; "))
    }
}

impl std::error::Error for Failure {}

/// The innermost cause of `error`: of a client's errors the outermost text only says that something failed.
pub fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.last().unwrap_or(error).to_string()
}
