//! FlowMate as child processes: one in the embedded shape, one for each service in the distributed one.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{Broker, Client, broker};

/// How FlowMate runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One process, SQLite and a durable local log.
    Embedded,
    /// A process for each service, MongoDB and Kafka, which have to run already.
    Distributed,
}

/// What tests find MongoDB and Kafka by; `make services-up` starts them there.
const MONGO: &str = "mongodb://127.0.0.1:27117";
const KAFKA: &str = "kafka://127.0.0.1:19092";

/// Services that others call, by command and by the key of their URL; each finds those it calls at its start.
const CALLED: [(&str, &str); 2] = [("user-iam", "USER_IAM"), ("flow-repository", "FLOW_REPOSITORY")];

/// Those that call them, and that only the gateway calls: they start at the same time.
const OTHERS: [(&str, &str); 4] = [
    ("template-repository", "TEMPLATE_REPOSITORY"),
    ("webhook", "WEBHOOK"),
    ("execution-log", "EXECUTION_LOG"),
    ("flow-engine", "FLOW_ENGINE"),
];

/// Partitions of each topic where nothing is said.
const PARTITIONS: u32 = 3;

/// Any free port.
const ANY: &str = "127.0.0.1:0";

/// A running server with data of its own.
pub struct Server {
    binary: PathBuf,
    shape: Shape,
    variables: Vec<(String, String)>,
    directory: Arc<tempfile::TempDir>,
    processes: Vec<Process>,
    /// Where it listens, `http://127.0.0.1:12345`.
    pub url: String,
    /// From the start of the first process to the last one's first word.
    pub ready_after: Duration,
}

/// One more process of a service; killed when dropped.
pub struct Replica(Process);

impl Replica {
    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// Ends it in order.
    pub async fn leave(mut self) -> anyhow::Result<()> {
        let pid = self.0.child.id().context("it has ended")?;
        Command::new("kill").arg(pid.to_string()).status().await?;
        anyhow::ensure!(
            self.0.child.wait().await?.success(),
            "{} ended badly",
            self.0.name
        );
        Ok(())
    }

    /// Ends it without warning.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.0.child.kill().await?)
    }
}

/// One of its processes.
struct Process {
    name: &'static str,
    child: Child,
    url: String,
    variables: Vec<(String, String)>,
}

impl Server {
    /// The administrator's password unless the variables say otherwise.
    pub const PASSWORD: &'static str = "a password for tests";
    /// Who has it may read metrics, and nothing else.
    pub const METRICS_TOKEN: &'static str = "a-metrics-token-for-tests";

    /// Starts `binary` in the embedded shape on a free port with these variables.
    pub async fn start(binary: impl AsRef<Path>, variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        Self::shaped(Shape::Embedded, binary, variables).await
    }

    /// Starts `binary` in this shape on free ports with these variables.
    pub async fn shaped(
        shape: Shape,
        binary: impl AsRef<Path>,
        variables: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let (binary, directory) = (binary.as_ref().to_owned(), Arc::new(tempfile::tempdir()?));
        let known = Self::prepared(shape, &binary, variables, directory.path(), PARTITIONS).await?;
        Self::launch(binary, shape, known, directory).await
    }

    /// Starts `binary` in the distributed shape with so many partitions of each topic.
    pub async fn partitioned(
        binary: impl AsRef<Path>,
        variables: &[(&str, &str)],
        partitions: u32,
    ) -> anyhow::Result<Self> {
        let (binary, directory) = (binary.as_ref().to_owned(), Arc::new(tempfile::tempdir()?));
        let shape = Shape::Distributed;
        let known = Self::prepared(shape, &binary, variables, directory.path(), partitions).await?;
        Self::launch(binary, shape, known, directory).await
    }

    /// Starts `binary` in the distributed shape when `fill` has filled its database, which gets the variables that lead
    /// there.
    pub async fn moved<F: Future<Output = ()>>(
        binary: impl AsRef<Path>,
        variables: &[(&str, &str)],
        fill: impl FnOnce(Vec<(String, String)>) -> F,
    ) -> anyhow::Result<Self> {
        let (binary, directory) = (binary.as_ref().to_owned(), Arc::new(tempfile::tempdir()?));
        let shape = Shape::Distributed;
        let known = Self::prepared(shape, &binary, variables, directory.path(), PARTITIONS).await?;
        fill(known.clone()).await;
        Self::launch(binary, shape, known, directory).await
    }

