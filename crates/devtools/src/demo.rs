//! `flowmate-demo`: the main story, told step by step against a fresh server and a receiver in a process of its own.
//! Ends with an error if anything is not as it should be.

#![expect(
    clippy::indexing_slicing,
    clippy::too_many_lines,
    reason = "a story told in one go, on JSON"
)]

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
};

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use flowmate_testkit::{Answer, Receiver, Server};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

/// Plays the main story from the files under examples/.
#[derive(Parser)]
struct Arguments {
    /// The server's binary; the one beside this program where nothing is said.
    #[arg(long)]
    flowmate: Option<PathBuf>,
    /// Where order.json, small-order.json and template.json are.
    #[arg(long, default_value = "examples")]
    examples: PathBuf,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// Runs only the receiver; the demo starts it by itself.
    #[command(hide = true)]
    Receiver,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.role {
        Some(Role::Receiver) => receive().await,
        None => tell(&arguments).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The other system: writes what arrives to standard output, a line each.
async fn receive() -> anyhow::Result<()> {
    let receiver = Receiver::start()?;
    say(&receiver.url);
    let mut told = 0;
    loop {
        let received = receiver.wait_for(told + 1).await;
        for request in received.unwrap_or_default().into_iter().skip(told) {
            say(&json!({ "path": request.path, "body": request.body }).to_string());
            told += 1;
        }
    }
}

async fn tell(arguments: &Arguments) -> anyhow::Result<()> {
    let beside = std::env::current_exe()?.with_file_name("flowmate");
    let binary = arguments.flowmate.clone().unwrap_or(beside);
    let read = |name: &str| read_json(&arguments.examples.join(name));
    let (template, order, small) = (
        read("template.json")?,
        read("order.json")?,
        read("small-order.json")?,
    );

    heading("A fresh server, and another system in a process of its own");
    let server = Server::start(&binary, &[]).await?;
    note(&format!(
        "server    {} (ready after {} ms)",
        server.url,
        server.ready_after.as_millis()
    ));
    let mut other = OtherSystem::start().await?;
    note(&format!("receiver  {}", other.url));
    note("steps may call 127.0.0.0/8, where it is; otherwise public addresses only");

    heading("Log in as administrator");
    let admin = server.admin().await?;
    note("POST /login → a token");

    heading("Add the template");
    let answer = admin.post("/templates", &template).await?.expect(201)?;
    let template_id = answer.text("/data/id").to_owned();
    note(&format!(
        "POST /templates → {template_id} \"{}\"",
        answer.text("/data/name")
    ));

    heading("Generate a flow from it, with the addresses of this receiver");
    let urls = json!({"name": "Orders of my shop", "graph": {"nodes": [{}, {},
        {"fields": {"url": format!("{}/contacts", other.url)}}, {},
        {"fields": {"url": format!("{}/invoices", other.url)}}]}});
    let answer = admin
        .post(&format!("/templates/{template_id}/generate"), &urls)
        .await?
        .expect(201)?;
    let flow = answer.text("/data/id").to_owned();
    note(&format!(
        "POST /templates/{template_id}/generate → flow {flow}, {}",
        answer.text("/data/status")
    ));

    heading("Start it");
    let answer = admin
        .post(&format!("/flows/{flow}/start"), &Value::Null)
        .await?
        .expect(200)?;
    note(&format!(
        "POST /flows/{flow}/start → {}",
        answer.text("/data/status")
    ));
    let settled = admin.settled(&flow).await?;
    ensure!(
        settled.text("/data/status") == "active",
        "the flow did not start: {}",
        settled.text("/data/statusReason")
    );
    note("GET /flows/… → active");

    heading("The shop sends an order of 150.90: a contact and an invoice");
    let execution = admin.webhook(&flow, &order).await?;
    note(&format!("POST /webhooks/{flow} → execution {execution}"));
    let arrived = other.next(2).await?;
    for (path, body) in &arrived {
        note(&format!("arrived   {path}  {body}"));
    }
    let contact = json!({"name": "Ada Byron", "email": "ada.byron@example.org", "city": "London", "lastOrder": "A-2041"});
    ensure!(
        arrived.contains(&("/contacts".into(), contact)),
        "the contact is not as it should be"
    );
    let invoice = arrived
        .iter()
        .find(|(path, _)| path == "/invoices")
        .context("no invoice arrived")?;
    ensure!(
        invoice.1["total"] == json!(150.9),
        "the invoice is not as it should be: {}",
        invoice.1
    );

    heading("The shop sends an order of 18.00: a contact, and no invoice");
    let small_execution = admin.webhook(&flow, &small).await?;
    let arrived = other.next(1).await?;
    note(&format!("arrived   {}  {}", arrived[0].0, arrived[0].1));
    ensure!(
        arrived[0].0 == "/contacts",
        "an invoice was sent for a small order"
    );

    heading("What ran is logged");
    for id in [&execution, &small_execution] {
        show(&admin.ended(id).await?)?;
    }
    let list = admin
        .get(&format!("/executions?filter[flowId]={flow}"))
        .await?
        .expect(200)?;
    ensure!(
        list.at("/meta/total") == &json!(2),
        "two executions should be logged: {}",
        list.at("/meta")
    );

    heading("And counted");
    let usage = admin.get("/icenter/executions?groupby=flow").await?.expect(200)?;
    note(&format!(
        "GET /icenter/executions?groupby=flow → {} executions (step runs)",
        usage.at("/data/0/executions")
    ));
    ensure!(
        usage.at("/data/0/executions") == &json!(8),
        "five and three step runs should be counted"
    );

    heading("Stop it");
    admin.stop_flow(&flow).await?;
    note("POST /flows/…/stop → inactive");
    admin
        .post(&format!("/webhooks/{flow}"), &order)
        .await?
        .expect(404)?;
    note("POST /webhooks/… → 404, as it should be");

    heading("All of it is as it should be.");
    Ok(())
}

/// Prints an execution, a line for each step.
fn show(execution: &Answer) -> anyhow::Result<()> {
    let status = execution.text("/data/status");
    note(&format!(
        "GET /executions/{} → {status}",
        execution.text("/data/id")
    ));
    for step in execution.at("/data/steps").as_array().into_iter().flatten() {
        let text = |key: &str| step[key].as_str().unwrap_or_default().to_owned();
        let called = format!("{}.{}", text("component"), text("function"));
        note(&format!(
            "  {:<13} {called:<18} {:<8} {} ms",
            text("nodeId"),
            text("status"),
            step["duration"]
        ));
    }
    ensure!(
        status == "success",
        "the execution failed: {}",
        execution.text("/data/error")
    );
    Ok(())
}

struct OtherSystem {
    url: String,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
    _child: Child,
}

impl OtherSystem {
    async fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("receiver")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        let url = lines.next_line().await?.context("the receiver ended")?;
        Ok(Self {
            url,
            lines,
            _child: child,
        })
    }

    /// The next `count` requests, path and body.
    async fn next(&mut self, count: usize) -> anyhow::Result<Vec<(String, Value)>> {
        let mut arrived = Vec::new();
        while arrived.len() < count {
            let line = tokio::time::timeout(flowmate_testkit::PATIENCE, self.lines.next_line()).await;
            let line = line.context("nothing arrived")??.context("the receiver ended")?;
            let request: Value = serde_json::from_str(&line)?;
            arrived.push((
                request["path"].as_str().unwrap_or_default().to_owned(),
                request["body"].clone(),
            ));
        }
        arrived.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(arrived)
    }
}

fn read_json(path: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

fn heading(text: &str) {
    if std::io::stdout().is_terminal() {
        say(&format!("\n\u{1b}[1m{text}\u{1b}[0m"));
    } else {
        say(&format!("\n{text}"));
    }
}

fn note(text: &str) {
    say(&format!("  {text}"));
}

fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
