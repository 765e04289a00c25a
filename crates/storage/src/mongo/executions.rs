//! Executions. Ids make recording idempotent: an execution, a step and what a step counts are documents that are inserted
//! once. Usage is kept for each execution until the execution is pruned and then folded into totals, exactly, although
//! only single documents are written atomically.

mod filter;
mod stored;

use std::collections::HashMap;

use async_trait::async_trait;
use flowmate_common::{Timestamp, auth::Visibility, ids::ExecutionId};
use futures_util::{StreamExt, TryStreamExt};
use mongodb::{
    Collection, Database, IndexModel,
    bson::{Bson, Document as Bsons, doc},
    error::Error as Fault,
    options::IndexOptions,
};
use serde::Serialize;

use self::{
    filter::{logged, matching, visible, within},
    stored::{Batch, Counted, Execution, Runs, Step, Summed},
};
use super::{fault, taken, whole};
use crate::{
    Error,
    executions::{
        ExecutionFilter, ExecutionRow, ExecutionStore, GroupBy, LogFilter, LogRow, Record, StepRow, Total,
        UsageRow, Within,
    },
};

/// Batches that a total remembers, so that none is added twice. A batch is finished before the next begins.
const FOLDS: i32 = 64;

/// Updates of single executions at a time.
const UPDATES: usize = 16;

/// Executions in one database.
pub struct MongoExecutions {
    executions: Collection<Execution>,
    steps: Collection<Step>,
    usage: Collection<Bsons>,
}

impl MongoExecutions {
    /// Makes the collections' indexes where they do not exist.
    pub async fn open(database: &Database) -> Result<Self, Error> {
        let this = Self {
            executions: database.collection("executions"),
            steps: database.collection("steps"),
            usage: database.collection("usage"),
        };
        let index = |keys: Bsons| IndexModel::builder().keys(keys).build();
        let mut of_executions = ["flow", "user", "tenant"]
            .map(|key| index(doc! { key: 1, "_id": -1 }))
            .to_vec();
        let waiting = IndexOptions::builder()
            .name("waiting".to_owned())
            .partial_filter_expression(doc! { "due": { "$exists": true } })
            .build();
        let newest_first = IndexModel::builder().keys(doc! { "due": 1, "_id": -1 });
        of_executions.push(newest_first.options(waiting).build());
        let of_steps = [
            doc! { "execution": -1, "sequence": -1 },
            doc! { "flow": 1, "execution": -1, "sequence": -1 },
        ];
        let of_usage = [doc! { "day": 1 }, doc! { "execution": 1 }, doc! { "batch": 1 }];
        let (executions, steps, usage) = (this.executions.clone(), this.steps.clone(), this.usage.clone());
        whole(async move {
            executions.create_indexes(of_executions).await?;
            steps.create_indexes(of_steps.map(index)).await?;
            usage.create_indexes(of_usage.map(index)).await
        })
        .await?;
        Ok(this)
    }
}

#[async_trait]
impl ExecutionStore for MongoExecutions {
    async fn record(&self, records: Vec<Record>) -> Result<(), Error> {
        let mut batch = Batch::of(records);
        self.count(std::mem::take(&mut batch.usage)).await?;
        self.write(batch).await
    }

    async fn totals(&self) -> Result<Vec<Total>, Error> {
        let text = |key: &str| doc! { "$ifNull": [format!("${key}"), ""] };
        let runs = doc! { "$size": { "$ifNull": ["$runs", []] } };
        let pipeline = [doc! { "$group": {
            "_id": { "day": "$day", "flow": "$flow", "component": "$component", "user": text("user"), "tenant": text("tenant") },
            "count": { "$sum": { "$add": [runs, { "$ifNull": ["$count", 0] }] } },
        } }];
        let usage = self.usage.clone();
        let rows: Vec<Summed> = whole(async move {
            usage
                .aggregate(pipeline)
                .with_type::<Summed>()
                .await?
                .try_collect()
                .await
        })
        .await?;
        let mut totals: Vec<Total> = rows.into_iter().map(Summed::total).collect();
        totals.sort();
        Ok(totals)
    }

