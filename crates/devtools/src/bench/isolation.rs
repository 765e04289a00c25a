//! The figures of what one flow may cost others, for people and for programs.

use std::fmt;

use serde::Serialize;

use crate::report::Latency;

/// A quiet tenant: alone, beside tenants whose receivers hang or are slow, and beside one that floods too.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Neighbours {
    pub(crate) alone: Latency,
    pub(crate) beside_waiting: Latency,
    pub(crate) beside_all: Latency,
    /// What the flooding tenant got answered with 200 in a second, and what it did not.
    pub(crate) flood_per_second: f64,
    pub(crate) flood_refused: u64,
}

/// Executions that wait.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Parking {
    pub(crate) parked: u64,
    /// Resident, with one that waits and with all.
    pub(crate) rss_mib: (f64, f64),
    /// Processor time in ten idle seconds, with one that waits and with all.
    pub(crate) idle_cpu_ms: (f64, f64),
    pub(crate) ready_ms: (f64, f64),
    pub(crate) due: u64,
    /// From the first due time to the last arrival; the due times are spread over one second.
    pub(crate) due_seconds: f64,
    pub(crate) due_cpu_micros: f64,
    /// From the due time to the arrival, at a steady rate.
    pub(crate) lag_per_second: u64,
    pub(crate) lag: Latency,
}

/// Memory at the most.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Peak {
    /// `engine.in_flight_bytes`.
    pub(crate) budget_mib: f64,
    pub(crate) idle_mib: f64,
    /// After the large bodies, and after the expressions; of the server's process.
    pub(crate) bodies_mib: f64,
    pub(crate) expressions_mib: f64,
    /// The evaluator processes together, as sampled ten times a second.
    pub(crate) evaluators_mib: f64,
    pub(crate) bodies_taken: u64,
    pub(crate) bodies_refused: u64,
    pub(crate) expressions: usize,
}

impl fmt::Display for Neighbours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "A quiet tenant, W2 at 20/s, from send to sink (target: p99 1.3 times that alone):"
        )?;
        let mut row = |name: &str, one: &Latency| {
            writeln!(
                f,
                "  {name:<42} p50 {:>8.2} ms ({:>5.2}), p99 {:>8.2} ms ({:>5.2}), {} samples",
                one.p50_ms,
                one.p50_ms / self.alone.p50_ms,
                one.p99_ms,
                one.p99_ms / self.alone.p99_ms,
                one.samples
            )
        };
        row("alone", &self.alone)?;
        row("beside receivers that hang and are slow", &self.beside_waiting)?;
        row("and beside a tenant that floods", &self.beside_all)?;
        write!(
            f,
            "  The flood: {:.0}/s taken, {} refused.",
            self.flood_per_second, self.flood_refused
        )
    }
}

impl fmt::Display for Parking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} executions wait, in comparison with one:", self.parked)?;
        writeln!(
            f,
            "  memory {:.1} to {:.1} MiB, {:+.1} (target: 150); processor time of ten idle seconds {:.0} and {:.0} ms; ready after {:.0} and {:.0} ms (target: 1000)",
            self.rss_mib.0,
            self.rss_mib.1,
            self.rss_mib.1 - self.rss_mib.0,
            self.idle_cpu_ms.0,
            self.idle_cpu_ms.1,
            self.ready_ms.0,
            self.ready_ms.1
        )?;
        writeln!(
            f,
            "  {} due in one second: all at the sink {:.1} s after the first was due (target: 10); {:.0} µs of processor time for each",
            self.due, self.due_seconds, self.due_cpu_micros
        )?;
        write!(
            f,
            "  {}/s due, from due time to sink: p50 {:.1} ms, p99 {:.1} ms (target: 50), {} samples",
            self.lag_per_second, self.lag.p50_ms, self.lag.p99_ms, self.lag.samples
        )
    }
}

impl fmt::Display for Peak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Peak memory: {:.0} MiB at rest, {:.0} MiB after {} bodies of 9 MiB over 40 connections ({} refused), {:.0} MiB after {} of the worst expressions too (target: webhooks' budget and engine.in_flight_bytes, {:.0}, and 150). Evaluators at most {:.0} MiB together.",
            self.idle_mib,
            self.bodies_mib,
            self.bodies_taken,
            self.bodies_refused,
            self.expressions_mib,
            self.expressions,
            self.budget_mib,
            self.evaluators_mib
        )
    }
}
