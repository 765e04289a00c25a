//! Documents on SQLite: a table for each collection, a generated and indexed column for each declared field, a table
//! of owners, and the outbox beside the document in the same row.

mod statement;

use std::path::Path;

use async_trait::async_trait;
use flowmate_common::{Event, Priority, auth::Visibility};
use rusqlite::{
    Connection, OptionalExtension, functions::FunctionFlags, params, params_from_iter, types::Value as Sql,
};
use serde_json::Value;

use self::statement::{Statement, integer};
use super::pool::{Pool, statement, unavailable};
use crate::{CollectionSpec, DocumentStore, Error, Filter, Query, Row, Write};

/// Documents in one SQLite file.
pub struct SqliteDocuments {
    pool: Pool,
}

impl SqliteDocuments {
    /// Opens or makes the file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            pool: Pool::open(path, Priority::Foreground, register_search)?,
        })
    }
}

/// SQLite's own LIKE knows upper and lower case of ASCII only.
fn register_search(connection: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    connection.create_scalar_function("search_in", 2, flags, |context| {
        let text: Option<String> = context.get(0)?;
        let needle: String = context.get(1)?;
        Ok(text.is_some_and(|text| text.to_lowercase().contains(&needle)))
    })
}

#[async_trait]
impl DocumentStore for SqliteDocuments {
    async fn open(&self, spec: &'static CollectionSpec) -> Result<(), Error> {
        self.pool
            .write(move |connection| create(connection, spec).map_err(unavailable))
            .await
    }

    async fn get(
        &self,
        spec: &'static CollectionSpec,
        see: &Visibility,
        id: &str,
    ) -> Result<Option<Row>, Error> {
        let mut sql = Statement::new(format!(
            "SELECT id, version, doc FROM \"{0}\" AS d WHERE deleted = 0 AND id = ?1",
            spec.name
        ));
        sql.values.push(Sql::Text(id.to_owned()));
        sql.visible(spec, see);
        self.pool
            .read(move |connection| sql.rows(connection).map(|rows| rows.into_iter().next()))
            .await
    }

    async fn find(
        &self,
        spec: &'static CollectionSpec,
        see: &Visibility,
        query: &Query,
    ) -> Result<Vec<Row>, Error> {
        let sql = Statement::find(spec, see, query)?;
        self.pool.read(move |connection| sql.rows(connection)).await
    }

    async fn heads(
        &self,
        spec: &'static CollectionSpec,
        see: &Visibility,
        query: &Query,
    ) -> Result<Vec<(String, Value)>, Error> {
        let sql = Statement::heads(spec, see, query)?;
        let rows = self.pool.read(move |connection| sql.rows(connection)).await?;
        let read = |row: Row| (row.id, serde_json::from_str(&row.doc).unwrap_or_default());
        Ok(rows.into_iter().map(read).collect())
    }

    async fn count(
        &self,
        spec: &'static CollectionSpec,
        see: &Visibility,
        filter: &Filter,
    ) -> Result<u64, Error> {
        let mut sql = Statement::new(format!(
            "SELECT count(*) FROM \"{}\" AS d WHERE deleted = 0",
            spec.name
        ));
        sql.visible(spec, see);
        sql.push(" AND ");
        sql.filter(spec, filter)?;
        self.pool
            .read(move |connection| {
                let mut query = connection.prepare_cached(&sql.text).map_err(unavailable)?;
                let count: i64 = query
                    .query_row(params_from_iter(&sql.values), |row| row.get(0))
                    .map_err(unavailable)?;
                Ok(u64::try_from(count).unwrap_or_default())
            })
            .await
    }

    async fn insert(&self, spec: &'static CollectionSpec, write: Write) -> Result<(), Error> {
        self.pool
            .write(move |connection| {
                let sql = format!(
                    "INSERT INTO \"{}\"(id, version, doc, outbox) VALUES (?1, 1, ?2, ?3)",
                    spec.name
                );
                let outbox = outbox_text(&write.events)?;
                connection
                    .prepare_cached(&sql)
                    .and_then(|mut insert| insert.execute(params![write.id, write.doc, outbox]))
                    .map_err(statement)?;
                write_owners(connection, spec, &write.id, &write.owners)
            })
            .await
    }

