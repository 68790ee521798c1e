//! Client certificate verifiers: what the handshake asks before it goes on.
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

use crate::domain::refusal::{Code, Refusal};
use crate::domain::verify::{UnverifiedChain, judge};
use crate::runtime::live::WeakLive;
use crate::runtime::log::AUDIT;
use crate::tls::metrics::Metrics;

/// Refuses in the handshake what the judge refuses.
pub struct JudgeVerifier {
    live: WeakLive,
    metrics: Metrics,
    signatures: WebPkiSupportedAlgorithms,
}

impl JudgeVerifier {
    /// A verifier that judges under what `live` has in force.
    pub fn new(live: WeakLive, metrics: Metrics, provider: &CryptoProvider) -> Self {
        Self { live, metrics, signatures: provider.signature_verification_algorithms }
    }

    fn judge(&self, presented: &[&CertificateDer<'_>]) -> Result<(), Refusal> {
        let active = self.live.current().ok_or_else(|| {
            Refusal::new(Code::ChainUntrusted, "the gateway is starting or has stopped")
        })?;
        let chain = UnverifiedChain::from_der(presented)?;
        judge(&chain, &active.trust, SystemTime::now().into()).map(|_| ()).inspect_err(|refusal| {
            let leaf = chain.leaf();
            // The address is in the span of the connection's handshake.
            info!(
                target: AUDIT,
                decision = "refused",
                at = "handshake",
                code = refusal.code.as_str(),
                detail = refusal.detail,
                subject = %leaf.subject,
                serial = leaf.serial_hex(),
                certificate = %leaf.fingerprint,
                generation = active.trust.generation,
            );
        })
    }
}

/// Lets every certificate, and none at all, through to the request, which tells the refusal.
pub struct ReportVerifier {
    signatures: WebPkiSupportedAlgorithms,
}

impl ReportVerifier {
    /// A verifier that refuses no certificate.
    pub fn new(provider: &CryptoProvider) -> Self {
        Self { signatures: provider.signature_verification_algorithms }
    }
}

impl ClientCertVerifier for JudgeVerifier {
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
        let presented: Vec<_> = std::iter::once(end_entity).chain(intermediates).collect();
        match self.judge(&presented) {
            Ok(()) => Ok(ClientCertVerified::assertion()),
            Err(refusal) => {
                self.metrics.refused(refusal.code);
                Err(alert(refusal))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.signatures)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.signatures)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported_schemes()
    }
}

impl ClientCertVerifier for ReportVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.signatures)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.signatures)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported_schemes()
    }
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

impl fmt::Debug for JudgeVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JudgeVerifier")
    }
}

impl fmt::Debug for ReportVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReportVerifier")
    }
}
