//! A trust domain whose keys have a given algorithm.

use std::sync::Arc;

use anchorgate::trust::snapshot::Snapshot;
use anchorgate::x509::certificate::Certificate;
use anchorgate::x509::crl::RevocationList;
use anchorgate::x509::time::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, SerialNumber,
    SignatureAlgorithm,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;

use super::world::snapshot;

/// A root, an issuer and one device, with empty lists of both authorities.
pub struct Chain {
    authorities: [Arc<Certificate>; 2],
    lists: [Arc<RevocationList>; 2],
    /// The certificates that the device presents.
    pub certificates: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Chain {
    pub fn new(algorithm: &'static SignatureAlgorithm, now: Timestamp) -> Self {
        let keys: [KeyPair; 3] =
            std::array::from_fn(|_| KeyPair::generate_for(algorithm).expect("a key"));
        let (root, issuer) = (authority("Chain Root", now), authority("Chain Issuer", now));
        let mut device = parameters("device-1", now);
        device.subject_alt_names =
            vec![rcgen::SanType::DnsName("device-1".try_into().expect("ASCII"))];
        device.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        device.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let [by_root, by_issuer] =
            [(&root, &keys[0]), (&issuer, &keys[1])].map(|(of, key)| Issuer::from_params(of, key));
        let root = root.self_signed(&keys[0]).expect("signed");
        let issuer = issuer.signed_by(&keys[1], &by_root).expect("signed");
        let device = device.signed_by(&keys[2], &by_issuer).expect("signed");
        let authorities = [&root, &issuer]
            .map(|der| Arc::new(Certificate::from_der(der.der()).expect("a certificate")));
        let list = |authority: usize, issuer: &Issuer<'_, &KeyPair>| {
            let der = empty_list(issuer, now);
            let signers = [Arc::clone(&authorities[authority])];
            Arc::new(RevocationList::read(&der, &signers, now).expect("a good list"))
        };
        let lists = [list(0, &by_root), list(1, &by_issuer)];
        let certificates = vec![device.der().clone(), issuer.der().clone()];
        let key = PrivateKeyDer::Pkcs8(keys[2].serialize_der().into());
        Self { authorities, lists, certificates, key }
    }

    /// A snapshot that trusts the root.
    pub fn snapshot(&self) -> Snapshot {
        snapshot(self.authorities.each_ref(), self.lists.clone())
    }
}

fn parameters(name: &str, now: Timestamp) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, name);
    (parameters.not_before, parameters.not_after) = (at(now.0 - 3_600), at(now.0 + 86_400));
    parameters.use_authority_key_identifier_extension = true;
    parameters.key_identifier_method = KeyIdMethod::Sha256;
    parameters
}

fn authority(name: &str, now: Timestamp) -> CertificateParams {
    let mut parameters = parameters(name, now);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters
}

fn empty_list(issuer: &Issuer<'_, &KeyPair>, now: Timestamp) -> Vec<u8> {
    let list = CertificateRevocationListParams {
        this_update: at(now.0 - 60),
        next_update: at(now.0 + 86_400),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(issuer).expect("signed").der().to_vec()
}

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).expect("a time")
}
