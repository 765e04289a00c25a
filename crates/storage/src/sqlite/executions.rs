//! Executions on SQLite. The primary keys make recording idempotent; usage counts are kept beside, in the same
//! transaction as the steps they count, so that they outlive the steps.

use std::{collections::HashMap, path::Path};

use async_trait::async_trait;
use flowmate_common::{
    Priority, Timestamp,
    auth::Visibility,
    ids::{ExecutionId, FlowId, TenantId, UserId},
    model::{ExecutionOf, Json, Outcome},
};
use rusqlite::{Connection, OptionalExtension, params, params_from_iter, types::Value as Sql};
use serde_json::value::RawValue;

use super::pool::{Pool, statement, unavailable};
use crate::{
    Error,
    executions::{
        ExecutionFilter, ExecutionRow, ExecutionStore, GroupBy, LogFilter, LogRow, Record, StepRow, Total,
        UsageRow,
    },
};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS executions(
        id TEXT PRIMARY KEY, flow TEXT NOT NULL, flow_name TEXT, user TEXT, tenant TEXT,
        status TEXT, error TEXT, started INTEGER NOT NULL, finished INTEGER) STRICT, WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS executions_flow ON executions(flow);
    CREATE INDEX IF NOT EXISTS executions_user ON executions(user) WHERE user IS NOT NULL;
    CREATE INDEX IF NOT EXISTS executions_tenant ON executions(tenant) WHERE tenant IS NOT NULL;
    CREATE TABLE IF NOT EXISTS steps(
        execution TEXT NOT NULL, run TEXT NOT NULL, sequence INTEGER NOT NULL, node TEXT NOT NULL, component_id TEXT NOT NULL,
        component TEXT NOT NULL, function TEXT NOT NULL, counted INTEGER NOT NULL, status TEXT NOT NULL,
        input TEXT NOT NULL, output TEXT, unchanged INTEGER NOT NULL, error TEXT, attempts INTEGER NOT NULL,
        started INTEGER NOT NULL, finished INTEGER NOT NULL,
        PRIMARY KEY (execution, run)) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS usage(
        day TEXT NOT NULL, flow TEXT NOT NULL, component TEXT NOT NULL, user TEXT NOT NULL, tenant TEXT NOT NULL,
        count INTEGER NOT NULL, PRIMARY KEY (day, flow, component, user, tenant)) STRICT, WITHOUT ROWID;
";

/// Executions in one SQLite file.
pub struct SqliteExecutions {
    pool: Pool,
}

impl SqliteExecutions {
    /// Opens or makes the file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            pool: Pool::open(path, Priority::Background, |connection| {
                connection.execute_batch(SCHEMA)
            })?,
        })
    }
}

/// What a usage count is kept by.
#[derive(PartialEq, Eq, Hash)]
struct UsageKey {
    day: String,
    flow: FlowId,
    component: String,
    user: Option<UserId>,
    tenant: Option<TenantId>,
}

#[async_trait]
impl ExecutionStore for SqliteExecutions {
    async fn record(&self, records: Vec<Record>) -> Result<(), Error> {
        self.pool
            .write(move |connection| {
                let usage = write_records(connection, &records)?;
                usage
                    .iter()
                    .try_for_each(|(key, count)| add_usage(connection, key, *count))
            })
            .await
    }

    async fn totals(&self) -> Result<Vec<Total>, Error> {
        let read = |connection: &Connection| -> rusqlite::Result<Vec<Total>> {
            let mut query = connection.prepare(
                "SELECT day, flow, component, user, tenant, count FROM usage ORDER BY 1, 2, 3, 4, 5",
            )?;
            let rows = query.query_map([], |row| {
                Ok(Total {
                    day: row.get(0)?,
                    flow: row.get(1)?,
                    component: row.get(2)?,
                    user: row.get(3)?,
                    tenant: row.get(4)?,
                    count: u64::try_from(row.get::<_, i64>(5)?).unwrap_or_default(),
                })
            })?;
            rows.collect()
        };
        self.pool
            .read(move |connection| read(connection).map_err(unavailable))
            .await
    }

