//! Services that die under load, one after the other and two at once. `make chaos` does the same to broker and database.

use std::time::Duration;

use flowmate_testkit::{Load, Receiver, Shape};

use crate::{calls::get, forward, server, shape};

#[tokio::test]
async fn services_are_killed_in_turn_and_nothing_is_lost() {
    // The embedded shape has one process; its crash stories are in `crash`.
    if shape() == Shape::Embedded {
        return;
    }
    let mut server = server().await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::start().unwrap();
    let flow = admin.active_flow(&forward(&receiver.url)).await.unwrap();
    let load = Load::start(&admin, &flow, 4, Duration::from_millis(5));
    for victims in [
        &["flow-engine"][..],
        &["webhook"],
        &["execution-log"],
        &["flow-repository"],
        &["user-iam"],
        &["template-repository"],
        &["api-gateway"],
        &["flow-engine", "execution-log"],
    ] {
        server.kill_and_restart(victims).await.unwrap();
    }
    let verdict = load.settle(&admin, &receiver).await.unwrap();
    assert!(verdict.acknowledged > 50, "{verdict:?}");
    println!("{verdict:?}");
    let flow = get(&admin, &format!("/flows/{flow}"), 200).await;
    assert_eq!(flow.text("/data/status"), "active");
}
