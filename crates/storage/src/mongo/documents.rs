//! Documents: the JSON text in `doc`, declared fields in `f`, their lower-case texts for searching in `s`, owners beside
//! them, and the outbox in the same document.

use std::collections::HashSet;

use async_trait::async_trait;
use flowmate_common::{Event, auth::Visibility};
use futures_util::TryStreamExt;
use mongodb::{
    Collection, Database, IndexModel,
    bson::{Bson, Document as Bsons, doc},
    options::IndexOptions,
};
use serde::Deserialize;
use serde_json::Value;

use super::{ping, whole};
use crate::{CollectionSpec, DocumentStore, Error, Filter, Query, Row, Write};

/// Documents in one database.
pub struct MongoDocuments {
    database: Database,
}

#[derive(Deserialize)]
struct Stored {
    #[serde(rename = "_id")]
    id: String,
    version: i64,
    doc: String,
}

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "_id")]
    id: String,
    #[serde(default)]
    f: Bsons,
}

#[derive(Deserialize)]
struct Waiting {
    #[serde(rename = "_id")]
    id: String,
    outbox: Vec<Pending>,
}

#[derive(Deserialize)]
struct Pending {
    event: String,
}

impl From<Stored> for Row {
    fn from(stored: Stored) -> Self {
        Self {
            id: stored.id,
            version: u64::try_from(stored.version).unwrap_or_default(),
            doc: stored.doc,
        }
    }
}

/// By the field, ties by id.
fn order(spec: &'static CollectionSpec, query: &Query) -> Result<Bsons, Error> {
    let Some(by) = query.sort else {
        return Ok(doc! { "_id": 1 });
    };
    let direction = if by.descending { -1 } else { 1 };
    Ok(doc! { format!("f.{}", spec.field(by.field)?.name): direction, "_id": direction })
}

impl MongoDocuments {
    /// Documents in this database.
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    fn collection(&self, spec: &CollectionSpec) -> Collection<Bsons> {
        self.database.collection(spec.name)
    }
}

#[async_trait]
impl DocumentStore for MongoDocuments {
    async fn open(&self, spec: &'static CollectionSpec) -> Result<(), Error> {
        let collection = self.collection(spec);
        let named = |error: Error| match error {
            Error::Unavailable(reason) => Error::Unavailable(format!("collection {}: {reason}", spec.name)),
            other => other,
        };
        let indexes = indexes(spec);
        let created = collection.clone();
        whole(async move { created.create_indexes(indexes).await.map(|_| ()) })
            .await
            .map_err(named)?;
        no_foreign_index(spec, collection).await
    }

    async fn get(
        &self,
        spec: &'static CollectionSpec,
        see: &Visibility,
        id: &str,
    ) -> Result<Option<Row>, Error> {
        let filter = doc! { "$and": [visible(see), { "_id": id }] };
        let collection = self.collection(spec).clone_with_type::<Stored>();
        let found = whole(async move { collection.find_one(filter).await }).await?;
        Ok(found.map(Row::from))
    }

    async fn find(
        &self,
        spec: &'static CollectionSpec,
        see: &Visibility,
        query: &Query,
    ) -> Result<Vec<Row>, Error> {
        let filter = doc! { "$and": [visible(see), matching(spec, &query.filter)?] };
        let sort = order(spec, query)?;
        let (skip, limit) = (query.skip, i64::try_from(query.limit).unwrap_or(i64::MAX));
        if limit == 0 {
            return Ok(Vec::new());
        }
        let collection = self.collection(spec).clone_with_type::<Stored>();
        let find = async move {
            let found = collection.find(filter).sort(sort).skip(skip).limit(limit).await?;
            found.try_collect::<Vec<_>>().await
        };
        Ok(whole(find).await?.into_iter().map(Row::from).collect())
    }

