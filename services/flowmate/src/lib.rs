//! The binary of both shapes: every service in one process, on SQLite and a durable local log, or one service in a process
//! of its own, on MongoDB and Kafka.

pub mod config;
#[cfg(feature = "distributed")]
pub mod distributed;
mod embedded;
#[cfg(feature = "distributed")]
pub mod moving;
mod serving;
mod surface;

pub use embedded::{Embedded, Workers};
pub use surface::{Operations, SERVICES, specification};
