//! Moving from the embedded shape to the distributed one: everything that is stored, as lines of JSON, and the key that
//! tokens are signed with. What arrived is read back and compared with what was sent, by count and by hash; nobody's
//! password or token has to change.

use std::{
    fmt::Write as _,
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
    path::Path,
};

use anyhow::{Context as _, bail, ensure};
use flowmate_bus::{Bus, local::LocalBus};
use flowmate_common::{
    Timestamp,
    auth::Visibility,
    ids::{ComponentId, ExecutionId, NodeId, StepRunId},
    model::{ExecutionOf, Json, Outcome},
};
use flowmate_storage::{
    Filter, Portable, Query, Storage,
    executions::{ExecutionFilter, Record, StepRow, Total, Waiting},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const FILE: &str = "flowmate.ndjson";
const KEYS: &str = "keys";
/// The form of the file.
const FORM: u32 = 1;
/// Documents or executions at a time.
const PAGE: u64 = 500;
/// Facts about executions, and counts, that are written at once.
const AT_ONCE: usize = 1_000;

/// Everything that services store.
fn collections() -> Vec<Portable> {
    let all = [
        flowmate_user_iam::COLLECTIONS,
        flowmate_flow_repository::COLLECTIONS,
        flowmate_template_repository::COLLECTIONS,
        flowmate_webhook::COLLECTIONS,
        flowmate_flow_engine::COLLECTIONS,
        flowmate_execution_log::COLLECTIONS,
    ];
    all.concat()
}

/// One line of the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Line {
    Form(u32),
    Document(StoredDocument),
    Execution(Box<StoredExecution>),
    Total(Total),
    End(Summary),
}

#[derive(Serialize, Deserialize)]
struct StoredDocument {
    collection: String,
    id: String,
    /// JSON text, as it is stored.
    doc: String,
}

#[derive(Serialize, Deserialize)]
struct StoredExecution {
    of: ExecutionOf,
    status: Option<Outcome>,
    /// Not written where there is none, so that files from before there were waits keep their hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    waiting: Option<Waiting>,
    error: Option<String>,
    started: Timestamp,
    finished: Option<Timestamp>,
    steps: Vec<StoredStep>,
}

#[derive(Serialize, Deserialize)]
struct StoredStep {
    run: StepRunId,
    sequence: u32,
    node: NodeId,
    component_id: ComponentId,
    component: String,
    function: String,
    counted: bool,
    status: Outcome,
    input: Json,
    output: Option<Json>,
    unchanged: bool,
    error: Option<String>,
    attempts: u32,
    started: Timestamp,
    finished: Timestamp,
}

/// What was carried over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Users, tenants, roles, tokens, flows, templates, components and what services keep for themselves.
    pub documents: u64,
    /// Executions, with their steps.
    pub executions: u64,
    /// Usage counts.
    pub totals: u64,
    /// Of all of them, in order.
    pub sha256: String,
}

/// Writes everything in the data directory `data`, and the signing key in `keys`, to `target`. FlowMate must not be
/// running on it, and must have finished what it had taken.
pub async fn export(data: &Path, keys: &Path, target: &Path) -> anyhow::Result<Summary> {
    ensure!(data.is_dir(), "there is no data directory {}", data.display());
    // Its lock tells whether FlowMate runs.
    let bus = LocalBus::open(&data.join("log"), flowmate_bus::local::Options::default())?;
    let storage = flowmate_storage::sqlite::open(data)?;
    for collection in collections() {
        storage.documents().open(collection.spec).await?;
        let waits = !storage.documents().pending(collection.spec, 1).await?.is_empty();
        ensure!(
            !waits,
            "{} has events to publish; {UNFINISHED}",
            collection.spec.name
        );
    }
    let behind: u64 = bus.lag().iter().map(|(_, _, behind)| behind).sum();
    ensure!(behind == 0, "events are not processed; {UNFINISHED}");

    std::fs::create_dir_all(target.join(KEYS))?;
    let path = target.join(FILE);
    let mut file = BufWriter::new(File::create_new(&path).with_context(|| path.display().to_string())?);
    let summary = write(&storage, &mut file).await?;
    let file = file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    file.sync_all()?;
    for key in std::fs::read_dir(keys).with_context(|| keys.display().to_string())? {
        let key = key?;
        std::fs::copy(key.path(), target.join(KEYS).join(key.file_name()))?;
    }
    Ok(summary)
}

