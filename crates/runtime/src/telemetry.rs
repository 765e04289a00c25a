//! Logs and metrics.

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people; coloured on a terminal.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// The Kafka client says for each of its connections and each try that no broker answers: hundreds of lines a second. What
/// it means for us is said by `flowmate_bus`. The HTTP server says of each request that is none that it is malformed, as an
/// error, whoever sends it. A filter that names these shows them.
const QUIET: &str = "librdkafka=off,rdkafka=off,actix_http::h1=off";

/// Sends logs to standard error. `filter` is a level, or directives such as `info,flowmate_flow_engine=debug`.
pub fn logs(format: Format, filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}")).map_err(|error| error.to_string())?;
    let registry = tracing_subscriber::registry().with(filter);
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let result = match format {
        Format::Pretty => registry
            .with(fmt::layer().with_writer(std::io::stderr).with_ansi(colours))
            .try_init(),
        Format::Json => registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_writer(std::io::stderr),
            )
            .try_init(),
    };
    result.map_err(|error| error.to_string())
}

/// Seconds.
const BUCKETS: [f64; 14] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0,
];

/// The metrics of this process.
pub type Metrics = PrometheusHandle;

/// Collects metrics of this process from now on.
pub fn metrics() -> Result<Metrics, String> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &BUCKETS)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|error| error.to_string())
}