    async fn restore(&self, records: Vec<Record>, totals: Vec<Total>) -> Result<(), Error> {
        self.pool
            .write(move |connection| {
                write_records(connection, &records)?;
                for total in totals {
                    let key = UsageKey {
                        day: total.day,
                        flow: total.flow.into(),
                        component: total.component,
                        user: Some(total.user).filter(|user| !user.is_empty()).map(UserId::from),
                        tenant: Some(total.tenant)
                            .filter(|tenant| !tenant.is_empty())
                            .map(TenantId::from),
                    };
                    add_usage(connection, &key, i64::try_from(total.count).unwrap_or(i64::MAX))?;
                }
                Ok(())
            })
            .await
    }

    async fn list(
        &self,
        see: &Visibility,
        filter: &ExecutionFilter,
        skip: u64,
        limit: u64,
    ) -> Result<(Vec<ExecutionRow>, u64), Error> {
        let mut condition = Condition::visible(see);
        condition.filter(filter);
        self.pool
            .read(move |connection| {
                let count = format!("SELECT count(*) FROM executions WHERE {}", condition.text);
                let total: i64 = connection
                    .prepare_cached(&count)
                    .and_then(|mut query| query.query_row(params_from_iter(&condition.values), |row| row.get(0)))
                    .map_err(unavailable)?;
                let page = format!(
                    "SELECT {EXECUTION} FROM executions WHERE {} ORDER BY id DESC LIMIT {limit} OFFSET {skip}",
                    condition.text
                );
                let mut query = connection.prepare(&page).map_err(unavailable)?;
                let rows = query
                    .query_map(params_from_iter(&condition.values), execution_row)
                    .map_err(unavailable)?
                    .collect::<Result<_, _>>()
                    .map_err(unavailable)?;
                Ok((rows, u64::try_from(total).unwrap_or_default()))
            })
            .await
    }

    async fn get(
        &self,
        see: &Visibility,
        id: &ExecutionId,
        steps: u64,
    ) -> Result<Option<(ExecutionRow, Vec<StepRow>)>, Error> {
        let mut condition = Condition::visible(see);
        condition.and("id = ", Sql::Text(id.to_string()));
        self.pool
            .read(move |connection| {
                let sql = format!("SELECT {EXECUTION} FROM executions WHERE {}", condition.text);
                let execution = connection
                    .prepare_cached(&sql)
                    .and_then(|mut query| {
                        query
                            .query_row(params_from_iter(&condition.values), execution_row)
                            .optional()
                    })
                    .map_err(unavailable)?;
                let Some(execution) = execution else {
                    return Ok(None);
                };
                let steps = read_steps(connection, &execution.of, steps).map_err(unavailable)?;
                Ok(Some((execution, steps)))
            })
            .await
    }

    async fn log(&self, see: &Visibility, filter: &LogFilter, limit: u64) -> Result<Vec<LogRow>, Error> {
        let mut condition = Condition::visible(see);
        condition.log(filter);
        let read =
            move |connection: &Connection| read_log(connection, &condition, limit).map_err(unavailable);
        self.pool.read(read).await
    }

    async fn usage(
        &self,
        see: &Visibility,
        by: GroupBy,
        first: &str,
        last: &str,
    ) -> Result<Vec<UsageRow>, Error> {
        let key = match by {
            GroupBy::User => "user",
            GroupBy::Flow => "flow",
            GroupBy::Component => "component",
        };
        let mut condition = Condition::visible(see);
        condition.and("day >= ", Sql::Text(first.to_owned()));
        condition.and("day <= ", Sql::Text(last.to_owned()));
        if by == GroupBy::User {
            condition.push(" AND user <> ''");
        }
        let sql = format!(
            "SELECT {key}, min(user), max(user), min(tenant), max(tenant), json_group_array(DISTINCT flow), sum(count)
             FROM usage WHERE {} GROUP BY {key} ORDER BY {key}",
            condition.text
        );
        self.pool
            .read(move |connection| {
                let mut query = connection.prepare_cached(&sql).map_err(unavailable)?;
                let rows = query
                    .query_map(params_from_iter(&condition.values), usage_row)
                    .map_err(unavailable)?
                    .collect::<Result<_, _>>()
                    .map_err(unavailable)?;
                Ok(rows)
            })
            .await
    }

