//! Many at once: one wins, the others hear of it.

use flowmate_testkit::Receiver;
use serde_json::{Value, json};

use crate::{forward, server};

#[tokio::test]
async fn of_many_starts_one_succeeds() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::start().unwrap();
    let flow = admin.create_flow(&forward(&receiver.url)).await.unwrap();
    for action in ["start", "stop"] {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let (admin, path) = (admin.clone(), format!("/flows/{flow}/{action}"));
            tasks.spawn(async move { admin.post(&path, &Value::Null).await.unwrap() });
        }
        let answers = tasks.join_all().await;
        let count = |status: u16| answers.iter().filter(|answer| answer.status == status).count();
        assert_eq!((count(200), count(409)), (1, 15), "{action}");
        let refused = answers.iter().find(|answer| answer.status == 409).unwrap();
        assert!(
            refused.text("/errors/0/message").contains("Current status: "),
            "{}",
            refused.body
        );
        admin.settled(&flow).await.unwrap();
    }
}

#[tokio::test]
async fn concurrent_patches_lose_nothing() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let flow = admin.create_flow(&forward("http://127.0.0.1:1/")).await.unwrap();
    let path = format!("/flows/{flow}");
    let changes = [
        json!({"name": "a name"}),
        json!({"description": "a description"}),
        json!({"type": "realtime"}),
        json!({"tenant": "t"}),
    ];
    let mut tasks = tokio::task::JoinSet::new();
    for change in changes.clone() {
        let (admin, path) = (admin.clone(), path.clone());
        tasks.spawn(async move { admin.patch(&path, &change).await.unwrap() });
    }
    assert!(tasks.join_all().await.iter().all(|answer| answer.status == 200));
    let flow = admin.get(&path).await.unwrap();
    for change in &changes {
        for (key, value) in change.as_object().unwrap() {
            assert_eq!(flow.at(&format!("/data/{key}")), value);
        }
    }
}

#[tokio::test]
async fn a_running_flow_can_be_neither_changed_nor_deleted() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::start().unwrap();
    let flow = admin.active_flow(&forward(&receiver.url)).await.unwrap();
    let path = format!("/flows/{flow}");
    let conflict =
        json!({"errors": [{"message": "Flow is not inactive. Current status: active", "code": 409}]});
    assert_eq!(
        admin
            .patch(&path, &json!({"name": 5}))
            .await
            .unwrap()
            .expect(409)
            .unwrap()
            .body,
        conflict
    );
    assert_eq!(
        admin.delete(&path).await.unwrap().expect(409).unwrap().body,
        conflict
    );
    assert_eq!(
        admin
            .post(&format!("{path}/start"), &Value::Null)
            .await
            .unwrap()
            .expect(409)
            .unwrap()
            .body,
        conflict
    );
}

#[tokio::test]
async fn a_slow_flow_does_not_hold_up_another() {
    let server = crate::start(&[("FLOWMATE__ENGINE__FLOW_CONCURRENCY", "2")]).await;
    let admin = server.admin().await.unwrap();
    let slow = Receiver::responding(|_, _| flowmate_testkit::Reply {
        after: std::time::Duration::from_secs(20),
        ..flowmate_testkit::Reply::json(200, "{}")
    })
    .unwrap();
    let quick = Receiver::start().unwrap();
    let busy = admin.active_flow(&forward(&slow.url)).await.unwrap();
    let other = admin.active_flow(&forward(&quick.url)).await.unwrap();
    for number in 0..50 {
        admin.webhook(&busy, &json!({"n": number})).await.unwrap();
    }
    let execution = admin.webhook(&other, &json!({})).await.unwrap();
    assert_eq!(
        admin.ended(&execution).await.unwrap().text("/data/status"),
        "success"
    );
    assert_eq!(
        slow.received().len(),
        2,
        "two of the slow flow are at work, the others wait"
    );
}
