//! What may happen to a flow: pure functions from a record to the next, with the contract's refusals.

use flowmate_common::{
    Failure, Timestamp,
    auth::Caller,
    ids::FlowId,
    model::{Flow, FlowStatus, MutableFlow, Owner},
};
use flowmate_flow_model::validate::{Subject, clean, validate};
use serde_json::{Map, Value};

use crate::store::FlowRecord;

/// A new flow from what a client sent.
pub(crate) fn create(
    id: FlowId,
    body: Value,
    caller: &Caller,
    now: Timestamp,
) -> Result<FlowRecord, Failure> {
    let mut body = checked(body)?;
    own(&mut body, caller, caller.owners());
    let flow = Flow {
        id,
        body,
        status: FlowStatus::Inactive,
        status_reason: None,
        started_by: None,
        created_at: now,
        updated_at: now,
    };
    Ok(FlowRecord { flow, activation: 0 })
}

/// The flow with the client's attributes over its own, whole attributes at a time.
pub(crate) fn change(
    record: &mut FlowRecord,
    changes: &Map<String, Value>,
    caller: &Caller,
    now: Timestamp,
) -> Result<(), Failure> {
    must_be_inactive(record)?;
    let mut merged = serde_json::to_value(&record.flow.body).map_err(Failure::internal)?;
    if let Some(merged) = merged.as_object_mut() {
        merged.extend(changes.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    let mut body = checked(merged)?;
    let user = caller.owners().into_iter().take(1).collect();
    own(&mut body, caller, user);
    record.flow.body = body;
    record.flow.updated_at = now;
    Ok(())
}

/// Deleting is for inactive flows only.
pub(crate) fn must_be_inactive(record: &FlowRecord) -> Result<(), Failure> {
    match record.flow.status {
        FlowStatus::Inactive => Ok(()),
        status => Err(Failure::conflict(format!(
            "Flow is not inactive. Current status: {}",
            status.as_str()
        ))),
    }
}

/// Start was asked for.
pub(crate) fn start(record: &mut FlowRecord, caller: &Caller, now: Timestamp) -> Result<(), Failure> {
    must_be_inactive(record)?;
    record.flow.status_reason = None;
    record.flow.started_by = Some(caller.user.clone());
    record.turn(FlowStatus::Starting, now);
    record.activation += 1;
    Ok(())
}

/// Stop was asked for.
pub(crate) fn stop(record: &mut FlowRecord, now: Timestamp) -> Result<(), Failure> {
    if record.flow.status != FlowStatus::Active {
        let status = record.flow.status.as_str();
        return Err(Failure::conflict(format!(
            "Flow is not active. Current status: {status}"
        )));
    }
    record.turn(FlowStatus::Stopping, now);
    record.activation += 1;
    Ok(())
}

/// What the engine said about the flow.
#[derive(Clone)]
pub(crate) enum Answer {
    Started,
    Stopped,
    Failed(String),
}

/// What an answer to start or stop number `activation` makes of the flow; `false` if it came too late or again.
pub(crate) fn answered(record: &mut FlowRecord, activation: u64, answer: Answer, now: Timestamp) -> bool {
    if record.activation != activation {
        return false;
    }
    match (record.flow.status, answer) {
        // The last owner was deleted while it started.
        (FlowStatus::Starting, Answer::Started) if record.flow.body.owners.is_empty() => {
            record.turn(FlowStatus::Stopping, now);
            record.activation += 1;
        }
        (FlowStatus::Starting, Answer::Started) => record.turn(FlowStatus::Active, now),
        (FlowStatus::Stopping, Answer::Stopped) => record.turn(FlowStatus::Inactive, now),
        (FlowStatus::Starting, Answer::Failed(reason)) => {
            record.flow.status_reason = Some(reason);
            record.turn(FlowStatus::Stopping, now);
            record.activation += 1;
        }
        _ => return false,
    }
    true
}

/// The owner is no more. Returns whether the flow has to be stopped, because it runs for nobody.
pub(crate) fn disown(record: &mut FlowRecord, owner: &str, now: Timestamp) -> bool {
    record.flow.body.owners.retain(|one| one.id != owner);
    record.flow.updated_at = now;
    let runs_for_nobody = record.flow.body.owners.is_empty() && record.flow.status == FlowStatus::Active;
    if runs_for_nobody {
        record.turn(FlowStatus::Stopping, now);
        record.activation += 1;
    }
    runs_for_nobody
}

fn checked(body: Value) -> Result<MutableFlow, Failure> {
    let errors = validate(Subject::Flow, &body);
    if !errors.is_empty() {
        return Err(Failure::invalid_all(errors));
    }
    serde_json::from_value(clean(body)).map_err(|error| Failure::invalid(error.to_string()))
}

/// Adds `owners`. Executions are attributed to the first owner: whoever is no administrator comes first, and so
/// cannot charge them to somebody else.
fn own(body: &mut MutableFlow, caller: &Caller, owners: Vec<Owner>) {
    body.add_owners(owners);
    if !caller.is_admin() && !caller.is_tenant_admin() {
        let own = caller.owners();
        body.owners.sort_by_key(|owner| !own.contains(owner));
    }
}

#[cfg(test)]
mod tests {
    use flowmate_common::ids::{TokenId, UserId};
    use serde_json::json;

    use super::*;

    fn caller(permissions: &[&str]) -> Caller {
        Caller {
            user: UserId::from("u1"),
            username: "u1".into(),
            tenant: Some("t1".into()),
            permissions: permissions.iter().map(ToString::to_string).collect(),
            token: TokenId::from("t"),
        }
    }

    fn body() -> Value {
        json!({"name": "n", "graph": {"nodes": [{"id": "a", "componentId": "5ca5c44c187c040010a9bb8b", "function": "f"}], "edges": []}})
    }

    fn flow() -> FlowRecord {
        create("f".into(), body(), &caller(&[]), Timestamp::from_millis(1)).unwrap()
    }

    #[test]
    fn the_caller_and_the_tenant_own_what_is_created_and_come_first() {
        let mut body = body();
        body["owners"] = json!([{"id": "victim", "type": "user"}]);
        let owners = |permissions: &[&str]| -> Vec<String> {
            let record = create(
                "f".into(),
                body.clone(),
                &caller(permissions),
                Timestamp::default(),
            )
            .unwrap();
            record
                .flow
                .body
                .owners
                .into_iter()
                .map(|owner| owner.id)
                .collect()
        };
        assert_eq!(owners(&[]), ["u1", "t1", "victim"]);
        assert_eq!(owners(&["all"]), ["victim", "u1", "t1"]);
    }

    #[test]
    fn the_status_goes_round_and_late_answers_change_nothing() {
        let now = Timestamp::from_millis(2);
        let mut record = flow();
        assert!(
            stop(&mut record, now)
                .unwrap_err()
                .to_string()
                .contains("Current status: inactive")
        );
        start(&mut record, &caller(&[]), now).unwrap();
        assert!(
            start(&mut record, &caller(&[]), now)
                .unwrap_err()
                .to_string()
                .contains("Current status: starting")
        );
        assert!(!answered(&mut record, 0, Answer::Started, now));
        assert!(answered(&mut record, 1, Answer::Started, now));
        assert!(
            !answered(&mut record, 1, Answer::Started, now),
            "a second delivery"
        );
        assert_eq!(record.flow.status, FlowStatus::Active);
        stop(&mut record, now).unwrap();
        assert!(!answered(&mut record, 1, Answer::Started, now));
        assert!(answered(&mut record, 2, Answer::Stopped, now));
        assert_eq!(record.flow.status, FlowStatus::Inactive);
    }

    #[test]
    fn a_flow_that_loses_its_last_owner_stops_also_while_it_starts() {
        let now = Timestamp::from_millis(2);
        let mut record = flow();
        start(&mut record, &caller(&[]), now).unwrap();
        assert!(!disown(&mut record, "u1", now));
        assert!(!disown(&mut record, "t1", now), "not active yet");
        assert!(answered(&mut record, 1, Answer::Started, now));
        assert_eq!((record.flow.status, record.activation), (FlowStatus::Stopping, 2));

        let mut record = flow();
        start(&mut record, &caller(&[]), now).unwrap();
        assert!(answered(&mut record, 1, Answer::Started, now));
        assert!(!disown(&mut record, "u1", now), "the tenant still owns it");
        assert!(disown(&mut record, "t1", now));
        assert_eq!((record.flow.status, record.activation), (FlowStatus::Stopping, 2));
        assert!(!disown(&mut record, "t1", now), "a second delivery");
    }

    #[test]
    fn a_failed_start_is_shown_until_the_next_one() {
        let now = Timestamp::from_millis(2);
        let mut record = flow();
        start(&mut record, &caller(&[]), now).unwrap();
        assert!(answered(
            &mut record,
            1,
            Answer::Failed("no such component".into()),
            now
        ));
        assert_eq!((record.flow.status, record.activation), (FlowStatus::Stopping, 2));
        assert!(answered(&mut record, 2, Answer::Stopped, now));
        assert_eq!(record.flow.status_reason.as_deref(), Some("no such component"));
        start(&mut record, &caller(&[]), now).unwrap();
        assert_eq!(record.flow.status_reason, None);
    }

    #[test]
    fn changes_replace_whole_attributes_and_never_the_id_or_the_status() {
        let mut record = flow();
        let changes =
            json!({"id": "other", "name": "new", "cron": "", "status": "inactive", "createdAt": "x"});
        change(
            &mut record,
            changes.as_object().unwrap(),
            &caller(&[]),
            Timestamp::from_millis(9),
        )
        .unwrap();
        assert_eq!(
            (record.flow.id.as_str(), record.flow.body.name.as_deref()),
            ("f", Some("new"))
        );
        assert_eq!(record.flow.created_at, Timestamp::from_millis(1));
        let status = json!({"status": "active"});
        assert!(
            change(
                &mut record,
                status.as_object().unwrap(),
                &caller(&[]),
                Timestamp::default()
            )
            .is_err()
        );
    }
}
