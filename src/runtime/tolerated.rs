//! Counts and logs tolerated encodings: deviations from DER or a profile that are accepted because they
//! cannot mean anything else.  The crate doc lists them.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tracing::info;

use crate::runtime::text::Cleaned;
use crate::x509::certificate::Fingerprint;
use crate::x509::name::Name;

/// Pairs of an issuer and an encoding that are remembered, so that each is logged once.
const MAX_LOGGED: usize = 1_024;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Encoding {
    encoding: &'static str,
}

/// Tolerated encodings of one kind of object.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tolerated {
    counts: Family<Encoding, Counter>,
    logged: Arc<Mutex<HashSet<(Fingerprint, &'static str)>>>,
}

impl Tolerated {
    /// Registers the counter under `name`, with these encodings.
    pub fn register(
        &self,
        registry: &mut Registry,
        (name, help): (&str, &str),
        encodings: &[&'static str],
    ) {
        registry.register(name, help, self.counts.clone());
        for &encoding in encodings {
            let _ = self.counts.get_or_create(&Encoding { encoding });
        }
    }

    /// Counts the encodings of one accepted `object`, such as `certificate`.  The log has each encoding of
    /// an issuer once.
    pub fn count(&self, object: &'static str, issuer: &Name, encodings: &[&'static str]) {
        for &encoding in encodings {
            self.counts.get_or_create(&Encoding { encoding }).inc();
            if self.is_first(issuer, encoding) {
                let issuer = issuer.to_string();
                info!(object, encoding, issuer = %Cleaned(&issuer), "encoding tolerated");
            }
        }
    }

    fn is_first(&self, issuer: &Name, encoding: &'static str) -> bool {
        // Each statement leaves the set consistent, so a poisoned lock is usable.
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let issuer = Fingerprint::of(issuer.canonical());
        logged.len() < MAX_LOGGED && logged.insert((issuer, encoding))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x509::certificate::Certificate;
    use crate::x509::test_certificates::{Key, Spec, cn};
    use prometheus_client::encoding::text::encode;

    fn name(text: &str) -> Name {
        let der = Spec::authority(cn(text), cn(text)).sign(Key::number(1), Key::number(1));
        Certificate::from_der(&der).expect("a certificate").subject
    }

    #[test]
    fn counts_every_object_and_logs_each_encoding_of_an_issuer_once() {
        let (tolerated, mut registry) = (Tolerated::default(), Registry::default());
        tolerated.register(&mut registry, ("tolerated", "Help"), &["empty-extensions"]);
        let (a, b) = (name("A"), name("B"));
        for _ in 0..3 {
            tolerated.count("certificate", &a, &["encoded-default", "irregular-serial"]);
        }
        tolerated.count("certificate", &b, &[]);
        let mut text = String::new();
        encode(&mut text, &registry).expect("written");
        for encoding in ["encoded-default", "irregular-serial"] {
            let line = format!("tolerated_total{{encoding=\"{encoding}\"}} 3\n");
            assert!(text.contains(&line), "{text}");
        }
        assert!(text.contains("tolerated_total{encoding=\"empty-extensions\"} 0\n"), "{text}");
        assert!(!tolerated.is_first(&a, "encoded-default"));
        assert!(tolerated.is_first(&b, "encoded-default"));
        assert!(tolerated.is_first(&a, "empty-extensions"));
    }

    #[test]
    fn remembers_a_bounded_number_of_issuers() {
        let tolerated = Tolerated::default();
        let mut logged = tolerated.logged.lock().expect("no panic");
        for n in 0..MAX_LOGGED {
            logged.insert((Fingerprint::of(&n.to_be_bytes()), "encoded-default"));
        }
        drop(logged);
        assert!(!tolerated.is_first(&name("A"), "encoded-default"));
    }
}
