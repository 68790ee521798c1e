//! Issued tokens by configuration and client.
//!
//! # Design notes
//! Configurations and clients are many and change, so the number of series is bounded: what has none is
//! counted as `other`.  The first token of a new generation removes the series of what is gone.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use crate::runtime::live::Active;
use crate::runtime::text::clean;
use crate::trust::configurations::ConfigurationId;

/// Series, without that of the rest.
const MAX_SERIES: usize = 256;
/// Characters of a label.
const MAX_LABEL: usize = 128;
/// Label of what has no series.
const OTHER: &str = "other";

/// Counts by configuration and client.
type Series = HashMap<String, HashMap<String, AtomicU64>>;

/// Counts issued tokens.
#[derive(Debug, Default)]
pub(super) struct IssuedTokens {
    series: RwLock<Series>,
    other: AtomicU64,
    /// There is no room for another series.
    is_full: AtomicBool,
    /// Newest generation for which series of what is gone were removed.
    generation: AtomicU64,
}

impl IssuedTokens {
    /// Counts a token of `client_id` under `configuration`.  The `client_id` of a device that is its own
    /// client is not a label.
    pub(super) fn count(&self, active: &Active, configuration: &ConfigurationId, client_id: &str) {
        let generation = active.trust.generation;
        // A request of an earlier generation may end after one of a later generation.
        if self.generation.load(Ordering::Relaxed) < generation
            && self.generation.fetch_max(generation, Ordering::Relaxed) < generation
        {
            self.remove_gone(active);
        }
        let client = if is_configured(active, client_id) { client_id } else { "" };
        let find = |series: &Series| {
            let counter = series.get(configuration.as_str())?.get(client)?;
            Some(counter.fetch_add(1, Ordering::Relaxed))
        };
        if find(&self.read()).is_some() {
            return;
        }
        // Two series must not have the same labels.
        let is_label =
            |text: &str| text != OTHER && matches!(clean(text, MAX_LABEL), Cow::Borrowed(_));
        if self.is_full.load(Ordering::Relaxed)
            || !is_label(configuration.as_str())
            || !is_label(client)
        {
            self.other.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut series = self.series.write().unwrap_or_else(PoisonError::into_inner);
        if series.values().map(HashMap::len).sum::<usize>() >= MAX_SERIES {
            self.is_full.store(true, Ordering::Relaxed);
            self.other.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let clients = series.entry(configuration.as_str().to_owned()).or_default();
        clients.entry(client.to_owned()).or_default().fetch_add(1, Ordering::Relaxed);
    }

    fn remove_gone(&self, active: &Active) {
        let trust = &active.trust;
        let of_devices = trust.device_configurations.configurations.iter().map(|c| c.id.as_str());
        let of_applications = trust.applications.configurations.iter().map(|c| c.id.as_str());
        let in_force: HashSet<&str> = of_devices.chain(of_applications).collect();
        let mut series = self.series.write().unwrap_or_else(PoisonError::into_inner);
        series.retain(|configuration, clients| {
            clients.retain(|client, _| client.is_empty() || is_configured(active, client));
            in_force.contains(configuration.as_str()) && !clients.is_empty()
        });
        self.is_full.store(false, Ordering::Relaxed);
    }

    fn read(&self) -> RwLockReadGuard<'_, Series> {
        self.series.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_configured(active: &Active, client_id: &str) -> bool {
    let policy = &active.policy;
    policy.client(client_id).is_some() || policy.application(client_id).is_some()
}

/// The collector of the counts.
#[derive(Debug)]
pub(super) struct Collected(pub(super) Arc<IssuedTokens>);

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Issued tokens, by configuration and configured client.";
        let mut family =
            encoder.encode_descriptor("tokens_issued", help, None, MetricType::Counter)?;
        let mut write = |configuration: &str, client: &str, count: &AtomicU64| {
            let labels = [("configuration", configuration), ("client", client)];
            let counter = ConstCounter::new(count.load(Ordering::Relaxed));
            counter.encode(family.encode_family(&labels)?)
        };
        for (configuration, clients) in &*self.0.read() {
            for (client, count) in clients {
                write(configuration, client, count)?;
            }
        }
        write(OTHER, OTHER, &self.0.other)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::oauth::endpoint::tests::live;
    use crate::trust::configurations::{Application, Configuration, Configurations};
    use crate::trust::snapshot::Snapshot;

    /// Returns the state of `generation` with these configurations in force.
    fn active(generation: u64, ids: &[&str]) -> Active {
        let configuration = |id: &&str| Configuration {
            id: (*id).into(),
            domain: "a".into(),
            display_name: String::new(),
            kind: Application,
            authorities: Vec::new(),
        };
        let applications = Configurations::from_iter(ids.iter().map(configuration));
        let mut trust = Snapshot::default().with_applications(applications);
        trust.generation = generation;
        Active { trust: Arc::new(trust), ..Active::clone(&live().current()) }
    }

    fn lines(tokens: &Arc<IssuedTokens>) -> Vec<String> {
        let (mut registry, mut text) = (Registry::default(), String::new());
        registry.register_collector(Box::new(Collected(Arc::clone(tokens))));
        encode(&mut text, &registry).expect("encoded");
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let mut lines: Vec<_> = samples
            .map(|line| line.strip_prefix("tokens_issued_total").unwrap_or(line).to_owned())
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn series_of_configurations_that_are_gone_are_removed() {
        let tokens = Arc::<IssuedTokens>::default();
        let (first, second) = (active(1, &["c1", "c2"]), active(2, &["c2"]));
        for id in ["c1", "c1", "c2"] {
            tokens.count(&first, &id.into(), "dev1.example");
        }
        let of = |id: &str, count: u64| format!("{{configuration=\"{id}\",client=\"\"}} {count}");
        let other = r#"{configuration="other",client="other"} 0"#.to_owned();
        assert_eq!(lines(&tokens), [of("c1", 2), of("c2", 1), other.clone()]);
        tokens.count(&second, &"c2".into(), "dev1.example");
        assert_eq!(lines(&tokens), [of("c2", 2), other.clone()]);
        // A request that began under the first generation removes nothing of the second one.
        let (third, late) = (active(3, &["c2", "c3"]), second);
        tokens.count(&third, &"c3".into(), "dev1.example");
        tokens.count(&late, &"c2".into(), "dev1.example");
        assert_eq!(lines(&tokens), [of("c2", 3), of("c3", 1), other]);
    }

    #[test]
    fn series_are_bounded_and_labels_are_distinct() {
        let tokens = Arc::<IssuedTokens>::default();
        let active = active(1, &[]);
        let long = |end| format!("{}{end}", "x".repeat(MAX_LABEL));
        for id in [long("1"), long("2"), "a\u{202e}".to_owned(), OTHER.to_owned()] {
            tokens.count(&active, &id.as_str().into(), "dev1.example");
        }
        assert_eq!(lines(&tokens), [r#"{configuration="other",client="other"} 4"#]);
        for n in 0..MAX_SERIES + 7 {
            tokens.count(&active, &format!("c{n}").as_str().into(), "dev1.example");
        }
        let lines = lines(&tokens);
        assert_eq!(lines.len(), MAX_SERIES + 1);
        let rest = r#"{configuration="other",client="other"} 11"#.to_owned();
        assert!(lines.contains(&rest), "{lines:?}");
        // What is gone makes room.
        tokens.count(&self::active(2, &["new"]), &"new".into(), "dev1.example");
        let new = r#"{configuration="new",client=""} 1"#.to_owned();
        assert_eq!(self::lines(&tokens), [new, rest]);
    }
}