    async fn replace(&self, spec: &'static CollectionSpec, version: u64, write: Write) -> Result<(), Error> {
        self.pool
            .write(move |connection| {
                let outbox = appended(connection, spec, &write.id, write.events)?;
                let sql = format!(
                    "UPDATE \"{}\" SET doc = ?3, outbox = ?4, version = version + 1
                     WHERE id = ?1 AND version = ?2 AND deleted = 0",
                    spec.name
                );
                let changed = connection
                    .prepare_cached(&sql)
                    .and_then(|mut update| {
                        update.execute(params![write.id, integer(version), write.doc, outbox])
                    })
                    .map_err(statement)?;
                if changed == 0 {
                    return Err(Error::VersionConflict);
                }
                write_owners(connection, spec, &write.id, &write.owners)
            })
            .await
    }

    async fn delete(
        &self,
        spec: &'static CollectionSpec,
        id: &str,
        version: u64,
        events: Vec<Event>,
    ) -> Result<(), Error> {
        let id = id.to_owned();
        self.pool
            .write(move |connection| {
                let outbox = appended(connection, spec, &id, events)?;
                // The row stays as a tombstone while it holds events.
                let sql = format!(
                    "UPDATE \"{}\" SET deleted = 1, doc = '{{}}', outbox = ?3, version = version + 1
                     WHERE id = ?1 AND version = ?2 AND deleted = 0",
                    spec.name
                );
                let changed = connection
                    .prepare_cached(&sql)
                    .and_then(|mut update| update.execute(params![id, integer(version), outbox]))
                    .map_err(statement)?;
                if changed == 0 {
                    return Err(Error::VersionConflict);
                }
                write_owners(connection, spec, &id, &[])?;
                sweep(connection, spec, &id)
            })
            .await
    }

    async fn pending(
        &self,
        spec: &'static CollectionSpec,
        limit: usize,
    ) -> Result<Vec<(String, Vec<Event>)>, Error> {
        let sql = format!(
            "SELECT id, outbox FROM \"{}\" WHERE outbox IS NOT NULL LIMIT {limit}",
            spec.name
        );
        self.pool
            .read(move |connection| {
                let mut query = connection.prepare_cached(&sql).map_err(unavailable)?;
                let rows = query
                    .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
                    .map_err(unavailable)?;
                rows.map(|row| {
                    let (id, outbox) = row.map_err(unavailable)?;
                    Ok((id, parse_outbox(&outbox)?))
                })
                .collect()
            })
            .await
    }

    async fn published(
        &self,
        spec: &'static CollectionSpec,
        id: &str,
        event_ids: Vec<String>,
    ) -> Result<(), Error> {
        let id = id.to_owned();
        self.pool
            .write(move |connection| {
                let mut events = waiting(connection, spec, &id)?;
                events.retain(|event| !event_ids.iter().any(|id| **id == *event.id));
                let sql = format!("UPDATE \"{}\" SET outbox = ?2 WHERE id = ?1", spec.name);
                connection
                    .prepare_cached(&sql)
                    .and_then(|mut update| update.execute(params![id, outbox_text(&events).ok().flatten()]))
                    .map_err(statement)?;
                sweep(connection, spec, &id)
            })
            .await
    }

    async fn ping(&self) -> Result<(), Error> {
        self.pool
            .read(|connection| {
                connection
                    .query_row("SELECT 1", [], |_| Ok(()))
                    .map_err(unavailable)
            })
            .await
    }
}

