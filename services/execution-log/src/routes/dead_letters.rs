//! Dead letters, for system administrators.

use actix_web::{
    HttpResponse, delete, get, post,
    web::{Data, Json, Path},
};
use flowmate_common::{
    Failure, Kind, Timestamp, Topic,
    auth::SystemAdministration,
    mask,
    model::{Json as Raw, json},
};
use flowmate_storage::{Filter, Query, Sort};
use flowmate_web::{Allowed, ApiError, Body, Envelope, Errors, ListEnvelope, Params};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::{
    State,
    dead_letters::{KeptLetter, Status},
};

/// Letters that one call replays or deletes.
const MAX_LETTERS: u64 = 1_000;
/// Bytes of an event that is shown: it is parsed to be masked, and as values it is many times as large.
const SHOWN: u64 = 1024 * 1024;
const FILTERS: [&str; 6] = [
    "filter[group]",
    "filter[topic]",
    "filter[eventType]",
    "filter[status]",
    "filter[from]",
    "filter[until]",
];

/// An event that a consumer gave up.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DeadLetter)]
pub(crate) struct Letter {
    #[schema(example = "flows-0-4711-flow-engine")]
    id: String,
    /// When it was given up.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    status: Status,
    /// The consumer group that gave up.
    #[schema(example = "flow-engine")]
    group: String,
    /// Where the event was.
    #[schema(example = "flows")]
    topic: String,
    /// Its position there.
    #[schema(example = 4711)]
    position: u64,
    /// How often it was tried.
    #[schema(example = 1)]
    attempts: u32,
    /// Why it was given up.
    #[schema(example = "missing field `activation` at line 1 column 13")]
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "flow.starting")]
    event_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "0192f0c4a0b07c3d8e5f60718293a4b5")]
    event_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "6762e154616e91cb8d8b1aaf")]
    event_key: Option<String>,
    /// Bytes of the event; 0 where it was not kept.
    #[schema(example = 2048)]
    event_bytes: u64,
    /// Whether it can be published again.
    is_replayable: bool,
    /// Why it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "its event was not kept")]
    obstacle: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = String, format = DateTime, required = false)]
    replayed_at: Option<Timestamp>,
}

impl From<KeptLetter> for Letter {
    fn from(kept: KeptLetter) -> Self {
        let (mut event_type, mut event_id, mut event_key) = (None, None, None);
        if let Some(head) = kept.event {
            (event_type, event_id, event_key) = (Some(head.kind), Some(head.id), Some(head.key));
        }
        Self {
            id: kept.id,
            at: kept.at,
            status: kept.status,
            group: kept.letter.group,
            topic: kept.letter.topic,
            position: kept.letter.position,
            attempts: kept.letter.attempts,
            reason: kept.letter.reason,
            event_type,
            event_id,
            event_key,
            event_bytes: kept.bytes,
            is_replayable: kept.is_replayable,
            obstacle: kept.obstacle,
            replayed_at: kept.replayed_at,
        }
    }
}

/// A dead letter with its event.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterDetail)]
pub(crate) struct LetterDetail {
    #[serde(flatten)]
    letter: Letter,
    /// The event: id, type, key, time, data; secrets masked. Absent where it was not kept or is larger than 1 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Object, required = false)]
    event: Option<Raw>,
}

/// A value where the key is given: null is none.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Which letters: either `ids` or `filter`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DeadLetterSelection)]
pub(crate) struct Selection {
    /// These, 1000 at most.
    #[schema(nullable = false, example = json!(["flows-0-4711-flow-engine"]))]
    #[serde(default, deserialize_with = "present")]
    ids: Option<Vec<String>>,
    /// Those that wait and match all of it, the oldest first; an empty filter means all.
    #[schema(nullable = false)]
    #[serde(default, deserialize_with = "present")]
    filter: Option<Matching>,
}

