//! The status page and the gauges of the trust in force.

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use crate::admin::Admin;
use crate::trust::configurations::{Authority, Configuration, Device, Devices, Skipped};
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
        self.configurations.set(count(trust.device_configurations.configurations.len()));
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
            "sources": self.sources.borrow().iter().map(|source| json!(source.status())).collect::<Value>(),
            "revocation": self.lists.status(),
            "signingKeys": self.signing_keys(),
            "configuration": self.configuration.status(),
        })
    }
}

impl Admin {
    /// The published keys, with their times if they rotate.
    pub(super) fn signing_keys(&self) -> Value {
        match self.keys.keys() {
            Some(keys) => json!(keys),
            None => self.live.current().keys.list().collect(),
        }
    }
}

fn trust(trust: &Snapshot) -> Value {
    let skipped = |skipped: &[Skipped]| -> Vec<Value> {
        let skipped = skipped.iter();
        skipped.map(|s| json!({ "id": s.configuration.as_str(), "why": s.why })).collect()
    };
    let device = |configuration: &Configuration<Device>| {
        let mut out = self::configuration(trust, configuration);
        let Device { subject_field, devices } = &configuration.kind;
        out["subjectField"] = subject_field.as_str().into();
        out["devices"] = match devices {
            Devices::Any => "any".into(),
            Devices::Registered(_) => "registered".into(),
        };
        out
    };
    let of_devices = trust.device_configurations.configurations.iter().map(|c| device(c.as_ref()));
    let of_applications = trust.applications.configurations.iter().map(|c| configuration(trust, c));
    json!({
        "generation": trust.generation,
        "configurations": of_devices.collect::<Value>(),
        "skipped": skipped(&trust.device_configurations.skipped),
        "applicationConfigurations": of_applications.collect::<Value>(),
        "skippedApplications": skipped(&trust.applications.skipped),
        "unmatchedRevocationEntries": trust.revocations.policy().unmatched,
    })
}

fn configuration<K>(trust: &Snapshot, configuration: &Configuration<K>) -> Value {
    let authorities = configuration.authorities.iter();
    json!({
        "id": configuration.id.as_str(),
        "displayName": configuration.display_name,
        "authorities": authorities.map(|a| authority(trust, &configuration.domain, a)).collect::<Value>(),
    })
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
