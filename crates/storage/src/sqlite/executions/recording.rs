//! Records as rows. What is there already changes nothing and counts nothing.

use std::collections::HashMap;

use flowmate_common::{
    Timestamp,
    ids::{FlowId, TenantId, UserId},
    model::{ExecutionOf, Outcome},
};
use rusqlite::{Connection, params};
use serde_json::value::RawValue;

use super::super::pool::statement;
use crate::{
    Error,
    executions::{Record, StepRow, Waiting, moment},
};

/// What a usage count is kept by.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct UsageKey {
    pub(super) day: String,
    pub(super) flow: FlowId,
    pub(super) component: String,
    pub(super) user: Option<UserId>,
    pub(super) tenant: Option<TenantId>,
}

/// Writes what is new; returns what that counts.
pub(super) fn write_records(
    connection: &Connection,
    records: &[Record],
) -> Result<HashMap<UsageKey, i64>, Error> {
    let mut usage = HashMap::new();
    for record in records {
        match record {
            Record::Started { of, at } => start(connection, of, *at)?,
            Record::Step(step) => {
                if insert_step(connection, step)? && step.counted {
                    *usage.entry(usage_key(step)).or_insert(0) += 1;
                }
            }
            Record::Waiting { of, started, wait } => {
                turn(connection, of, *started, moment(wait.turn, false), Some(wait))?;
            }
            Record::Resumed {
                of,
                started,
                turn: over,
            } => {
                turn(connection, of, *started, moment(*over, true), None)?;
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

/// A wait, or where there is none the end of one, unless a later one or the end of the execution is known.
fn turn(
    connection: &Connection,
    of: &ExecutionOf,
    started: Timestamp,
    moment: i64,
    wait: Option<&Waiting>,
) -> Result<(), Error> {
    connection
        .prepare_cached(
            "INSERT INTO executions(id, flow, flow_name, user, tenant, started, moment, due, reason)
             VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9)
             ON CONFLICT(id) DO UPDATE SET moment = excluded.moment, due = excluded.due, reason = excluded.reason
                 WHERE status IS NULL AND moment < excluded.moment",
        )
        .and_then(|mut insert| {
            insert.execute(params![
                of.execution_id.as_str(),
                of.flow_id.as_str(),
                of.flow_name,
                of.user.as_ref().map(UserId::as_str),
                of.tenant.as_ref().map(TenantId::as_str),
                started.as_millis(),
                moment,
                wait.map(|wait| wait.due.as_millis()),
                wait.map(|wait| &wait.reason),
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
                 finished = excluded.finished, due = NULL, reason = NULL WHERE status IS NULL",
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

pub(super) fn add_usage(connection: &Connection, key: &UsageKey, count: i64) -> Result<(), Error> {
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