    async fn heads(
        &self,
        spec: &'static CollectionSpec,
        see: &Visibility,
        query: &Query,
    ) -> Result<Vec<(String, Value)>, Error> {
        let filter = doc! { "$and": [visible(see), matching(spec, &query.filter)?] };
        let sort = order(spec, query)?;
        let field = query.sort.map(|by| spec.field(by.field)).transpose()?;
        let (skip, limit) = (query.skip, i64::try_from(query.limit).unwrap_or(i64::MAX));
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut parts = doc! { "_id": 1 };
        if let Some(field) = field {
            parts.insert(format!("f.{}", field.name), 1);
        }
        let collection = self.collection(spec).clone_with_type::<Head>();
        let find = async move {
            let find = collection.find(filter).projection(parts).sort(sort).skip(skip);
            find.limit(limit).await?.try_collect::<Vec<_>>().await
        };
        let read = |head: Head| {
            let value = field.and_then(|field| head.f.get(field.name));
            let value = value.and_then(|value| serde_json::to_value(value).ok());
            (head.id, value.unwrap_or_default())
        };
        Ok(whole(find).await?.into_iter().map(read).collect())
    }

    async fn count(
        &self,
        spec: &'static CollectionSpec,
        see: &Visibility,
        filter: &Filter,
    ) -> Result<u64, Error> {
        let filter = doc! { "$and": [visible(see), matching(spec, filter)?] };
        let collection = self.collection(spec);
        whole(async move { collection.count_documents(filter).await }).await
    }

    async fn insert(&self, spec: &'static CollectionSpec, write: Write) -> Result<(), Error> {
        let Write {
            id,
            doc: text,
            owners,
            events,
        } = write;
        let (fields, search) = declared(spec, &text)?;
        let mut document = doc! {
            "_id": id, "version": 1_i64, "deleted": false, "doc": text, "owners": owners,
            "f": fields, "s": search, "outbox": outbox(&events)?,
        };
        if !events.is_empty() {
            document.insert("waiting", true);
        }
        let collection = self.collection(spec);
        whole(async move { collection.insert_one(document).await.map(|_| ()) }).await
    }

    async fn replace(&self, spec: &'static CollectionSpec, version: u64, write: Write) -> Result<(), Error> {
        let (fields, search) = declared(spec, &write.doc)?;
        let set = doc! { "doc": write.doc, "owners": write.owners, "f": fields, "s": search };
        self.change(spec, &write.id, version, set, &write.events).await
    }

    async fn delete(
        &self,
        spec: &'static CollectionSpec,
        id: &str,
        version: u64,
        events: Vec<Event>,
    ) -> Result<(), Error> {
        // It stays as a tombstone while it holds events.
        let nobody = Vec::<String>::new();
        let set = doc! { "deleted": true, "doc": "{}", "owners": nobody, "f": {}, "s": {} };
        self.change(spec, id, version, set, &events).await?;
        self.sweep(spec, id).await
    }

    async fn pending(
        &self,
        spec: &'static CollectionSpec,
        limit: usize,
    ) -> Result<Vec<(String, Vec<Event>)>, Error> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let collection = self.collection(spec).clone_with_type::<Waiting>();
        let find = async move {
            let found = collection.find(doc! { "waiting": true }).limit(limit).await?;
            found.try_collect::<Vec<_>>().await
        };
        let parse = |pending: Pending| {
            serde_json::from_str(&pending.event).map_err(|error| Error::Corrupt(error.to_string()))
        };
        let waiting = whole(find).await?.into_iter();
        waiting
            .filter(|document| !document.outbox.is_empty())
            .map(|Waiting { id, outbox }| Ok((id, outbox.into_iter().map(parse).collect::<Result<_, _>>()?)))
            .collect()
    }

    async fn published(
        &self,
        spec: &'static CollectionSpec,
        id: &str,
        event_ids: Vec<String>,
    ) -> Result<(), Error> {
        let (collection, known) = (self.collection(spec), id.to_owned());
        let deleted = whole(async move {
            // Nearly always nothing was added meanwhile.
            let ids: HashSet<&String> = event_ids.iter().collect();
            let count = i64::try_from(ids.len()).unwrap_or(i64::MAX);
            let ids: Vec<&String> = ids.into_iter().collect();
            let all = doc! { "_id": &known, "outbox": { "$size": count }, "outbox.id": { "$all": ids } };
            let none = Vec::<Bson>::new();
            let clear = doc! { "$set": { "outbox": none }, "$unset": { "waiting": "" } };
            let cleared = collection.find_one_and_update(all, clear);
            if let Some(before) = cleared.projection(doc! { "deleted": 1 }).await? {
                return Ok(before.get_bool("deleted").unwrap_or(true));
            }
            let pull = doc! { "$pull": { "outbox": { "id": { "$in": &event_ids } } } };
            collection.update_one(doc! { "_id": &known }, pull).await?;
            // Only if nothing was added meanwhile.
            let empty = doc! { "_id": &known, "outbox": { "$size": 0 } };
            collection
                .update_one(empty, doc! { "$unset": { "waiting": "" } })
                .await?;
            Ok(true)
        })
        .await?;
        // A document that is deleted after this finds its outbox empty and goes at once.
        if deleted {
            self.sweep(spec, id).await
        } else {
            Ok(())
        }
    }

    async fn ping(&self) -> Result<(), Error> {
        ping(&self.database).await
    }
}

