//! Validity of the server's certificate, and the names that it must have.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use tracing::{info, warn};

use crate::runtime::health::Ready;
use crate::x509::certificate::Certificate;
use crate::x509::time::Timestamp;

/// Returns notBefore and notAfter of the server's certificate, or `None` if it cannot be parsed.
pub fn validity(identity: &CertifiedKey) -> Option<(Timestamp, Timestamp)> {
    let leaf = Certificate::from_der(identity.cert.first()?).ok()?;
    Some((leaf.not_before, leaf.not_after))
}

/// Returns the problem of the validity at `now`, if there is one.
pub(crate) fn invalidity(identity: &CertifiedKey, now: Timestamp) -> Option<String> {
    match validity(identity)? {
        (_, not_after) if not_after < now => {
            let days = now.since(not_after).as_secs() / 86_400;
            let ago = match days {
                0 => String::new(),
                1 => ", 1 day ago".to_owned(),
                days => format!(", {days} days ago"),
            };
            Some(format!("it expired at {not_after}{ago}; every client will refuse it"))
        }
        (not_before, _) if now < not_before => {
            Some(format!("it is not valid before {not_before}; every client will refuse it"))
        }
        _ => None,
    }
}

/// Returns the problems that clients will have with the server's certificate: its validity, and each
/// of `hosts` that it does not name.
pub fn problems(identity: &CertifiedKey, hosts: &[String], now: Timestamp) -> Vec<String> {
    let mut problems: Vec<String> = invalidity(identity, now).into_iter().collect();
    problems
        .extend(unnamed(identity, hosts).iter().map(|host| format!("it does not name `{host}`")));
    problems
}

/// Returns those of `hosts` that the server's certificate does not name.
fn unnamed(identity: &CertifiedKey, hosts: &[String]) -> Vec<String> {
    let Some(leaf) = identity.cert.first() else { return Vec::new() };
    let Ok(certificate) = webpki::EndEntityCert::try_from(leaf) else { return Vec::new() };
    let is_unnamed = |host: &&String| {
        let name = ServerName::try_from(host.as_str());
        name.is_ok_and(|name| certificate.verify_is_valid_for_subject_name(&name).is_err())
    };
    hosts.iter().filter(is_unnamed).cloned().collect()
}

/// Reports the advertised hosts that the server's certificate in use does not name: as a metric, as a
/// warning of readiness, and once in the log.
#[derive(Clone)]
pub(crate) struct NameReport {
    hosts: Vec<String>,
    ready: Ready,
    mismatches: Gauge,
    /// The last report, to log a change only.
    last: Arc<Mutex<Vec<String>>>,
}

impl NameReport {
    /// `hosts` are those that clients are told to connect to.
    pub(crate) fn register(hosts: Vec<String>, ready: Ready, registry: &mut Registry) -> Self {
        let mismatches = Gauge::default();
        registry.register(
            "server_certificate_name_mismatches",
            "Advertised hosts that the server's certificate does not name",
            mismatches.clone(),
        );
        Self { hosts, ready, mismatches, last: Arc::default() }
    }

    /// Compares the names of the certificate that comes into use.
    pub(crate) fn check(&self, identity: &CertifiedKey) {
        let unnamed = unnamed(identity, &self.hosts);
        self.mismatches.set(i64::try_from(unnamed.len()).unwrap_or(i64::MAX));
        let warning = (!unnamed.is_empty()).then(|| {
            format!(
                "the server certificate does not name `{}`; clients that are told to connect there \
                 refuse it",
                unnamed.join("`, `")
            )
        });
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != unnamed {
            match &warning {
                Some(warning) => warn!("server certificate names: {warning}"),
                None => info!("server certificate names each advertised host again"),
            }
            *last = unnamed;
        }
        self.ready.warn("server_certificate_names", warning);
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    fn identity(names: &[&str]) -> CertifiedKey {
        let key = rcgen::KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let params = rcgen::CertificateParams::new(names).expect("names");
        let made = params.self_signed(&key).expect("a certificate");
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS#8");
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        CertifiedKey::from_der(vec![made.der().clone()], key, &provider).expect("a pair")
    }

    #[test]
    fn reports_the_hosts_that_the_certificate_in_use_does_not_name() {
        let hosts =
            ["token.fleet.example", "keys.fleet.example", "192.0.2.1"].map(str::to_owned).to_vec();
        let (ready, mut registry) = (Ready::default(), Registry::default());
        let report = NameReport::register(hosts, ready.clone(), &mut registry);
        let count = || {
            let mut text = String::new();
            encode(&mut text, &registry).expect("encoded");
            let sample = text.lines().find(|line| !line.starts_with('#')).expect("a sample");
            sample.rsplit(' ').next().expect("a value").to_owned()
        };
        report.check(&identity(&["token.fleet.example"]));
        let warning = ready.warnings()["server_certificate_names"].clone();
        assert!(warning.contains("does not name `keys.fleet.example`, `192.0.2.1`;"), "{warning}");
        assert_eq!(count(), "2");
        report.check(&identity(&["*.fleet.example", "192.0.2.1"]));
        assert!(ready.warnings().is_empty());
        assert_eq!(count(), "0");
    }
}
