//! What every backend has to pass. A backend's test hands in fresh stores; nothing here knows which backend it is.

mod documents;
mod executions;
mod waits;

pub use documents::documents;
pub use executions::executions;
