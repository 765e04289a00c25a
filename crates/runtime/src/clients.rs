//! How services call each other: a trait for each callee, so that it may be in this process, behind HTTP, or a stand-in
//! of a test. Who needs one gets it from the composition root.

use async_trait::async_trait;
use flowmate_common::{
    Failure,
    auth::Caller,
    ids::{FlowId, TenantId, UserId},
    model::Flow,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What others may ask of user-iam.
#[async_trait]
pub trait Accounts: Send + Sync {
    /// Who logs in with that name and password, as `POST /login` decides it.
    async fn identify(&self, username: &str, password: String) -> Result<Caller, Failure>;
    /// Those of `users` that are accounts of `tenant`.
    async fn members(&self, tenant: &TenantId, users: Vec<UserId>) -> Result<Vec<UserId>, Failure>;
    /// Whether the user works in all tenants: a system administrator, who owns what is another tenant's rightly.
    async fn roams(&self, user: &UserId) -> Result<bool, Failure>;
}

/// A flow that is active, and whom its usage goes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveFlow {
    /// The flow.
    pub id: FlowId,
    /// Its first owner that is a user.
    pub user: Option<UserId>,
}

/// What others may ask of flow-repository.
#[async_trait]
pub trait Flows: Send + Sync {
    /// Creates a flow for `caller`, as `POST /flows` does.
    async fn create(&self, caller: &Caller, body: Value) -> Result<Flow, Failure>;
    /// One flow, if there is one for `caller`, as `GET /flows/{id}` does.
    async fn get(&self, caller: &Caller, id: &str) -> Result<Flow, Failure>;
    /// Flows that are active now: those of `flows`, and those whose usage goes to one of `users`, 1000 of each at most.
    async fn active(&self, users: Vec<UserId>, flows: Vec<FlowId>) -> Result<Vec<ActiveFlow>, Failure>;
}
