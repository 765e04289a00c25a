//! Executions, steps and counts as documents.

use std::collections::{HashMap, hash_map::Entry};

use flowmate_common::{
    Timestamp,
    ids::{FlowId, TenantId, UserId},
    model::{ExecutionOf, Outcome},
};
use mongodb::bson::{Document as Bsons, doc};
use serde::{Deserialize, Serialize};

use crate::executions::{ExecutionRow, LogRow, Record, StepRow, Total, UsageRow, Waiting, moment, raw};

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Execution {
    #[serde(rename = "_id")]
    pub(super) id: String,
    pub(super) flow: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) flow_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tenant: Option<String>,
    /// Absent while it has not ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    pub(super) started: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) finished: Option<i64>,
    /// Orders waits and their ends; absent where it has never waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) moment: Option<i64>,
    /// Only while it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) due: Option<i64>,
    /// Only while it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
}

/// With what is known of its execution: logs are read without a join.
#[derive(Serialize, Deserialize)]
pub(super) struct Step {
    /// `execution/run`
    #[serde(rename = "_id")]
    pub(super) id: String,
    pub(super) execution: String,
    pub(super) run: String,
    pub(super) sequence: i64,
    pub(super) flow: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) flow_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tenant: Option<String>,
    pub(super) node: String,
    pub(super) component_id: String,
    pub(super) component: String,
    pub(super) function: String,
    pub(super) counted: bool,
    pub(super) status: String,
    pub(super) input: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) output: Option<String>,
    pub(super) unchanged: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    pub(super) attempts: i64,
    pub(super) started: i64,
    pub(super) finished: i64,
}

/// What a usage document counts.
#[derive(Deserialize)]
pub(super) struct Runs {
    #[serde(rename = "_id")]
    pub(super) id: String,
    pub(super) runs: Vec<String>,
}

/// What a call records, by collection.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) steps: Vec<Step>,
    /// By id: the document without its runs, and the runs.
    pub(super) usage: HashMap<String, (Bsons, Vec<String>)>,
    pub(super) started: Vec<Execution>,
    /// By id: the last wait, or the end of one.
    pub(super) turns: HashMap<String, Execution>,
    pub(super) finished: Vec<Execution>,
}

impl Batch {
    pub(super) fn of(records: Vec<Record>) -> Self {
        let mut batch = Self::default();
        for record in records {
            batch.add(record);
        }
        batch
    }

    pub(super) fn add(&mut self, record: Record) {
        match record {
            Record::Started { of, at } => self.started.push(Execution::of(of, at)),
            Record::Waiting { of, started, wait } => self.turn(Execution {
                moment: Some(moment(wait.turn, false)),
                due: Some(wait.due.as_millis()),
                reason: Some(wait.reason),
                ..Execution::of(of, started)
            }),
            Record::Resumed { of, started, turn } => self.turn(Execution {
                moment: Some(moment(turn, true)),
                ..Execution::of(of, started)
            }),
            Record::Finished {
                of,
                status,
                error,
                started,
                at,
            } => self.finished.push(Execution {
                status: Some(status.as_str().to_owned()),
                error,
                finished: Some(at.as_millis()),
                ..Execution::of(of, started)
            }),
            Record::Step(step) => {
                if step.counted {
                    self.count(&step);
                }
                self.steps.push(Step::of(*step));
            }
        }
    }

    fn turn(&mut self, turn: Execution) {
        match self.turns.entry(turn.id.clone()) {
            Entry::Vacant(place) => drop(place.insert(turn)),
            Entry::Occupied(mut place) if place.get().moment < turn.moment => drop(place.insert(turn)),
            Entry::Occupied(_) => {}
        }
    }

    pub(super) fn count(&mut self, step: &StepRow) {
        let (of, day) = (&step.of, step.finished.day());
        let id = format!("{}/{day}/{}", of.execution_id, step.component_id);
        let (_, runs) = self.usage.entry(id.clone()).or_insert_with(|| {
            let mut document = doc! {
                "_id": id, "execution": of.execution_id.as_str(), "day": day, "flow": of.flow_id.as_str(),
                "component": step.component_id.as_str(),
            };
            if let Some(user) = &of.user {
                document.insert("user", user.as_str());
            }
            if let Some(tenant) = &of.tenant {
                document.insert("tenant", tenant.as_str());
            }
            (document, Vec::new())
        });
        let run = step.run.to_string();
        if !runs.contains(&run) {
            runs.push(run);
        }
    }
}

impl Execution {
    pub(super) fn of(of: ExecutionOf, started: Timestamp) -> Self {
        Self {
            id: of.execution_id.to_string(),
            flow: of.flow_id.to_string(),
            flow_name: of.flow_name,
            user: of.user.map(|user| user.to_string()),
            tenant: of.tenant.map(|tenant| tenant.to_string()),
            status: None,
            error: None,
            started: started.as_millis(),
            finished: None,
            moment: None,
            due: None,
            reason: None,
        }
    }

    /// Its end, as a condition and a change. The first end counts.
    pub(super) fn end(&self) -> (Bsons, Bsons) {
        let mut set = doc! { "status": &self.status, "finished": self.finished };
        if let Some(error) = &self.error {
            set.insert("error", error);
        }
        let change = doc! { "$set": set, "$unset": { "due": "", "reason": "" } };
        (doc! { "_id": &self.id, "status": { "$exists": false } }, change)
    }

