//! The client that all nodes share.

use std::{sync::Arc, time::Duration};

use flowmate_common::{Budget, Clock};
use tokio::sync::Semaphore;

use super::{retry::RetryPolicy, unpack};
use crate::{
    StepError,
    outbound::{Guard, PrivateTargets},
};

/// Settings of all outgoing requests.
#[derive(Clone)]
pub struct Settings {
    /// Which addresses that are not public may be called.
    pub private_targets: PrivateTargets,
    /// When and how often a request is sent again.
    pub retry: RetryPolicy,
    /// What answers may hold while they come in.
    pub budget: Budget,
    /// For dates that receivers name.
    pub clock: Clock,
}

/// What all nodes share.
pub(crate) struct Client {
    pub(super) http: reqwest::Client,
    pub(super) guard: Guard,
    pub(super) retry: RetryPolicy,
    pub(super) budget: Budget,
    pub(super) clock: Clock,
    pub(super) unpacking: Semaphore,
}

impl Client {
    pub(crate) fn new(settings: Settings) -> Result<Self, StepError> {
        let guard = Guard::new(settings.private_targets);
        let http = reqwest::Client::builder()
            .user_agent(concat!("FlowMate/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .dns_resolver(Arc::new(guard.clone()))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(5))
            .pool_max_idle_per_host(64)
            .pool_idle_timeout(Duration::from_secs(30))
            .tcp_nodelay(true)
            // Done here, within bounds, and also where a step asks for it in its own words.
            .no_gzip()
            .no_deflate()
            .no_brotli()
            .no_zstd()
            .build()
            .map_err(StepError::new)?;
        Ok(Self {
            http,
            guard,
            retry: settings.retry,
            budget: settings.budget,
            clock: settings.clock,
            unpacking: unpack::turns(),
        })
    }
}
