//! Which executions, steps and counts are meant.

use flowmate_common::auth::Visibility;
use rusqlite::types::Value as Sql;

use crate::executions::{ExecutionFilter, LogFilter, Status, Within};

/// A WHERE clause and its bound values.
pub(super) struct Condition {
    pub(super) text: String,
    pub(super) values: Vec<Sql>,
}

impl Condition {
    pub(super) fn visible(see: &Visibility) -> Self {
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

    pub(super) fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    pub(super) fn and(&mut self, comparison: &str, value: Sql) {
        self.values.push(value);
        self.push(&format!(" AND {comparison}?{}", self.values.len()));
    }

    /// There is no tenant where it is null, or empty among the counts.
    pub(super) fn within(&mut self, within: Option<&Within>) {
        match within {
            Some(Within(Some(tenant))) => {
                self.values.push(Sql::Text(tenant.to_string()));
                let last = self.values.len();
                self.push(&format!(" AND ifnull(tenant, '') IN ('', ?{last})"));
            }
            Some(Within(None)) => self.push(" AND ifnull(tenant, '') = ''"),
            None => {}
        }
    }

    pub(super) fn log(&mut self, filter: &LogFilter) {
        self.within(filter.within.as_ref());
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

    pub(super) fn filter(&mut self, filter: &ExecutionFilter) {
        self.within(filter.within.as_ref());
        if let Some(flow) = &filter.flow {
            self.and("flow = ", Sql::Text(flow.to_string()));
        }
        match filter.status {
            Some(Status::Ended(outcome)) => self.and("status = ", Sql::Text(outcome.as_str().to_owned())),
            Some(Status::Waiting) => self.push(" AND due IS NOT NULL"),
            Some(Status::Running) => self.push(" AND status IS NULL AND due IS NULL"),
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
