//! What every process that serves has beside it: logs, metrics, memory.

use std::{sync::Arc, time::Duration};

use flowmate::config::Config;
use flowmate_bus::Bus;
use flowmate_runtime::telemetry::{self, Metrics};

use crate::allocator::give_memory_back;

/// How often metrics and memory are looked after.
const UPKEEP: Duration = Duration::from_secs(1);

/// Logs and metrics.
pub(super) fn observed(config: &Config) -> anyhow::Result<Arc<Metrics>> {
    telemetry::logs(config.log.format, &config.log.filter)
        .map_err(|error| anyhow::anyhow!("configuration key `log.filter`: {error}"))?;
    Ok(Arc::new(telemetry::metrics().map_err(anyhow::Error::msg)?))
}

/// Looks after metrics and memory, for ever.
pub(super) async fn keep_up(metrics: Arc<Metrics>, bus: Option<Arc<dyn Bus>>) {
    loop {
        metrics.run_upkeep();
        for (topic, group, behind) in bus.iter().flat_map(|bus| bus.lag()) {
            #[expect(clippy::cast_precision_loss, reason = "a gauge is a double")]
            metrics::gauge!("flowmate_bus_lag", "topic" => topic.name(), "group" => group).set(behind as f64);
        }
        give_memory_back();
        tokio::time::sleep(UPKEEP).await;
    }
}
