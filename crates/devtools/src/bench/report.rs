//! The figures, for people and for programs.

use std::fmt;

use serde::Serialize;

pub(crate) use crate::isolation::{Neighbours, Parking, Peak};

/// All figures of one run.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Figures {
    #[serde(flatten)]
    pub(crate) speed: Option<Speed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) neighbours: Option<Neighbours>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parking: Option<Parking>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peak: Option<Peak>,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            self.speed.as_ref().map(ToString::to_string),
            self.neighbours.as_ref().map(ToString::to_string),
            self.parking.as_ref().map(ToString::to_string),
            self.peak.as_ref().map(ToString::to_string),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        f.write_str(&parts.join("\n\n"))
    }
}

/// W1 and W2 beside their ceilings, start and memory at rest.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Speed {
    pub(crate) ready_ms: f64,
    pub(crate) idle_rss_mib: f64,
    pub(crate) sync_ms: f64,
    pub(crate) order_bytes: usize,
    pub(crate) parse: Measured,
    pub(crate) append: Measured,
    pub(crate) w1: Measured,
    /// From the last answer until every execution was in the log.
    pub(crate) w1_backlog_seconds: f64,
    pub(crate) hardcoded: Measured,
    pub(crate) w2: Measured,
    pub(crate) latency: Latency,
    /// The distributed shape, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) apart: Option<Apart>,
}

/// The distributed shape on one machine.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Apart {
    pub(crate) idle_rss_mib: Vec<(&'static str, f64)>,
    /// Through gateway, webhook service and Kafka; processor time and memory of the gateway.
    pub(crate) w1: Measured,
    /// Microseconds of processor time for one of its webhooks, by process.
    pub(crate) cpu_micros: Vec<(&'static str, f64)>,
    pub(crate) latency: Latency,
    /// Executions in a second by number of engines.
    pub(crate) engines: Vec<(u32, f64)>,
}

/// One program under one load.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Measured {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) cpu_micros: f64,
    pub(crate) peak_rss_mib: f64,
}

/// From send to arrival.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Latency {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) samples: usize,
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Order of {} bytes, 64 connections, one machine for all of it. One synced append of 4 KiB: {:.2} ms.\n",
            self.order_bytes, self.sync_ms
        )?;
        writeln!(
            f,
            "{:<44} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7}",
            "", "per s", "p50 ms", "p99 ms", "CPU µs", "peak MiB", "ratio"
        )?;
        let row = |f: &mut fmt::Formatter<'_>, name: &str, one: &Measured, ratio: Option<f64>| {
            let ratio = ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
            writeln!(
                f,
                "{name:<44} {:>9.0} {:>9.2} {:>9.2} {:>9.1} {:>9.1} {ratio:>7}",
                one.per_second, one.p50_ms, one.p99_ms, one.cpu_micros, one.peak_rss_mib
            )
        };
        row(f, "W1 ceiling: actix-web, parse", &self.parse, None)?;
        row(f, "W1 ceiling: the same and a durable append", &self.append, None)?;
        row(
            f,
            "W1 FlowMate: webhook taken durably",
            &self.w1,
            Some(self.w1.per_second / self.append.per_second),
        )?;
        row(f, "W2 ceiling: hard-coded, no platform", &self.hardcoded, None)?;
        row(
            f,
            "W2 FlowMate: arrived and logged",
            &self.w2,
            Some(self.w2.per_second / self.hardcoded.per_second),
        )?;
        writeln!(
            f,
            "\nRatios: W1 to the durable append, W2 to the hard-coded program. p50 and p99 are those of the webhook's answer."
        )?;
        writeln!(
            f,
            "W1: every execution was in the log {:.1} s after the last answer; taking webhooks goes before executing them.",
            self.w1_backlog_seconds
        )?;
        writeln!(
            f,
            "W2 at 20/s, from send to sink: p50 {:.2} ms, p99 {:.2} ms ({} samples).",
            self.latency.p50_ms, self.latency.p99_ms, self.latency.samples
        )?;
        write!(
            f,
            "Ready {:.0} ms after the start on an empty data directory; {:.1} MiB resident at rest.",
            self.ready_ms, self.idle_rss_mib
        )?;
        let Some(apart) = &self.apart else { return Ok(()) };
        writeln!(
            f,
            "\n\nDistributed, everything on this machine; the ratio is to the embedded shape."
        )?;
        row(
            f,
            "W1 through gateway, webhook service, Kafka",
            &apart.w1,
            Some(apart.w1.per_second / self.w1.per_second),
        )?;
        let cpu = apart.cpu_micros.iter();
        let cpu = cpu.map(|(name, micros)| format!("{name} {micros:.0}"));
        writeln!(
            f,
            "CPU µs of each of these webhooks: {}.",
            cpu.collect::<Vec<_>>().join(", ")
        )?;
        writeln!(
            f,
            "W2 at 20/s, from send to sink: p50 {:.2} ms, p99 {:.2} ms ({} samples).",
            apart.latency.p50_ms, apart.latency.p99_ms, apart.latency.samples
        )?;
        let idle = apart
            .idle_rss_mib
            .iter()
            .map(|(name, mib)| format!("{name} {mib:.0}"));
        writeln!(
            f,
            "MiB resident at rest: {}.",
            idle.collect::<Vec<_>>().join(", ")
        )?;
        let engines = apart.engines.iter();
        let engines = engines.map(|(count, rate)| format!("{count}: {rate:.0}/s"));
        write!(
            f,
            "W2 by number of engines, eight executions at work in each, a sink that takes 50 ms: {}.",
            engines.collect::<Vec<_>>().join(", ")
        )
    }
}
