//! Which flows are active, for those who count what they did.

use flowmate_common::{
    Failure,
    auth::Visibility,
    ids::{FlowId, UserId},
    model::{FlowStatus, OwnerKind},
};
use flowmate_runtime::clients::ActiveFlow;
use flowmate_storage::Query;

use crate::{
    State,
    store::{FlowRecord, status_is},
};

/// Flows of one user, and flows that are asked about at a time.
const MOST: u64 = 1_000;

/// Those of `flows` that are active, and the active ones of `users`.
pub(crate) async fn of(
    state: &State,
    users: Vec<UserId>,
    flows: Vec<FlowId>,
) -> Result<Vec<ActiveFlow>, Failure> {
    let mut active = Vec::new();
    for user in users {
        let see = Visibility::OwnedBy(vec![user.to_string()]);
        let query = Query::new(status_is(&[FlowStatus::Active]), MOST);
        let owned = state.store.find(&see, &query).await?;
        let owned = owned.into_iter().map(shown);
        active.extend(owned.filter(|flow| flow.user.as_ref() == Some(&user)));
    }
    for flow in flows {
        let found = state.store.get(&Visibility::All, flow.as_str()).await?;
        let found = found.filter(|record| record.flow.status == FlowStatus::Active);
        active.extend(found.map(shown));
    }
    Ok(active)
}

fn shown(record: FlowRecord) -> ActiveFlow {
    let user = record.flow.body.owner(OwnerKind::User).map(UserId::from);
    ActiveFlow {
        id: record.flow.id,
        user,
    }
}
