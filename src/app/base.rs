//! Parts that every other part of a starting gateway is given.

use anyhow::Context;
use prometheus_client::registry::Registry;

use crate::config::Config;
use crate::runtime::clock::{self, Clock};
use crate::runtime::health::Ready;
use crate::runtime::log;
use crate::runtime::memory::{self, Budget, Pressure};
use crate::runtime::metrics::trust::TrustTimes;
use crate::runtime::metrics::{JudgeTimes, process};
use crate::runtime::server_clocks::ServerClocks;
use crate::runtime::tasks::Tasks;
use crate::runtime::telemetry;
use crate::runtime::unsaved::Unsaved;
use crate::tls;

/// The tasks, the readiness and the measurements of one gateway.
pub(super) struct Base {
    pub(super) tasks: Tasks,
    pub(super) ready: Ready,
    pub(super) registry: Registry,
    pub(super) clock: Clock,
    pub(super) memory: Pressure,
    pub(super) connections: tls::metrics::Metrics,
    pub(super) judging: JudgeTimes,
    pub(super) server_clocks: ServerClocks,
    pub(super) times: TrustTimes,
    /// State that a crash would lose.
    pub(super) unsaved: Unsaved,
}

impl Base {
    /// # Errors
    /// The memory of the process cannot be measured.
    pub(super) fn start(config: &Config) -> anyhow::Result<Self> {
        let mut registry = Registry::with_prefix("anchorgate");
        process::register_build(&mut registry);
        log::register(&mut registry);
        telemetry::register(&mut registry);
        let memory = Pressure::default();
        let configured = config.memory_limit.map(Budget::of_process);
        let budgets = configured.into_iter().chain(Budget::of_control_group()).collect();
        memory::watch(budgets, &memory, &mut registry).context("memory_limit")?;
        let judging = JudgeTimes::register(&mut registry);
        let times = TrustTimes::register(&mut registry);
        let connections = tls::metrics::Metrics::register(&mut registry);
        Ok(Self {
            tasks: Tasks::default(),
            ready: Ready::default(),
            clock: clock::system(),
            memory,
            connections: connections.with_judge_times(judging.clone()),
            judging,
            server_clocks: ServerClocks::default(),
            times,
            unsaved: Unsaved::default(),
            registry,
        })
    }
}
