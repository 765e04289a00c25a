//! Who may do what: every operation of the specification, played by every kind of caller. The answers are the table in
//! `docs/access.md`; an operation without a row there fails. `make access` writes the table anew, to be read before it is
//! committed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::PathBuf,
};

use flowmate_testkit::{Client, Receiver, Server};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    accounts::{end_user, own_id, tenant},
    calls::{patch, post, refused},
    forward, server, shape,
};

/// Columns of the table, and who plays each of them: all are answered alike.
const COLUMNS: [(&str, &[&str]); 7] = [
    ("nobody", &["nobody", "garbage", "revoked", "disabled", "moved"]),
    ("owner", &["owner"]),
    ("other end user", &["other"]),
    ("member", &["member", "demoted"]),
    ("tenant admin", &["partner"]),
    ("other tenant's admin", &["rival"]),
    ("system admin", &["admin"]),
];

/// Ends the tokens it is tried with: their callers are made anew after it.
const ENDS_TOKENS: &str = "POST /logout";
/// Take away what others are to be tried on.
const ENDS_TENANT: [&str; 2] = ["DELETE /tenants/{id}", "DELETE /tenants/{id}/user/{userId}"];

struct Stage {
    server: Server,
    receiver: Receiver,
    admin: Client,
    count: u32,
}

/// Callers and what they are tried on: everything in one tenant, made for this.
struct Cast {
    tenant: String,
    callers: BTreeMap<&'static str, Client>,
    owner_id: String,
    /// Of a flow of the owner's; only looked at.
    execution: String,
}

impl Stage {
    async fn cast(&mut self) -> Cast {
        self.count += 1;
        self.admin = self.server.admin().await.unwrap();
        let (name, admin) = (format!("acme{}", self.count), &self.admin);
        let (acme, partner) = tenant(&self.server, admin, &name).await;
        let (rival_id, rival) = tenant(&self.server, admin, &format!("rival{}", self.count)).await;
        let owner = end_user(&partner, &format!("owner@{name}")).await;
        let account = async |kind: &str, permissions: Value| {
            let username = format!("{kind}@{name}");
            let user = json!({"username": username, "password": "a password", "tenant": acme, "permissions": permissions});
            let made = post(admin, "/users", user, 200).await;
            let client = Client::login(&self.server.url, &username, "a password")
                .await
                .unwrap();
            (made.text("/id").to_owned(), client)
        };
        let (_, member) = account("member", json!(["flows.read", "templates.read"])).await;
        let (demoted_id, demoted) = account("demoted", json!(["tenant.all"])).await;
        let (moved_id, moved) = account("moved", json!(["tenant.all"])).await;
        let (disabled_id, disabled) = account("disabled", json!(["tenant.all"])).await;
        let revoked = account("revoked", json!(["tenant.all"])).await.1;
        let change =
            |id: String, to: Value| async move { patch(admin, &format!("/users/{id}"), to, 200).await };
        change(
            demoted_id,
            json!({"permissions": ["flows.read", "templates.read"]}),
        )
        .await;
        change(
            moved_id,
            json!({"tenant": rival_id, "permissions": ["tenant.all"]}),
        )
        .await;
        change(disabled_id, json!({"status": "DISABLED"})).await;
        post(&revoked, "/logout", json!({}), 200).await;
        refused(&revoked).await;
        refused(&disabled).await;
        refused(&moved).await;
        let anonymous = self.server.anonymous().unwrap();
        let owner_id = own_id(&owner).await;
        let callers = BTreeMap::from([
            ("garbage", anonymous.with_token("eyJhbGciOiJub25lIn0.e30.")),
            ("nobody", anonymous),
            ("revoked", revoked),
            ("disabled", disabled),
            ("owner", owner),
            ("other", end_user(&partner, &format!("other@{name}")).await),
            ("member", member),
            ("demoted", demoted),
            ("partner", partner),
            ("rival", rival),
            ("moved", moved),
            ("admin", admin.clone()),
        ]);
        let mut cast = Cast {
            tenant: acme,
            callers,
            owner_id,
            execution: String::new(),
        };
        let flow = self.live(&cast).await;
        cast.execution = self.admin.webhook(&flow, &json!({"n": 1})).await.unwrap();
        self.admin.ended(&cast.execution).await.unwrap();
        cast
    }

    /// The path with something behind it that the owner, or else the tenant, has; made anew, since it may be gone after.
    async fn path(&self, template: &str, cast: &Cast) -> String {
        let Some(partner) = cast.callers.get("partner") else {
            unreachable!("there is a partner");
        };
        let name = |kind: &str| format!("{kind}-{}", uuid());
        let id = match template.split('/').nth(1).unwrap_or_default() {
            "flows" => self.flow(cast).await,
            "webhooks" => self.live(cast).await,
            "executions" => cast.execution.clone(),
            "templates" => {
                let mut template = forward(&self.receiver.url);
                template["name"] = name("t").into();
                post(partner, "/templates", template, 201)
                    .await
                    .text("/data/id")
                    .to_owned()
            }
            "components" => {
                let component = json!({"name": name("c")});
                post(partner, "/components", component, 201)
                    .await
                    .text("/data/id")
                    .to_owned()
            }
            "users" => {
                let made = post(partner, "/impersonate", json!({"username": name("u")}), 200).await;
                made.text("/id").to_owned()
            }
            "roles" => {
                let role = json!({"name": name("r"), "permissions": ["flows.read"]});
                post(partner, "/roles", role, 200).await.text("/_id").to_owned()
            }
            "tokens" => {
                let token = json!({"accountId": cast.owner_id, "expiresIn": "1h"});
                post(&self.admin, "/tokens", token, 200)
                    .await
                    .text("/id")
                    .to_owned()
            }
            "tenants" => cast.tenant.clone(),
            _ => "666c6f776d617465ffffffff".to_owned(),
        };
        let mut path = String::new();
        for segment in template.split('/').skip(1) {
            path.push('/');
            path.push_str(match segment {
                "{id}" | "{flowId}" => &id,
                "{userId}" => &cast.owner_id,
                "{stepId}" => "step_1",
                "{suffix}" => "more",
                other => other,
            });
        }
        path
    }

