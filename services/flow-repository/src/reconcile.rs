//! Asks the engine again where it has not answered: what was asked may have been given up, and a flow must not be
//! `starting` or `stopping` for ever. The engine answers each time it is asked, and late answers change nothing.

use std::time::Duration;

use flowmate_common::{Failure, auth::Visibility};
use flowmate_storage::Change;

use crate::{State, domain, store::asking};

/// How often flows are looked for that wait for an answer.
const EVERY: Duration = Duration::from_secs(5);

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
    for id in state.store.overdue(state.context.clock.now()).await? {
        let changed = state.store.change(&Visibility::All, id.as_str(), |record| {
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
