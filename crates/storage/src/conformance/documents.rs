use std::sync::Arc;

use flowmate_common::{Clock, Event, EventType, Timestamp, auth::Visibility, ids::IdGenerator};
use serde_json::json as value;

use crate::{CollectionSpec, DocumentStore, Error, Field, Filter, Query, Sort, Write};

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
        (Filter::AtLeast("rank", value!(2)), &["f1", "f3", "f4"]),
        (Filter::AtLeast("rank", value!("2")), &[]),
        (Filter::AtLeast("name", value!(0)), &[]),
        (Filter::AtLeast("name", value!("a_b.*")), &["f2", "f3"]),
        (Filter::AtLeast("rank", value!(null)), &[]),
        (
            Filter::Ids(vec!["f3".into(), "f1".into(), "f1".into(), "no".into()]),
            &["f1", "f3"],
        ),
        (Filter::Ids(vec![]), &[]),
        (Filter::AtMost("rank", value!(2)), &["f1", "f2", "f3"]),
        (Filter::AtMost("rank", value!(1.5)), &["f2"]),
        (Filter::AtMost("rank", value!(0)), &[]),
        // Never across kinds, and not what is absent.
        (Filter::AtMost("rank", value!("9")), &[]),
        (Filter::AtMost("name", value!(9)), &[]),
        (Filter::AtMost("name", value!("a_b.*")), &["f1", "f3"]),
        (Filter::AtMost("name", value!("")), &[]),
        (Filter::AtMost("rank", value!(null)), &[]),
        (
            Filter::And(vec![
                Filter::AtMost("rank", value!(2)),
                Filter::Ids(vec!["f1".into(), "f4".into()]),
            ]),
            &["f1"],
        ),
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
    for filter in [
        Filter::eq("no", 1),
        Filter::AtMost("no", value!(1)),
        Filter::AtMost("no", value!(null)),
    ] {
        let unknown = store.find(&SPEC, &all, &Query::new(filter, 1)).await;
        assert!(matches!(unknown, Err(Error::UnknownField { .. })));
    }
    // The first that are due, as they become due, without those that another owns.
    let due = |limit| Query {
        sort: Some(Sort {
            field: "rank",
            descending: false,
        }),
        ..Query::new(Filter::AtMost("rank", value!(2)), limit)
    };
    let nobodys = Visibility::OwnedBy(vec!["nobody".into()]);
    for (see, limit, expected) in [
        (&all, 2, &["f2", "f1"][..]),
        (&all, 9, &["f2", "f1", "f3"]),
        (&nobodys, 9, &[]),
    ] {
        let rows = store.find(&SPEC, see, &due(limit)).await.unwrap();
        assert_eq!(
            rows.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(),
            expected
        );
        let heads = store.heads(&SPEC, see, &due(limit)).await.unwrap();
        let ranks = rows.iter().map(|row| {
            let doc: serde_json::Value = serde_json::from_str(&row.doc).unwrap();
            (row.id.clone(), doc["rank"].clone())
        });
        assert_eq!(heads, ranks.collect::<Vec<_>>());
    }

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

    // One of two, named twice.
    let first = events[0].id.to_string();
    store
        .published(&SPEC, "e1", vec![first.clone(), first])
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
