//! Asks the engine again where it has not answered: what was asked may have been given up, and a flow must not be
//! `starting` or `stopping` for ever. The engine answers each time it is asked, and late answers change nothing.

use std::time::Duration;

use flowmate_common::{Failure, auth::Visibility, model::FlowStatus};
use flowmate_storage::{Change, Filter, Query};

use crate::{
    State, domain,
    store::{FlowRecord, asking, status_is},
};

/// How often flows are looked for that wait for an answer.
const EVERY: Duration = Duration::from_secs(5);
/// Flows that are asked for at a time.
const AT_ONCE: u64 = 200;

/// For ever.
pub(crate) async fn run(state: &State) {
    loop {
        match once(state).await {
            Ok(0) => {}
            Ok(count) => tracing::warn!(count, "flows wait for the engine, which is asked again"),
            Err(error) => tracing::warn!(%error, "flows that wait for the engine cannot be looked for"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Asks for some of the flows whose answer is overdue; how many.
pub(crate) async fn once(state: &State) -> Result<usize, Failure> {
    let mut asked = 0;
    for flow in overdue(state).await? {
        let changed = state
            .store
            .change(&Visibility::All, flow.flow.id.as_str(), |record| {
                // Another replica may have been first, or the answer came.
                if !domain::ask_again(record, state.context.clock.now()) {
                    return Ok(Change::Keep);
                }
                asked += 1;
                Ok(Change::Write(vec![asking(&state.context, record)?]))
            });
        changed.await?;
    }
    Ok(asked)
}

/// Some of the flows whose answer is overdue; also those that a version asked for which did not note when.
async fn overdue(state: &State) -> Result<Vec<FlowRecord>, Failure> {
    let now = state.context.clock.now().to_string();
    let due = Query::new(Filter::AtMost("askAgain", now.into()), AT_ONCE);
    let found = state.store.find(&Visibility::All, &due).await?;
    if !found.is_empty() {
        return Ok(found);
    }
    let asking = status_is(&[FlowStatus::Starting, FlowStatus::Stopping]);
    let unnoted = Filter::And(vec![asking, Filter::Empty("askAgain")]);
    let unnoted = Query::new(unnoted, AT_ONCE);
    state.store.find(&Visibility::All, &unnoted).await
}