    /// The variables for processes of this shape, with everything made that they need.
    async fn prepared(
        shape: Shape,
        binary: &Path,
        variables: &[(&str, &str)],
        directory: &Path,
        partitions: u32,
    ) -> anyhow::Result<Vec<(String, String)>> {
        let mut known = vec![
            ("FLOWMATE__ADMIN__PASSWORD".to_owned(), Self::PASSWORD.to_owned()),
            ("FLOWMATE__LOG__FILTER".to_owned(), "warn".to_owned()),
            (
                "FLOWMATE__HTTP__METRICS_TOKEN".to_owned(),
                Self::METRICS_TOKEN.to_owned(),
            ),
            // Receivers are on the same machine.
            (
                "FLOWMATE__CONNECTORS__PRIVATE_TARGETS".to_owned(),
                "127.0.0.0/8".to_owned(),
            ),
        ];
        if shape == Shape::Distributed {
            known.extend(backends(directory));
        }
        known.extend(
            variables
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
        );
        if shape == Shape::Distributed {
            let keys = directory.join("keys");
            prepare(binary, &known, &["key", &keys.to_string_lossy()]).await?;
            let partitions = partitions.to_string();
            let topics = ["topics", "--partitions", &partitions, "--replication", "1"];
            prepare(binary, &known, &topics).await?;
        }
        Ok(known)
    }

    async fn launch(
        binary: PathBuf,
        shape: Shape,
        variables: Vec<(String, String)>,
        directory: Arc<tempfile::TempDir>,
    ) -> anyhow::Result<Self> {
        let began = Instant::now();
        let mut processes = Vec::new();
        match shape {
            Shape::Embedded => {
                let mut own = variables.clone();
                let data = directory.path().join("data").to_string_lossy().into_owned();
                own.push(("FLOWMATE__DATA__DIR".into(), data));
                processes.push(Process::start(&binary, "run", &own, ANY).await?);
            }
            Shape::Distributed => {
                let mut own = variables.clone();
                for (command, key) in CALLED {
                    let process = Process::start(&binary, command, &own, ANY).await?;
                    own.push((format!("FLOWMATE__SERVICES__{key}"), process.url.clone()));
                    processes.push(process);
                }
                let others = OTHERS.map(|(command, _)| Process::start(&binary, command, &own, ANY));
                let others = futures_util::future::try_join_all(others).await?;
                let urls = OTHERS.iter().zip(&others);
                own.extend(
                    urls.map(|((_, key), process)| {
                        (format!("FLOWMATE__SERVICES__{key}"), process.url.clone())
                    }),
                );
                processes.extend(others);
                processes.push(Process::start(&binary, "api-gateway", &own, ANY).await?);
            }
        }
        let url = processes.last().context("no process")?.url.clone();
        Ok(Self {
            binary,
            shape,
            variables,
            directory,
            processes,
            url,
            ready_after: began.elapsed(),
        })
    }

    /// Logs in as administrator.
    pub async fn admin(&self) -> anyhow::Result<Client> {
        Client::login(&self.url, "admin", Self::PASSWORD).await
    }

    /// Makes a tenant with an administrator of its own, with `admin`'s rights: the tenant's id, and its administrator.
    pub async fn tenant(&self, admin: &Client, name: &str) -> anyhow::Result<(String, Client)> {
        let made = admin
            .post("/tenants", &json!({"name": name}))
            .await?
            .expect(200)?;
        let id = made.text("/id").to_owned();
        let username = format!("admin@{name}");
        let permissions = ["tenant.all", "iam.token.create"];
        let user = json!({"username": username, "password": "pw", "tenant": id, "permissions": permissions});
        admin.post("/users", &user).await?.expect(200)?;
        Ok((id, Client::login(&self.url, &username, "pw").await?))
    }

    /// A client without a token.
    pub fn anonymous(&self) -> anyhow::Result<Client> {
        Client::new(&self.url)
    }

    /// A client that collects metrics.
    pub fn collector(&self) -> anyhow::Result<Client> {
        Ok(self.anonymous()?.with_token(Self::METRICS_TOKEN))
    }

    /// The process that requests arrive at.
    pub fn pid(&self) -> Option<u32> {
        self.processes.last().and_then(|process| process.child.id())
    }

    /// All processes by name.
    pub fn pids(&self) -> Vec<(&'static str, u32)> {
        let pids = self.processes.iter();
        pids.filter_map(|process| Some((process.name, process.child.id()?)))
            .collect()
    }

