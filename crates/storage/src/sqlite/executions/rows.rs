//! Rows as what the store answers with.

use flowmate_common::{
    Timestamp,
    ids::{TenantId, UserId},
    model::{ExecutionOf, Outcome},
};
use rusqlite::{Connection, params, params_from_iter};

use super::filter::Condition;
use crate::executions::{ExecutionRow, LogRow, StepRow, UsageRow, Waiting, raw};

pub(super) const EXECUTION: &str =
    "id, flow, flow_name, user, tenant, status, error, started, finished, moment, due, reason";

pub(super) fn execution_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<ExecutionRow> {
    let text = |index: usize| row.get::<_, Option<String>>(index);
    Ok(ExecutionRow {
        of: execution_of(row)?,
        status: text(5)?.map(|status| Outcome::read(&status)),
        waiting: waiting(row)?,
        error: text(6)?,
        started: Timestamp::from_millis(row.get(7)?),
        finished: row.get::<_, Option<i64>>(8)?.map(Timestamp::from_millis),
    })
}

/// From the last three columns of [`EXECUTION`].
fn waiting(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<Waiting>> {
    let Some(due) = row.get::<_, Option<i64>>(10)? else {
        return Ok(None);
    };
    Ok(Some(Waiting {
        turn: u32::try_from(row.get::<_, i64>(9)? / 2).unwrap_or_default(),
        due: Timestamp::from_millis(due),
        reason: row.get::<_, Option<String>>(11)?.unwrap_or_default(),
    }))
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

pub(super) fn read_steps(
    connection: &Connection,
    of: &ExecutionOf,
    limit: u64,
) -> rusqlite::Result<Vec<StepRow>> {
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

pub(super) fn read_log(
    connection: &Connection,
    condition: &Condition,
    limit: u64,
) -> rusqlite::Result<Vec<LogRow>> {
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

pub(super) fn usage_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<UsageRow> {
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