/// What letters have in common.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = DeadLetterFilter)]
pub(crate) struct Matching {
    /// The consumer group that gave up.
    #[schema(nullable = false, example = "flow-engine")]
    #[serde(default, deserialize_with = "present")]
    group: Option<String>,
    /// Where the event was.
    #[schema(nullable = false, example = "flows")]
    #[serde(default, deserialize_with = "present")]
    topic: Option<String>,
    /// The event's type.
    #[schema(nullable = false, example = "flow.starting")]
    #[serde(default, deserialize_with = "present")]
    event_type: Option<String>,
    /// Given up at this time or later.
    #[schema(nullable = false, value_type = Option<String>, format = DateTime)]
    #[serde(default, deserialize_with = "present")]
    from: Option<Timestamp>,
    /// Given up before this time.
    #[schema(nullable = false, value_type = Option<String>, format = DateTime)]
    #[serde(default, deserialize_with = "present")]
    until: Option<Timestamp>,
}

/// What became of letters that were to be replayed.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLettersReplayed)]
pub(crate) struct Replayed {
    /// These are published soon.
    #[schema(example = 12)]
    accepted: u64,
    /// These are not there, were replayed before, or cannot be replayed.
    #[schema(example = 0)]
    skipped: u64,
    /// Letters that match the filter and are left for the next call.
    #[schema(example = 0)]
    left: u64,
}

/// How many letters are gone.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLettersDeleted)]
pub(crate) struct Deleted {
    /// These are gone.
    #[schema(example = 12)]
    deleted: u64,
    /// Letters that match and are left for the next call.
    #[schema(example = 0)]
    left: u64,
}

/// Lists events that consumers gave up, the newest first.
#[utoipa::path(tag = "Dead letters", operation_id = "getDeadLetters", security(("bearer" = [])), params(
    ("page[size]" = Option<u64>, Query, description = "Letters on a page, 10 where nothing is said, 1000 at most"),
    ("page[number]" = Option<u64>, Query, description = "Which page, from 1"),
    ("filter[group]" = Option<String>, Query, description = "Given up by this consumer group"),
    ("filter[topic]" = Option<String>, Query, pattern = "^(flows|templates|iam|execution-requests|execution-events|dead-letters)$", description = "The event was on this topic"),
    ("filter[eventType]" = Option<String>, Query, description = "The event is of this type"),
    ("filter[status]" = Option<String>, Query, pattern = "^(waiting|replaying|replayed)$", description = "waiting, replaying or replayed"),
    ("filter[from]" = Option<String>, Query, description = "Given up at this time or later, ISO 8601"),
    ("filter[until]" = Option<String>, Query, description = "Given up before this time, ISO 8601")), responses(
    (status = 200, description = "A page of letters, without their events", body = ListEnvelope<Letter>),
    (status = 400, description = "A parameter with an invalid value", body = Errors)))]
#[get("/dead-letters")]
pub(crate) async fn list(
    state: Data<State>,
    _caller: Allowed<SystemAdministration>,
    params: Params,
) -> Result<Json<ListEnvelope<Letter>>, ApiError> {
    params.only(&FILTERS)?;
    let paging = params.paging()?;
    let query = Query {
        filter: Filter::And(filters(&params)?),
        sort: Some(Sort {
            field: "at",
            descending: true,
        }),
        skip: paging.skip(),
        limit: paging.size,
    };
    let (found, total) = state.letters.page(&query).await?;
    Ok(Json(ListEnvelope {
        data: found.into_iter().map(Letter::from).collect(),
        meta: paging.page(total),
    }))
}

/// One dead letter with its event.
#[utoipa::path(tag = "Dead letters", operation_id = "getDeadLetter", security(("bearer" = [])), params(("id" = String, Path, description = "The letter")), responses(
    (status = 200, description = "The letter", body = Envelope<LetterDetail>),
    (status = 404, description = "No dead letter found", body = Errors)))]
#[get("/dead-letters/{id}")]
pub(crate) async fn get(
    state: Data<State>,
    _caller: Allowed<SystemAdministration>,
    id: Path<String>,
) -> Result<Json<Envelope<LetterDetail>>, ApiError> {
    let letter = state.letters.get(&id).await?.ok_or_else(none)?;
    let event = if letter.bytes <= SHOWN {
        let event = state.letters.event(&id).await?;
        event.map(|event| shown(event.text())).transpose()?
    } else {
        None
    };
    let letter = letter.into();
    Ok(Json(Envelope::of(LetterDetail { letter, event })))
}

