//! The gateway as a process of its own, before a service that these tests play.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix_web::{get, post};
use flowmate_common::{Clock, Pressure, auth::TokenVerifier, ids::IdGenerator};
use flowmate_gateway::{
    Metrics,
    proxy::{Config, Proxy, Route},
    spec,
};
use flowmate_runtime::{RequestContext, ServerOptions, serve};
use flowmate_web::{Proxies, Rewrite, Styles};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Starts a gateway before `service`, which has `GET` and `POST /orders`.
fn gateway(service: SocketAddr, config: &Config) -> SocketAddr {
    before(&[service], config)
}

/// The same before several replicas of it.
fn before(replicas: &[SocketAddr], config: &Config) -> SocketAddr {
    let orders = spec(&[operations], &Styles::default());
    let route = Route {
        name: "orders",
        urls: replicas
            .iter()
            .map(|replica| format!("http://{replica}"))
            .collect(),
        spec: orders.clone(),
    };
    let metrics = Metrics::new(String::new, None);
    let proxy = Proxy::new(vec![route], orders, Styles(Vec::new()), config, metrics).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let requests = RequestContext {
        ids: IdGenerator::random(),
        tokens: TokenVerifier::new(Clock::System),
        pressure: Pressure::default(),
        budget: flowmate_common::Budget::new(1 << 24),
    };
    let options = ServerOptions {
        workers: 1,
        max_body: 1 << 20,
        pace: flowmate_web::Pace::default(),
        grace: Duration::ZERO,
        proxies: Proxies::default(),
        rewrite: Rewrite(flowmate_gateway::alias),
        origins: config.origins(),
    };
    let styles = proxy.styles();
    serve(listener, requests, styles, options, move |routes| {
        proxy.configure(routes);
    })
    .unwrap();
    address
}

fn operations(config: &mut flowmate_web::ServiceConfig<'_>) {
    #[utoipa::path(operation_id = "orders", responses((status = 200, description = "Fine")))]
    #[get("/orders")]
    async fn read() -> actix_web::HttpResponse {
        actix_web::HttpResponse::Ok().finish()
    }
    #[utoipa::path(operation_id = "order", responses((status = 200, description = "Fine")))]
    #[post("/orders")]
    async fn write() -> actix_web::HttpResponse {
        actix_web::HttpResponse::Ok().finish()
    }
    config.service(read).service(write);
}

const FINE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A service that reads a request's head and hands the connection to `answer`, which also gets how many came before.
async fn service<F: Future<Output = ()>>(
    answer: impl Fn(String, TcpStream, usize) -> F + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    actix_web::rt::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = head(&mut stream).await;
            let before = counted.fetch_add(1, Ordering::Relaxed);
            answer(head, stream, before).await;
        }
    });
    (address, count)
}

async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { break };
        head.push(byte);
    }
    String::from_utf8(head).unwrap().to_ascii_lowercase()
}

async fn say(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// Sends a request and reads the answer to its end.
async fn ask(gateway: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    say(&mut stream, request).await;
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(30), read)
        .await
        .unwrap()
        .unwrap();
    answer
}

const READ: &str = "GET /orders HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n\r\n";
const WRITE: &str =
    "POST /orders HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";

#[actix_web::test]
async fn what_belongs_to_the_request_is_passed_on_and_what_belongs_to_the_connection_is_not() {
    let (seen, mut heads) = tokio::sync::mpsc::unbounded_channel();
    let (address, _) = service(move |head, mut stream, _| {
        let seen = seen.clone();
        async move {
            seen.send(head).unwrap();
            say(
                &mut stream,
                "HTTP/1.1 200 OK\r\nx-own: 1\r\nkeep-alive: timeout=5\r\ncontent-length: 2\r\n\r\nok",
            )
            .await;
        }
    })
    .await;
    let gateway = gateway(address, &Config::default());
    let request = "GET /orders?page%5Bsize%5D=1 HTTP/1.1\r\nhost: shop.example\r\nconnection: close, x-mine\r\nx-mine: 1\r\n\
        traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\ntracestate: a=1\r\nx-request-id: r1\r\n\
        authorization: Bearer t\r\nte: trailers\r\nx-forwarded-for: 10.0.0.1\r\nx-forwarded-for: 10.0.0.2, 10.0.0.3\r\n\r\n";
    let answer = ask(gateway, request).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"),
        "{answer}"
    );
    assert!(
        answer.contains("x-own: 1") && !answer.contains("keep-alive"),
        "{answer}"
    );
    let head = heads.recv().await.unwrap();
    for passed in [
        "get /orders?page%5bsize%5d=1 http/1.1",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate: a=1",
        "x-request-id: r1",
        "authorization: bearer t",
        "x-forwarded-for: 10.0.0.1, 10.0.0.2, 10.0.0.3, 127.0.0.1",
        "x-forwarded-host: shop.example",
        "x-forwarded-proto: http",
    ] {
        assert!(head.contains(passed), "{passed} in {head}");
    }
    for kept in ["x-mine", "te:", "host: shop"] {
        assert!(!head.contains(&format!("\r\n{kept}")), "{kept} in {head}");
    }
}

