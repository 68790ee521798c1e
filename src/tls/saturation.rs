//! Use of each listener against its limits, read when metrics are collected.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::tls::handshakes::Handshakes;

/// The listeners that run.
#[derive(Default)]
pub(super) struct Saturation(Mutex<Vec<Watched>>);

struct Watched {
    listener: &'static str,
    /// Reads the limit of open connections.
    connections: Box<dyn Fn() -> usize + Send + Sync>,
    handshakes: Weak<Handshakes>,
}

/// Reads one value of a listener, from its limit of connections and its handshakes.
type Read = fn(usize, &Handshakes) -> usize;

/// Names and help texts of the metrics.
const METRICS: [(&str, &str, Read); 4] = [
    ("connections_limit", "Limit of open connections, by listener.", |limit, _| limit),
    ("handshakes_in_progress", "Handshakes that have begun, by listener.", |_, all| all.begun()),
    (
        "handshakes_in_progress_limit",
        "Limit of handshakes that have begun, by listener.",
        |_, all| all.most(),
    ),
    (
        "handshakes_waiting",
        "Connections that wait for the turn of their handshake, by listener.",
        |_, all| all.waiting(),
    ),
];

/// Name and help text of the counter.
const PAUSED: (&str, &str) = (
    "accept_paused_seconds",
    "Time in which no connections were accepted because handshakes waited, by listener.",
);

impl Saturation {
    /// Adds a listener.
    pub(super) fn watch(
        &self,
        listener: &'static str,
        connections: impl Fn() -> usize + Send + Sync + 'static,
        handshakes: &Arc<Handshakes>,
    ) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|watched| watched.handshakes.strong_count() > 0);
        all.push(Watched {
            listener,
            connections: Box::new(connections),
            handshakes: Arc::downgrade(handshakes),
        });
    }
}

impl Collector for Saturation {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let running = || all.iter().filter_map(|one| Some((one, one.handshakes.upgrade()?)));
        if running().next().is_none() {
            return Ok(());
        }
        for (name, help, read) in METRICS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (watched, handshakes) in running() {
                let value = read((watched.connections)(), &handshakes);
                let labels = [("listener", watched.listener)];
                let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
                gauge.encode(family.encode_family(&labels)?)?;
            }
        }
        let (name, help) = PAUSED;
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (watched, handshakes) in running() {
            let labels = [("listener", watched.listener)];
            let counter = ConstCounter::new(handshakes.gate().closed().as_secs_f64());
            counter.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Saturation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Saturation")
    }
}
