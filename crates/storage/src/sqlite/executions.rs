//! Executions on SQLite. The primary keys make recording idempotent; usage counts are kept beside, in the same
//! transaction as the steps they count, so that they outlive the steps.

mod filter;
mod recording;
mod rows;

use std::path::Path;

use async_trait::async_trait;
use flowmate_common::{
    Priority, Timestamp,
    auth::Visibility,
    ids::{ExecutionId, TenantId, UserId},
};
use rusqlite::{Connection, OptionalExtension, params_from_iter, types::Value as Sql};

use self::{
    filter::Condition,
    recording::{UsageKey, add_usage, write_records},
    rows::{EXECUTION, execution_row, read_log, read_steps, usage_row},
};
use super::pool::{Pool, unavailable};
use crate::{
    Error,
    executions::{
        ExecutionFilter, ExecutionRow, ExecutionStore, GroupBy, LogFilter, LogRow, Record, StepRow, Total,
        UsageRow, Within,
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

/// Columns of `executions` that came later; files that do not have them get them. `moment` orders waits and their ends,
/// `due` and `reason` are there only while it waits.
const LATER: [(&str, &str); 3] = [
    ("moment", "INTEGER NOT NULL DEFAULT 0"),
    ("due", "INTEGER"),
    ("reason", "TEXT"),
];
const LATER_INDEX: &str =
    "CREATE INDEX IF NOT EXISTS executions_waiting ON executions(id) WHERE due IS NOT NULL";

fn create(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(SCHEMA)?;
    let mut columns = connection.prepare("SELECT name FROM pragma_table_info('executions')")?;
    let known: Vec<String> = columns
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for (name, kind) in LATER {
        if !known.iter().any(|column| column == name) {
            connection.execute_batch(&format!("ALTER TABLE executions ADD COLUMN {name} {kind}"))?;
        }
    }
    connection.execute_batch(LATER_INDEX)
}

/// Executions in one SQLite file.
pub struct SqliteExecutions {
    pool: Pool,
}

impl SqliteExecutions {
    /// Opens or makes the file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            pool: Pool::open(path, Priority::Background, create)?,
        })
    }
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
        within: Option<&Within>,
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
        condition.within(within);
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