    async fn prune(&self, before: Timestamp, limit: u64) -> Result<u64, Error> {
        self.pool
            .write(move |connection| {
                let old = format!(
                    "SELECT id FROM executions WHERE started < {} ORDER BY id LIMIT {limit}",
                    before.as_millis()
                );
                connection
                    .execute(&format!("DELETE FROM steps WHERE execution IN ({old})"), [])
                    .map_err(unavailable)?;
                let gone = connection
                    .execute(&format!("DELETE FROM executions WHERE id IN ({old})"), [])
                    .map_err(unavailable)?;
                Ok(gone as u64)
            })
            .await
    }
}

/// Writes what is new; returns what that counts.
fn write_records(connection: &Connection, records: &[Record]) -> Result<HashMap<UsageKey, i64>, Error> {
    let mut usage = HashMap::new();
    for record in records {
        match record {
            Record::Started { of, at } => start(connection, of, *at)?,
            Record::Step(step) => {
                if insert_step(connection, step)? && step.counted {
                    *usage.entry(usage_key(step)).or_insert(0) += 1;
                }
            }
            Record::Finished {
                of,
                status,
                error,
                started,
                at,
            } => finish(connection, of, *status, error.as_deref(), *started, *at)?,
        }
    }
    Ok(usage)
}

fn start(connection: &Connection, of: &ExecutionOf, at: Timestamp) -> Result<(), Error> {
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO executions(id, flow, flow_name, user, tenant, started) VALUES (?1,?2,?3,?4,?5,?6)",
        )
        .and_then(|mut insert| {
            insert.execute(params![
                of.execution_id.as_str(),
                of.flow_id.as_str(),
                of.flow_name,
                of.user.as_ref().map(UserId::as_str),
                of.tenant.as_ref().map(TenantId::as_str),
                at.as_millis(),
            ])
        })
        .map_err(statement)?;
    Ok(())
}

fn finish(
    connection: &Connection,
    of: &ExecutionOf,
    status: Outcome,
    error: Option<&str>,
    started: Timestamp,
    at: Timestamp,
) -> Result<(), Error> {
    connection
        .prepare_cached(
            "INSERT INTO executions(id, flow, flow_name, user, tenant, status, error, started, finished)
             VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9)
             ON CONFLICT(id) DO UPDATE SET status = excluded.status, error = excluded.error,
                 finished = excluded.finished WHERE status IS NULL",
        )
        .and_then(|mut insert| {
            insert.execute(params![
                of.execution_id.as_str(),
                of.flow_id.as_str(),
                of.flow_name,
                of.user.as_ref().map(UserId::as_str),
                of.tenant.as_ref().map(TenantId::as_str),
                status.as_str(),
                error,
                started.as_millis(),
                at.as_millis(),
            ])
        })
        .map_err(statement)?;
    Ok(())
}

/// Whether the step was new.
fn insert_step(connection: &Connection, step: &StepRow) -> Result<bool, Error> {
    let inserted = connection
        .prepare_cached(
            "INSERT OR IGNORE INTO steps(execution, run, sequence, node, component_id, component, function, counted, status,
                 input, output, unchanged, error, attempts, started, finished)
             VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16)",
        )
        .and_then(|mut insert| {
            insert.execute(params![
                step.of.execution_id.as_str(),
                step.run.as_str(),
                step.sequence,
                step.node.as_str(),
                step.component_id.as_str(),
                step.component,
                step.function,
                step.counted,
                step.status.as_str(),
                step.input.get(),
                step.output.as_deref().map(RawValue::get),
                step.unchanged,
                step.error,
                step.attempts,
                step.started.as_millis(),
                step.finished.as_millis(),
            ])
        })
        .map_err(statement)?;
    Ok(inserted == 1)
}