    async fn restore(&self, records: Vec<Record>, totals: Vec<Total>) -> Result<(), Error> {
        let batch = Batch::of(records);
        self.write(batch).await?;
        let documents = totals.into_iter().map(|total| {
            let Total {
                day,
                flow,
                component,
                user,
                tenant,
                count,
            } = total;
            let id = [&*day, &*flow, &*component, &*user, &*tenant].join("/");
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            let mut document =
                doc! { "_id": id, "day": day, "flow": flow, "component": component, "count": count };
            for (key, value) in [("user", user), ("tenant", tenant)] {
                if !value.is_empty() {
                    document.insert(key, value);
                }
            }
            document
        });
        insert(&self.usage, documents.collect()).await?;
        Ok(())
    }

    async fn list(
        &self,
        see: &Visibility,
        filter: &ExecutionFilter,
        skip: u64,
        limit: u64,
    ) -> Result<(Vec<ExecutionRow>, u64), Error> {
        let filter = doc! { "$and": [visible(see), within(filter.within.as_ref()), matching(filter)] };
        let (executions, limit) = (self.executions.clone(), i64::try_from(limit).unwrap_or(i64::MAX));
        whole(async move {
            let total = executions.count_documents(filter.clone()).await?;
            let newest_first = doc! { "_id": -1 };
            let page = executions
                .find(filter)
                .sort(newest_first)
                .skip(skip)
                .limit(limit)
                .await?;
            let rows = page.map_ok(Execution::row).try_collect().await?;
            Ok((rows, total))
        })
        .await
    }

    async fn get(
        &self,
        see: &Visibility,
        id: &ExecutionId,
        steps: u64,
    ) -> Result<Option<(ExecutionRow, Vec<StepRow>)>, Error> {
        let filter = doc! { "$and": [visible(see), { "_id": id.as_str() }] };
        let (executions, stored, of) = (self.executions.clone(), self.steps.clone(), id.to_string());
        let limit = i64::try_from(steps).unwrap_or(i64::MAX);
        whole(async move {
            let Some(execution) = executions.find_one(filter).await? else {
                return Ok(None);
            };
            let in_order = doc! { "started": 1, "sequence": 1, "run": 1 };
            let found = stored
                .find(doc! { "execution": of })
                .sort(in_order)
                .limit(limit)
                .await?;
            let rows = found.map_ok(Step::row).try_collect().await?;
            Ok(Some((execution.row(), rows)))
        })
        .await
    }

    async fn log(&self, see: &Visibility, filter: &LogFilter, limit: u64) -> Result<Vec<LogRow>, Error> {
        let filter = doc! { "$and": [visible(see), within(filter.within.as_ref()), logged(filter)] };
        let (steps, limit) = (self.steps.clone(), i64::try_from(limit).unwrap_or(i64::MAX));
        whole(async move {
            let newest_first = doc! { "execution": -1, "sequence": -1 };
            let found = steps.find(filter).sort(newest_first).limit(limit).await?;
            found.map_ok(Step::log_row).try_collect().await
        })
        .await
    }

    async fn usage(
        &self,
        see: &Visibility,
        within: Option<&Within>,
        by: GroupBy,
        first: &str,
        last: &str,
    ) -> Result<Vec<UsageRow>, Error> {
        let key = match by {
            GroupBy::User => "user",
            GroupBy::Flow => "flow",
            GroupBy::Component => "component",
        };
        let mut days = doc! { "day": { "$gte": first, "$lte": last } };
        if by == GroupBy::User {
            days.insert("user", doc! { "$exists": true });
        }
        let runs = doc! { "$size": { "$ifNull": ["$runs", []] } };
        let pipeline = [
            doc! { "$match": { "$and": [visible(see), filter::within(within), days] } },
            doc! { "$group": {
                "_id": format!("${key}"),
                "users": { "$addToSet": { "$ifNull": ["$user", ""] } },
                "tenants": { "$addToSet": { "$ifNull": ["$tenant", ""] } },
                "flows": { "$addToSet": "$flow" },
                "executions": { "$sum": { "$add": [runs, { "$ifNull": ["$count", 0] }] } },
            } },
            doc! { "$sort": { "_id": 1 } },
        ];
        let usage = self.usage.clone();
        whole(async move {
            let rows = usage.aggregate(pipeline).with_type::<Counted>().await?;
            rows.map_ok(Counted::row).try_collect().await
        })
        .await
    }