/// Publishes the event of a dead letter again, on its topic, with its id and key. Every consumer of the topic gets it, also
/// those that had processed it, which then do nothing.
#[utoipa::path(tag = "Dead letters", operation_id = "replayDeadLetter", security(("bearer" = [])), params(("id" = String, Path, description = "The letter")), responses(
    (status = 202, description = "It is published soon, whatever crashes", body = Envelope<Letter>),
    (status = 404, description = "No dead letter found", body = Errors),
    (status = 409, description = "The letter cannot be replayed: its event was not kept.", body = Errors)))]
#[post("/dead-letters/{id}/replay")]
pub(crate) async fn replay(
    state: Data<State>,
    _caller: Allowed<SystemAdministration>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let asked = state.letters.ask(&id).await?.ok_or_else(none)?;
    Ok(HttpResponse::Accepted().json(Envelope::of(Letter::from(asked))))
}

/// Publishes the events of many dead letters again, 1000 at most, the oldest first. What cannot be replayed is left alone.
#[utoipa::path(tag = "Dead letters", operation_id = "replayDeadLetters", security(("bearer" = [])), request_body = Selection, responses(
    (status = 202, description = "How many are published soon", body = Envelope<Replayed>),
    (status = 400, description = "Either ids or a filter has to be given.", body = Errors),
    (status = 413, description = "At most 1000 letters at a time.", body = Errors)))]
#[post("/dead-letters/replay")]
pub(crate) async fn replay_many(
    state: Data<State>,
    _caller: Allowed<SystemAdministration>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let (ids, filter) = match body.object()? {
        Selection {
            ids: Some(ids),
            filter: None,
        } => (ids, None),
        Selection {
            ids: None,
            filter: Some(matching),
        } => {
            let filter = waiting(matching)?;
            (
                state.letters.oldest(filter.clone(), MAX_LETTERS).await?,
                Some(filter),
            )
        }
        _ => return Err(Failure::invalid("Either ids or a filter has to be given.").into()),
    };
    if ids.len() as u64 > MAX_LETTERS {
        let message = format!("At most {MAX_LETTERS} letters at a time.");
        return Err(Failure::new(Kind::TooLarge, message).into());
    }
    let asked = state.letters.ask_all(&ids).await?;
    let left = match filter {
        Some(filter) => state.letters.count(&filter).await?,
        None => 0,
    };
    Ok(HttpResponse::Accepted().json(Envelope::of(Replayed {
        accepted: asked.accepted,
        skipped: asked.skipped,
        left,
    })))
}

/// Deletes a dead letter and its event.
#[utoipa::path(tag = "Dead letters", operation_id = "deleteDeadLetter", security(("bearer" = [])), params(("id" = String, Path, description = "The letter")), responses(
    (status = 204, description = "It is gone"),
    (status = 404, description = "No dead letter found", body = Errors)))]
#[delete("/dead-letters/{id}")]
pub(crate) async fn delete(
    state: Data<State>,
    _caller: Allowed<SystemAdministration>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    if !state.letters.delete(&id).await? {
        return Err(none().into());
    }
    Ok(HttpResponse::NoContent().finish())
}

/// Deletes the dead letters that match, 1000 at most, the oldest first.
#[utoipa::path(tag = "Dead letters", operation_id = "deleteDeadLetters", security(("bearer" = [])), params(
    ("filter[group]" = Option<String>, Query, description = "Given up by this consumer group"),
    ("filter[topic]" = Option<String>, Query, pattern = "^(flows|templates|iam|execution-requests|execution-events|dead-letters)$", description = "The event was on this topic"),
    ("filter[eventType]" = Option<String>, Query, description = "The event is of this type"),
    ("filter[status]" = Option<String>, Query, pattern = "^(waiting|replaying|replayed)$", description = "waiting, replaying or replayed"),
    ("filter[from]" = Option<String>, Query, description = "Given up at this time or later, ISO 8601"),
    ("filter[until]" = Option<String>, Query, description = "Given up before this time, ISO 8601")), responses(
    (status = 200, description = "How many are gone", body = Envelope<Deleted>),
    (status = 400, description = "A filter has to be given.", body = Errors)))]
