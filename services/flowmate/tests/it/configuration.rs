//! A start that cannot work says which key is to blame.

use std::process::{Command, Output};

use flowmate_testkit::Server;

fn start(variables: &[(&str, &str)]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_flowmate"))
        .env("FLOWMATE__DATA__DIR", directory.path().join("data"))
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

#[test]
fn unknown_keys_and_bad_values_stop_the_start_and_are_named() {
    for (variable, value, expected) in [
        (
            "FLOWMATE__HTTP__LISEN",
            "127.0.0.1:0",
            "did you mean `http.listen`?",
        ),
        ("FLOWMATE__NO__SUCH", "1", "FLOWMATE__NO__SUCH"),
        ("FLOWMATE__HTTP__LISTEN", "nowhere", "http.listen"),
        ("FLOWMATE__LOG__FORMAT", "xml", "log.format"),
        ("FLOWMATE__LOG__FILTER", "a=b=c", "log.filter"),
        ("FLOWMATE__ENGINE__CONCURRENCY", "0", "engine.concurrency"),
        ("FLOWMATE__ENGINE__CONCURRENCY", "many", "engine.concurrency"),
        ("FLOWMATE__ADMIN__PASSWORD", "", "admin.password"),
        (
            "FLOWMATE__CONNECTORS__PRIVATE_TARGETS",
            "nowhere",
            "connectors.private_targets",
        ),
    ] {
        let output = start(&[("FLOWMATE__HTTP__LISTEN", "127.0.0.1:0"), (variable, value)]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{variable}={value}");
        assert!(said.contains(expected), "{variable}={value}: {said}");
    }
}

#[test]
fn a_taken_port_is_told_before_anything_is_touched() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = start(&[("FLOWMATE__HTTP__LISTEN", &address)]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains(&address) && said.contains("FLOWMATE__HTTP__LISTEN"),
        "{said}"
    );
}

#[tokio::test]
async fn a_generated_password_is_shown_once_and_works() {
    use flowmate_testkit::Client;
    use tokio::io::{AsyncBufReadExt, BufReader};
    let directory = tempfile::tempdir().unwrap();
    let run = || {
        tokio::process::Command::new(env!("CARGO_BIN_EXE_flowmate"))
            .env("FLOWMATE__DATA__DIR", directory.path().join("data"))
            .env("FLOWMATE__HTTP__LISTEN", "127.0.0.1:0")
            .env("FLOWMATE__ADMIN__USERNAME", "root")
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    };
    let read = async |child: &mut tokio::process::Child| {
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut url, mut password) = (String::new(), String::new());
        while password.is_empty() {
            let line = lines.next_line().await.unwrap().unwrap();
            if let Some(rest) = line.trim().strip_prefix("URL") {
                url = rest.trim().to_owned();
            }
            if let Some(rest) = line.trim().strip_prefix("Password") {
                password = rest.trim().to_owned();
            }
        }
        (url, password)
    };
    let mut first = run();
    let (url, password) = read(&mut first).await;
    let (password, note) = password.split_once(' ').unwrap();
    assert!(note.contains("shown only this once"));
    Client::login(&url, "root", password).await.unwrap();
    first.kill().await.unwrap();

    let mut second = run();
    let (url, shown) = read(&mut second).await;
    assert!(
        !shown.contains(password) && shown.contains("first start"),
        "{shown}"
    );
    Client::login(&url, "root", password).await.unwrap();
}

/// Who deploys it may change their mind before it is ready, for example while the database does not answer.
#[cfg(target_os = "linux")]
#[test]
fn a_start_that_waits_ends_when_it_is_asked_to() {
    const CAUGHT: &str = "SigCgt:";
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let database = format!(
        "mongodb://{}/none?directConnection=true",
        silent.local_addr().unwrap()
    );
    let mut child = Command::new(env!("CARGO_BIN_EXE_flowmate"))
        .arg("flow-repository")
        .env("FLOWMATE__HTTP__LISTEN", "127.0.0.1:0")
        .env("FLOWMATE__STORAGE__URL", database)
        .env("FLOWMATE__BUS__URL", "kafka://127.0.0.1:9")
        .env(
            "FLOWMATE__SERVICES__SECRET",
            "a secret that only tests have, 32 bytes",
        )
        .spawn()
        .unwrap();
    let hears_termination = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix(CAUGHT)).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() & (1 << 14) != 0
    };
    while !hears_termination() {
        std::thread::yield_now();
    }
    let sent = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
    assert!(child.wait().unwrap().success());
}

/// Databases and log hold what passes through flows; keys sign tokens.
#[cfg(unix)]
#[tokio::test]
async fn what_it_writes_is_for_its_own_user_also_where_it_was_not() {
    use std::{
        fs::{Permissions, set_permissions},
        os::unix::fs::PermissionsExt,
        path::Path,
    };
    fn others_may_read(directory: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.metadata().unwrap().permissions().mode() & 0o077 != 0 {
                found.push(path.display().to_string());
            }
            if path.is_dir() {
                found.extend(others_may_read(&path));
            }
        }
        found
    }
    let mut server = Server::start(env!("CARGO_BIN_EXE_flowmate"), &[]).await.unwrap();
    let data = server.data();
    assert_eq!(others_may_read(&data), Vec::<String>::new());
    assert!(server.terminate().await.unwrap());
    for path in ["log", "log/00000000000000000000.log"] {
        set_permissions(data.join(path), Permissions::from_mode(0o755)).unwrap();
    }
    assert_eq!(others_may_read(&data).len(), 2);
    let _server = server.restart().await.unwrap();
    assert_eq!(others_may_read(&data), Vec::<String>::new());
}
