//! The client certificate verifier: what the handshake asks before it goes on.
//!
//! The verdict here only decides whether to talk.  rustls does not ask again when a session is
//! resumed, so every request is judged again by whoever serves it.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use tracing::info;

use crate::runtime::live::WeakLive;
use crate::runtime::log::AUDIT;
use crate::tls::metrics::Metrics;
use crate::trust::judge::applications::admit;
use crate::trust::judge::devices::UnverifiedChain;
use crate::trust::refusal::{Code, Refusal};
use crate::x509::certificate::{Certificate, Fingerprint};

/// Judges client certificates in the handshake, or lets them all through to the request.
pub struct Verifier {
    /// What to judge under; `None` leaves it to each request to tell the refusal.
    live: Option<WeakLive>,
    metrics: Metrics,
    signatures: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// Refuses what the judge refuses under what `live` has in force.
    pub fn required(live: WeakLive, metrics: Metrics, provider: &CryptoProvider) -> Self {
        Self { live: Some(live), ..Self::report(metrics, provider) }
    }

    /// Refuses no certificate, nor the lack of one.
    pub fn report(metrics: Metrics, provider: &CryptoProvider) -> Self {
        Self { live: None, metrics, signatures: provider.signature_verification_algorithms }
    }

    /// A peer that shows a certificate and not that it holds its key may be an impostor.
    fn shows_the_key(
        &self,
        certificate: &CertificateDer<'_>,
        shown: Result<HandshakeSignatureValid, Error>,
    ) -> Result<HandshakeSignatureValid, Error> {
        shown.inspect_err(|error| {
            let detail = format!("the peer does not show that it holds the leaf's key: {error}");
            let refusal = Refusal::new(Code::SignatureInvalid, detail);
            refused(&self.metrics, &refusal, Some(certificate), None);
        })
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.live.is_some()
    }

    /// None: the list cannot follow the live anchors, tells strangers whom we trust, and past 64 KB
    /// no peer accepts it.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let Some(live) = &self.live else { return Ok(ClientCertVerified::assertion()) };
        let presented: Vec<_> = std::iter::once(end_entity).chain(intermediates).collect();
        let active = live.current();
        let verdict = match &active {
            Some(active) => UnverifiedChain::from_der(&presented)
                .and_then(|chain| admit(&chain, &active.trust, SystemTime::now().into())),
            None => Err(Refusal::new(Code::ChainUntrusted, "the gateway is stopping")),
        };
        verdict.map(|()| ClientCertVerified::assertion()).map_err(|refusal| {
            let generation = active.map(|active| active.trust.generation);
            refused(&self.metrics, &refusal, Some(end_entity), generation);
            alert(refusal)
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.shows_the_key(cert, verify_tls12_signature(message, cert, dss, &self.signatures))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.shows_the_key(cert, verify_tls13_signature(message, cert, dss, &self.signatures))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported_schemes()
    }
}

/// Counts and audits a refusal.  The connection's number and address are in the span around it.
pub(super) fn refused(
    metrics: &Metrics,
    refusal: &Refusal,
    leaf: Option<&CertificateDer<'_>>,
    generation: Option<u64>,
) {
    metrics.refused(refusal.code);
    let readable = leaf.and_then(|leaf| Certificate::from_der(leaf).ok());
    info!(
        target: AUDIT,
        event = "handshake",
        decision = "refused",
        refusal = refusal.code.as_str(),
        detail = refusal.detail,
        subject = readable.as_ref().map(|leaf| leaf.subject.to_string()),
        serial = readable.as_ref().map(Certificate::serial_hex),
        certificate = leaf.map(|leaf| tracing::field::display(Fingerprint::of(leaf))),
        generation,
    );
}

/// The TLS error that makes rustls send the alert that fits a refusal (RFC 8446 section 6.2), and
/// that carries the refusal to the log.
fn alert(refusal: Refusal) -> Error {
    Error::InvalidCertificate(match refusal.code {
        Code::CertificateExpired => CertificateError::Expired,
        Code::CertificateNotYetValid => CertificateError::NotValidYet,
        Code::CertificateRevoked | Code::CertificateOnHold => CertificateError::Revoked,
        Code::ChainUntrusted | Code::AuthorityExpired | Code::AuthorityNotCa => {
            CertificateError::UnknownIssuer
        }
        Code::CrlMissing | Code::CrlStale | Code::CrlInvalid => {
            CertificateError::UnknownRevocationStatus
        }
        Code::CertificateMalformed => CertificateError::BadEncoding,
        Code::CriticalExtension => CertificateError::UnhandledCriticalExtension,
        Code::SignatureInvalid => CertificateError::BadSignature,
        Code::KeyUsage | Code::ExtendedKeyUsage => CertificateError::InvalidPurpose,
        _ => CertificateError::Other(OtherError(Arc::new(refusal))),
    })
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}