    /// What the operation answers this caller.
    async fn play(&self, (method, template): (&Method, &str), cast: &Cast, player: &str) -> String {
        let path = self.path(template, cast).await;
        let mut request = cast.callers[player].request(method.clone(), &path);
        if method != Method::GET && method != Method::HEAD {
            request = request.header("content-type", "application/json").body("{}");
        }
        told(request.send().await.unwrap().status().as_u16())
    }

    /// A flow that takes webhooks.
    async fn live(&self, cast: &Cast) -> String {
        let flow = self.flow(cast).await;
        self.admin.start_flow(&flow).await.unwrap();
        flow
    }

    async fn flow(&self, cast: &Cast) -> String {
        let mut flow = forward(&self.receiver.url);
        flow["owners"] = json!([
            {"id": cast.owner_id, "type": "user"},
            {"id": cast.tenant, "type": "tenant"}
        ]);
        post(&self.admin, "/flows", flow, 201)
            .await
            .text("/data/id")
            .to_owned()
    }
}

fn uuid() -> String {
    flowmate_common::ids::IdGenerator::random().long()
}

/// Whether the caller got past the questions who it is, what it may and what it sees; what it sent is not the matter.
fn told(status: u16) -> String {
    match status {
        401 | 403 | 404 => status.to_string(),
        200..=299 | 302 | 400 | 409 | 413 | 415 | 422 | 503 => "yes".into(),
        other => format!("{other}!"),
    }
}

fn document() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/access.md")
}

/// The rows of the table as they stand in the document.
fn rows(text: &str) -> BTreeMap<String, Vec<String>> {
    text.lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
            let operation = cells.next()?.trim_end_matches('`').to_owned();
            Some((
                operation,
                cells
                    .filter(|cell| !cell.is_empty())
                    .map(ToOwned::to_owned)
                    .collect(),
            ))
        })
        .collect()
}

fn operations() -> Vec<(Method, String)> {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_flowmate"))
        .arg("openapi")
        .output()
        .unwrap();
    let spec: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut operations = Vec::new();
    for (path, item) in spec["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            if let Ok(method) = Method::from_bytes(method.to_uppercase().as_bytes())
                && method != Method::TRACE
            {
                operations.push((method, path.clone()));
            }
        }
    }
    operations
}

#[tokio::test]
async fn every_operation_answers_every_kind_of_caller_as_the_document_says() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::start().unwrap();
    let mut stage = Stage {
        server,
        receiver,
        admin,
        count: 0,
    };
    let text = std::fs::read_to_string(document()).unwrap();
    let (written, mut cast) = (rows(&text), stage.cast().await);
    let (mut found, mut unequal) = (BTreeMap::new(), String::new());
    for (method, template) in operations() {
        let operation = format!("{method} {template}");
        let mut row = Vec::new();
        for (column, players) in COLUMNS {
            let mut answers = Vec::new();
            for player in players {
                let answer = stage.play((&method, &template), &cast, player).await;
                if ENDS_TENANT.contains(&operation.as_str()) && answer == "yes" {
                    cast = stage.cast().await;
                }
                answers.push((*player, answer));
            }
            let (_, first) = answers[0].clone();
            if answers.iter().any(|(_, answer)| *answer != first) {
                let _ = writeln!(unequal, "{operation}: {column} {answers:?}");
            }
            row.push(first);
        }
        if operation == ENDS_TOKENS {
            cast = stage.cast().await;
        }
        found.insert(operation, row);
    }
    assert!(unequal.is_empty(), "in the {:?} shape:\n{unequal}", shape());
    if std::env::vars().any(|(name, _)| name == "UPDATE_ACCESS") {
        update(&text, &found);
        return;
    }
    let mut wrong = String::new();
    for operation in found.keys().chain(written.keys()).collect::<BTreeSet<_>>() {
        let (found, written) = (found.get(operation), written.get(operation));
        if found != written {
            let _ = writeln!(wrong, "{operation}: {found:?}, written {written:?}");
        }
    }
    assert!(
        wrong.is_empty(),
        "in the {:?} shape, against docs/access.md:\n{wrong}",
        shape()
    );
}

/// Puts the rows in the place of those that stand in the document.
fn update(text: &str, found: &BTreeMap<String, Vec<String>>) {
    let is_row = |line: &&str| line.starts_with("| `");
    let before = text.lines().take_while(|line| !is_row(line));
    let after = text.lines().skip_while(|line| !is_row(line)).skip_while(is_row);
    let rows = found
        .iter()
        .map(|(operation, row)| format!("| `{operation}` | {} |", row.join(" | ")));
    let lines: Vec<String> = before
        .map(ToOwned::to_owned)
        .chain(rows)
        .chain(after.map(ToOwned::to_owned))
        .collect();
    std::fs::write(document(), lines.join("\n") + "\n").unwrap();
}
