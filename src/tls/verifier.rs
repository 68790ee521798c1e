//! The client certificate verifier.
//!
//! Its verdict only decides whether the handshake continues.  rustls does not call it when a
//! session is resumed, so every request is judged again by its endpoint.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use tracing::trace_span;

use crate::runtime::audit::{CONNECTION, Event, Outcome, Record};
use crate::runtime::clock;
use crate::runtime::live::WeakLive;
use crate::runtime::telemetry::spans;
use crate::tls::metrics::Metrics;
use crate::tls::peer_chain;
use crate::tls::ticket_slot;
use crate::trust::judge::admission::admit;
use crate::trust::judge::devices::MAX_CHAIN_CERTIFICATES;
use crate::trust::refusal::{Code, Refusal};
use crate::x509::certificate::{Certificate, Fingerprint};

/// Bytes of a presented chain.  rustls keeps them for as long as the connection is open, and a connection may
/// cost 64 kB.
const MAX_HANDSHAKE_BYTES: usize = 24 * 1024;

/// Judges client certificates in the handshake, or accepts all of them and leaves it to each
/// request.
pub(crate) struct Verifier {
    /// The published state to judge under; `None` accepts every certificate.
    live: Option<WeakLive>,
    metrics: Metrics,
    signatures: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// Refuses a certificate that the judge refuses under the snapshot in force.
    pub fn required(live: WeakLive, metrics: Metrics, provider: &CryptoProvider) -> Self {
        Self { live: Some(live), ..Self::report(metrics, provider) }
    }

    /// Accepts every certificate, and a peer that presents none.
    pub fn report(metrics: Metrics, provider: &CryptoProvider) -> Self {
        Self { live: None, metrics, signatures: provider.signature_verification_algorithms }
    }

    /// Counts a proof of possession of the leaf's key, or counts and audits a peer without one.
    fn audit_signature(
        &self,
        certificate: &CertificateDer<'_>,
        scheme: SignatureScheme,
        verified: Result<HandshakeSignatureValid, Error>,
    ) -> Result<HandshakeSignatureValid, Error> {
        verified.inspect(|_| self.metrics.signature(scheme)).inspect_err(|error| {
            let detail = format!("the peer does not prove possession of the leaf's key: {error}");
            let refusal = Refusal::new(Code::SignatureInvalid, detail);
            let leaf = peer_chain::parsed_leaf().or_else(|| parse_leaf(certificate));
            refused(&self.metrics, &refusal, Some(Leaf::new(certificate, leaf.as_deref())), None);
        })
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.live.is_some()
    }

    /// Returns no names.  The list could not follow the anchors in force, it would disclose them to
    /// any peer, and no peer accepts more than 64 KB of it.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let presented: Vec<_> = std::iter::once(end_entity).chain(intermediates).collect();
        if let Err(refusal) = check_size(&presented) {
            let leaf = parse_leaf(end_entity);
            refused(&self.metrics, &refusal, Some(Leaf::new(end_entity, leaf.as_deref())), None);
            return Err(alert(refusal));
        }
        let Some(live) = &self.live else { return Ok(ClientCertVerified::assertion()) };
        let parsed = peer_chain::parse(&presented);
        let active = live.current();
        let _span = trace_span!(target: spans::TARGET, "judge").entered();
        let started = Instant::now();
        let verdict = match (&active, &parsed) {
            (Some(active), Ok(chain)) => {
                let admission = admit(chain, &active.trust, clock::now());
                peer_chain::keep(admission.kept, admission.is_known);
                admission.verdict
            }
            (Some(_), Err(refusal)) => Err(refusal.clone()),
            (None, _) => Err(Refusal::new(Code::ChainUntrusted, "the gateway is stopping")),
        };
        self.metrics.judging.handshake(started.elapsed());
        verdict.map(|()| ClientCertVerified::assertion()).map_err(|refusal| {
            let leaf = match &parsed {
                Ok(chain) => Some(Arc::clone(chain.leaf())),
                Err(_) => None,
            };
            let generation = active.map(|active| active.trust.generation);
            let leaf = Leaf::new(end_entity, leaf.as_deref());
            refused(&self.metrics, &refusal, Some(leaf), generation);
            alert(refusal)
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ticket_slot::chose_tls12();
        let verified = verify_tls12_signature(message, cert, dss, &self.signatures);
        self.audit_signature(cert, dss.scheme, verified)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = verify_tls13_signature(message, cert, dss, &self.signatures);
        self.audit_signature(cert, dss.scheme, verified)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported_schemes()
    }
}

/// A leaf certificate as an audit record names it.
pub(super) struct Leaf<'a> {
    fingerprint: Fingerprint,
    /// `None` if the certificate cannot be parsed.
    parsed: Option<&'a Certificate>,
}

