//! The vocabulary that every FlowMate crate shares: ids, time, errors by kind, tokens and permissions, the
//! documents of the public API and the events on the bus. Pure: nothing here opens a file, a socket or a clock
//! of its own.

pub mod auth;
pub mod budget;
pub mod clock;
pub mod error;
pub mod event;
pub mod ids;
pub mod mask;
pub mod model;
pub mod priority;

pub use budget::{Budget, Holder, Permit, Spent};
pub use clock::{Clock, Timestamp};
pub use error::{Failure, Fault, Kind, root_cause};
pub use event::{Event, EventType, Topic};
pub use priority::{Pressure, Priority, give_way, thread_time};
