//! Which executions, steps and counts are meant.

use flowmate_common::auth::Visibility;
use mongodb::bson::{Bson, Document as Bsons, doc};

use crate::executions::{ExecutionFilter, LogFilter, Status, Within};

pub(super) fn visible(see: &Visibility) -> Bsons {
    match see {
        Visibility::All => doc! {},
        Visibility::OwnedBy(owners) => {
            let owners = owners.clone();
            doc! { "$or": [{ "user": { "$in": &owners } }, { "tenant": { "$in": &owners } }] }
        }
    }
}

/// What is missing is null to `$in`.
pub(super) fn within(within: Option<&Within>) -> Bsons {
    let Some(Within(tenant)) = within else {
        return doc! {};
    };
    let none = [Bson::Null, Bson::from("")];
    let tenants: Vec<Bson> = none
        .into_iter()
        .chain(tenant.iter().map(|tenant| Bson::from(tenant.as_str())))
        .collect();
    doc! { "tenant": { "$in": tenants } }
}

pub(super) fn matching(filter: &ExecutionFilter) -> Bsons {
    let mut matching = Bsons::new();
    if let Some(flow) = &filter.flow {
        matching.insert("flow", flow.as_str());
    }
    match filter.status {
        Some(Status::Ended(outcome)) => drop(matching.insert("status", outcome.as_str())),
        Some(Status::Waiting) => drop(matching.insert("due", doc! { "$exists": true })),
        Some(Status::Running) => {
            matching.extend(doc! { "status": { "$exists": false }, "due": { "$exists": false } });
        }
        None => {}
    }
    let mut started = Bsons::new();
    for (operator, time) in [("$gte", filter.from), ("$lt", filter.until)] {
        if let Some(time) = time {
            started.insert(operator, time.as_millis());
        }
    }
    if !started.is_empty() {
        matching.insert("started", started);
    }
    matching
}

pub(super) fn logged(filter: &LogFilter) -> Bsons {
    let mut logged = Bsons::new();
    if let Some(flow) = &filter.flow {
        logged.insert("flow", flow.as_str());
    }
    if let Some(tenant) = &filter.tenant {
        logged.insert("tenant", tenant.as_str());
    }
    if let Some(node) = &filter.node {
        logged.insert("node", node.as_str());
    }
    if filter.errors_only {
        logged.insert("error", doc! { "$exists": true });
    }
    if let Some((execution, sequence)) = &filter.before {
        let (execution, sequence) = (execution.as_str(), i64::from(*sequence));
        let earlier = doc! { "execution": execution, "sequence": { "$lt": sequence } };
        logged.insert(
            "$or",
            [doc! { "execution": { "$lt": execution } }, earlier]
                .map(Bson::from)
                .to_vec(),
        );
    }
    logged
}
