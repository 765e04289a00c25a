//! `flowmate topics`

use flowmate::{config::Config, distributed::bus_options};
use flowmate_bus::kafka::{TopicSettings, create_topics};

use super::{block_on, print};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Partitions of each: as many processes can share the work.
    #[arg(long, default_value_t = 12)]
    partitions: i32,
    /// Copies of everything.
    #[arg(long, default_value_t = 3)]
    replication: i32,
}

/// Makes the topics that do not exist.
pub(crate) fn start(arguments: Arguments, config: Config) -> anyhow::Result<()> {
    let settings = TopicSettings {
        partitions: arguments.partitions,
        replication: arguments.replication,
    };
    let made = block_on(async { Ok(create_topics(&bus_options(&config.bus)?, settings).await?) })?;
    let text = if made.is_empty() {
        "All topics exist.".into()
    } else {
        made.join("\n")
    };
    Ok(print(&text)?)
}