    /// The data directory of the embedded shape.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Ends all processes without warning: SIGKILL.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        for process in &mut self.processes {
            process.child.kill().await?;
        }
        Ok(())
    }

    /// Ends one service without warning and starts it again in its place.
    pub async fn kill_and_restart(&mut self, names: &[&str]) -> anyhow::Result<()> {
        let binary = self.binary.clone();
        for process in self.processes.iter_mut().filter(|one| names.contains(&one.name)) {
            process.child.kill().await?;
        }
        for process in self.processes.iter_mut().filter(|one| names.contains(&one.name)) {
            let listen = process.url.trim_start_matches("http://").to_owned();
            let variables = std::mem::take(&mut process.variables);
            *process = Process::start(&binary, process.name, &variables, &listen).await?;
        }
        Ok(())
    }

    /// Stops the first process of a service where it is (SIGSTOP), or lets it go on: its connections stay, and it notices
    /// nothing.
    pub async fn pause(&self, name: &str, stopped: bool) -> anyhow::Result<()> {
        let first = self.processes.iter().find(|process| process.name == name);
        let first = first.with_context(|| format!("{name} does not run apart"))?;
        let pid = first.child.id().context("it has ended")?;
        let signal = if stopped { "-STOP" } else { "-CONT" };
        let status = Command::new("kill")
            .args([signal, &pid.to_string()])
            .status()
            .await?;
        anyhow::ensure!(status.success(), "{name} cannot be signalled");
        Ok(())
    }

    /// Ends the first process of a service without warning, and leaves its place empty.
    pub async fn kill_one(&mut self, name: &str) -> anyhow::Result<()> {
        let first = self.processes.iter_mut().find(|process| process.name == name);
        first
            .with_context(|| format!("{name} does not run apart"))?
            .child
            .kill()
            .await?;
        Ok(())
    }

    /// One more replica of a service, on any free port. The gateway knows the first one only.
    pub async fn replica(&self, name: &str) -> anyhow::Result<Replica> {
        let first = self.processes.iter().find(|process| process.name == name);
        let first = first.with_context(|| format!("{name} does not run apart"))?;
        let process = Process::start(&self.binary, first.name, &first.variables, ANY).await?;
        Ok(Replica(process))
    }

    /// What leads its processes to what they share.
    pub fn variables(&self) -> &[(String, String)] {
        &self.variables
    }

    /// The broker of the distributed shape.
    pub fn broker(&self) -> anyhow::Result<Broker> {
        broker::of(&self.variables)
    }

    /// Asks all processes to end, and waits until they have; whether all ended well.
    pub async fn terminate(&mut self) -> anyhow::Result<bool> {
        // Who passes requests on goes first.
        for process in self.processes.iter().rev() {
            let pid = process
                .child
                .id()
                .with_context(|| format!("{} has ended", process.name))?;
            Command::new("kill")
                .args(["-TERM", &pid.to_string()])
                .status()
                .await?;
        }
        let mut all_well = true;
        for process in &mut self.processes {
            all_well &= process.child.wait().await?.success();
        }
        Ok(all_well)
    }

    /// Starts new processes on the same data.
    pub async fn restart(mut self) -> anyhow::Result<Self> {
        for process in &mut self.processes {
            let _ = process.child.kill().await;
        }
        let (binary, shape) = (self.binary, self.shape);
        Self::launch(binary, shape, self.variables, self.directory).await
    }
}

impl Process {
    /// Starts one and returns when it says where it listens.
    async fn start(
        binary: &Path,
        name: &'static str,
        variables: &[(String, String)],
        listen: &str,
    ) -> anyhow::Result<Self> {
        let mut child = Command::new(binary)
            .arg(name)
            .env("FLOWMATE__HTTP__LISTEN", listen)
            .envs(variables.iter().map(|(key, value)| (key, value)))
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} cannot be started", binary.display()))?;
        let output = child.stdout.take().context("no standard output")?;
        let mut lines = BufReader::new(output).lines();
        let url = loop {
            let line = lines
                .next_line()
                .await?
                .with_context(|| format!("{name} ended before it was ready"))?;
            if let Some(url) = line.trim().strip_prefix("URL") {
                break url.trim().to_owned();
            }
        };
        // What else it says is read, so that it never waits for a reader.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let variables = variables.to_vec();
        Ok(Self {
            name,
            child,
            url,
            variables,
        })
    }
}

/// A database and topics of their own on the servers that run.
fn backends(directory: &Path) -> Vec<(String, String)> {
    // Unique: the directory's name is.
    let id: String = directory
        .to_string_lossy()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    let pid = std::process::id();
    let variable = |name: &str, value: String| (format!("FLOWMATE__{name}"), value);
    vec![
        // What an engine keeps beside the database is no other test's.
        variable("DATA__DIR", directory.join("data").to_string_lossy().into_owned()),
        variable("STORAGE__URL", format!("{MONGO}/{id}{pid}?directConnection=true")),
        variable("BUS__URL", KAFKA.into()),
        variable("BUS__PREFIX", format!("{id}{pid}.")),
        variable(
            "SERVICES__SECRET",
            "a secret that only tests have, 32 bytes".into(),
        ),
        variable(
            "IAM__KEY_DIRECTORY",
            directory.join("keys").to_string_lossy().into_owned(),
        ),
    ]
}

/// Runs a command of the binary to its end.
async fn prepare(binary: &Path, variables: &[(String, String)], arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(binary)
        .args(arguments)
        .envs(variables.iter().map(|(key, value)| (key, value)))
        .output()
        .await?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "flowmate {arguments:?}: {said}");
    Ok(())
}
