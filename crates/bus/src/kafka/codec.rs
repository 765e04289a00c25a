//! Events as Kafka messages: CloudEvents 1.0 in binary mode (Kafka protocol binding, 3.2), with the key of the event as
//! the message's.

use flowmate_common::{Event, EventType, Timestamp};
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};

const SOURCE: &str = "flowmate";

pub(super) fn headers(event: &Event) -> OwnedHeaders {
    let time = event.time.to_string();
    let attributes = [
        ("ce_specversion", "1.0"),
        ("ce_id", &event.id),
        ("ce_type", event.kind.name()),
        ("ce_source", SOURCE),
        ("ce_time", &time),
        ("content-type", "application/json"),
    ];
    let trace = event.trace.as_deref().map(|trace| ("traceparent", trace));
    let mut headers = OwnedHeaders::new_with_capacity(attributes.len() + 1);
    for (key, value) in attributes.into_iter().chain(trace) {
        headers = headers.insert(Header {
            key,
            value: Some(value),
        });
    }
    headers
}

/// The event in a message, or why it is none of ours.
pub(super) fn event(message: &BorrowedMessage<'_>) -> Result<Event, String> {
    let text = |name: &str| {
        let headers = message.headers()?;
        let found = headers.iter().find(|header| header.key == name)?;
        std::str::from_utf8(found.value?).ok().map(ToOwned::to_owned)
    };
    let wanted = |name: &str| text(name).ok_or_else(|| format!("the header {name} is missing"));
    let kind = wanted("ce_type")?;
    let time: Timestamp = wanted("ce_time")?
        .parse()
        .map_err(|_| "the header ce_time is no time".to_owned())?;
    let key = message.key().and_then(|key| std::str::from_utf8(key).ok());
    Ok(Event {
        id: wanted("ce_id")?.into(),
        kind: EventType::parse(&kind).ok_or_else(|| format!("unknown event type {kind}"))?,
        key: key.ok_or("the key is missing")?.into(),
        time,
        trace: text("traceparent"),
        data: message.payload().unwrap_or_default().to_vec().into(),
    })
}