#[actix_web::test]
async fn what_services_ask_of_each_other_and_unknown_paths_reach_nobody() {
    let (address, count) = service(|_, mut stream, _| async move { say(&mut stream, FINE).await }).await;
    let gateway = gateway(address, &Config::default());
    for path in [
        "/internal/keys",
        "/internal",
        "/nothing",
        "/orders/../internal/keys",
    ] {
        let answer = ask(gateway, &READ.replace("/orders", path)).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
    assert_eq!(count.load(Ordering::Relaxed), 0);
}

#[actix_web::test]
async fn a_read_that_reached_nobody_is_tried_again_and_a_write_never_is() {
    // Every other connection is closed without an answer.
    let (address, count) = service(|_, mut stream, before| async move {
        if before % 2 == 1 {
            say(&mut stream, FINE).await;
        }
    })
    .await;
    let gateway = gateway(address, &Config::default());
    let answer = ask(gateway, READ).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(count.load(Ordering::Relaxed), 2);
    let answer = ask(gateway, WRITE).await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after"),
        "{answer}"
    );
    assert_eq!(
        count.load(Ordering::Relaxed),
        3,
        "not again: it may have been done"
    );
}

#[actix_web::test]
async fn a_service_that_does_not_answer_is_left_alone_for_a_while() {
    let (address, count) = service(|_, _, _| async {}).await;
    let gateway = gateway(address, &Config::default());
    for _ in 0..64 {
        let answer = ask(gateway, WRITE).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    }
    let asked = count.load(Ordering::Relaxed);
    assert!((16..64).contains(&asked), "{asked} of 64 reached it");
}

