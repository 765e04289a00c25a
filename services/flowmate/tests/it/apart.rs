//! Services that run apart: a start that cannot work ends, and says which key is to blame; and what the README says about
//! growing beyond one machine is done word for word.

use std::{path::Path, process::Stdio, time::Duration};

use flowmate_testkit::{Client, Receiver, Server, Shape, eventually};
use futures_util::future::join_all;
use serde_json::json;
use tokio::process::Command;

use crate::{
    forward, quick, server, shape,
    tools::{succeed, variable},
};

/// A service cannot connect for longer than this without giving up.
const GIVES_UP: Duration = Duration::from_secs(60);

/// Runs `flowmate <service>` with these variables until it ends; what it said. It must not have been ready, or succeed.
async fn refused(service: &str, variables: &[(String, String)], more: &[(&str, &str)]) -> String {
    let ended = Command::new(env!("CARGO_BIN_EXE_flowmate"))
        .arg(service)
        .env("FLOWMATE__HTTP__LISTEN", "127.0.0.1:0")
        .envs(variables.iter().map(|(key, value)| (key, value)))
        .envs(
            more.iter()
                .map(|(key, value)| (format!("FLOWMATE__{key}"), value)),
        )
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(GIVES_UP, ended).await;
    assert!(output.is_ok(), "{service} with {more:?} does not end");
    let output = output.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{service} with {more:?}: {said}");
    assert!(
        output.stdout.is_empty(),
        "{service} with {more:?} said that it is ready"
    );
    said
}

#[tokio::test]
async fn a_service_that_cannot_work_names_the_key_and_ends() {
    if shape() == Shape::Embedded {
        return;
    }
    let server = server().await;
    let variables = server.variables();
    let sasl = [
        ("BUS__URL", "kafka://127.0.0.1:19094"),
        ("BUS__SECURITY_PROTOCOL", "SASL_PLAINTEXT"),
        ("BUS__SASL_MECHANISM", "PLAIN"),
        ("BUS__SASL_USERNAME", "flowmate"),
    ];
    let wrong = [&sasl[..], &[("BUS__SASL_PASSWORD", "wrong")]].concat();
    let cases: [(&[(&str, &str)], &str); 14] = [
        (&[("BUS__URL", "kafka://127.0.0.1:9")], "`bus.url`"),
        (&[("BUS__URL", "127.0.0.1:19092")], "`bus.url`"),
        (&[("BUS__URL", "")], "`bus.url`"),
        (
            &[("BUS__PREFIX", "nothing.")],
            "topic nothing.flows does not exist; `flowmate topics`",
        ),
        (&[("BUS__SECURITY_PROTOCOL", "TELEPATHY")], "security.protocol"),
        (&wrong, "`bus.url`"),
        (
            &[(
                "STORAGE__URL",
                "mongodb://ada:wrong@127.0.0.1:27117/x?directConnection=true&authSource=admin",
            )],
            "`storage.url`",
        ),
        (
            &[("STORAGE__URL", "mongodb://127.0.0.1:9/nowhere")],
            "`storage.url`",
        ),
        (
            &[("STORAGE__URL", "mongodb://127.0.0.1:27117")],
            "names no database",
        ),
        (
            &[("STORAGE__URL", "postgres://127.0.0.1/flowmate")],
            "`storage.url`",
        ),
        (&[("STORAGE__URL", "")], "`storage.url`"),
        (&[("SERVICES__SECRET", "short")], "`services.secret`"),
        (
            &[("BUS__URI", "kafka://127.0.0.1:19092")],
            "did you mean `bus.url`?",
        ),
        (&[("STORAGE__NO_SUCH_KEY", "1")], "FLOWMATE__STORAGE__NO_SUCH_KEY"),
    ];
    let services = ["user-iam", "webhook", "flow-engine"];
    for service in services {
        let asked = cases.iter().map(|(more, _)| refused(service, variables, more));
        for (said, (more, expected)) in join_all(asked).await.into_iter().zip(cases) {
            assert!(said.contains(expected), "{service} with {more:?}: {said}");
            assert!(
                said.lines().count() <= 3,
                "{service} with {more:?} says too much: {said}"
            );
        }
    }
    // The right password serves.
    let right = [&sasl[..], &[("BUS__SASL_PASSWORD", "right")]].concat();
    let topics = Command::new(env!("CARGO_BIN_EXE_flowmate"))
        .arg("topics")
        .envs(variables.iter().map(|(key, value)| (key, value)))
        .envs(
            right
                .iter()
                .map(|(key, value)| (format!("FLOWMATE__{key}"), value)),
        )
        .output();
    let topics = topics.await.unwrap();
    let said = String::from_utf8_lossy(&topics.stdout);
    assert!(said.contains("All topics exist."), "{said}");
}