fn usage_key(step: &StepRow) -> UsageKey {
    UsageKey {
        day: step.finished.day(),
        flow: step.of.flow_id.clone(),
        component: step.component_id.to_string(),
        user: step.of.user.clone(),
        tenant: step.of.tenant.clone(),
    }
}

fn add_usage(connection: &Connection, key: &UsageKey, count: i64) -> Result<(), Error> {
    connection
        .prepare_cached(
            "INSERT INTO usage(day, flow, component, user, tenant, count) VALUES (?1,?2,?3,?4,?5,?6)
             ON CONFLICT DO UPDATE SET count = count + excluded.count",
        )
        .and_then(|mut insert| {
            insert.execute(params![
                key.day,
                key.flow.as_str(),
                key.component,
                key.user.as_ref().map_or("", UserId::as_str),
                key.tenant.as_ref().map_or("", TenantId::as_str),
                count,
            ])
        })
        .map_err(statement)?;
    Ok(())
}

const EXECUTION: &str = "id, flow, flow_name, user, tenant, status, error, started, finished";

fn execution_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<ExecutionRow> {
    let text = |index: usize| row.get::<_, Option<String>>(index);
    Ok(ExecutionRow {
        of: execution_of(row)?,
        status: text(5)?.map(|status| Outcome::read(&status)),
        error: text(6)?,
        started: Timestamp::from_millis(row.get(7)?),
        finished: row.get::<_, Option<i64>>(8)?.map(Timestamp::from_millis),
    })
}

/// From the first five columns of [`EXECUTION`].
fn execution_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<ExecutionOf> {
    let text = |index: usize| row.get::<_, Option<String>>(index);
    Ok(ExecutionOf {
        execution_id: row.get::<_, String>(0)?.into(),
        flow_id: row.get::<_, String>(1)?.into(),
        flow_name: text(2)?,
        user: text(3)?.map(UserId::from),
        tenant: text(4)?.map(TenantId::from),
    })
}

fn read_steps(connection: &Connection, of: &ExecutionOf, limit: u64) -> rusqlite::Result<Vec<StepRow>> {
    let mut query = connection.prepare_cached(
        "SELECT run, node, component_id, component, function, counted, status, input, output, error, attempts,
             started, finished, sequence, unchanged FROM steps WHERE execution = ?1
         ORDER BY started, sequence, run LIMIT ?2",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = query.query_map(params![of.execution_id.as_str(), limit], |row| {
        Ok(StepRow {
            of: of.clone(),
            run: row.get::<_, String>(0)?.into(),
            node: row.get::<_, String>(1)?.into(),
            component_id: row.get::<_, String>(2)?.into(),
            component: row.get(3)?,
            function: row.get(4)?,
            counted: row.get(5)?,
            status: Outcome::read(&row.get::<_, String>(6)?),
            input: raw(row.get(7)?),
            output: row.get::<_, Option<String>>(8)?.map(raw),
            error: row.get(9)?,
            attempts: row.get(10)?,
            started: Timestamp::from_millis(row.get(11)?),
            finished: Timestamp::from_millis(row.get(12)?),
            sequence: row.get(13)?,
            unchanged: row.get(14)?,
        })
    })?;
    rows.collect()
}