impl MongoDocuments {
    /// One conditional write: the attributes, the next version, and the events at the end of the outbox.
    async fn change(
        &self,
        spec: &'static CollectionSpec,
        id: &str,
        version: u64,
        mut set: Bsons,
        events: &[Event],
    ) -> Result<(), Error> {
        let version = i64::try_from(version).unwrap_or(i64::MAX);
        let present = doc! { "_id": id, "version": version, "deleted": false };
        if !events.is_empty() {
            set.insert("waiting", true);
        }
        let update = doc! {
            "$set": set, "$inc": { "version": 1_i64 }, "$push": { "outbox": { "$each": outbox(events)? } },
        };
        let collection = self.collection(spec);
        let updated = whole(async move { collection.update_one(present, update).await }).await?;
        if updated.matched_count == 0 {
            return Err(Error::VersionConflict);
        }
        Ok(())
    }

    /// Removes a tombstone that holds no events any more.
    async fn sweep(&self, spec: &'static CollectionSpec, id: &str) -> Result<(), Error> {
        let (collection, id) = (self.collection(spec), id.to_owned());
        let gone = doc! { "_id": id, "deleted": true, "outbox": { "$size": 0 } };
        whole(async move { collection.delete_one(gone).await.map(|_| ()) }).await
    }
}

fn indexes(spec: &CollectionSpec) -> Vec<IndexModel> {
    let named = |name: &str| IndexOptions::builder().name(name.to_owned()).build();
    let model =
        |keys: Bsons, options: IndexOptions| IndexModel::builder().keys(keys).options(options).build();
    let waiting = IndexOptions::builder()
        .name("waiting".to_owned())
        .partial_filter_expression(doc! { "waiting": true })
        .build();
    let mut indexes = vec![
        model(doc! { "owners": 1 }, named("owners")),
        model(doc! { "waiting": 1 }, waiting),
    ];
    for field in spec.fields {
        let path = format!("f.{}", field.name);
        if spec.unique.contains(&field.name) {
            let options = IndexOptions::builder()
                .name(field.name.to_owned())
                .unique(true)
                .partial_filter_expression(doc! { "deleted": false, &path: { "$exists": true } })
                .build();
            indexes.push(model(doc! { path: 1 }, options));
        } else {
            indexes.push(model(doc! { path: 1, "_id": 1 }, named(field.name)));
        }
    }
    indexes
}

/// A unique index that is not ours would refuse writes that are right.
async fn no_foreign_index(spec: &'static CollectionSpec, collection: Collection<Bsons>) -> Result<(), Error> {
    let list = async move { collection.list_indexes().await?.try_collect::<Vec<_>>().await };
    for index in whole(list).await? {
        let options = index.options.unwrap_or_default();
        let name = options.name.unwrap_or_default();
        if options.unique == Some(true) && name != "_id_" && !spec.unique.contains(&name.as_str()) {
            let reason = format!(
                "collection {} has a unique index {name} that is not FlowMate's; drop it or use another database",
                spec.name
            );
            return Err(Error::Unavailable(reason));
        }
    }
    Ok(())
}

fn outbox(events: &[Event]) -> Result<Vec<Bson>, Error> {
    let entry = |event: &Event| {
        let text = serde_json::to_string(event).map_err(|error| Error::Corrupt(error.to_string()))?;
        Ok(Bson::from(doc! { "id": &*event.id, "event": text }))
    };
    events.iter().map(entry).collect()
}