    async fn prune(&self, before: Timestamp, limit: u64) -> Result<u64, Error> {
        let unfinished = {
            let usage = self.usage.clone();
            whole(async move {
                usage
                    .distinct("batch", doc! { "batch": { "$exists": true } })
                    .await
            })
            .await?
        };
        for batch in unfinished.iter().filter_map(Bson::as_str) {
            self.fold(batch).await?;
        }
        let (executions, limit) = (self.executions.clone(), i64::try_from(limit).unwrap_or(i64::MAX));
        let old = doc! { "started": { "$lt": before.as_millis() } };
        let found = async move {
            let found = executions.find(old).sort(doc! { "_id": 1 }).limit(limit).await?;
            found
                .map_ok(|execution| execution.id)
                .try_collect::<Vec<_>>()
                .await
        };
        let ids = whole(found).await?;
        let (Some(oldest), Some(newest)) = (ids.first(), ids.last()) else {
            return Ok(0);
        };
        let batch = format!("{oldest}-{newest}");
        let of = |key: &str| doc! { key: { "$in": ids.clone() } };
        let (usage, marked) = (self.usage.clone(), of("execution"));
        let mark = doc! { "$set": { "batch": &batch } };
        whole(async move { usage.update_many(marked, mark).await }).await?;
        self.fold(&batch).await?;
        let (steps, executions) = (self.steps.clone(), self.executions.clone());
        let (of_steps, of_executions) = (of("execution"), of("_id"));
        let gone = whole(async move {
            steps.delete_many(of_steps).await?;
            executions.delete_many(of_executions).await
        });
        Ok(gone.await?.deleted_count)
    }
}

impl MongoExecutions {
    /// Adds what was run, each run once.
    async fn count(&self, usage: HashMap<String, (Bsons, Vec<String>)>) -> Result<(), Error> {
        let counts: Vec<(Bsons, Vec<String>)> = usage.into_values().collect();
        let documents = counts
            .iter()
            .map(|(of, runs)| {
                let mut document = of.clone();
                document.insert("runs", runs.clone());
                document
            })
            .collect();
        let known = insert(&self.usage, documents).await?;
        let mut more: HashMap<&str, &[String]> = HashMap::new();
        for (of, runs) in known.iter().filter_map(|index| counts.get(*index)) {
            more.insert(of.get_str("_id").unwrap_or_default(), runs);
        }
        // Nearly always what comes again is there already, run for run.
        for counted in self.counted(more.keys().copied()).await? {
            if let Some(runs) = more.get(&*counted.id)
                && runs.iter().all(|run| counted.runs.contains(run))
            {
                more.remove(&*counted.id);
            }
        }
        for (id, runs) in more {
            let (usage, known) = (self.usage.clone(), doc! { "_id": id });
            let add = doc! { "$addToSet": { "runs": { "$each": runs } } };
            whole(async move { usage.update_one(known, add).await }).await?;
        }
        Ok(())
    }

    /// What these documents count.
    async fn counted(&self, ids: impl Iterator<Item = &str>) -> Result<Vec<Runs>, Error> {
        let ids: Vec<&str> = ids.collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let (usage, filter) = (
            self.usage.clone_with_type::<Runs>(),
            doc! { "_id": { "$in": ids } },
        );
        whole(async move { usage.find(filter).await?.try_collect().await }).await
    }

    /// Everything of the batch but its counts. The later a fact, the earlier it is written: it leaves nothing to do for
    /// those before it.
    async fn write(&self, batch: Batch) -> Result<(), Error> {
        insert(&self.steps, batch.steps).await?;
        let mut turns = batch.turns;
        for ended in &batch.finished {
            turns.remove(&ended.id);
        }
        let finished = self.known(batch.finished).await?;
        self.update(finished.iter().map(Execution::end)).await?;
        let turns = self.known(turns.into_values().collect()).await?;
        self.update(turns.iter().map(Execution::turn)).await?;
        insert(&self.executions, batch.started).await?;
        Ok(())
    }

