//! The all-in-one binary: every service in one process, on SQLite and a durable local log.

pub mod config;
mod embedded;

pub use embedded::{Embedded, Operations, SERVICES, Workers, specification};
