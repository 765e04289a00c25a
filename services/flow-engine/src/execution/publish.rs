//! What executions say, onto the bus.

use flowmate_common::Event;
use flowmate_retry::until_passes;
use flowmate_runtime::Context;

/// Publishes, however long it takes: what an execution did is never given up for what passes. Returns the events that the
/// bus will never take; the others are durable.
pub(crate) async fn publish(context: &Context, events: Vec<Event>) -> Vec<Event> {
    let publish = || context.bus.publish(events.clone());
    match until_passes("publishing execution events", publish).await {
        Ok(()) => Vec::new(),
        Err(error) if events.len() <= 1 => {
            for event in &events {
                let (kind, key, size) = (event.kind.name(), &*event.key, event.data.len());
                tracing::error!(%error, kind, key, size, "an event is refused");
            }
            events
        }
        // One of them is to blame: each for itself.
        Err(_) => {
            let mut refused = Vec::new();
            for event in events {
                refused.extend(Box::pin(publish_one(context, event)).await);
            }
            refused
        }
    }
}

async fn publish_one(context: &Context, event: Event) -> Vec<Event> {
    publish(context, vec![event]).await
}