    /// Inserts executions; returns those to which this is news: they were there, with no end, and at an earlier moment.
    async fn known(&self, executions: Vec<Execution>) -> Result<Vec<Execution>, Error> {
        let taken = insert(&self.executions, executions.clone()).await?;
        let mut known: HashMap<&str, &Execution> = HashMap::new();
        for execution in taken.iter().filter_map(|index| executions.get(*index)) {
            known.entry(&*execution.id).or_insert(execution);
        }
        if known.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<&str> = known.keys().copied().collect();
        let unfinished = doc! { "_id": { "$in": ids }, "status": { "$exists": false } };
        let stored = self.executions.clone();
        let stored: Vec<Execution> =
            whole(async move { stored.find(unfinished).await?.try_collect().await }).await?;
        let told = stored
            .iter()
            .filter_map(|stored| known.get(&*stored.id).map(|told| (stored, *told)));
        let news = told.filter(|(stored, told)| told.status.is_some() || stored.moment < told.moment);
        Ok(news.map(|(_, told)| told.clone()).collect())
    }

    /// Changes single executions, each where its condition holds.
    async fn update(&self, changes: impl Iterator<Item = (Bsons, Bsons)>) -> Result<(), Error> {
        let updates = changes.map(|(condition, change)| {
            let executions = self.executions.clone();
            whole(async move { executions.update_one(condition, change).await })
        });
        let updates: Vec<_> = updates.collect();
        futures_util::stream::iter(updates)
            .buffer_unordered(UPDATES)
            .try_for_each(|_| std::future::ready(Ok(())))
            .await
    }

    /// Adds what a batch counts to the totals and removes it. Done again from any point, it adds nothing twice.
    async fn fold(&self, batch: &str) -> Result<(), Error> {
        let sums = [
            doc! { "$match": { "batch": batch } },
            doc! { "$group": {
                "_id": { "day": "$day", "flow": "$flow", "component": "$component", "user": "$user", "tenant": "$tenant" },
                "count": { "$sum": { "$size": "$runs" } },
            } },
        ];
        let (usage, batch) = (self.usage.clone(), batch.to_owned());
        whole(async move {
            let totals: Vec<Bsons> = usage.aggregate(sums).await?.try_collect().await?;
            for total in totals {
                let Some(Bson::Document(of)) = total.get("_id") else {
                    continue;
                };
                let part = |key: &str| of.get_str(key).unwrap_or_default();
                let id = ["day", "flow", "component", "user", "tenant"].map(part).join("/");
                let not_yet = doc! { "_id": &id, "folds": { "$ne": &batch } };
                let known = of.clone().into_iter().filter(|(_, value)| *value != Bson::Null);
                let fields: Bsons = known.collect();
                let count = total.get("count").cloned().unwrap_or(Bson::Int32(0));
                let add = doc! {
                    "$inc": { "count": count },
                    "$push": { "folds": { "$each": [&batch], "$slice": -FOLDS } },
                    "$setOnInsert": fields,
                };
                match usage.update_one(not_yet, add).upsert(true).await.map_err(fault) {
                    // It was added before the process ended.
                    Ok(_) | Err(Error::Duplicate) => {}
                    Err(error) => return Err(Fault::custom(error.to_string())),
                }
            }
            usage.delete_many(doc! { "batch": batch }).await
        })
        .await?;
        Ok(())
    }
}

/// Inserts what is not there yet; returns the positions of what was.
async fn insert<T: Serialize + Send + Sync + 'static>(
    collection: &Collection<T>,
    documents: Vec<T>,
) -> Result<Vec<usize>, Error> {
    if documents.is_empty() {
        return Ok(Vec::new());
    }
    let collection = collection.clone();
    whole(async move {
        let inserted = collection.insert_many(documents).ordered(false).await;
        taken(inserted.map(|_| ()))
    })
    .await
}
