//! What turns a service library into a running process: configuration, logs, the parts every service gets, the HTTP
//! server, and an orderly end.

pub mod attributes;
pub mod clients;
pub mod config;
mod context;
pub mod internal;
pub mod listing;
pub mod owning;
mod repository;
mod server;
pub mod sessions;
pub mod telemetry;

pub use context::{Context, Health, Service};
pub use repository::Repository;
pub use server::{Listening, RequestContext, ServerOptions, Termination, serve};
