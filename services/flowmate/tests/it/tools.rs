//! Tools that are not Rust's: installed by `deploy/tools.sh`, which `make test` runs.

use std::{env, ffi::OsString, path::PathBuf, process::Stdio};

use tokio::process::Command;

/// A variable of the environment.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    env::vars_os()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value)
}

/// Where they are.
pub(crate) fn directory() -> PathBuf {
    let home = || variable("HOME").map_or_else(|| "/root".into(), PathBuf::from);
    variable("FLOWMATE_TOOLS").map_or_else(|| home().join(".cache/flowmate/tools"), PathBuf::from)
}

/// A command with the tools before everything else that is installed.
pub(crate) fn command(program: &str) -> Command {
    let tools = directory();
    let own = [tools.join("python/bin"), tools.join("node/node_modules/.bin")];
    let others = variable("PATH").unwrap_or_default();
    let path = env::join_paths(own.into_iter().chain(env::split_paths(&others))).unwrap();
    let mut command = Command::new(program);
    command.env("PATH", path).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Whether all of these programs are there. Where one is not, that is said loudly, and CI fails.
pub(crate) async fn present(programs: &[&str]) -> bool {
    for program in programs {
        let found = command("sh")
            .args(["-c", "command -v \"$0\"", program])
            .output()
            .await
            .unwrap();
        if !found.status.success() {
            let message = format!("NOT RUN: {program} is missing; deploy/tools.sh says how to get it");
            assert!(variable("CI").is_none(), "{message}");
            eprintln!("\n{message}\n");
            return false;
        }
    }
    true
}

/// Runs it to its end; what it printed is in the panic where it failed.
pub(crate) async fn succeed(command: &mut Command) -> String {
    let output = command.output().await.unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    text
}
