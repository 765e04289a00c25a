//! What executions say, onto the bus.

use std::time::Duration;

use flowmate_bus::Error;
use flowmate_common::Event;
use flowmate_runtime::Context;

/// The longest wait between tries to publish.
const LONGEST: Duration = Duration::from_secs(5);

/// Publishes, however long it takes: what an execution did is never given up for what passes. Returns the events that the
/// bus will never take; the others are durable.
pub(crate) async fn publish(context: &Context, events: Vec<Event>) -> Vec<Event> {
    match insist(context, &events).await {
        Ok(()) => Vec::new(),
        Err(error) if events.len() <= 1 => {
            for event in &events {
                let size = event.data.len();
                tracing::error!(%error, event.kind = event.kind.name(), event.key = &*event.key, size, "an event is refused");
            }
            events
        }
        // One of them is to blame: each for itself.
        Err(_) => {
            let mut refused = Vec::new();
            for event in events {
                refused.extend(Box::pin(publish(context, vec![event])).await);
            }
            refused
        }
    }
}

async fn insist(context: &Context, events: &[Event]) -> Result<(), Error> {
    let mut wait = Duration::from_millis(50);
    loop {
        match context.bus.publish(events.to_vec()).await {
            Ok(()) => return Ok(()),
            Err(error @ Error::TooLarge { .. }) => return Err(error),
            Err(error @ Error::Unavailable(_)) => {
                tracing::warn!(%error, "execution events wait");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LONGEST);
            }
        }
    }
}