const UNFINISHED: &str = "start FlowMate, wait until nothing runs, stop it, and try again";

/// Reads what [`export`] wrote to `source` into an empty `storage`, and compares.
pub async fn import(source: &Path, storage: &Storage) -> anyhow::Result<Summary> {
    let known = collections();
    for collection in &known {
        storage.documents().open(collection.spec).await?;
        let present = storage
            .documents()
            .count(collection.spec, &Visibility::All, &Filter::All)
            .await?;
        ensure!(
            present == 0,
            "{} is not empty; import into an empty database",
            collection.spec.name
        );
    }
    let path = source.join(FILE);
    let file = BufReader::new(File::open(&path).with_context(|| path.display().to_string())?);
    let (mut sent, mut records, mut totals) = (None, Vec::new(), Vec::new());
    for (number, line) in file.lines().enumerate() {
        let line: Line = serde_json::from_str(&line?)
            .with_context(|| format!("{}: line {}", path.display(), number + 1))?;
        match line {
            Line::Form(FORM) => {}
            Line::Form(other) => bail!("{} has form {other}, this version knows {FORM}", path.display()),
            Line::Document(document) => add(storage, &known, document).await?,
            Line::Execution(execution) => records.extend(execution.records()),
            Line::Total(total) => totals.push(total),
            Line::End(summary) => sent = Some(summary),
        }
        if records.len() + totals.len() >= AT_ONCE || sent.is_some() {
            let (records, totals) = (std::mem::take(&mut records), std::mem::take(&mut totals));
            storage.executions().restore(records, totals).await?;
        }
    }
    let sent = sent.with_context(|| format!("{} is not whole", path.display()))?;
    let arrived = write(storage, &mut std::io::sink()).await?;
    ensure!(
        arrived == sent,
        "what arrived differs: {arrived:?} instead of {sent:?}"
    );
    Ok(arrived)
}

async fn add(storage: &Storage, known: &[Portable], document: StoredDocument) -> anyhow::Result<()> {
    let StoredDocument { collection, id, doc } = document;
    let portable = known
        .iter()
        .find(|one| one.spec.name == collection)
        .with_context(|| format!("there is no collection {collection}"))?;
    let write = flowmate_storage::Write {
        owners: (portable.owners)(&doc)?,
        id,
        doc,
        events: Vec::new(),
    };
    storage.documents().insert(portable.spec, write).await?;
    Ok(())
}

/// Writes everything in `storage`, always in the same order.
async fn write(storage: &Storage, file: &mut impl Write) -> anyhow::Result<Summary> {
    let mut lines = Lines {
        file,
        hash: Sha256::new(),
        summary: Summary::default(),
    };
    lines.plain(&Line::Form(FORM))?;
    for Portable { spec, .. } in collections() {
        let mut skip = 0;
        loop {
            let query = Query {
                skip,
                ..Query::new(Filter::All, PAGE)
            };
            let rows = storage.documents().find(spec, &Visibility::All, &query).await?;
            skip += rows.len() as u64;
            if rows.is_empty() {
                break;
            }
            for row in rows {
                lines.summary.documents += 1;
                lines.counted(&Line::Document(StoredDocument {
                    collection: spec.name.to_owned(),
                    id: row.id,
                    doc: row.doc,
                }))?;
            }
        }
    }
    let executions = storage.executions();
    let mut skip = 0;
    loop {
        let (rows, _) = executions
            .list(&Visibility::All, &ExecutionFilter::default(), skip, PAGE)
            .await?;
        skip += rows.len() as u64;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            let id: &ExecutionId = &row.of.execution_id;
            let found = executions.get(&Visibility::All, id, u64::from(u32::MAX)).await?;
            let (_, steps) = found.with_context(|| format!("execution {id} went away"))?;
            lines.summary.executions += 1;
            lines.counted(&Line::Execution(Box::new(StoredExecution {
                of: row.of,
                status: row.status,
                waiting: row.waiting,
                error: row.error,
                started: row.started,
                finished: row.finished,
                steps: steps.into_iter().map(StoredStep::from).collect(),
            })))?;
        }
    }
    for total in executions.totals().await? {
        lines.summary.totals += 1;
        lines.counted(&Line::Total(total))?;
    }
    lines.end()
}

struct Lines<'a, W> {
    file: &'a mut W,
    hash: Sha256,
    summary: Summary,
}