/// The first block of shell commands in the README's section after `from`.
fn commands(readme: &str, from: &str) -> String {
    let (_, section) = readme.split_once("## Grow beyond one machine").unwrap();
    let (_, rest) = section.split_once(from).unwrap();
    let (_, block) = rest.split_once("```sh\n").unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

/// What is not word for word: the binary under test stands for the one that `cargo build --release` makes, and ports,
/// names and directories are this test's own.
#[tokio::test]
async fn the_readme_leads_beyond_one_machine() {
    if shape() == Shape::Embedded {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let own = tempfile::tempdir().unwrap();
    let binary = env!("CARGO_BIN_EXE_flowmate");

    // An embedded installation with a flow that runs.
    let mut embedded = Server::shaped(Shape::Embedded, binary, &quick()).await.unwrap();
    let receiver = Receiver::start().unwrap();
    let admin = embedded.admin().await.unwrap();
    let flow = admin.active_flow(&forward(&receiver.url)).await.unwrap();
    let execution = admin.webhook(&flow, &json!({"n": 1})).await.unwrap();
    admin.ended(&execution).await.unwrap();
    let before = admin.token().to_owned();
    assert!(embedded.terminate().await.unwrap());

    // "To move an embedded installation over", first, so that the services find it.
    let id = format!("readme{}", std::process::id());
    let url = format!("mongodb://127.0.0.1:27117/flowmate_{id}?directConnection=true");
    let moving = commands(&readme, "To move an embedded installation over")
        .replace("/tmp/moving", &own.path().join("moving").to_string_lossy())
        .replace("mongodb://…", &format!("'{url}'"));
    std::os::unix::fs::symlink(binary, own.path().join("flowmate")).unwrap();
    let others = variable("PATH").unwrap();
    let path = format!("{}:{}", own.path().display(), others.to_string_lossy());
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", &moving]);
    shell
        .env("PATH", &path)
        .env("FLOWMATE__DATA__DIR", embedded.data());
    let said = succeed(&mut shell).await;
    assert!(
        said.contains("What arrived was read back and is the same."),
        "{said}"
    );

    let growing = commands(&readme, "The distributed shape on one machine");
    let release = "target/release/flowmate";
    assert!(growing.contains("cargo build --release") && growing.contains(release));
    let growing: String = growing
        .lines()
        .filter(|line| !line.starts_with("cargo build"))
        .map(|line| line.replace(release, binary) + "\n")
        .collect();
    // Below those that the system gives to connections.
    let port = 20_000 + std::process::id() % 600 * 16;
    // A test run in the background of a script has SIGINT ignored, which no child could undo.
    let mut cluster = Command::new("env");
    cluster
        .args(["--default-signal=INT", "bash", "-euo", "pipefail", "-c", &growing])
        .current_dir(&root)
        .env("CLUSTER_PORT", port.to_string())
        .env("CLUSTER_ID", &id)
        .env("FLOWMATE__IAM__KEY_DIRECTORY", own.path().join("moving/keys"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0);
    let mut cluster = cluster.spawn().unwrap();
    let group = cluster.id().unwrap();
    let gateway = format!("http://127.0.0.1:{port}");
    let story = async {
        let anonymous = Client::new(&gateway).unwrap();
        eventually("the gateway to be ready", async || {
            let answer = anonymous.get("/health/ready").await;
            Ok(answer.is_ok_and(|answer| answer.status == 200).then_some(()))
        })
        .await?;
        let admin = Client::login(&gateway, "admin", Server::PASSWORD).await?;
        let execution = admin.webhook(&flow, &json!({"n": 2})).await?;
        let ended = admin.ended(&execution).await?;
        anyhow::ensure!(ended.text("/data/status") == "success", "{}", ended.body);
        // The token of before works too.
        anonymous.with_token(&before).get("/flows").await?.expect(200)
    };
    let told = story.await;
    // As Ctrl-C does: to all of them.
    succeed(Command::new("kill").args(["-INT", "--", &format!("-{group}")])).await;
    let ended = tokio::time::timeout(GIVES_UP, cluster.wait()).await;
    told.unwrap();
    assert!(ended.is_ok(), "the cluster does not end on Ctrl-C");
    assert_eq!(receiver.received().len(), 2);
}
