//! What comes in costs no more than it may, whoever sends it: bodies that nobody wants, bodies that do not come, methods that
//! nobody knows.

use std::time::Duration;

use flowmate_testkit::{Server, eventually};
use reqwest::Method;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{calls::get, forward, server, start};

/// The head of a webhook's request that says it has so many bytes.
fn head(flow: &str, length: usize) -> String {
    format!(
        "POST /webhooks/{flow} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
}

async fn connect(server: &Server) -> TcpStream {
    let address = server.url.trim_start_matches("http://").trim_end_matches('/');
    TcpStream::connect(address).await.unwrap()
}

/// All that comes until the server closes.
async fn rest(connection: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = connection.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(20), read)
        .await
        .unwrap()
        .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// The most memory that any process of the server ever had, together, in KiB.
fn peaks(server: &Server) -> Vec<u64> {
    let peak = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    server.pids().into_iter().map(|(_, pid)| peak(pid)).collect()
}

/// How much the one of the server's processes has grown that grew most, in KiB.
fn grown(server: &Server, before: &[u64]) -> u64 {
    let after = peaks(server);
    after
        .iter()
        .zip(before)
        // The kernel counts pages a little late: a peak can be told smaller than before.
        .map(|(after, before)| after.saturating_sub(*before))
        .max()
        .unwrap()
}

#[tokio::test]
async fn bodies_for_an_unknown_flow_are_not_kept() {
    let server = server().await;
    let client = server.anonymous().unwrap();
    let before = peaks(&server);
    let body = vec![b' '; 9 << 20].leak();
    let posts = (0..40).map(|_| {
        let post = client.request(Method::POST, "/webhooks/5c99ec7e5ed40d3e7512cffa");
        let post = post.header("content-type", "application/json").body(&*body);
        client.send(post)
    });
    for answer in futures_util::future::join_all(posts).await {
        answer.unwrap().expect(404).unwrap();
    }
    let grown = grown(&server, &before);
    assert!(grown < 100 << 10, "{grown} KiB more");
}

#[tokio::test]
async fn bodies_with_escapes_become_no_trees() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let before = peaks(&server);
    // Its end is missing: it is looked at as a whole, and never runs.
    let body = format!("[\"\\u0041\"{}", ",[]".repeat(3 << 20)).leak();
    let live = admin.active_flow(&forward("http://127.0.0.1:1/")).await.unwrap();
    let posts = (0..8).map(|_| {
        let post = admin.request(Method::POST, &format!("/webhooks/{live}"));
        let post = post.header("content-type", "application/json").body(&*body);
        admin.send(post)
    });
    for answer in futures_util::future::join_all(posts).await {
        let status = answer.unwrap().status;
        assert!(matches!(status, 400 | 503), "{status}");
    }
    let grown = grown(&server, &before);
    assert!(grown < 200 << 10, "{grown} KiB more");
}

#[tokio::test]
async fn a_body_that_does_not_come_ends_with_its_connection() {
    let server = start(&[("FLOWMATE__HTTP__BODY_TIMEOUT_MS", "300")]).await;
    let admin = server.admin().await.unwrap();
    let flow = admin.active_flow(&forward("http://127.0.0.1:1/")).await.unwrap();
    let requests = [
        head(&flow, 1_000),
        format!(
            "POST /webhooks/{flow} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n5\r\n"
        ),
        "POST /login HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n"
            .to_owned(),
    ];
    for request in requests {
        let mut connection = connect(&server).await;
        connection
            .write_all(format!("{request}{{\"a\"").as_bytes())
            .await
            .unwrap();
        let answer = rest(&mut connection).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{request}: {answer}");
    }
}

#[tokio::test]
async fn what_is_declared_too_large_is_refused_before_it_comes() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let flow = admin.active_flow(&forward("http://127.0.0.1:1/")).await.unwrap();
    let mut connection = connect(&server).await;
    connection
        .write_all(head(&flow, 11 << 20).as_bytes())
        .await
        .unwrap();
    let answer = rest(&mut connection).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn a_flow_whose_share_of_the_budget_is_spent_is_answered_503_and_others_are_not() {
    let server = start(&[
        ("FLOWMATE__LIMITS__IN_FLIGHT_BYTES", "8388608"),
        ("FLOWMATE__WEBHOOK__MAX_BODY_BYTES", "1048576"),
    ])
    .await;
    let admin = server.admin().await.unwrap();
    let flow = admin.active_flow(&forward("http://127.0.0.1:1/")).await.unwrap();
    let other = admin.active_flow(&forward("http://127.0.0.1:1/")).await.unwrap();
    // Two bodies of nearly 1 MiB that do not end hold what one flow may. One that comes while the request that asks is in
    // hand may be refused itself: then there are more.
    let held = std::cell::RefCell::new(Vec::new());
    let hold = async || {
        let mut connection = connect(&server).await;
        let begun = format!("{}\"{}", head(&flow, 1 << 20), "x".repeat(1_000_000));
        connection.write_all(begun.as_bytes()).await.unwrap();
        held.borrow_mut().push(connection);
    };
    hold().await;
    let body = format!("\"{}\"", "x".repeat(300_000));
    let post = |flow: &str| {
        let post = admin.request(Method::POST, &format!("/webhooks/{flow}"));
        post.header("content-type", "application/json").body(body.clone())
    };
    let refused = eventually("a refusal", async || {
        hold().await;
        let answer = admin.send(post(&flow)).await?;
        Ok((answer.status == 503).then_some(answer))
    });
    assert_eq!(refused.await.unwrap().retry_after, Some(1));
    admin.send(post(&other)).await.unwrap().expect(200).unwrap();
    drop(held);
    let taken = eventually("room again", async || {
        let answer = admin.send(post(&flow)).await?;
        Ok((answer.status == 200).then_some(()))
    });
    taken.await.unwrap();
}

#[tokio::test]
async fn made_up_methods_make_no_metrics_of_their_own() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let length = async || {
        let answer = server.collector().unwrap().request(Method::GET, "/metrics");
        answer.send().await.unwrap().text().await.unwrap().len()
    };
    let mut connection = connect(&server).await;
    let requests: Vec<String> = (0..5_000)
        .map(|number| {
            let last = if number == 4_999 {
                "connection: close\r\n"
            } else {
                ""
            };
            format!("M{number} /flows HTTP/1.1\r\nhost: localhost\r\n{last}\r\n")
        })
        .collect();
    let requests = requests.concat();
    let (mut answers, mut asking) = connection.split();
    let mut answered = Vec::new();
    let before = length().await;
    let (written, read) = tokio::join!(
        asking.write_all(requests.as_bytes()),
        answers.read_to_end(&mut answered)
    );
    written.unwrap();
    read.unwrap();
    let answered = String::from_utf8_lossy(&answered).matches("HTTP/1.1 4").count();
    assert_eq!(answered, 5_000);
    let grown = length().await.saturating_sub(before);
    assert!(grown < 20_000, "{grown} bytes more for 5,000 methods");
    get(&admin, "/health/ready", 200).await;
}
