//! Verification of servers by the certification authorities of the system.
//!
//! # Design notes
//! Reading the system's authorities takes longer than the rest of a start, and most gateways need
//! none: lists of revoked certificates are usually served over plain HTTP, and a directory has its
//! `ca_bundle`.  They are therefore read at the first TLS handshake that needs them, once for the
//! process, or beside the listeners after a start ([`load_system_authorities`]).

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tracing::{debug, warn};

/// The system's authorities.  A system without any is asked again: they may be mounted later.
static SYSTEM: OnceLock<RootCertStore> = OnceLock::new();

/// Held while the authorities are read, so that they are read once.
static READING: Mutex<()> = Mutex::new(());

/// Reads the authorities of the system, unless they were read before.  Blocks the thread for some
/// ten milliseconds.
pub fn load_system_authorities() {
    let _ = system();
}

fn system() -> Option<&'static RootCertStore> {
    if let Some(read) = SYSTEM.get() {
        return Some(read);
    }
    let _reading = READING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(read) = SYSTEM.get() {
        return Some(read);
    }
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        warn!(%error, "certification authority of the system not read");
    }
    let mut store = RootCertStore::empty();
    let (added, ignored) = store.add_parsable_certificates(found.certs);
    debug!(added, ignored, "certification authorities of the system read");
    if store.is_empty() { None } else { Some(SYSTEM.get_or_init(|| store)) }
}

/// Accepts server certificates of the system's authorities and of `others`.
#[derive(Debug)]
pub(super) struct SystemAnd {
    others: RootCertStore,
    provider: Arc<CryptoProvider>,
    signatures: WebPkiSupportedAlgorithms,
    verifier: OnceLock<Arc<WebPkiServerVerifier>>,
}

impl SystemAnd {
    pub(super) fn new(others: RootCertStore, provider: Arc<CryptoProvider>) -> Self {
        let signatures = provider.signature_verification_algorithms;
        Self { others, provider, signatures, verifier: OnceLock::new() }
    }

    fn verifier(&self) -> Result<Arc<WebPkiServerVerifier>, Error> {
        if let Some(verifier) = self.verifier.get() {
            return Ok(Arc::clone(verifier));
        }
        let system = system();
        let mut roots = self.others.clone();
        roots.roots.extend(system.into_iter().flat_map(|system| system.roots.iter().cloned()));
        let provider = Arc::clone(&self.provider);
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|_| {
                Error::General("the system has no certification authorities".to_owned())
            })?;
        // Without the system's authorities the next handshake looks for them again.
        if system.is_some() {
            return Ok(Arc::clone(self.verifier.get_or_init(|| verifier)));
        }
        Ok(verifier)
    }
}

impl ServerCertVerifier for SystemAnd {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verifier = self.verifier()?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
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

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::crypto::aws_lc_rs;

    fn authority() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a root")
    }

    #[test]
    fn the_authorities_of_the_system_are_read_at_the_first_handshake() {
        let (known, unknown) = (authority(), authority());
        let mut others = RootCertStore::empty();
        others.add(known.der().clone()).expect("an authority");
        let verifier = SystemAnd::new(others, Arc::new(aws_lc_rs::default_provider()));
        assert!(!verifier.supported_verify_schemes().is_empty());
        assert!(verifier.verifier.get().is_none());
        let name = ServerName::try_from("server.example").expect("a name");
        let accepts = |issuer: &CertifiedIssuer<'static, KeyPair>| {
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new(["server.example".to_owned()]).expect("a name");
            let leaf = params.signed_by(&key, issuer).expect("a certificate");
            verifier.verify_server_cert(leaf.der(), &[], &name, &[], UnixTime::now()).is_ok()
        };
        assert!(accepts(&known));
        assert!(!accepts(&unknown));
        // A machine that runs tests may have no authorities; then they are looked for again.
        assert_eq!(verifier.verifier.get().is_some(), system().is_some());
    }
}
