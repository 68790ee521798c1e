//! Validity of the server's certificate.

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;

use crate::x509::certificate::Certificate;
use crate::x509::time::Timestamp;

/// Returns notBefore and notAfter of the server's certificate, or `None` if it cannot be parsed.
pub fn validity(identity: &CertifiedKey) -> Option<(Timestamp, Timestamp)> {
    let leaf = Certificate::from_der(identity.cert.first()?).ok()?;
    Some((leaf.not_before, leaf.not_after))
}

/// Returns the problem of the validity at `now`, if there is one.
pub(super) fn invalidity(identity: &CertifiedKey, now: Timestamp) -> Option<String> {
    match validity(identity)? {
        (_, not_after) if not_after < now => Some(format!("it expired at {not_after}")),
        (not_before, _) if now < not_before => Some(format!("it is not valid before {not_before}")),
        _ => None,
    }
}

/// Returns the problems that clients will have with the server's certificate: its validity, and each
/// of `hosts` that it does not name.
pub fn problems(identity: &CertifiedKey, hosts: &[String], now: Timestamp) -> Vec<String> {
    let mut problems: Vec<String> = invalidity(identity, now).into_iter().collect();
    let names = |der: &CertificateDer<'_>, host: &String| {
        let certificate = webpki::EndEntityCert::try_from(der).ok()?;
        let name = ServerName::try_from(host.as_str()).ok()?;
        Some(certificate.verify_is_valid_for_subject_name(&name).is_ok())
    };
    if let Some(leaf) = identity.cert.first() {
        let missing = hosts.iter().filter(|host| names(leaf, host) == Some(false));
        problems.extend(missing.map(|host| format!("it does not name `{host}`")));
    }
    problems
}
