//! The ceilings, and the sink. Each runs in a process of its own and prints its address.

use std::{
    future::Future,
    io::Write,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use actix_web::{
    App, HttpResponse, HttpServer,
    web::{self, Bytes, Data},
};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

/// Binds a free port, tells it, and runs the server.
fn serve<S: Future<Output = std::io::Result<()>>>(
    server: impl FnOnce(TcpListener) -> std::io::Result<S>,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;
    actix_web::rt::System::new().block_on(async { server(listener)?.await })?;
    Ok(())
}

fn thanks() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "data": { "message": "thank you" } }))
}

/// Parses the order and answers.
pub(crate) fn parse() -> anyhow::Result<()> {
    async fn handle(body: Bytes) -> HttpResponse {
        match serde_json::from_slice::<Value>(&body) {
            Ok(_) => thanks(),
            Err(_) => HttpResponse::BadRequest().finish(),
        }
    }
    serve(|listener| {
        let app = || App::new().route("/", web::post().to(handle));
        Ok(HttpServer::new(app).workers(2).listen(listener)?.run())
    })
}

type Append = (Bytes, oneshot::Sender<()>);

/// Parses the order, appends it to SQLite with a group commit, and answers when it is on disk.
pub(crate) fn append() -> anyhow::Result<()> {
    async fn handle(queue: Data<mpsc::Sender<Append>>, body: Bytes) -> HttpResponse {
        if serde_json::from_slice::<Value>(&body).is_err() {
            return HttpResponse::BadRequest().finish();
        }
        let (done, answer) = oneshot::channel();
        if queue.send((body, done)).await.is_err() || answer.await.is_err() {
            return HttpResponse::InternalServerError().finish();
        }
        thanks()
    }
    let directory = tempfile::tempdir()?;
    let database = rusqlite::Connection::open(directory.path().join("append.db"))?;
    database.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=4000;
         CREATE TABLE log(id INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;",
    )?;
    let (queue, appends) = mpsc::channel(4096);
    std::thread::spawn(move || commit_groups(&database, appends));
    let queue = Data::new(queue);
    serve(|listener| {
        let app = move || {
            App::new()
                .app_data(queue.clone())
                .route("/", web::post().to(handle))
        };
        Ok(HttpServer::new(app).workers(2).listen(listener)?.run())
    })
}

fn commit_groups(database: &rusqlite::Connection, mut appends: mpsc::Receiver<Append>) {
    let mut group: Vec<Append> = Vec::new();
    while appends.blocking_recv_many(&mut group, 512) > 0 {
        let written = (|| {
            database.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
            let mut insert = database.prepare_cached("INSERT INTO log(body) VALUES (?1)")?;
            for (body, _) in &group {
                insert.execute([body.as_ref()])?;
            }
            database.prepare_cached("COMMIT")?.execute([])
        })();
        for (_, done) in group.drain(..) {
            if written.is_ok() {
                let _ = done.send(());
            }
        }
    }
}

/// The order as far as the transformation needs it.
#[derive(Deserialize)]
struct Order {
    id: String,
    total: f64,
    #[serde(rename = "sentAt")]
    sent_at: f64,
    customer: Customer,
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Customer {
    first: String,
    last: String,
    email: String,
}

#[derive(Deserialize)]
struct Item {
    quantity: f64,
    price: f64,
}

/// Webhook, transformation and POST to the sink, written by hand.
pub(crate) fn hardcoded(sink: &str) -> anyhow::Result<()> {
    async fn handle(shared: Data<(reqwest::Client, String)>, body: Bytes) -> HttpResponse {
        let Ok(order) = serde_json::from_slice::<Order>(&body) else {
            return HttpResponse::BadRequest().finish();
        };
        let sum: f64 = order.items.iter().map(|item| item.quantity * item.price).sum();
        let invoice = json!({
            "order": order.id,
            "name": format!("{} {}", order.customer.first, order.customer.last),
            "email": order.customer.email.to_lowercase(),
            "sum": sum,
            "total": order.total,
            "sentAt": order.sent_at,
        });
        let request = shared
            .0
            .post(&shared.1)
            .header("content-type", "application/json")
            .body(invoice.to_string());
        // The answer is read, so that the connection can be used again.
        let sent = async { request.send().await?.error_for_status()?.bytes().await };
        match sent.await {
            Ok(_) => thanks(),
            Err(_) => HttpResponse::BadGateway().finish(),
        }
    }
    let client = reqwest::Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(64)
        .tcp_nodelay(true)
        .build()?;
    let shared = Data::new((client, format!("http://{sink}/")));
    serve(|listener| {
        let app = move || {
            App::new()
                .app_data(shared.clone())
                .route("/", web::post().to(handle))
        };
        Ok(HttpServer::new(app).workers(2).listen(listener)?.run())
    })
}

#[derive(Default)]
struct Taken {
    delay: Duration,
    count: AtomicU64,
    /// Whether it answers 429 and asks to come again in an hour.
    is_busy: AtomicBool,
    /// Microseconds from the sender's clock reading to the arrival.
    latencies: Mutex<Vec<u64>>,
}

/// Counts what arrives and how long it was on its way; answers after `delay` milliseconds.
pub(crate) fn sink(delay: u64) -> anyhow::Result<()> {
    #[derive(Deserialize)]
    struct Invoice {
        #[serde(rename = "sentAt")]
        sent_at: f64,
    }
    async fn take(taken: Data<Taken>, body: Bytes) -> HttpResponse {
        if taken.is_busy.load(Ordering::Relaxed) {
            return HttpResponse::TooManyRequests()
                .insert_header(("Retry-After", "3600"))
                .finish();
        }
        let Ok(invoice) = serde_json::from_slice::<Invoice>(&body) else {
            return HttpResponse::BadRequest().finish();
        };
        let now = now_micros();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole microseconds below 2^53"
        )]
        let sent = invoice.sent_at as u64;
        if sent > 0 {
            taken.latencies.lock().push(now.saturating_sub(sent));
        }
        taken.count.fetch_add(1, Ordering::Relaxed);
        if !taken.delay.is_zero() {
            tokio::time::sleep(taken.delay).await;
        }
        HttpResponse::Ok().json(json!({ "ok": true }))
    }
    async fn count(taken: Data<Taken>) -> HttpResponse {
        HttpResponse::Ok().body(taken.count.load(Ordering::Relaxed).to_string())
    }
    async fn busy(taken: Data<Taken>, is_busy: web::Path<bool>) -> HttpResponse {
        taken.is_busy.store(*is_busy, Ordering::Relaxed);
        HttpResponse::Ok().finish()
    }
    async fn latencies(taken: Data<Taken>) -> HttpResponse {
        HttpResponse::Ok().json(std::mem::take(&mut *taken.latencies.lock()))
    }
    let taken = Data::from(Arc::new(Taken {
        delay: Duration::from_millis(delay),
        ..Taken::default()
    }));
    serve(|listener| {
        let app = move || {
            App::new()
                .app_data(taken.clone())
                .route("/", web::post().to(take))
                .app_data(web::PayloadConfig::new(64 << 20))
                .route("/busy/{is_busy}", web::get().to(busy))
                .route("/count", web::get().to(count))
                .route("/latencies", web::get().to(latencies))
        };
        Ok(HttpServer::new(app).workers(1).listen(listener)?.run())
    })
}

/// Microseconds since the Unix epoch; two processes of one machine agree on it.
#[expect(
    clippy::disallowed_methods,
    reason = "latency across processes needs the wall clock"
)]
pub(crate) fn now_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
