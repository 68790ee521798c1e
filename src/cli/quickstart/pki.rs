//! A development PKI: authorities that issue certificates and revocation lists.
//!
//! For the quickstart and for tests.  Its keys are unencrypted on disk, so nothing else may trust
//! it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ML_DSA_44, SanType,
    SerialNumber,
};
use time::OffsetDateTime;

use crate::x509::certificate::Certificate;
use crate::x509::time::Timestamp;

/// Lifetime of certificates.
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// Certificates are valid from this time before now, because clocks differ.
const BACKDATE: Duration = Duration::from_secs(3600);

/// Keys of an authority and of everything below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyKind {
    /// ECDSA with P-256 and SHA-256.
    #[default]
    P256,
    /// ML-DSA-44 (FIPS 204), which a quantum computer cannot forge.
    MlDsa44,
}

impl KeyKind {
    fn generate(self) -> Result<KeyPair, rcgen::Error> {
        KeyPair::generate_for(match self {
            Self::P256 => &PKCS_ECDSA_P256_SHA256,
            Self::MlDsa44 => &PKCS_ML_DSA_44,
        })
    }
}

/// A certification authority with its key.
pub struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pub(super) kind: KeyKind,
    /// The authority's certificate.
    pub certificate: Arc<Certificate>,
    /// The certificate and its issuers except roots, PEM.  Empty for a root.
    pub chain_pem: String,
}

/// Names in an end-entity certificate.
#[derive(Debug, Clone, Default)]
pub struct Subject {
    /// commonName; organizationName is `Quickstart`.
    pub common_name: String,
    /// dNSName entries.
    pub dns: Vec<String>,
    /// uniformResourceIdentifier entries.
    pub uri: Vec<String>,
    /// iPAddress entries.
    pub ip: Vec<IpAddr>,
    /// rfc822Name entries.
    pub email: Vec<String>,
}

/// An end-entity certificate with its key.
pub struct Identity {
    /// The certificate.
    pub certificate: Arc<Certificate>,
    /// The certificate as PEM.
    pub certificate_pem: String,
    /// Certificate and intermediates as PEM, leaf first.
    pub chain_pem: String,
    /// Private key, PKCS#8 PEM.
    pub key_pem: String,
}

impl Authority {
    /// Creates a self-signed root.
    ///
    /// # Errors
    /// Key generation or encoding fails.
    pub fn root(common_name: &str, now: Timestamp) -> anyhow::Result<Self> {
        Self::root_with(KeyKind::default(), common_name, now)
    }

    /// Creates a self-signed root with keys of this kind.
    ///
    /// # Errors
    /// As for [`Authority::root`].
    pub(crate) fn root_with(
        kind: KeyKind,
        common_name: &str,
        now: Timestamp,
    ) -> anyhow::Result<Self> {
        let params = authority_params(common_name, now)?;
        let key = kind.generate()?;
        let certificate = params.self_signed(&key)?;
        Self::assemble(params, kind, key, certificate.der(), String::new())
    }

    /// Creates an authority below this one.
    ///
    /// # Errors
    /// Key generation or encoding fails.
    pub fn intermediate(&self, common_name: &str, now: Timestamp) -> anyhow::Result<Self> {
        let params = authority_params(common_name, now)?;
        let key = self.kind.generate()?;
        let certificate = params.signed_by(&key, &self.issuer())?;
        let mut chain = certificate.pem();
        chain.push_str(&self.chain_pem);
        Self::assemble(params, self.kind, key, certificate.der(), chain)
    }

    fn assemble(
        params: CertificateParams,
        kind: KeyKind,
        key: KeyPair,
        der: &[u8],
        chain_pem: String,
    ) -> anyhow::Result<Self> {
        let certificate =
            Arc::new(Certificate::from_der(der).context("the authority's certificate")?);
        Ok(Self { params, key, kind, certificate, chain_pem })
    }

    /// Issues a client certificate for `subject`.
    ///
    /// # Errors
    /// A name is not an IA5String, or key generation or encoding fails.
    pub fn client(&self, subject: &Subject, now: Timestamp) -> anyhow::Result<Identity> {
        self.end_entity(subject, ExtendedKeyUsagePurpose::ClientAuth, now)
    }

    /// Issues a server certificate for `subject`.
    ///
    /// # Errors
    /// As for [`Authority::client`].
    pub fn server(&self, subject: &Subject, now: Timestamp) -> anyhow::Result<Identity> {
        self.end_entity(subject, ExtendedKeyUsagePurpose::ServerAuth, now)
    }

    fn end_entity(
        &self,
        subject: &Subject,
        purpose: ExtendedKeyUsagePurpose,
        now: Timestamp,
    ) -> anyhow::Result<Identity> {
        let ia5 = |s: &String| Ia5String::try_from(s.as_str()).context("a name is not ASCII");
        let mut params = base_params(&subject.common_name, now)?;
        for name in &subject.dns {
            params.subject_alt_names.push(SanType::DnsName(ia5(name)?));
        }
        for name in &subject.uri {
            params.subject_alt_names.push(SanType::URI(ia5(name)?));
        }
        for ip in &subject.ip {
            params.subject_alt_names.push(SanType::IpAddress(*ip));
        }
        for name in &subject.email {
            params.subject_alt_names.push(SanType::Rfc822Name(ia5(name)?));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        params.use_authority_key_identifier_extension = true;
        let key = self.kind.generate()?;
        let certificate = params.signed_by(&key, &self.issuer())?;
        Ok(Identity {
            certificate: Arc::new(
                Certificate::from_der(certificate.der()).context("the issued certificate")?,
            ),
            certificate_pem: certificate.pem(),
            chain_pem: certificate.pem() + &self.chain_pem,
            key_pem: key.serialize_pem(),
        })
    }

    /// The certificate as PEM.
    pub fn certificate_pem(&self) -> String {
        pem("CERTIFICATE", self.certificate.der())
    }

    /// The private key, PKCS#8 PEM.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The key that signs certificates and lists.
    pub(super) fn key(&self) -> &KeyPair {
        &self.key
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }
}

/// Converts DER to PEM.
pub fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|&b| char::from(b)));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

fn authority_params(common_name: &str, now: Timestamp) -> anyhow::Result<CertificateParams> {
    let mut params = base_params(common_name, now)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.key_identifier_method = KeyIdMethod::Sha256;
    Ok(params)
}

fn base_params(common_name: &str, now: Timestamp) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Quickstart");
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    let backdate = i64::try_from(BACKDATE.as_secs())?;
    params.not_before = OffsetDateTime::from_unix_timestamp(now.0 - backdate)?;
    params.not_after = OffsetDateTime::from_unix_timestamp(now.after(LIFETIME).0)?;
    params.serial_number = Some(SerialNumber::from_slice(&serial()?));
    Ok(params)
}

/// Sixteen random bytes: a positive INTEGER of full length.
fn serial() -> anyhow::Result<[u8; 16]> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).ok().context("no random numbers available")?;
    serial[0] = (serial[0] & 0x7f) | 0x40;
    Ok(serial)
}
