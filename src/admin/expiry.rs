//! The ends of anchors and signing keys, read when metrics are collected.

use std::collections::BTreeSet;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::keyring::{self, KeyStatus};
use crate::runtime::live::Live;
use crate::runtime::text::clean;
use crate::trust::snapshot::Snapshot;
use crate::x509::time::Timestamp;

/// Anchors that are listed, those that end first.
const MAX_ANCHORS: usize = 256;
/// Characters of a label.
const MAX_LABEL: usize = 128;

/// Reads what is in force.
pub(super) struct Expiry {
    pub(super) live: Live,
    pub(super) keys: keyring::Handle,
}

impl Collector for Expiry {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        encode_anchors(&self.live.current().trust, &mut encoder)?;
        match self.keys.keys() {
            Some(keys) if !keys.is_empty() => encode_keys(&keys, &mut encoder),
            _ => Ok(()),
        }
    }
}

fn encode_anchors(trust: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let of_devices = trust.device_configurations.configurations.iter();
    let of_devices = of_devices.map(|c| (c.id.as_str(), &c.authorities));
    let of_applications = trust.applications.configurations.iter();
    let of_applications = of_applications.map(|c| (c.id.as_str(), &c.authorities));
    let mut first = BTreeSet::new();
    for (id, authorities) in of_devices.chain(of_applications) {
        for anchor in authorities.iter().filter(|authority| authority.is_root) {
            let certificate = &anchor.certificate;
            first.insert((certificate.not_after.0, certificate.fingerprint.0, id));
            if first.len() > MAX_ANCHORS {
                first.pop_last();
            }
        }
    }
    if first.is_empty() {
        return Ok(());
    }
    let help = "End of the validity of an anchor in force, seconds since 1970.";
    let name = "anchor_not_after_timestamp_seconds";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    let mut labels = BTreeSet::new();
    for (not_after, fingerprint, id) in first {
        let anchor: String = fingerprint[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let label = [("configuration", clean(id, MAX_LABEL).into_owned()), ("anchor", anchor)];
        // Two series must not have the same labels.
        if labels.insert(label.clone()) {
            ConstGauge::new(not_after).encode(family.encode_family(&label)?)?;
        }
    }
    Ok(())
}

fn encode_keys(keys: &[KeyStatus], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let seconds = |text: &str| Timestamp::parse_rfc3339(text).map_or(0, |time| time.0);
    let help = "Time at which a rotating key begins or began to sign, seconds since 1970.";
    let name = "signing_key_signs_from_timestamp_seconds";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for key in keys {
        let labels = [("kid", key.kid.as_str()), ("state", key.state)];
        ConstGauge::new(seconds(&key.signs_from)).encode(family.encode_family(&labels)?)?;
    }
    let help =
        "Time until which a rotating key is published, seconds since 1970; 0 without a later key.";
    let name = "signing_key_published_until_timestamp_seconds";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for key in keys {
        let until = key.published_until.as_deref().map_or(0, seconds);
        let labels = [("kid", key.kid.as_str()), ("state", key.state)];
        ConstGauge::new(until).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

impl fmt::Debug for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Expiry")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::admin::tests::live;
    use crate::runtime::live::Active;
    use crate::trust::configurations::{Application, Authority, Configuration, Configurations};
    use crate::x509::certificate::Certificate;

    fn authority(not_after: i32, is_root: bool) -> Authority {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::default();
        params.not_after = rcgen::date_time_ymd(not_after, 1, 1);
        let made = params.self_signed(&key).expect("a certificate");
        let certificate = Arc::new(Certificate::from_der(made.der()).expect("valid"));
        Authority { certificate, is_root, crl_url: None, delta_crl_url: None }
    }

    /// Returns the samples with these anchors in force, by configuration.
    fn samples(configurations: Vec<(String, Vec<Authority>)>) -> Vec<String> {
        let configuration = |(id, authorities): (String, Vec<Authority>)| Configuration {
            id: id.as_str().into(),
            domain: "a".into(),
            display_name: String::new(),
            kind: Application,
            authorities,
        };
        let applications = Configurations::from_iter(configurations.into_iter().map(configuration));
        let trust = Arc::new(Snapshot::default().with_applications(applications));
        let active = Active { trust, ..Active::clone(&live().current()) };
        let live = Live::start(|_| Ok::<_, ()>(active)).expect("a cell").0;
        let (mut registry, mut text) = (Registry::default(), String::new());
        let keys = keyring::Handle::default();
        registry.register_collector(Box::new(Expiry { live, keys }));
        encode(&mut text, &registry).expect("encoded");
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn lists_the_anchors_that_end_first() {
        let (late, early) = (authority(2060, true), authority(2040, true));
        let mut all = vec![("first".to_owned(), vec![early, authority(2030, false)])];
        all.extend((0..MAX_ANCHORS).map(|n| (format!("c{n}"), vec![late.clone()])));
        let samples = samples(all);
        assert_eq!(samples.len(), MAX_ANCHORS);
        assert!(
            samples[0].contains("configuration=\"first\"") && samples[0].ends_with(" 2208988800")
        );
    }

    #[test]
    fn labels_are_distinct_and_clean() {
        let anchor = authority(2040, true);
        let id = |end: &str| format!("{}{end}", "x".repeat(MAX_LABEL));
        let all = [id("1"), id("2"), "a\u{202e}\n".to_owned()].map(|id| (id, vec![anchor.clone()]));
        let samples = samples(all.to_vec());
        assert_eq!(samples.len(), 2, "{samples:?}");
        assert!(samples.iter().all(|line| !line.contains('\u{202e}')), "{samples:?}");
    }
}