/// The declared fields of a document, and of those that are texts the lower case.
fn declared(spec: &CollectionSpec, text: &str) -> Result<(Bsons, Bsons), Error> {
    let document: Value = serde_json::from_str(text).map_err(|error| Error::Corrupt(error.to_string()))?;
    let (mut fields, mut search) = (Bsons::new(), Bsons::new());
    for field in spec.fields {
        let pointer = field.path.trim_start_matches('$').replace('.', "/");
        let Some(value) = document.pointer(&pointer) else {
            continue;
        };
        if let Value::String(text) = value {
            search.insert(field.name, text.to_lowercase());
        }
        if let Some(value) = scalar(value) {
            fields.insert(field.name, value);
        }
    }
    Ok((fields, search))
}

/// A text, number, boolean or a list of them; nothing else can be filtered by.
fn scalar(value: &Value) -> Option<Bson> {
    match value {
        Value::String(text) => Some(Bson::String(text.clone())),
        Value::Bool(truth) => Some(Bson::Boolean(*truth)),
        Value::Number(number) => number
            .as_i64()
            .map(Bson::Int64)
            .or(number.as_f64().map(Bson::Double)),
        Value::Array(items) => Some(Bson::Array(items.iter().filter_map(scalar).collect())),
        Value::Null | Value::Object(_) => None,
    }
}

fn visible(see: &Visibility) -> Bsons {
    match see {
        Visibility::All => doc! { "deleted": false },
        Visibility::OwnedBy(owners) => doc! { "deleted": false, "owners": { "$in": owners.clone() } },
    }
}

/// Matched by no document: none has an id out of none.
fn nothing() -> Bsons {
    doc! { "_id": { "$in": Vec::<Bson>::new() } }
}

fn matching(spec: &'static CollectionSpec, filter: &Filter) -> Result<Bsons, Error> {
    let path = |name: &str| Ok::<_, Error>(format!("f.{}", spec.field(name)?.name));
    let all = |filters: &[Filter]| {
        let parts = filters.iter().map(|one| matching(spec, one).map(Bson::from));
        parts.collect::<Result<Vec<_>, Error>>()
    };
    Ok(match filter {
        Filter::All => doc! {},
        Filter::Eq(name, value) => doc! { path(name)?: { "$eq": scalar(value).unwrap_or(Bson::Null) } },
        Filter::In(name, values) => {
            let values: Vec<Bson> = values.iter().filter_map(scalar).collect();
            doc! { path(name)?: { "$in": values } }
        }
        Filter::Ids(ids) => doc! { "_id": { "$in": ids.clone() } },
        Filter::AtMost(name, value) | Filter::AtLeast(name, value) => match value {
            // Compared with values of its own kind only.
            Value::Number(_) | Value::String(_) => {
                let is_most = matches!(filter, Filter::AtMost(..));
                doc! { path(name)?: { if is_most { "$lte" } else { "$gte" }: scalar(value) } }
            }
            _ => spec.field(name).map(|_| nothing())?,
        },
        Filter::HasAny(name, texts) => doc! { path(name)?: { "$in": texts.clone() } },
        Filter::Empty(name) => {
            let (path, none) = (path(name)?, Vec::<Bson>::new());
            doc! { "$or": [{ &path: { "$exists": false } }, { &path: none }] }
        }
        Filter::OwnedBy(owner) => doc! { "owners": owner },
        Filter::Search(names, text) => {
            // Not `$regex`, in which NUL cannot stand, and in which everything else means something.
            let needle = doc! { "$literal": text.to_lowercase() };
            let mut places = Vec::new();
            for name in *names {
                let place = doc! { "$ifNull": [format!("$s.{}", spec.field(name)?.name), ""] };
                let found = doc! { "$gte": [{ "$indexOfCP": [place, needle.clone()] }, 0] };
                places.push(Bson::from(found));
            }
            doc! { "$expr": { "$or": places } }
        }
        Filter::And(filters) if filters.is_empty() => doc! {},
        Filter::And(filters) => doc! { "$and": all(filters)? },
        Filter::Or(filters) if filters.is_empty() => nothing(),
        Filter::Or(filters) => doc! { "$or": all(filters)? },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_clients_never_reach_the_database() {
        static SPEC: CollectionSpec = CollectionSpec {
            name: "t",
            fields: &[crate::Field {
                name: "name",
                path: "$.a.name",
            }],
            unique: &[],
        };
        let (fields, search) = declared(&SPEC, r#"{"a":{"name":"MÜLLER"},"$where":1,"b.c":2}"#).unwrap();
        assert_eq!(fields, doc! { "name": "MÜLLER" });
        assert_eq!(search, doc! { "name": "müller" });
    }
}
