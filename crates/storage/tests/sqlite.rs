//! SQLite against the conformance suites, and what only a file can show.

use std::sync::Arc;

use flowmate_common::auth::Visibility;
use flowmate_storage::{
    CollectionSpec, DocumentStore, Write, conformance,
    sqlite::{SqliteDocuments, SqliteExecutions},
};

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