fn read_log(connection: &Connection, condition: &Condition, limit: u64) -> rusqlite::Result<Vec<LogRow>> {
    let sql = format!(
        "SELECT id, flow, flow_name, user, tenant, sequence, node, component, function, steps.status, steps.error,
             attempts, steps.started, steps.finished
         FROM executions JOIN steps ON execution = id WHERE {} ORDER BY id DESC, sequence DESC LIMIT {limit}",
        condition.text
    );
    let mut query = connection.prepare(&sql)?;
    let rows = query.query_map(params_from_iter(&condition.values), |row| {
        Ok(LogRow {
            of: execution_of(row)?,
            sequence: row.get(5)?,
            node: row.get::<_, String>(6)?.into(),
            component: row.get(7)?,
            function: row.get(8)?,
            status: Outcome::read(&row.get::<_, String>(9)?),
            error: row.get(10)?,
            attempts: row.get(11)?,
            started: Timestamp::from_millis(row.get(12)?),
            finished: Timestamp::from_millis(row.get(13)?),
        })
    })?;
    rows.collect()
}

fn raw(text: String) -> Json {
    RawValue::from_string(text)
        .unwrap_or_else(|_| RawValue::NULL.to_owned())
        .into()
}

fn usage_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<UsageRow> {
    let only = |low: usize, high: usize| -> rusqlite::Result<Option<String>> {
        let (low, high): (String, String) = (row.get(low)?, row.get(high)?);
        Ok((low == high && !low.is_empty()).then_some(low))
    };
    let flows: String = row.get(5)?;
    let count: i64 = row.get(6)?;
    Ok(UsageRow {
        key: row.get(0)?,
        user: only(1, 2)?.map(UserId::from),
        tenant: only(3, 4)?.map(TenantId::from),
        flows: serde_json::from_str(&flows).unwrap_or_default(),
        executions: u64::try_from(count).unwrap_or_default(),
    })
}

/// A WHERE clause and its bound values.
struct Condition {
    text: String,
    values: Vec<Sql>,
}

impl Condition {
    fn visible(see: &Visibility) -> Self {
        let mut condition = Self {
            text: String::new(),
            values: Vec::new(),
        };
        match see {
            Visibility::All => condition.push("1"),
            Visibility::OwnedBy(owners) => {
                let owners = serde_json::Value::from(owners.clone()).to_string();
                condition.values.push(Sql::Text(owners));
                condition.push(
                    "(user IN (SELECT value FROM json_each(?1)) OR tenant IN (SELECT value FROM json_each(?1)))",
                );
            }
        }
        condition
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn and(&mut self, comparison: &str, value: Sql) {
        self.values.push(value);
        self.push(&format!(" AND {comparison}?{}", self.values.len()));
    }

    fn log(&mut self, filter: &LogFilter) {
        if let Some(flow) = &filter.flow {
            self.and("flow = ", Sql::Text(flow.to_string()));
        }
        if let Some(tenant) = &filter.tenant {
            self.and("tenant = ", Sql::Text(tenant.to_string()));
        }
        if let Some(node) = &filter.node {
            self.and("node = ", Sql::Text(node.to_string()));
        }
        if filter.errors_only {
            self.push(" AND steps.error IS NOT NULL");
        }
        if let Some((execution, sequence)) = &filter.before {
            self.values.push(Sql::Text(execution.to_string()));
            self.values.push(Sql::Integer(i64::from(*sequence)));
            let last = self.values.len();
            self.push(&format!(" AND (id, sequence) < (?{}, ?{last})", last - 1));
        }
    }

    fn filter(&mut self, filter: &ExecutionFilter) {
        if let Some(flow) = &filter.flow {
            self.and("flow = ", Sql::Text(flow.to_string()));
        }
        match filter.status {
            Some(Some(status)) => self.and("status = ", Sql::Text(status.as_str().to_owned())),
            Some(None) => self.push(" AND status IS NULL"),
            None => {}
        }
        if let Some(from) = filter.from {
            self.and("started >= ", Sql::Integer(from.as_millis()));
        }
        if let Some(until) = filter.until {
            self.and("started < ", Sql::Integer(until.as_millis()));
        }
    }
}
