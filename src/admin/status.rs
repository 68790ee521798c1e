//! The status page and the gauges of the trust in force.

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use crate::admin::Admin;
use crate::trust::configurations::{AnchorSet, Authority, Configuration, Devices, Kind};
use crate::trust::snapshot::Snapshot;

/// Gauges of the snapshot in force.  They are updated when the metrics are read.
pub(super) struct Gauges {
    generation: Gauge,
    configurations: Gauge,
    applications: Gauge,
}

impl Gauges {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let mut gauge = |name, help| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        Self {
            generation: gauge("trust_generation", "Generation of the trust in force"),
            configurations: gauge("trust_configurations", "Configurations in force"),
            applications: gauge(
                "trust_application_configurations",
                "Application configurations in force",
            ),
        }
    }

    pub(super) fn update(&self, trust: &Snapshot) {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.generation.set(i64::try_from(trust.generation).unwrap_or(i64::MAX));
        self.configurations.set(count(trust.anchors.configurations.len()));
        self.applications.set(count(trust.applications.configurations.len()));
    }
}

impl Admin {
    /// The body of `/status.json`.
    pub(super) fn status(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "missing": self.ready.missing(),
            "started": self.started.to_string(),
            "trust": trust(&self.live.current().trust),
            "sources": self.sources.iter().map(|source| json!(source.status())).collect::<Value>(),
            "revocation": self.lists.status(),
        })
    }
}

fn trust(trust: &Snapshot) -> Value {
    let skipped = |set: &AnchorSet| -> Vec<Value> {
        let skipped = set.skipped.iter();
        skipped.map(|s| json!({ "id": s.configuration.as_str(), "why": s.why })).collect()
    };
    json!({
        "generation": trust.generation,
        "configurations": configurations(trust, &trust.anchors),
        "skipped": skipped(&trust.anchors),
        "applicationConfigurations": configurations(trust, &trust.applications),
        "skippedApplications": skipped(&trust.applications),
        "unmatchedRevocationEntries": trust.revocations.policy().unmatched,
    })
}

fn configurations(trust: &Snapshot, set: &AnchorSet) -> Vec<Value> {
    set.configurations
        .iter()
        .map(|configuration| self::configuration(trust, configuration))
        .collect()
}

fn configuration(trust: &Snapshot, configuration: &Configuration) -> Value {
    let authorities = configuration.authorities.iter();
    let mut out = json!({
        "id": configuration.id.as_str(),
        "displayName": configuration.display_name,
        "authorities": authorities.map(|a| authority(trust, &configuration.domain, a)).collect::<Value>(),
    });
    if let Kind::Devices(field) = configuration.kind {
        out["subjectField"] = field.as_str().into();
        out["devices"] = match configuration.devices {
            Devices::Any => "any".into(),
            Devices::Registered(_) => "registered".into(),
        };
    }
    out
}

fn authority(trust: &Snapshot, domain: &str, authority: &Authority) -> Value {
    let certificate = &authority.certificate;
    let (name, key) = (&certificate.subject, certificate.key);
    let rules = trust.revocations.policy().of(domain, name, key);
    json!({
        "subject": name.to_string(),
        "fingerprint": certificate.fingerprint.to_string(),
        "root": authority.is_root,
        "notAfter": certificate.not_after.to_string(),
        "crl": authority.crl_url.as_deref(),
        "deltaCrl": authority.delta_crl_url.as_deref(),
        "revocation": {
            "mode": trust.crl_mode(domain, name, key, authority.crl_url.is_some()).as_str(),
            "graceSeconds": rules.grace.as_secs(),
            "requireDelta": rules.require_delta,
        },
    })
}
