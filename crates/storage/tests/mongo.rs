//! MongoDB, or what stands in for it, against the conformance suites. `make services-up` starts one; `FLOWMATE_MONGO_URL`
//! names another. Each test has a database of its own.

use std::sync::Arc;

use flowmate_storage::{
    CollectionSpec, DocumentStore, Error, conformance,
    mongo::{MongoDocuments, MongoExecutions, database},
};
use mongodb::{Database, IndexModel, bson::doc, options::IndexOptions};

fn variable(name: &str) -> Option<String> {
    std::env::vars()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value)
}

/// A fresh database; where no server answers, that is said loudly, and CI fails.
async fn fresh() -> Option<Database> {
    let server = variable("FLOWMATE_MONGO_URL").unwrap_or_else(|| "mongodb://127.0.0.1:27117".into());
    let name = format!(
        "conformance_{}",
        flowmate_common::ids::IdGenerator::random().long()
    );
    match database(&format!(
        "{server}/{name}?directConnection=true&serverSelectionTimeoutMS=2000"
    ))
    .await
    {
        Ok(database) => Some(database),
        Err(error) => {
            let message = format!("NOT RUN: no MongoDB at {server} (make services-up): {error}");
            assert!(variable("CI").is_none(), "{message}");
            eprintln!("\n{message}\n");
            None
        }
    }
}

#[tokio::test]
async fn documents_conform() {
    let Some(database) = fresh().await else { return };
    conformance::documents(Arc::new(MongoDocuments::new(database.clone()))).await;
    database.drop().await.unwrap();
}

#[tokio::test]
async fn executions_conform() {
    let Some(database) = fresh().await else { return };
    let store = MongoExecutions::open(&database).await.unwrap();
    conformance::executions(Arc::new(store)).await;
    database.drop().await.unwrap();
}

#[tokio::test]
async fn a_foreign_unique_index_is_named() {
    static SPEC: CollectionSpec = CollectionSpec {
        name: "flows",
        fields: &[],
        unique: &[],
    };
    let Some(database) = fresh().await else { return };
    let options = IndexOptions::builder()
        .unique(true)
        .name("theirs".to_owned())
        .build();
    let foreign = IndexModel::builder().keys(doc! {"x": 1}).options(options).build();
    database
        .collection::<mongodb::bson::Document>("flows")
        .create_index(foreign)
        .await
        .unwrap();
    let refused = MongoDocuments::new(database.clone()).open(&SPEC).await;
    assert!(
        matches!(&refused, Err(Error::Unavailable(reason)) if reason.contains("flows") && reason.contains("theirs")),
        "{refused:?}"
    );
    database.drop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_does_not_answer_and_a_url_without_a_database_are_named() {
    let refused = database("mongodb://127.0.0.1:9/x?serverSelectionTimeoutMS=200").await;
    assert!(matches!(&refused, Err(Error::Unavailable(_))), "{refused:?}");
    let nameless = database("mongodb://127.0.0.1:9").await;
    assert!(
        matches!(&nameless, Err(Error::Unavailable(reason)) if reason.contains("names no database")),
        "{nameless:?}"
    );
}