#[actix_web::test]
async fn clients_that_hang_up_keep_nobody_from_a_service() {
    let (address, count) = service(|head, mut stream, _| async move {
        // Each connection is served by itself: the next one comes while a body is awaited.
        actix_web::rt::spawn(async move {
            if head.contains("content-length: 400000") {
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            } else {
                say(&mut stream, FINE).await;
            }
        });
    })
    .await;
    let gateway = gateway(address, &Config::default());
    let begun = WRITE.replace("content-length: 2\r\n\r\n{}", "content-length: 400000\r\n\r\n{");
    for number in 1..=64 {
        let mut stream = TcpStream::connect(gateway).await.unwrap();
        say(&mut stream, &begun).await;
        while count.load(Ordering::Relaxed) < number {
            tokio::task::yield_now().await;
        }
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400"),
            "{answer}"
        );
    }
    for _ in 0..4 {
        let answer = ask(gateway, WRITE).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[actix_web::test]
async fn bodies_flow_through_in_both_directions_before_they_are_complete() {
    let (address, _) = service(|_, mut stream, _| async move {
        // The answer to the first piece comes before the second is sent.
        let mut piece = [0; 5];
        stream.read_exact(&mut piece).await.unwrap();
        say(
            &mut stream,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n",
        )
        .await;
        let mut rest = vec![0; 400_000 - 5];
        stream.read_exact(&mut rest).await.unwrap();
        say(&mut stream, "3\r\ntwo\r\n0\r\n\r\n").await;
    })
    .await;
    let gateway = gateway(address, &Config::default());
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    say(
        &mut stream,
        "POST /orders HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 400000\r\n\r\nfirst",
    )
    .await;
    let mut answer = String::new();
    let story = async {
        while !answer.contains("one") {
            let mut piece = [0; 1024];
            let count = stream.read(&mut piece).await.unwrap();
            assert!(count > 0, "{answer}");
            answer.push_str(std::str::from_utf8(piece.get(..count).unwrap()).unwrap());
        }
        stream.write_all(&vec![b'x'; 400_000 - 5]).await.unwrap();
        stream.read_to_string(&mut answer).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(30), story)
        .await
        .unwrap();
    assert!(answer.contains("two"), "{answer}");
}

#[actix_web::test]
async fn a_service_that_takes_too_long_is_given_up() {
    let (address, _) = service(|_, stream, _| async move {
        let _open = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let config = Config {
        timeout_seconds: 1,
        ..Config::default()
    };
    let answer = ask(gateway(address, &config), WRITE).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
}

#[actix_web::test]
async fn who_asks_too_often_is_told_when_to_come_back() {
    let (address, count) = service(|_, mut stream, _| async move { say(&mut stream, FINE).await }).await;
    let config = Config {
        requests_per_second: 1,
        ..Config::default()
    };
    let gateway = gateway(address, &config);
    let with = |token: &str| READ.replace("\r\n\r\n", &format!("\r\nauthorization: Bearer {token}\r\n\r\n"));
    for expected in ["200", "200", "429"] {
        let answer = ask(gateway, &with("a")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{answer}");
        assert_eq!(answer.contains("retry-after: 1"), expected == "429", "{answer}");
    }
    // Nobody has looked at the token yet: another one makes no other client.
    let answer = ask(gateway, &with("b")).await;
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    assert_eq!(count.load(Ordering::Relaxed), 2);
}

#[actix_web::test]
async fn pages_of_listed_origins_may_ask_and_others_may_not() {
    let (address, _) = service(|_, mut stream, _| async move { say(&mut stream, FINE).await }).await;
    let config = Config {
        cors_origins: "https://app.example".into(),
        ..Config::default()
    };
    let gateway = gateway(address, &config);
    for (origin, may) in [("https://app.example", true), ("https://evil.example", false)] {
        let asked = READ.replace("\r\n\r\n", &format!("\r\norigin: {origin}\r\n\r\n"));
        let preflight = asked.replace("GET", "OPTIONS").replace(
            "\r\n\r\n",
            "\r\naccess-control-request-method: GET\r\naccess-control-request-headers: authorization\r\n\r\n",
        );
        for request in [asked, preflight] {
            let answer = ask(gateway, &request).await;
            let allowed = answer.contains(&format!("access-control-allow-origin: {origin}"));
            assert_eq!(allowed, may, "{request}{answer}");
        }
    }
}

/// A replica that answers when it is asked whether it is ready as it is told, and everything else with its name.
async fn replica(name: &'static str) -> (SocketAddr, Arc<AtomicBool>, Arc<AtomicUsize>) {
    let (is_ready, asked) = (Arc::new(AtomicBool::new(true)), Arc::<AtomicUsize>::default());
    let (ready, counted) = (Arc::clone(&is_ready), Arc::clone(&asked));
    let (address, _) = service(move |head, mut stream, _| {
        let (ready, counted) = (Arc::clone(&ready), Arc::clone(&counted));
        async move {
            let status = if head.contains("/health/ready") && !ready.load(Ordering::Relaxed) {
                "503 Service Unavailable"
            } else {
                "200 OK"
            };
            counted.fetch_add(usize::from(head.contains("/orders")), Ordering::Relaxed);
            let length = name.len();
            let answer =
                format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{name}");
            say(&mut stream, &answer).await;
        }
    })
    .await;
    (address, is_ready, asked)
}

#[actix_web::test]
async fn requests_go_to_each_replica_in_turn_and_past_one_that_is_not_ready() {
    let (first, _, _) = replica("first").await;
    let (second, is_ready, asked) = replica("second").await;
    let config = Config {
        look_every_ms: 10,
        ..Config::default()
    };
    let gateway = before(&[first, second], &config);
    let mut answers = Vec::new();
    for _ in 0..4 {
        let answer = ask(gateway, READ).await;
        answers.push(answer.ends_with("first"));
    }
    answers.sort_unstable();
    assert_eq!(answers, [false, false, true, true]);
    is_ready.store(false, Ordering::Relaxed);
    // Until the gateway knows: then four of four go to the other.
    let left_out = async {
        loop {
            let before = asked.load(Ordering::Relaxed);
            for _ in 0..4 {
                ask(gateway, READ).await;
            }
            if asked.load(Ordering::Relaxed) == before {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), left_out)
        .await
        .unwrap();
    is_ready.store(true, Ordering::Relaxed);
    let back = async { while !ask(gateway, READ).await.ends_with("second") {} };
    tokio::time::timeout(Duration::from_secs(30), back).await.unwrap();
}

#[actix_web::test]
async fn a_write_goes_to_another_replica_only_where_it_reached_nobody() {
    // Bound and dropped: nobody listens there.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = nobody.local_addr().unwrap();
    drop(nobody);
    let (address, count) = service(|_, mut stream, _| async move { say(&mut stream, FINE).await }).await;
    let config = Config {
        look_every_ms: 60_000,
        ..Config::default()
    };
    let gateway = before(&[closed, address], &config);
    for _ in 0..4 {
        let answer = ask(gateway, WRITE).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert!(count.load(Ordering::Relaxed) >= 4);
    // One that hangs up in the middle may have done it.
    let (hangs_up, dropped) = service(|_, _, _| async {}).await;
    let (other, taken) = service(|_, mut stream, _| async move { say(&mut stream, FINE).await }).await;
    let gateway = before(&[hangs_up, other], &config);
    let mut refused = 0;
    for _ in 0..4 {
        refused += usize::from(ask(gateway, WRITE).await.starts_with("HTTP/1.1 503"));
    }
    assert_eq!(refused, 2, "each second one, and none of them twice");
    // The looks are among what they were asked.
    assert!(dropped.load(Ordering::Relaxed) >= 2 && taken.load(Ordering::Relaxed) >= 2);
}