    /// Its wait, or the end of one, as a condition and a change. The last counts.
    pub(super) fn turn(&self) -> (Bsons, Bsons) {
        let mut change = doc! { "$set": { "moment": self.moment } };
        match (self.due, &self.reason) {
            (Some(due), Some(reason)) => {
                change.insert(
                    "$set",
                    doc! { "moment": self.moment, "due": due, "reason": reason },
                );
            }
            _ => drop(change.insert("$unset", doc! { "due": "", "reason": "" })),
        }
        let condition = doc! {
            "_id": &self.id, "status": { "$exists": false },
            "$or": [{ "moment": { "$exists": false } }, { "moment": { "$lt": self.moment } }],
        };
        (condition, change)
    }

    pub(super) fn row(self) -> ExecutionRow {
        ExecutionRow {
            of: ExecutionOf {
                execution_id: self.id.into(),
                flow_id: self.flow.into(),
                flow_name: self.flow_name,
                user: self.user.map(UserId::from),
                tenant: self.tenant.map(TenantId::from),
            },
            status: self.status.as_deref().map(Outcome::read),
            waiting: self.due.map(|due| Waiting {
                turn: u32::try_from(self.moment.unwrap_or_default() / 2).unwrap_or_default(),
                due: Timestamp::from_millis(due),
                reason: self.reason.unwrap_or_default(),
            }),
            error: self.error,
            started: Timestamp::from_millis(self.started),
            finished: self.finished.map(Timestamp::from_millis),
        }
    }
}

impl Step {
    pub(super) fn of(step: StepRow) -> Self {
        let of = step.of;
        Self {
            id: format!("{}/{}", of.execution_id, step.run),
            execution: of.execution_id.to_string(),
            run: step.run.to_string(),
            sequence: step.sequence.into(),
            flow: of.flow_id.to_string(),
            flow_name: of.flow_name,
            user: of.user.map(|user| user.to_string()),
            tenant: of.tenant.map(|tenant| tenant.to_string()),
            node: step.node.to_string(),
            component_id: step.component_id.to_string(),
            component: step.component,
            function: step.function,
            counted: step.counted,
            status: step.status.as_str().to_owned(),
            input: step.input.get().to_owned(),
            output: step.output.map(|output| output.get().to_owned()),
            unchanged: step.unchanged,
            error: step.error,
            attempts: step.attempts.into(),
            started: step.started.as_millis(),
            finished: step.finished.as_millis(),
        }
    }

    pub(super) fn execution_of(&self) -> ExecutionOf {
        ExecutionOf {
            execution_id: self.execution.clone().into(),
            flow_id: self.flow.clone().into(),
            flow_name: self.flow_name.clone(),
            user: self.user.clone().map(UserId::from),
            tenant: self.tenant.clone().map(TenantId::from),
        }
    }

    pub(super) fn row(self) -> StepRow {
        StepRow {
            of: self.execution_of(),
            run: self.run.into(),
            sequence: u32::try_from(self.sequence).unwrap_or_default(),
            node: self.node.into(),
            component_id: self.component_id.into(),
            component: self.component,
            function: self.function,
            counted: self.counted,
            status: Outcome::read(&self.status),
            input: raw(self.input),
            output: self.output.map(raw),
            unchanged: self.unchanged,
            error: self.error,
            attempts: u32::try_from(self.attempts).unwrap_or_default(),
            started: Timestamp::from_millis(self.started),
            finished: Timestamp::from_millis(self.finished),
        }
    }

    pub(super) fn log_row(self) -> LogRow {
        let StepRow {
            of,
            sequence,
            node,
            component,
            function,
            status,
            error,
            attempts,
            started,
            finished,
            ..
        } = self.row();
        LogRow {
            of,
            sequence,
            node,
            component,
            function,
            status,
            error,
            attempts,
            started,
            finished,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Counted {
    #[serde(rename = "_id")]
    pub(super) key: String,
    pub(super) users: Vec<String>,
    pub(super) tenants: Vec<String>,
    pub(super) flows: Vec<String>,
    pub(super) executions: i64,
}

impl Counted {
    pub(super) fn row(mut self) -> UsageRow {
        let only = |names: Vec<String>| match <[String; 1]>::try_from(names) {
            Ok([name]) if !name.is_empty() => Some(name),
            _ => None,
        };
        self.flows.sort_unstable();
        UsageRow {
            key: self.key,
            user: only(self.users).map(UserId::from),
            tenant: only(self.tenants).map(TenantId::from),
            flows: self.flows.into_iter().map(FlowId::from).collect(),
            executions: u64::try_from(self.executions).unwrap_or_default(),
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Summed {
    #[serde(rename = "_id")]
    pub(super) key: SummedBy,
    pub(super) count: i64,
}

#[derive(Deserialize)]
pub(super) struct SummedBy {
    pub(super) day: String,
    pub(super) flow: String,
    pub(super) component: String,
    pub(super) user: String,
    pub(super) tenant: String,
}

impl Summed {
    pub(super) fn total(self) -> Total {
        let SummedBy {
            day,
            flow,
            component,
            user,
            tenant,
        } = self.key;
        Total {
            day,
            flow,
            component,
            user,
            tenant,
            count: u64::try_from(self.count).unwrap_or_default(),
        }
    }
}
