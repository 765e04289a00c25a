//! What every backend has to pass. A backend's test hands in fresh stores; nothing here knows which backend it is.

use std::sync::Arc;

use flowmate_common::{
    Clock, Event, EventType, Timestamp,
    auth::Visibility,
    ids::{ExecutionId, IdGenerator, StepRunId},
    model::{ExecutionOf, Outcome, json},
};
use serde_json::json as value;

use crate::{
    CollectionSpec, DocumentStore, Error, ExecutionStore, Field, Filter, Query, Sort, Write,
    executions::{ExecutionFilter, GroupBy, Record, StepRow},
};

static SPEC: CollectionSpec = CollectionSpec {
    name: "conformance",
    fields: &[
        Field {
            name: "name",
            path: "$.name",
        },
        Field {
            name: "rank",
            path: "$.rank",
        },
        Field {
            name: "code",
            path: "$.code",
        },
        Field {
            name: "tags",
            path: "$.tags",
        },
    ],
    unique: &["code"],
};

fn write(id: &str, doc: &serde_json::Value, owners: &[&str]) -> Write {
    Write {
        id: id.to_owned(),
        doc: doc.to_string(),
        owners: owners.iter().map(ToString::to_string).collect(),
        events: Vec::new(),
    }
}

fn event(ids: &IdGenerator) -> Event {
    let clock = Clock::manual(Timestamp::from_millis(0));
    #[expect(clippy::unwrap_used, reason = "a constant body")]
    Event::new(ids, &clock, EventType::FlowModified, "k", &value!({})).unwrap()
}

/// The whole suite for documents. Panics with the broken promise.
///
/// # Panics
/// Where the store breaks its contract.
#[expect(clippy::unwrap_used, reason = "a test suite")]
pub async fn documents(store: Arc<dyn DocumentStore>) {
    store.open(&SPEC).await.unwrap();
    store.open(&SPEC).await.unwrap();
    writes_are_conditional(&*store).await;
    owners_bound_what_is_seen(&*store).await;
    filters_and_pages(&*store).await;
    events_wait_with_their_document(&*store).await;
    one_of_many_concurrent_writers_wins(store).await;
}

