//! The documents of the public API and the bodies of the events. Field names are the wire names of the contract.

mod component;
mod event;
mod flow;
mod iam;
mod message;
mod template;
mod user;

pub use component::{Access, Component, ComponentFunction, MutableComponent};
pub use event::*;
pub use flow::{Edge, EdgeConfig, Flow, FlowStatus, Graph, MutableFlow, Node, Owner, OwnerKind};
pub use iam::{Role, Tenant, Token, TokenKind};
pub use message::{Json, Message, json};
pub use template::{FlowTemplate, MutableFlowTemplate, TemplateStatus};
pub use user::{AccountStatus, User};