fn create(connection: &Connection, spec: &CollectionSpec) -> rusqlite::Result<()> {
    let name = spec.name;
    connection.execute_batch(&format!(
        "CREATE TABLE IF NOT EXISTS \"{name}\"(
            id TEXT PRIMARY KEY, version INTEGER NOT NULL, deleted INTEGER NOT NULL DEFAULT 0,
            doc TEXT NOT NULL, outbox TEXT) STRICT;
         CREATE INDEX IF NOT EXISTS \"{name}_outbox\" ON \"{name}\"(id) WHERE outbox IS NOT NULL;
         CREATE TABLE IF NOT EXISTS \"{name}_owners\"(
            owner TEXT NOT NULL, id TEXT NOT NULL, PRIMARY KEY (owner, id)) STRICT, WITHOUT ROWID;
         CREATE INDEX IF NOT EXISTS \"{name}_owners_id\" ON \"{name}_owners\"(id);"
    ))?;
    let mut columns = connection.prepare(&format!("PRAGMA table_xinfo(\"{name}\")"))?;
    let known: Vec<String> = columns
        .query_map([], |row| row.get::<_, String>(1))?
        .collect::<Result<_, _>>()?;
    for field in spec.fields {
        if !known.iter().any(|column| column == field.name) {
            connection.execute_batch(&format!(
                "ALTER TABLE \"{name}\" ADD COLUMN \"{0}\" ANY GENERATED ALWAYS AS (doc->>'{1}') VIRTUAL",
                field.name, field.path
            ))?;
        }
        let field = field.name;
        let (unique, rest) = if spec.unique.contains(&field) {
            ("UNIQUE", ") WHERE deleted = 0")
        } else {
            ("", ", id)")
        };
        connection.execute_batch(&format!(
            "CREATE {unique} INDEX IF NOT EXISTS \"{name}_{field}\" ON \"{name}\"(\"{field}\"{rest}"
        ))?;
    }
    Ok(())
}

fn write_owners(
    connection: &Connection,
    spec: &CollectionSpec,
    id: &str,
    owners: &[String],
) -> Result<(), Error> {
    let name = spec.name;
    connection
        .prepare_cached(&format!("DELETE FROM \"{name}_owners\" WHERE id = ?1"))
        .and_then(|mut delete| delete.execute([id]))
        .map_err(statement)?;
    let sql = format!("INSERT OR IGNORE INTO \"{name}_owners\"(owner, id) VALUES (?1, ?2)");
    for owner in owners {
        connection
            .prepare_cached(&sql)
            .and_then(|mut insert| insert.execute([owner.as_str(), id]))
            .map_err(statement)?;
    }
    Ok(())
}

/// Removes a tombstone that holds no events any more.
fn sweep(connection: &Connection, spec: &CollectionSpec, id: &str) -> Result<(), Error> {
    let sql = format!(
        "DELETE FROM \"{}\" WHERE id = ?1 AND deleted = 1 AND outbox IS NULL",
        spec.name
    );
    connection
        .prepare_cached(&sql)
        .and_then(|mut delete| delete.execute([id]))
        .map_err(statement)?;
    Ok(())
}

fn waiting(connection: &Connection, spec: &CollectionSpec, id: &str) -> Result<Vec<Event>, Error> {
    let sql = format!("SELECT outbox FROM \"{}\" WHERE id = ?1", spec.name);
    let outbox: Option<Option<String>> = connection
        .prepare_cached(&sql)
        .and_then(|mut query| query.query_row([id], |row| row.get(0)).optional())
        .map_err(unavailable)?;
    outbox
        .flatten()
        .map_or_else(|| Ok(Vec::new()), |text| parse_outbox(&text))
}

/// The outbox of the document with `events` added at the end.
fn appended(
    connection: &Connection,
    spec: &CollectionSpec,
    id: &str,
    events: Vec<Event>,
) -> Result<Option<String>, Error> {
    let mut all = waiting(connection, spec, id)?;
    all.extend(events);
    outbox_text(&all)
}

fn outbox_text(events: &[Event]) -> Result<Option<String>, Error> {
    if events.is_empty() {
        return Ok(None);
    }
    serde_json::to_string(events)
        .map(Some)
        .map_err(|error| Error::Corrupt(error.to_string()))
}

fn parse_outbox(text: &str) -> Result<Vec<Event>, Error> {
    serde_json::from_str(text).map_err(|error| Error::Corrupt(format!("outbox: {error}")))
}