#[expect(clippy::unwrap_used, reason = "a test suite")]
async fn writes_are_conditional(store: &dyn DocumentStore) {
    let all = Visibility::All;
    store
        .insert(&SPEC, write("w1", &value!({"code": 1}), &[]))
        .await
        .unwrap();
    let taken_id = store.insert(&SPEC, write("w1", &value!({"code": 2}), &[])).await;
    assert!(matches!(taken_id, Err(Error::Duplicate)), "{taken_id:?}");
    let taken_value = store.insert(&SPEC, write("w2", &value!({"code": 1}), &[])).await;
    assert!(matches!(taken_value, Err(Error::Duplicate)), "{taken_value:?}");
    assert_eq!(store.get(&SPEC, &all, "w2").await.unwrap(), None);

    store
        .replace(&SPEC, 1, write("w1", &value!({"code": 3}), &[]))
        .await
        .unwrap();
    let stale = store
        .replace(&SPEC, 1, write("w1", &value!({"code": 4}), &[]))
        .await;
    assert!(matches!(stale, Err(Error::VersionConflict)), "{stale:?}");
    let row = store.get(&SPEC, &all, "w1").await.unwrap().unwrap();
    assert_eq!((row.version, row.doc.as_str()), (2, r#"{"code":3}"#));
    assert!(matches!(
        store.delete(&SPEC, "w1", 1, vec![]).await,
        Err(Error::VersionConflict)
    ));
    store.delete(&SPEC, "w1", 2, vec![]).await.unwrap();
    assert!(matches!(
        store.delete(&SPEC, "w1", 2, vec![]).await,
        Err(Error::VersionConflict)
    ));
    assert_eq!(store.get(&SPEC, &all, "w1").await.unwrap(), None);
    store
        .insert(&SPEC, write("w3", &value!({"code": 3}), &[]))
        .await
        .unwrap();
    store.delete(&SPEC, "w3", 1, vec![]).await.unwrap();
}

#[expect(clippy::unwrap_used, reason = "a test suite")]
async fn owners_bound_what_is_seen(store: &dyn DocumentStore) {
    let see = |owners: &[&str]| Visibility::OwnedBy(owners.iter().map(ToString::to_string).collect());
    store
        .insert(&SPEC, write("o1", &value!({"name": "mine"}), &["u1", "t1"]))
        .await
        .unwrap();
    assert!(store.get(&SPEC, &see(&["u1"]), "o1").await.unwrap().is_some());
    assert!(
        store
            .get(&SPEC, &see(&["x", "t1"]), "o1")
            .await
            .unwrap()
            .is_some()
    );
    assert!(
        store
            .get(&SPEC, &see(&["u2", "t2"]), "o1")
            .await
            .unwrap()
            .is_none()
    );
    assert!(store.get(&SPEC, &see(&[]), "o1").await.unwrap().is_none());
    assert_eq!(store.count(&SPEC, &see(&["t2"]), &Filter::All).await.unwrap(), 0);
    store
        .replace(&SPEC, 1, write("o1", &value!({"name": "yours"}), &["u2"]))
        .await
        .unwrap();
    assert!(store.get(&SPEC, &see(&["u1"]), "o1").await.unwrap().is_none());
    let mine = Query::new(Filter::OwnedBy("u1".into()), 10);
    assert!(store.find(&SPEC, &see(&["u2"]), &mine).await.unwrap().is_empty());
    store.delete(&SPEC, "o1", 2, vec![]).await.unwrap();
}

#[expect(clippy::unwrap_used, reason = "a test suite")]
async fn filters_and_pages(store: &dyn DocumentStore) {
    let all = Visibility::All;
    let documents = [
        ("f1", value!({"name": "Müller GmbH", "rank": 2, "tags": ["dev"]})),
        (
            "f2",
            value!({"name": "東京 100%", "rank": 1, "tags": ["dev", "premium"]}),
        ),
        ("f3", value!({"name": "a_b.*", "rank": 2})),
        ("f4", value!({"rank": 3, "tags": []})),
    ];
    for (id, doc) in &documents {
        store.insert(&SPEC, write(id, doc, &["f"])).await.unwrap();
    }
    let cases: Vec<(Filter, &[&str])> = vec![
        (Filter::All, &["f1", "f2", "f3", "f4"]),
        (Filter::eq("rank", 2), &["f1", "f3"]),
        (Filter::eq("rank", "2"), &[]),
        (Filter::In("rank", vec![value!(1), value!(3)]), &["f2", "f4"]),
        (
            Filter::HasAny("tags", vec!["premium".into(), "x".into()]),
            &["f2"],
        ),
        (Filter::Empty("tags"), &["f3", "f4"]),
        (Filter::Search(&["name", "code"], "MÜLLER".into()), &["f1"]),
        (Filter::Search(&["name"], "京".into()), &["f2"]),
        (Filter::Search(&["name"], "%".into()), &["f2"]),
        (Filter::Search(&["name"], "_".into()), &["f3"]),
        (Filter::Search(&["name"], ".*".into()), &["f3"]),
        (
            Filter::And(vec![Filter::eq("rank", 2), Filter::Empty("tags")]),
            &["f3"],
        ),
        (
            Filter::Or(vec![Filter::eq("rank", 1), Filter::eq("rank", 3)]),
            &["f2", "f4"],
        ),
        (Filter::Or(vec![]), &[]),
    ];
    for (filter, expected) in cases {
        let rows = store
            .find(&SPEC, &all, &Query::new(filter.clone(), 10))
            .await
            .unwrap();
        let found: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
        assert_eq!(found, expected, "{filter:?}");
        assert_eq!(
            store.count(&SPEC, &all, &filter).await.unwrap(),
            expected.len() as u64,
            "{filter:?}"
        );
    }
    let unknown = store.find(&SPEC, &all, &Query::new(Filter::eq("no", 1), 1)).await;
    assert!(matches!(unknown, Err(Error::UnknownField { .. })));

    let sort = Some(Sort {
        field: "rank",
        descending: true,
    });
    let page = Query {
        filter: Filter::All,
        sort,
        skip: 1,
        limit: 2,
    };
    let rows = store.find(&SPEC, &all, &page).await.unwrap();
    assert_eq!(
        rows.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(),
        ["f3", "f1"]
    );
    for (id, _) in &documents {
        store.delete(&SPEC, id, 1, vec![]).await.unwrap();
    }
}

#[expect(clippy::unwrap_used, reason = "a test suite")]
async fn events_wait_with_their_document(store: &dyn DocumentStore) {
    let ids = IdGenerator::random();
    let events: Vec<Event> = (0..4).map(|_| event(&ids)).collect();
    let with = |doc: serde_json::Value, event: &Event| Write {
        events: vec![event.clone()],
        ..write("e1", &doc, &[])
    };
    store
        .insert(&SPEC, with(value!({"rank": 1}), &events[0]))
        .await
        .unwrap();
    let refused = store.insert(&SPEC, with(value!({"rank": 9}), &events[3])).await;
    assert!(matches!(refused, Err(Error::Duplicate)));
    store
        .replace(&SPEC, 1, with(value!({"rank": 2}), &events[1]))
        .await
        .unwrap();
    assert!(
        store
            .replace(&SPEC, 1, with(value!({"rank": 3}), &events[3]))
            .await
            .is_err()
    );
    let waiting = store.pending(&SPEC, 10).await.unwrap();
    assert_eq!(
        waiting,
        [("e1".to_owned(), events[..2].to_vec())],
        "refused writes leave no events"
    );

    store
        .published(&SPEC, "e1", vec![events[0].id.to_string()])
        .await
        .unwrap();
    store
        .delete(&SPEC, "e1", 2, vec![events[2].clone()])
        .await
        .unwrap();
    assert_eq!(store.get(&SPEC, &Visibility::All, "e1").await.unwrap(), None);
    let waiting = store.pending(&SPEC, 10).await.unwrap();
    assert_eq!(
        waiting,
        [("e1".to_owned(), events[1..3].to_vec())],
        "events outlive their document"
    );
    let rest = events[1..3].iter().map(|event| event.id.to_string()).collect();
    store.published(&SPEC, "e1", rest).await.unwrap();
    assert!(store.pending(&SPEC, 10).await.unwrap().is_empty());
    store.insert(&SPEC, write("e1", &value!({}), &[])).await.unwrap();
    store.delete(&SPEC, "e1", 1, vec![]).await.unwrap();
}

#[expect(clippy::unwrap_used, reason = "a test suite")]
async fn one_of_many_concurrent_writers_wins(store: Arc<dyn DocumentStore>) {
    store
        .insert(&SPEC, write("c1", &value!({"rank": 0}), &[]))
        .await
        .unwrap();
    let writers: Vec<_> = (0..16)
        .map(|rank| {
            let store = Arc::clone(&store);
            async move {
                store
                    .replace(&SPEC, 1, write("c1", &value!({"rank": rank}), &[]))
                    .await
            }
        })
        .collect();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in writers {
        tasks.spawn(writer);
    }
    let results = tasks.join_all().await;
    let won = results.iter().filter(|result| result.is_ok()).count();
    let lost = results
        .iter()
        .filter(|result| matches!(result, Err(Error::VersionConflict)))
        .count();
    assert_eq!((won, lost), (1, 15));
    store.delete(&SPEC, "c1", 2, vec![]).await.unwrap();
}

fn of(execution: &str, flow: &str, user: &str, tenant: &str) -> ExecutionOf {
    ExecutionOf {
        execution_id: execution.into(),
        flow_id: flow.into(),
        flow_name: Some("n".into()),
        user: Some(user.into()),
        tenant: Some(tenant.into()),
    }
}

#[expect(clippy::unwrap_used, reason = "constant values")]
fn step(of: &ExecutionOf, run: &str, component: &str, counted: bool, at: i64) -> Record {
    Record::Step(Box::new(StepRow {
        of: of.clone(),
        run: StepRunId::from(run),
        sequence: 1,
        node: "n".into(),
        component_id: component.into(),
        component: "c".into(),
        function: "f".into(),
        counted,
        status: Outcome::Success,
        input: json(&value!({"a": 1})).unwrap(),
        output: None,
        unchanged: false,
        error: None,
        attempts: 1,
        started: Timestamp::from_millis(at),
        finished: Timestamp::from_millis(at),
    }))
}

/// The whole suite for executions.
///
/// # Panics
/// Where the store breaks its contract.
#[expect(clippy::unwrap_used, reason = "a test suite")]
pub async fn executions(store: Arc<dyn ExecutionStore>) {
    const DAY: i64 = 86_400_000;
    let (a, b) = (of("01", "f1", "u1", "t1"), of("02", "f2", "u2", "t1"));
    let finished = |of: &ExecutionOf, status, at| Record::Finished {
        of: of.clone(),
        status,
        error: None,
        started: Timestamp::from_millis(0),
        at: Timestamp::from_millis(at),
    };
    let records = || {
        vec![
            Record::Started {
                of: a.clone(),
                at: Timestamp::from_millis(0),
            },
            step(&a, "r1", "c1", true, 10),
            step(&a, "r2", "c2", true, 20),
            step(&a, "r3", "c3", false, 20),
            finished(&a, Outcome::Success, 30),
            Record::Started {
                of: b.clone(),
                at: Timestamp::from_millis(DAY),
            },
            step(&b, "r1", "c1", true, DAY),
        ]
    };
    store.record(records()).await.unwrap();
    // Redelivery, late and out of order, changes nothing.
    let mut again = records();
    again.reverse();
    store.record(again).await.unwrap();
    store
        .record(vec![finished(&a, Outcome::Error, 99)])
        .await
        .unwrap();

    let see_all = Visibility::All;
    let none = ExecutionFilter::default();
    let (rows, total) = store.list(&see_all, &none, 0, 10).await.unwrap();
    let found: Vec<_> = rows
        .iter()
        .map(|row| (row.of.execution_id.as_str(), row.status))
        .collect();
    assert_eq!(
        (found, total),
        (vec![("02", None), ("01", Some(Outcome::Success))], 2)
    );
    let (page, total) = store.list(&see_all, &none, 1, 1).await.unwrap();
    assert_eq!(
        (page.len(), total, page[0].of.execution_id.as_str()),
        (1, 2, "01")
    );

    let only = |filter: ExecutionFilter| {
        let store = Arc::clone(&store);
        async move { store.list(&Visibility::All, &filter, 0, 10).await.unwrap().1 }
    };
    assert_eq!(
        only(ExecutionFilter {
            flow: Some("f1".into()),
            ..Default::default()
        })
        .await,
        1
    );
    assert_eq!(
        only(ExecutionFilter {
            status: Some(None),
            ..Default::default()
        })
        .await,
        1
    );
    assert_eq!(
        only(ExecutionFilter {
            status: Some(Some(Outcome::Error)),
            ..Default::default()
        })
        .await,
        0
    );
    let from = Some(Timestamp::from_millis(1));
    assert_eq!(
        only(ExecutionFilter {
            from,
            ..Default::default()
        })
        .await,
        1
    );

    let u1 = Visibility::OwnedBy(vec!["u1".into()]);
    assert_eq!(store.list(&u1, &none, 0, 10).await.unwrap().1, 1);
    assert_eq!(
        store
            .list(&Visibility::OwnedBy(vec!["t1".into()]), &none, 0, 10)
            .await
            .unwrap()
            .1,
        2
    );
    assert!(
        store
            .get(&u1, &ExecutionId::from("02"), 10)
            .await
            .unwrap()
            .is_none()
    );
    let (_, steps) = store
        .get(&u1, &ExecutionId::from("01"), 10)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        steps.iter().map(|step| step.run.as_str()).collect::<Vec<_>>(),
        ["r1", "r2", "r3"]
    );
    assert_eq!(steps[0].input.get(), r#"{"a":1}"#);

    let users = store
        .usage(&see_all, GroupBy::User, "1970-01-01", "1970-01-02")
        .await
        .unwrap();
    let counts: Vec<_> = users
        .iter()
        .map(|row| (row.key.as_str(), row.executions))
        .collect();
    assert_eq!(counts, [("u1", 2), ("u2", 1)], "control components do not count");
    assert_eq!(users[0].flows, ["f1".into()]);
    let first_day = store
        .usage(&see_all, GroupBy::Flow, "1970-01-01", "1970-01-01")
        .await
        .unwrap();
    assert_eq!(first_day.iter().map(|row| row.executions).sum::<u64>(), 2);
    let components = store
        .usage(&see_all, GroupBy::Component, "1970-01-01", "1970-01-02")
        .await
        .unwrap();
    let c1 = components.iter().find(|row| row.key == "c1").unwrap();
    assert_eq!(
        (c1.executions, c1.user.clone(), c1.tenant.clone()),
        (2, None, Some("t1".into()))
    );
    assert_eq!(
        store
            .usage(&u1, GroupBy::User, "1970-01-01", "1970-01-02")
            .await
            .unwrap()
            .len(),
        1
    );

    assert_eq!(store.prune(Timestamp::from_millis(1), 10).await.unwrap(), 1);
    assert_eq!(store.list(&see_all, &none, 0, 10).await.unwrap().1, 1);
    let users = store
        .usage(&see_all, GroupBy::User, "1970-01-01", "1970-01-02")
        .await
        .unwrap();
    assert_eq!(users.len(), 2, "counts outlive the executions");
}
