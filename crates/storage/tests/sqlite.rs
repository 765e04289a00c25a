//! SQLite against the conformance suites, and what only a file can show.

use std::sync::Arc;

use flowmate_common::{Timestamp, auth::Visibility, model::ExecutionOf};
use flowmate_storage::{
    Collection, CollectionSpec, Document, DocumentStore, ExecutionStore, Write, conformance,
    executions::{ExecutionFilter, Record, Waiting},
    sqlite,
    sqlite::{SqliteDocuments, SqliteExecutions},
};
use serde::{Deserialize, Serialize};

#[tokio::test]
async fn documents_conform() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteDocuments::open(&directory.path().join("d.db")).unwrap();
    conformance::documents(Arc::new(store)).await;
}

#[tokio::test]
async fn executions_conform() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteExecutions::open(&directory.path().join("e.db")).unwrap();
    conformance::executions(Arc::new(store)).await;
}

#[tokio::test]
async fn documents_outlive_the_store_and_new_fields_can_be_declared() {
    static BEFORE: CollectionSpec = CollectionSpec {
        name: "things",
        fields: &[],
        unique: &[],
    };
    static AFTER: CollectionSpec = CollectionSpec {
        name: "things",
        fields: &[flowmate_storage::Field {
            name: "colour",
            path: "$.colour",
        }],
        unique: &[],
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d.db");
    let store = SqliteDocuments::open(&path).unwrap();
    store.open(&BEFORE).await.unwrap();
    let write = Write {
        id: "a".into(),
        doc: r#"{"colour":"red"}"#.into(),
        owners: vec![],
        events: vec![],
    };
    store.insert(&BEFORE, write).await.unwrap();
    drop(store);

    let store = SqliteDocuments::open(&path).unwrap();
    store.open(&AFTER).await.unwrap();
    let red = flowmate_storage::Filter::eq("colour", "red");
    assert_eq!(store.count(&AFTER, &Visibility::All, &red).await.unwrap(), 1);
}

#[derive(Serialize, Deserialize)]
struct Thing {
    id: String,
}

impl Document for Thing {
    const SPEC: &'static CollectionSpec = &CollectionSpec {
        name: "things",
        fields: &[],
        unique: &[],
    };

    fn id(&self) -> &str {
        &self.id
    }

    fn owners(&self) -> Vec<String> {
        vec!["me".into()]
    }
}

#[tokio::test]
async fn documents_of_any_number_of_ids_are_read_in_one_call() {
    let directory = tempfile::tempdir().unwrap();
    let storage = sqlite::open(directory.path()).unwrap();
    let things = Collection::<Thing>::open(&storage).await.unwrap();
    // More than one query takes.
    let ids: Vec<String> = (0..1_001).map(|number| format!("{number:04}")).collect();
    let mut inserts = tokio::task::JoinSet::new();
    for id in ids.clone() {
        let things = things.clone();
        inserts.spawn(async move { things.insert(&Thing { id }, Vec::new()).await });
    }
    assert!(inserts.join_all().await.iter().all(Result::is_ok));
    let mut asked: Vec<&str> = ids.iter().map(String::as_str).collect();
    asked.push("missing");
    let found = things.get_many(&Visibility::All, &asked).await.unwrap();
    assert_eq!(found.into_iter().map(|thing| thing.id).collect::<Vec<_>>(), ids);
    let stranger = Visibility::OwnedBy(vec!["you".into()]);
    assert!(things.get_many(&stranger, &asked).await.unwrap().is_empty());
}

#[tokio::test]
async fn executions_of_a_file_from_before_there_were_waits_can_wait() {
    const BEFORE: &str = "CREATE TABLE executions(
            id TEXT PRIMARY KEY, flow TEXT NOT NULL, flow_name TEXT, user TEXT, tenant TEXT,
            status TEXT, error TEXT, started INTEGER NOT NULL, finished INTEGER) STRICT, WITHOUT ROWID;
        INSERT INTO executions VALUES ('ended', 'f', NULL, NULL, NULL, 'success', NULL, 1, 2);
        INSERT INTO executions VALUES ('runs', 'f', NULL, NULL, NULL, NULL, NULL, 1, NULL);";
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("e.db");
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute_batch(BEFORE)
        .unwrap();
    let wait = Waiting {
        turn: 1,
        due: Timestamp::from_millis(9),
        reason: "later".into(),
    };
    let waiting = |id: &str| Record::Waiting {
        of: ExecutionOf {
            execution_id: id.into(),
            flow_id: "f".into(),
            flow_name: None,
            user: None,
            tenant: None,
        },
        started: Timestamp::from_millis(1),
        wait: wait.clone(),
    };
    let store = SqliteExecutions::open(&path).unwrap();
    store
        .record(vec![waiting("ended"), waiting("runs")])
        .await
        .unwrap();
    drop(store);

    let store = SqliteExecutions::open(&path).unwrap();
    let (rows, _) = store
        .list(&Visibility::All, &ExecutionFilter::default(), 0, 10)
        .await
        .unwrap();
    let waits: Vec<_> = rows
        .into_iter()
        .map(|row| (row.of.execution_id.to_string(), row.waiting))
        .collect();
    assert_eq!(
        waits,
        [("runs".to_owned(), Some(wait)), ("ended".to_owned(), None)]
    );
}