impl<W: Write> Lines<'_, W> {
    fn plain(&mut self, line: &Line) -> anyhow::Result<()> {
        serde_json::to_writer(&mut *self.file, line)?;
        Ok(self.file.write_all(b"\n")?)
    }

    fn counted(&mut self, line: &Line) -> anyhow::Result<()> {
        let text = serde_json::to_vec(line)?;
        self.hash.update(&text);
        self.hash.update(b"\n");
        self.file.write_all(&text)?;
        Ok(self.file.write_all(b"\n")?)
    }

    fn end(mut self) -> anyhow::Result<Summary> {
        for byte in self.hash.clone().finalize() {
            write!(self.summary.sha256, "{byte:02x}")?;
        }
        let end = Line::End(self.summary.clone());
        self.plain(&end)?;
        Ok(self.summary)
    }
}

impl From<StepRow> for StoredStep {
    fn from(step: StepRow) -> Self {
        let StepRow {
            of: _,
            run,
            sequence,
            node,
            component_id,
            component,
            function,
            counted,
            status,
            input,
            output,
            unchanged,
            error,
            attempts,
            started,
            finished,
        } = step;
        Self {
            run,
            sequence,
            node,
            component_id,
            component,
            function,
            counted,
            status,
            input,
            output,
            unchanged,
            error,
            attempts,
            started,
            finished,
        }
    }
}

impl StoredStep {
    fn row(self, of: &ExecutionOf) -> StepRow {
        StepRow {
            of: of.clone(),
            run: self.run,
            sequence: self.sequence,
            node: self.node,
            component_id: self.component_id,
            component: self.component,
            function: self.function,
            counted: self.counted,
            status: self.status,
            input: self.input,
            output: self.output,
            unchanged: self.unchanged,
            error: self.error,
            attempts: self.attempts,
            started: self.started,
            finished: self.finished,
        }
    }
}

impl StoredExecution {
    fn records(self) -> Vec<Record> {
        let Self {
            of,
            status,
            waiting,
            error,
            started,
            finished,
            steps,
        } = self;
        let mut records: Vec<Record> = steps
            .into_iter()
            .map(|step| Record::Step(Box::new(step.row(&of))))
            .collect();
        records.push(match (status, finished, waiting) {
            (Some(status), Some(at), _) => Record::Finished {
                of,
                status,
                error,
                started,
                at,
            },
            (_, _, Some(wait)) => Record::Waiting { of, started, wait },
            _ => Record::Started { of, at: started },
        });
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_execution_that_waits_is_carried_over_and_goes_on_there() {
        let directory = tempfile::tempdir().unwrap();
        let (data, keys) = (directory.path().join("data"), directory.path().join("keys"));
        let there = directory.path().join("there");
        for new in [&data, &keys, &there] {
            std::fs::create_dir(new).unwrap();
        }
        let of = |id: &str| ExecutionOf {
            execution_id: id.into(),
            flow_id: "f".into(),
            flow_name: None,
            user: None,
            tenant: None,
        };
        let started = Timestamp::from_millis(1);
        let wait = Waiting {
            turn: 2,
            due: Timestamp::from_millis(9),
            reason: "later".into(),
        };
        let waits = Record::Waiting {
            of: of("waits"),
            started,
            wait: wait.clone(),
        };
        let runs = Record::Started {
            of: of("runs"),
            at: started,
        };
        let here = flowmate_storage::sqlite::open(&data).unwrap();
        here.executions().record(vec![waits, runs]).await.unwrap();
        drop(here);

        let target = directory.path().join("moved");
        let sent = export(&data, &keys, &target).await.unwrap();
        let storage = flowmate_storage::sqlite::open(&there).unwrap();
        assert_eq!(import(&target, &storage).await.unwrap(), sent);

        let of_all = async || {
            let filter = ExecutionFilter::default();
            let listed = storage.executions().list(&Visibility::All, &filter, 0, 10);
            let rows = listed.await.unwrap().0.into_iter();
            rows.map(|row| (row.of.execution_id.to_string(), row.waiting))
                .collect::<Vec<_>>()
        };
        let still = ("runs".to_owned(), None);
        assert_eq!(of_all().await, [("waits".to_owned(), Some(wait)), still.clone()]);
        let over = Record::Resumed {
            of: of("waits"),
            started,
            turn: 2,
        };
        storage.executions().record(vec![over]).await.unwrap();
        assert_eq!(of_all().await, [("waits".to_owned(), None), still]);
    }
}
