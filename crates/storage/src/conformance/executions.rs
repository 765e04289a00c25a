use std::sync::Arc;

use flowmate_common::{
    Timestamp,
    auth::Visibility,
    ids::{ExecutionId, StepRunId},
    model::{ExecutionOf, Outcome, json},
};
use serde_json::json as value;

use super::waits::waits;
use crate::{
    ExecutionStore,
    executions::{ExecutionFilter, GroupBy, LogFilter, Record, Status, StepRow, Total, Within},
};

pub(super) fn of(execution: &str, flow: &str, user: &str, tenant: &str) -> ExecutionOf {
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
        sequence: run.trim_start_matches('r').parse().unwrap(),
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
            status: Some(Status::Running),
            ..Default::default()
        })
        .await,
        1
    );
    assert_eq!(
        only(ExecutionFilter {
            status: Some(Status::Ended(Outcome::Error)),
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

    log(&*store).await;

    let users = store
        .usage(&see_all, None, GroupBy::User, "1970-01-01", "1970-01-02")
        .await
        .unwrap();
    let counts: Vec<_> = users
        .iter()
        .map(|row| (row.key.as_str(), row.executions))
        .collect();
    assert_eq!(counts, [("u1", 2), ("u2", 1)], "control components do not count");
    assert_eq!(users[0].flows, ["f1".into()]);
    let first_day = store
        .usage(&see_all, None, GroupBy::Flow, "1970-01-01", "1970-01-01")
        .await
        .unwrap();
    assert_eq!(first_day.iter().map(|row| row.executions).sum::<u64>(), 2);
    let components = store
        .usage(&see_all, None, GroupBy::Component, "1970-01-01", "1970-01-02")
        .await
        .unwrap();
    let c1 = components.iter().find(|row| row.key == "c1").unwrap();
    assert_eq!(
        (c1.executions, c1.user.clone(), c1.tenant.clone()),
        (2, None, Some("t1".into()))
    );
    assert_eq!(
        store
            .usage(&u1, None, GroupBy::User, "1970-01-01", "1970-01-02")
            .await
            .unwrap()
            .len(),
        1
    );

    let elsewhere = Within(Some("t9".into()));
    for outside in [&elsewhere, &Within(None)] {
        let usage = store.usage(&u1, Some(outside), GroupBy::User, "1970-01-01", "1970-01-02");
        assert!(usage.await.unwrap().is_empty(), "{outside:?}");
        let within = Some(outside.clone());
        let filter = ExecutionFilter {
            within,
            ..ExecutionFilter::default()
        };
        assert_eq!(store.list(&u1, &filter, 0, 10).await.unwrap().1, 0);
        let within = Some(outside.clone());
        let filter = LogFilter {
            within,
            ..LogFilter::default()
        };
        assert!(store.log(&u1, &filter, 10).await.unwrap().is_empty());
    }
    let inside = Within(Some("t1".into()));
    let usage = store.usage(&u1, Some(&inside), GroupBy::User, "1970-01-01", "1970-01-02");
    assert_eq!(usage.await.unwrap().len(), 1);
    let within = Some(inside);
    let filter = ExecutionFilter {
        within,
        ..ExecutionFilter::default()
    };
    let all = store
        .list(&u1, &ExecutionFilter::default(), 0, 10)
        .await
        .unwrap()
        .1;
    assert_eq!(store.list(&u1, &filter, 0, 10).await.unwrap().1, all);

    let totals = store.totals().await.unwrap();
    assert_eq!(totals.iter().map(|total| total.count).sum::<u64>(), 3);
    assert!(totals.is_sorted());

    assert_eq!(store.prune(Timestamp::from_millis(1), 10).await.unwrap(), 1);
    assert_eq!(store.list(&see_all, &none, 0, 10).await.unwrap().1, 1);
    let users = store
        .usage(&see_all, None, GroupBy::User, "1970-01-01", "1970-01-02")
        .await
        .unwrap();
    assert_eq!(users.len(), 2, "counts outlive the executions");
    assert_eq!(store.totals().await.unwrap(), totals, "and stay what they were");

    // What another store had: nothing is counted that was not counted there.
    let moved = of("03", "f3", "u3", "t3");
    let total = Total {
        day: "1970-01-05".into(),
        flow: "f3".into(),
        component: "c1".into(),
        user: "u3".into(),
        tenant: String::new(),
        count: 7,
    };
    let records = vec![
        step(&moved, "r1", "c1", true, 4 * DAY),
        finished(&moved, Outcome::Success, 4 * DAY),
    ];
    store.restore(records, vec![total.clone()]).await.unwrap();
    let restored = store.totals().await.unwrap();
    assert!(
        restored.contains(&total) && restored.len() == totals.len() + 1,
        "{restored:?}"
    );
    assert_eq!(store.list(&see_all, &none, 0, 10).await.unwrap().1, 2);
    waits(&*store).await;
}

/// The log of what [`executions`] recorded.
#[expect(clippy::unwrap_used, reason = "a test suite")]
async fn log(store: &dyn ExecutionStore) {
    let lines = async |see: &Visibility, filter: LogFilter, limit| -> Vec<(String, u32)> {
        let rows = store.log(see, &filter, limit).await.unwrap();
        rows.into_iter()
            .map(|row| (row.of.execution_id.to_string(), row.sequence))
            .collect()
    };
    let line = |execution: &str, sequence| (execution.to_owned(), sequence);
    let (all, none) = (Visibility::All, LogFilter::default);
    let whole = [line("02", 1), line("01", 3), line("01", 2), line("01", 1)];
    assert_eq!(lines(&all, none(), 10).await, whole, "the newest first");
    assert_eq!(lines(&all, none(), 2).await, whole[..2]);
    let before = Some(("01".into(), 3));
    let after_the_second = LogFilter { before, ..none() };
    assert_eq!(lines(&all, after_the_second, 10).await, whole[2..]);
    let flow = Some("f2".into());
    assert_eq!(lines(&all, LogFilter { flow, ..none() }, 10).await, whole[..1]);
    let node = Some("other".into());
    assert_eq!(lines(&all, LogFilter { node, ..none() }, 10).await, []);
    let tenant = Some("other".into());
    assert_eq!(lines(&all, LogFilter { tenant, ..none() }, 10).await, []);
    let failed = LogFilter {
        errors_only: true,
        ..none()
    };
    assert_eq!(lines(&all, failed, 10).await, []);
    let u2 = Visibility::OwnedBy(vec!["u2".into()]);
    assert_eq!(lines(&u2, none(), 10).await, whole[..1]);
}