impl<'a> Leaf<'a> {
    fn new(der: &CertificateDer<'_>, parsed: Option<&'a Certificate>) -> Self {
        let fingerprint = parsed.map_or_else(|| Fingerprint::of(der), |leaf| leaf.fingerprint);
        Self { fingerprint, parsed }
    }
}

/// Checks what a connection would keep, whatever its certificates are worth.
fn check_size(presented: &[&CertificateDer<'_>]) -> Result<(), Refusal> {
    let (count, bytes) = (presented.len(), presented.iter().map(|der| der.len()).sum::<usize>());
    if count <= MAX_CHAIN_CERTIFICATES && bytes <= MAX_HANDSHAKE_BYTES {
        return Ok(());
    }
    let detail = format!(
        "the chain has {count} certificates and {bytes} bytes; a connection may present \
         {MAX_CHAIN_CERTIFICATES} and {MAX_HANDSHAKE_BYTES}"
    );
    Err(Refusal::new(Code::ChainTooLong, detail))
}

fn parse_leaf(der: &CertificateDer<'_>) -> Option<Arc<Certificate>> {
    Certificate::from_der(der).ok().map(Arc::new)
}

/// Counts and audits a refusal.  The acceptor sets [`CONNECTION`], which the record carries.
pub(super) fn refused(
    metrics: &Metrics,
    refusal: &Refusal,
    leaf: Option<Leaf<'_>>,
    generation: Option<u64>,
) {
    metrics.refused(refusal.code);
    let address = CONNECTION.try_with(|connection| connection.address.ip()).ok();
    if !metrics.strangers.may_record(refusal.code, address) {
        return;
    }
    let parsed = leaf.as_ref().and_then(|leaf| leaf.parsed);
    let subject = parsed.map(|leaf| leaf.subject.to_string());
    let serial = parsed.map(Certificate::serial_hex);
    Record {
        refusal: Some(refusal.code.as_str()),
        detail: Some(&refusal.detail),
        subject: subject.as_deref(),
        serial: serial.as_deref(),
        certificate: leaf.map(|leaf| leaf.fingerprint),
        generation,
        ..Record::new(Event::Handshake, Outcome::Refused)
    }
    .emit();
}

/// Returns the TLS error for which rustls sends the alert that matches a refusal (RFC 8446 section
/// 6.2).
fn alert(refusal: Refusal) -> Error {
    Error::InvalidCertificate(match refusal.code {
        Code::CertificateExpired => CertificateError::Expired,
        Code::CertificateNotYetValid => CertificateError::NotValidYet,
        Code::CertificateRevoked | Code::CertificateOnHold => CertificateError::Revoked,
        Code::ChainUntrusted | Code::AuthorityExpired | Code::AuthorityNotCa => {
            CertificateError::UnknownIssuer
        }
        Code::CertificateMalformed => CertificateError::BadEncoding,
        Code::CriticalExtension => CertificateError::UnhandledCriticalExtension,
        Code::SignatureInvalid => CertificateError::BadSignature,
        Code::KeyUsage | Code::ExtendedKeyUsage => CertificateError::InvalidPurpose,
        // `certificate_unknown`, also without a usable revocation list: rustls would send
        // `unknown_ca` for that, and the authority is known.
        _ => CertificateError::Other(OtherError(Arc::new(refusal))),
    })
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::AlertDescription;

    #[test]
    fn a_listener_that_accepts_every_certificate_bounds_the_chain() {
        let verifier = Verifier::report(Metrics::default(), &crate::tls::provider());
        let verify = |lengths: &[usize]| {
            let chain: Vec<_> = lengths.iter().map(|n| CertificateDer::from(vec![0; *n])).collect();
            let now = UnixTime::now();
            verifier.verify_client_cert(&chain[0], &chain[1..], now).map(drop).is_ok()
        };
        assert!(verify(&[MAX_HANDSHAKE_BYTES]) && verify(&[1; MAX_CHAIN_CERTIFICATES]));
        assert!(!verify(&[MAX_HANDSHAKE_BYTES, 1]) && !verify(&[1; MAX_CHAIN_CERTIFICATES + 1]));
    }

    #[test]
    fn an_unknown_revocation_status_is_not_an_unknown_authority() {
        for (code, expected) in [
            (Code::CrlMissing, AlertDescription::CertificateUnknown),
            (Code::CrlStale, AlertDescription::CertificateUnknown),
            (Code::CrlInvalid, AlertDescription::CertificateUnknown),
            (Code::ChainUntrusted, AlertDescription::UnknownCA),
            (Code::CertificateRevoked, AlertDescription::CertificateRevoked),
        ] {
            let Error::InvalidCertificate(error) = alert(Refusal::new(code, "")) else {
                panic!("{code} is not an error of the certificate");
            };
            assert_eq!(AlertDescription::from(error), expected, "{code}");
        }
    }
}
