//! FlowMate as a child process.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::Client;

/// A running server with a data directory of its own.
pub struct Server {
    binary: PathBuf,
    variables: Vec<(String, String)>,
    directory: Arc<tempfile::TempDir>,
    child: Child,
    /// Where it listens, `http://127.0.0.1:12345`.
    pub url: String,
    /// From the start of the process to its first word.
    pub ready_after: Duration,
}

impl Server {
    /// The administrator's password unless the variables say otherwise.
    pub const PASSWORD: &'static str = "a password for tests";

    /// Starts `binary` on a free port with these variables.
    pub async fn start(binary: impl AsRef<Path>, variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        let directory = Arc::new(tempfile::tempdir()?);
        let variables = variables
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Self::launch(binary.as_ref().to_owned(), variables, directory).await
    }

    async fn launch(
        binary: PathBuf,
        variables: Vec<(String, String)>,
        directory: Arc<tempfile::TempDir>,
    ) -> anyhow::Result<Self> {
        let began = Instant::now();
        let mut child = Command::new(&binary)
            .env("FLOWMATE__HTTP__LISTEN", "127.0.0.1:0")
            .env("FLOWMATE__DATA__DIR", directory.path().join("data"))
            .env("FLOWMATE__ADMIN__PASSWORD", Self::PASSWORD)
            .env("FLOWMATE__LOG__FILTER", "warn")
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
                .context("the server ended before it was ready")?;
            if let Some(url) = line.trim().strip_prefix("URL") {
                break url.trim().to_owned();
            }
        };
        let ready_after = began.elapsed();
        // What else it says is read, so that it never waits for a reader.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self {
            binary,
            variables,
            directory,
            child,
            url,
            ready_after,
        })
    }

    /// Logs in as administrator.
    pub async fn admin(&self) -> anyhow::Result<Client> {
        Client::login(&self.url, "admin", Self::PASSWORD).await
    }

    /// A client without a token.
    pub fn anonymous(&self) -> anyhow::Result<Client> {
        Client::new(&self.url)
    }

    /// The process.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Ends the process without warning: SIGKILL.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Asks the process to end, and waits until it has.
    pub async fn terminate(&mut self) -> anyhow::Result<std::process::ExitStatus> {
        let pid = self.pid().context("it has ended")?;
        Command::new("kill")
            .args(["-TERM", &pid.to_string()])
            .status()
            .await?;
        Ok(self.child.wait().await?)
    }

    /// Starts a new process on the same data.
    pub async fn restart(self) -> anyhow::Result<Self> {
        let Self {
            binary,
            variables,
            directory,
            mut child,
            ..
        } = self;
        let _ = child.kill().await;
        Self::launch(binary, variables, directory).await
    }
}