#[delete("/dead-letters")]
pub(crate) async fn delete_many(
    state: Data<State>,
    _caller: Allowed<SystemAdministration>,
    params: Params,
) -> Result<Json<Envelope<Deleted>>, ApiError> {
    params.expect(&FILTERS)?;
    let filters = filters(&params)?;
    if filters.is_empty() {
        return Err(Failure::invalid("A filter has to be given.").into());
    }
    let filter = Filter::And(filters);
    let mut deleted = 0;
    for id in state.letters.oldest(filter.clone(), MAX_LETTERS).await? {
        deleted += u64::from(state.letters.delete(&id).await?);
    }
    let left = state.letters.count(&filter).await?;
    Ok(Json(Envelope::of(Deleted { deleted, left })))
}

fn none() -> Failure {
    Failure::not_found("No dead letter found")
}

fn filters(params: &Params) -> Result<Vec<Filter>, Failure> {
    let invalid = |name: &str| Failure::invalid(format!("Invalid {name} parameter"));
    let one_of = |name: &'static str, is_known: fn(&str) -> bool| match params.get(name) {
        Some(text) if !is_known(text) => Err(invalid(name)),
        other => Ok(other),
    };
    let time = |name: &str| {
        let text = params.get(name);
        text.map(|text| text.parse::<Timestamp>().map_err(|_| invalid(name)))
            .transpose()
    };
    let is_status = |text: &str| matches!(text, "waiting" | "replaying" | "replayed");
    let mut filters = Vec::new();
    let mut equal = |field, text: Option<&str>| filters.extend(text.map(|text| Filter::eq(field, text)));
    equal("group", params.filled("filter[group]"));
    equal("type", params.filled("filter[eventType]"));
    equal(
        "topic",
        one_of("filter[topic]", |text| Topic::parse(text).is_some())?,
    );
    equal("status", one_of("filter[status]", is_status)?);
    filters.extend(between(time("filter[from]")?, time("filter[until]")?));
    Ok(filters)
}

/// Letters of a selection that may be replayed.
fn waiting(matching: Matching) -> Result<Filter, Failure> {
    let Matching {
        group,
        topic,
        event_type,
        from,
        until,
    } = matching;
    if topic
        .as_deref()
        .is_some_and(|topic| Topic::parse(topic).is_none())
    {
        return Err(Failure::invalid("There is no such topic."));
    }
    let mut filters = vec![
        Filter::eq("status", Status::Waiting.as_str()),
        Filter::eq("isReplayable", true),
    ];
    for (field, text) in [("group", group), ("topic", topic), ("type", event_type)] {
        filters.extend(text.map(|text| Filter::eq(field, text)));
    }
    filters.extend(between(from, until));
    Ok(Filter::And(filters))
}

/// Times are stored as they are written, in milliseconds and of one length, so that texts compare as times do.
fn between(from: Option<Timestamp>, until: Option<Timestamp>) -> impl Iterator<Item = Filter> {
    let from = from.map(|at| Filter::AtLeast("at", at.to_string().into()));
    let until = until.map(|at| Filter::AtMost("at", at.plus_millis(-1).to_string().into()));
    from.into_iter().chain(until)
}

/// The event without its secrets. What is no object is shown as the data of one.
fn shown(text: &str) -> Result<Raw, Failure> {
    #[derive(Serialize)]
    struct Foreign {
        data: Raw,
    }
    let masked = mask::masked(text).unwrap_or_else(|| text.to_owned());
    let raw: Raw = serde_json::from_str(&masked).map_err(Failure::internal)?;
    if raw.get().starts_with('{') {
        return Ok(raw);
    }
    json(&Foreign { data: raw }).map_err(Failure::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_shown_without_its_secrets_and_what_is_none_as_data() {
        let event = shown(r#"{"id":"e","data":{"apiKey":"k","n":1}}"#).unwrap();
        assert_eq!(event.get(), r#"{"id":"e","data":{"apiKey":"***","n":1}}"#);
        assert_eq!(shown(r#""not ours""#).unwrap().get(), r#"{"data":"not ours"}"#);
    }
}
