//! Executions that wait and go on, told in any order and more than once.

use flowmate_common::{Timestamp, auth::Visibility, model::Outcome};

use super::executions::of;
use crate::{
    ExecutionStore,
    executions::{ExecutionFilter, ExecutionRow, Record, Status, Waiting},
};

/// A fact about the execution of that name.
type Fact = fn(&str) -> Record;

fn started(execution: &str) -> Record {
    Record::Started {
        of: of(execution, "waits", "w", "w"),
        at: Timestamp::from_millis(7),
    }
}

fn waits_for(execution: &str, turn: u32) -> Record {
    Record::Waiting {
        of: of(execution, "waits", "w", "w"),
        started: Timestamp::from_millis(7),
        wait: wait(turn),
    }
}

fn wait(turn: u32) -> Waiting {
    Waiting {
        turn,
        due: Timestamp::from_millis(i64::from(turn) * 1_000),
        reason: format!("429, \"retry\" $after {turn} ✓"),
    }
}

fn resumed(execution: &str, turn: u32) -> Record {
    Record::Resumed {
        of: of(execution, "waits", "w", "w"),
        started: Timestamp::from_millis(7),
        turn,
    }
}

fn finished(execution: &str) -> Record {
    Record::Finished {
        of: of(execution, "waits", "w", "w"),
        status: Outcome::Success,
        error: None,
        started: Timestamp::from_millis(7),
        at: Timestamp::from_millis(9_000),
    }
}

/// What is told, and what the execution is after that, in whatever order it was told.
const TOLD: [(&str, &[Fact], Status, Option<u32>); 4] = [
    (
        "first",
        &[started, |id| waits_for(id, 1)],
        Status::Waiting,
        Some(1),
    ),
    (
        "gone-on",
        &[started, |id| waits_for(id, 1), |id| resumed(id, 1)],
        Status::Running,
        None,
    ),
    (
        "again",
        &[
            |id| waits_for(id, 1),
            |id| resumed(id, 1),
            started,
            |id| waits_for(id, 2),
        ],
        Status::Waiting,
        Some(2),
    ),
    (
        "ended",
        &[
            |id| waits_for(id, 1),
            |id| resumed(id, 1),
            |id| waits_for(id, 2),
            finished,
        ],
        Status::Ended(Outcome::Success),
        None,
    ),
];

/// All orders of the numbers below `count`.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for shorter in orders(count - 1) {
        for place in 0..count {
            let mut order = shorter.clone();
            order.insert(place, count - 1);
            all.push(order);
        }
    }
    all
}

#[expect(clippy::unwrap_used, reason = "a test suite")]
pub(super) async fn waits(store: &dyn ExecutionStore) {
    let (mut singly, mut expected): (Vec<Vec<Record>>, Vec<_>) = (vec![Vec::new(); 4], Vec::new());
    let mut together = Vec::new();
    for (name, facts, status, turn) in TOLD {
        for order in orders(facts.len()) {
            let id = |how: &str| format!("w-{name}-{order:?}-{how}");
            for (at, fact) in order.iter().enumerate() {
                singly[at].push(facts[*fact](&id("singly")));
                together.push(facts[*fact](&id("together")));
            }
            expected.extend([(id("singly"), status, turn), (id("together"), status, turn)]);
        }
    }
    expected.sort_by(|one, other| other.0.cmp(&one.0));
    store.record(together.clone()).await.unwrap();
    for records in &singly {
        store.record(records.clone()).await.unwrap();
    }
    is_as_expected(store, &expected).await;
    // All of it comes again.
    store
        .record(singly.into_iter().flatten().chain(together).collect())
        .await
        .unwrap();
    is_as_expected(store, &expected).await;

    // What another store had goes on here.
    store
        .restore(vec![waits_for("w-moved", 3)], vec![])
        .await
        .unwrap();
    let (row, _) = store.get(&w(), &"w-moved".into(), 1).await.unwrap().unwrap();
    assert_eq!(row.waiting, Some(wait(3)));
    store.record(vec![resumed("w-moved", 2)]).await.unwrap();
    let (row, _) = store.get(&w(), &"w-moved".into(), 1).await.unwrap().unwrap();
    assert_eq!(row.waiting, Some(wait(3)), "an older wait is over");
    store.record(vec![resumed("w-moved", 3)]).await.unwrap();
    let (row, _) = store.get(&w(), &"w-moved".into(), 1).await.unwrap().unwrap();
    assert_eq!((row.waiting, row.status), (None, None));
}

fn w() -> Visibility {
    Visibility::OwnedBy(vec!["w".into()])
}

#[expect(clippy::unwrap_used, reason = "a test suite")]
async fn is_as_expected(store: &dyn ExecutionStore, expected: &[(String, Status, Option<u32>)]) {
    let seen = |row: &ExecutionRow| {
        let turn = row.waiting.as_ref().map(|wait| wait.turn);
        let status = match row.status {
            Some(outcome) => Status::Ended(outcome),
            None if turn.is_some() => Status::Waiting,
            None => Status::Running,
        };
        (row.of.execution_id.to_string(), status, turn)
    };
    let (rows, total) = store
        .list(&w(), &ExecutionFilter::default(), 0, 1_000)
        .await
        .unwrap();
    assert_eq!(total, expected.len() as u64);
    assert_eq!(rows.iter().map(seen).collect::<Vec<_>>(), expected);
    for row in &rows {
        assert_eq!(row.started, Timestamp::from_millis(7));
        assert_eq!(row.waiting, row.waiting.as_ref().map(|known| wait(known.turn)));
    }
    // Each is found by its status, and by no other.
    let all = [
        Status::Running,
        Status::Waiting,
        Status::Ended(Outcome::Success),
        Status::Ended(Outcome::Error),
        Status::Ended(Outcome::Cancelled),
    ];
    for status in all {
        let filter = ExecutionFilter {
            status: Some(status),
            ..Default::default()
        };
        let (rows, total) = store.list(&w(), &filter, 0, 1_000).await.unwrap();
        let meant: Vec<_> = expected.iter().filter(|one| one.1 == status).cloned().collect();
        assert_eq!(rows.iter().map(seen).collect::<Vec<_>>(), meant);
        assert_eq!(total, meant.len() as u64);
    }
}
