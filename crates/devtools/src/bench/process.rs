//! Processes under measurement.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use anyhow::Context;

/// A rival in a process of its own; ended when dropped.
pub(crate) struct Rival {
    child: Child,
    pub(crate) address: String,
}

impl Rival {
    pub(crate) fn start(role: &[&str]) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(role)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no standard output")?).read_line(&mut line)?;
        Ok(Self {
            child,
            address: line.trim().to_owned(),
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Microseconds of CPU that the process has used.
pub(crate) fn cpu_micros(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The fields after the name in parentheses; user and system time are the 12th and 13th of them, in 1/100 s.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |index: usize| {
        fields
            .get(index)
            .and_then(|field| field.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    Ok((ticks(11) + ticks(12)) * 10_000.0)
}

/// Resident memory in MiB: now (`VmRSS`) or at the most so far (`VmHWM`).
pub(crate) fn memory_mib(pid: u32, which: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(which)?.strip_prefix(':'))
        .context("no memory line")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

/// Resident memory in MiB of the children of a process together, now.
pub(crate) fn children_mib(parent: u32) -> u64 {
    let of_task = |task: std::io::Result<std::fs::DirEntry>| {
        let children = std::fs::read_to_string(task.ok()?.path().join("children")).ok()?;
        let mib = children
            .split_whitespace()
            .filter_map(|child| child.parse().ok())
            .filter_map(|child| memory_mib(child, "VmRSS").ok());
        Some(mib.sum::<f64>())
    };
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{parent}/task")) else {
        return 0;
    };
    let mib: f64 = tasks.filter_map(of_task).sum();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "mebibytes"
    )]
    let mib = mib as u64;
    mib
}
