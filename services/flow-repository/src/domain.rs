//! What may happen to a flow: pure functions from a record to the next, with the contract's refusals.

use flowmate_common::{
    Failure, Timestamp,
    auth::Caller,
    ids::{FlowId, canonical_id},
    model::{Flow, FlowStatus, MutableFlow, OwnerKind},
};
use flowmate_flow_model::validate::{Subject, clean, validate};
use flowmate_runtime::{
    attributes::misspelt_in_flow,
    owning::{self, Vouched},
};
use serde_json::{Map, Value};

use crate::store::FlowRecord;

/// A new flow from what a client sent.
pub(crate) fn create(
    id: FlowId,
    body: Value,
    caller: &Caller,
    vouched: &Vouched,
    now: Timestamp,
) -> Result<FlowRecord, Failure> {
    let mut body = checked(body)?;
    body.owners = owning::create(body.owners, caller, vouched)?;
    let flow = Flow {
        id,
        body,
        status: FlowStatus::Inactive,
        status_reason: None,
        started_by: None,
        created_at: now,
        updated_at: now,
    };
    Ok(FlowRecord {
        flow,
        activation: 0,
        ask_again: None,
        asked_again: 0,
    })
}

/// The flow with the client's attributes over its own, whole attributes at a time. Owners that are not sent stay, in their
/// order.
pub(crate) fn change(
    record: &mut FlowRecord,
    changes: &Map<String, Value>,
    caller: &Caller,
    vouched: &Vouched,
    now: Timestamp,
) -> Result<(), Failure> {
    must_be_inactive(record)?;
    let mut merged = serde_json::to_value(&record.flow.body).map_err(Failure::internal)?;
    if let Some(merged) = merged.as_object_mut() {
        merged.extend(changes.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    let mut body = checked(merged)?;
    body.owners = if changes.contains_key("owners") {
        owning::change(&record.flow.body.owners, body.owners, caller, vouched)?
    } else {
        record.flow.body.owners.clone()
    };
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

/// Stop was asked for. A flow whose start was not answered in time may be stopped too: it would never be otherwise, where
/// the engine cannot even read what was asked of it.
pub(crate) fn stop(record: &mut FlowRecord, now: Timestamp) -> Result<(), Failure> {
    let is_overdue = record.flow.status == FlowStatus::Starting && record.asked_again > 0;
    if record.flow.status != FlowStatus::Active && !is_overdue {
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
/// `is_closed`: its tenant is disabled.
pub(crate) fn answered(
    record: &mut FlowRecord,
    activation: u64,
    answer: Answer,
    is_closed: bool,
    now: Timestamp,
) -> bool {
    if record.activation != activation {
        return false;
    }
    match (record.flow.status, answer) {
        // It was started just before that was known.
        (FlowStatus::Starting, Answer::Started) if is_closed => end(record, DISABLED, now),
        (FlowStatus::Starting, Answer::Started) if record.flow.body.owners.is_empty() => {
            end(record, "It has no owner.", now);
        }
        (FlowStatus::Starting, Answer::Started) => record.turn(FlowStatus::Active, now),
        (FlowStatus::Stopping, Answer::Stopped) => record.turn(FlowStatus::Inactive, now),
        (FlowStatus::Starting, Answer::Failed(reason)) => {
            end(record, &reason, now);
        }
        _ => return false,
    }
    true
}

/// Why flows of a disabled tenant do not run.
const DISABLED: &str = "Its tenant is disabled.";

/// Its tenant may not work.
pub(crate) fn closed() -> Failure {
    Failure::conflict(format!("Flow cannot be started. {DISABLED}"))
}

/// Its tenant was disabled. Returns whether the flow has to be stopped.
pub(crate) fn close(record: &mut FlowRecord, now: Timestamp) -> bool {
    let runs = record.runs();
    if runs {
        end(record, DISABLED, now);
    }
    runs
}

/// The owner is no more. Returns whether the flow has to be stopped: the last of its users is gone, or the last of its
/// tenants. What a user left to the tenant goes on when somebody starts it.
pub(crate) fn disown(record: &mut FlowRecord, owner: &str, now: Timestamp) -> bool {
    let owners = &mut record.flow.body.owners;
    let lost = owners.iter().find(|one| one.id == owner).map(|one| one.kind);
    owners.retain(|one| one.id != owner);
    record.flow.updated_at = now;
    let Some(kind) = lost else { return false };
    let stops = record.flow.body.owner(kind).is_none() && record.runs();
    if stops {
        let reason = match kind {
            OwnerKind::User => "The last user who owned it was deleted.",
            OwnerKind::Tenant => "Its tenant was deleted.",
        };
        end(record, reason, now);
    }
    stops
}

/// It is stopped, for a reason that is shown until the next start.
fn end(record: &mut FlowRecord, reason: &str, now: Timestamp) {
    record.flow.status_reason = Some(reason.to_owned());
    record.turn(FlowStatus::Stopping, now);
    record.activation += 1;
}

/// Milliseconds that the engine has for an answer, before it is asked again.
pub(crate) const PATIENCE: i64 = 30_000;
/// The wait doubles each time, this many times: half an hour is the longest. An engine that is away for long does not find
/// the same asked of it a thousand times.
const DOUBLED: u32 = 6;

/// The answer may be overdue. Returns whether the engine is to be asked again.
pub(crate) fn ask_again(record: &mut FlowRecord, now: Timestamp) -> bool {
    if !record.is_asking() || record.ask_again.is_some_and(|due| due > now) {
        return false;
    }
    record.asked_again = record.asked_again.saturating_add(1);
    let wait = PATIENCE << record.asked_again.min(DOUBLED);
    record.ask_again = Some(now.plus_millis(wait));
    true
}

fn checked(body: Value) -> Result<MutableFlow, Failure> {
    let mut errors = validate(Subject::Flow, &body);
    errors.extend(misspelt_in_flow(&body));
    if !errors.is_empty() {
        return Err(Failure::invalid_all(errors));
    }
    let mut body: MutableFlow =
        serde_json::from_value(clean(body)).map_err(|error| Failure::invalid(error.to_string()))?;
    owning::canonical(&mut body.owners);
    body.graph.canonical();
    body.from_template = body.from_template.map(|id| (&*canonical_id(id.as_str())).into());
    Ok(body)
}

#[cfg(test)]
mod tests {
    use flowmate_common::{
        ids::{TokenId, UserId},
        model::Owner,
    };
    use serde_json::json;

    use super::*;

    fn caller(permissions: &[&str]) -> Caller {
        Caller {
            user: UserId::from("u1"),
            username: "u1".into(),
            tenant: Some("t1".into()),
            permissions: permissions.iter().map(ToString::to_string).collect(),
            can_login: true,
            token: TokenId::from("t"),
        }
    }

    fn body() -> Value {
        json!({"name": "n", "graph": {"nodes": [{"id": "a", "componentId": "5ca5c44c187c040010a9bb8b", "function": "f"}], "edges": []}})
    }

    fn flow() -> FlowRecord {
        create(
            "f".into(),
            body(),
            &caller(&[]),
            &Vouched::default(),
            Timestamp::from_millis(1),
        )
        .unwrap()
    }

    #[test]
    fn a_change_by_a_colleague_moves_no_owners() {
        let mut record = flow();
        let stored = record.flow.body.owners.clone();
        let mut mate = caller(&[]);
        mate.user = UserId::from("u2");
        let patch = |record: &mut FlowRecord, changes: Value| {
            let none = Vouched::default();
            change(
                record,
                changes.as_object().unwrap(),
                &mate,
                &none,
                Timestamp::default(),
            )
        };
        patch(&mut record, json!({"name": "new"})).unwrap();
        assert_eq!(record.flow.body.owners, stored);
        let same = json!({"owners": stored});
        patch(&mut record, same).unwrap();
        assert_eq!(record.flow.body.owners, stored);
        let foreign = json!({"owners": [{"id": "u9", "type": "user"}]});
        assert!(patch(&mut record, foreign).is_err());
        patch(&mut record, json!({"owners": []})).unwrap();
        assert_eq!(record.flow.body.owner(OwnerKind::User), Some("u1"));
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
        assert!(!answered(&mut record, 0, Answer::Started, false, now));
        assert!(answered(&mut record, 1, Answer::Started, false, now));
        assert!(
            !answered(&mut record, 1, Answer::Started, false, now),
            "a second delivery"
        );
        assert_eq!(record.flow.status, FlowStatus::Active);
        stop(&mut record, now).unwrap();
        assert!(!answered(&mut record, 1, Answer::Started, false, now));
        assert!(answered(&mut record, 2, Answer::Stopped, false, now));
        assert_eq!(record.flow.status, FlowStatus::Inactive);
    }

    fn active() -> FlowRecord {
        let now = Timestamp::from_millis(2);
        let mut record = flow();
        start(&mut record, &caller(&[]), now).unwrap();
        assert!(answered(&mut record, 1, Answer::Started, false, now));
        record
    }

    #[test]
    fn a_flow_that_loses_its_last_user_or_its_tenant_stops_also_while_it_starts() {
        let now = Timestamp::from_millis(2);
        for (owner, left) in [("u1", "t1"), ("t1", "u1")] {
            let mut starting = flow();
            start(&mut starting, &caller(&[]), now).unwrap();
            for mut record in [starting, active()] {
                assert!(disown(&mut record, owner, now));
                assert_eq!((record.flow.status, record.activation), (FlowStatus::Stopping, 2));
                assert_eq!(record.flow.body.owners[0].id, left);
                assert!(!disown(&mut record, owner, now), "a second delivery");
                assert!(!disown(&mut record, left, now), "it stops already");
                assert!(!answered(&mut record, 1, Answer::Started, false, now), "too late");
                assert!(answered(&mut record, 2, Answer::Stopped, false, now));
                assert!(record.flow.status_reason.is_some());
            }
        }
        let mut record = active();
        record.flow.body.owners.push(Owner {
            id: "u2".into(),
            kind: OwnerKind::User,
        });
        assert!(!disown(&mut record, "u1", now), "another user still owns it");
        assert_eq!(record.flow.status, FlowStatus::Active);
    }

    #[test]
    fn flows_of_a_disabled_tenant_stop_also_where_they_were_started_just_before() {
        let now = Timestamp::from_millis(2);
        let mut record = active();
        assert!(close(&mut record, now));
        assert_eq!((record.flow.status, record.activation), (FlowStatus::Stopping, 2));
        assert_eq!(record.flow.status_reason.as_deref(), Some(DISABLED));
        assert!(!close(&mut record, now), "a second delivery");
        assert!(!close(&mut flow(), now), "it does not run");

        let mut record = flow();
        start(&mut record, &caller(&[]), now).unwrap();
        assert!(answered(&mut record, 1, Answer::Started, true, now));
        assert_eq!((record.flow.status, record.activation), (FlowStatus::Stopping, 2));
    }

    #[test]
    fn an_answer_that_does_not_come_is_asked_for_after_waits_that_grow() {
        let at = Timestamp::from_millis;
        let mut record = flow();
        start(&mut record, &caller(&[]), at(0)).unwrap();
        assert!(!ask_again(&mut record, at(29_999)));
        assert!(stop(&mut record, at(29_999)).is_err(), "it may still answer");
        assert!(ask_again(&mut record, at(30_000)));
        assert!(!ask_again(&mut record, at(89_999)));
        assert!(ask_again(&mut record, at(90_000)));
        let mut record_of_long = record.clone();
        record_of_long.asked_again = u32::MAX;
        assert!(ask_again(&mut record_of_long, at(1_000_000_000)));
        assert_eq!(record_of_long.ask_again, Some(at(1_000_000_000 + 32 * 60_000)));

        stop(&mut record, at(90_001)).unwrap();
        assert_eq!((record.flow.status, record.activation), (FlowStatus::Stopping, 2));
        assert!(
            !answered(&mut record, 1, Answer::Started, false, at(90_002)),
            "too late"
        );
        assert!(!ask_again(&mut record, at(120_000)));
        assert!(ask_again(&mut record, at(120_001)));
        assert!(answered(&mut record, 2, Answer::Stopped, false, at(120_002)));
        assert_eq!(record.ask_again, None);
        assert!(!ask_again(&mut record, Timestamp::MAX));
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
            false,
            now
        ));
        assert_eq!((record.flow.status, record.activation), (FlowStatus::Stopping, 2));
        assert!(answered(&mut record, 2, Answer::Stopped, false, now));
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
            &Vouched::default(),
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
                &Vouched::default(),
                Timestamp::default()
            )
            .is_err()
        );
    }
}
