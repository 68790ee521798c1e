//! One certificate, parsed once into what path validation, revocation and identity ask of it.
//!
//! The frame is read by x509-parser, and every part that decides trust a second time by the strict
//! reader of [`der`]: a certificate that either of them cannot read is malformed.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::x509::der::{self, DerError, Element, Reader, tag};
use crate::x509::name::{self, Name};
use crate::x509::time::Timestamp;

mod extensions;
pub mod oid;

pub use extensions::{
    MAX_EXTENSIONS, read_authority_key_id, read_extensions, read_general_name, read_general_names,
    read_oids,
};

/// SHA-256 of a certificate's DER, or of a key's SubjectPublicKeyInfo.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut out = [0; 32];
        out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
        Self(out)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// keyUsage (RFC 5280 section 4.2.1.3), bit n set for named bit n.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyUsage(pub u16);

impl KeyUsage {
    /// digitalSignature (0).
    pub fn digital_signature(self) -> bool {
        self.0 & 1 != 0
    }
    /// keyCertSign (5).
    pub fn key_cert_sign(self) -> bool {
        self.0 & (1 << 5) != 0
    }
    /// cRLSign (6).
    pub fn crl_sign(self) -> bool {
        self.0 & (1 << 6) != 0
    }
}

/// basicConstraints (RFC 5280 section 4.2.1.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BasicConstraints {
    /// The subject is a certification authority.
    pub ca: bool,
    /// How many intermediate certificates may follow, self-issued ones aside.
    pub path_len: Option<u32>,
}

/// One GeneralName (RFC 5280 section 4.2.1.6), not checked beyond its DER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GeneralName {
    /// otherName: the whole encoding.
    Other(Box<[u8]>),
    /// rfc822Name, as found.
    Email(Box<[u8]>),
    /// dNSName, as found.
    Dns(Box<[u8]>),
    /// directoryName.
    Directory(Name),
    /// uniformResourceIdentifier, as found.
    Uri(Box<[u8]>),
    /// iPAddress: 4 or 16 octets in a certificate, 8 or 32 in a constraint.
    Ip(Box<[u8]>),
    /// x400Address, ediPartyName or registeredID: the tag number and the whole encoding.
    Unsupported(u8, Box<[u8]>),
}

/// authorityKeyIdentifier (RFC 5280 section 4.2.1.1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthorityKeyIdentifier {
    /// keyIdentifier.
    pub key_id: Option<Box<[u8]>>,
    /// authorityCertIssuer's directory names.
    pub issuer: Vec<GeneralName>,
    /// authorityCertSerialNumber.
    pub serial: Option<Box<[u8]>>,
}

/// One extension, for the parts that read it themselves.
#[derive(Debug, Clone)]
pub struct Extension {
    /// The extension's OID contents.
    pub oid: Box<[u8]>,
    /// Marked critical.
    pub critical: bool,
    /// The DER inside extnValue.
    pub value: Box<[u8]>,
}

/// A certificate that could be read.  Nothing about it is trusted.
#[derive(Clone)]
pub struct Certificate {
    der: Arc<[u8]>,
    tbs: std::ops::Range<usize>,
    /// SHA-256 of the DER: the certificate's identity, and `x5t#S256` (RFC 8705 section 3.1).
    pub fingerprint: Fingerprint,
    /// 1, 2 or 3.
    pub version: u8,
    /// INTEGER contents, minimal.
    pub serial: Box<[u8]>,
    /// AlgorithmIdentifier contents of the signature.
    pub signature_algorithm: Box<[u8]>,
    /// The signature's octets.
    pub signature: Box<[u8]>,
    /// Who signed.
    pub issuer: Name,
    /// Whom the key belongs to.
    pub subject: Name,
    /// First second of validity.
    pub not_before: Timestamp,
    /// Last second of validity.
    pub not_after: Timestamp,
    /// SubjectPublicKeyInfo DER.
    pub spki: Box<[u8]>,
    /// SHA-256 of `spki`: the key's identity.
    pub key: Fingerprint,
    /// AlgorithmIdentifier contents of the key.
    pub key_algorithm: Box<[u8]>,
    /// subjectPublicKey octets.
    pub public_key: Box<[u8]>,
    /// An issuerUniqueID or subjectUniqueID is present.
    pub has_unique_ids: bool,
    /// basicConstraints, if present.
    pub basic_constraints: Option<BasicConstraints>,
    /// keyUsage, if present.
    pub key_usage: Option<KeyUsage>,
    /// extendedKeyUsage OIDs, if present.
    pub extended_key_usage: Option<Vec<Box<[u8]>>>,
    /// subjectAltName, if present.
    pub subject_alt_name: Option<Vec<GeneralName>>,
    /// subjectKeyIdentifier, if present.
    pub subject_key_id: Option<Box<[u8]>>,
    /// authorityKeyIdentifier, if present.
    pub authority_key_id: Option<AuthorityKeyIdentifier>,
    /// All extensions in order.  No OID occurs twice.
    pub extensions: Vec<Extension>,
}

/// Why a certificate cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("certificate: {part}: {why}")]
pub struct CertificateError {
    /// Which part of it.
    pub part: &'static str,
    /// What is wrong there.
    pub why: DerError,
}

/// `map_err` argument that names the part.
fn at(part: &'static str) -> impl Fn(DerError) -> CertificateError {
    move |why| CertificateError { part, why }
}

impl Certificate {
    /// Reads exactly one DER certificate.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let frame = at("frame");
        match X509Certificate::from_der(der) {
            Ok(([], _)) => {}
            Ok((rest, _)) => return Err(frame(DerError::Trailing(rest.len()))),
            Err(_) => return Err(frame(DerError::Value("not an X.509 certificate"))),
        }
        let mut outer = der::single(der, tag::SEQUENCE).map_err(&frame)?.reader();
        let tbs = outer.expect(tag::SEQUENCE).map_err(&frame)?;
        let signature_algorithm = outer.expect(tag::SEQUENCE).map_err(&frame)?;
        let signature = outer.expect(tag::BIT_STRING).map_err(&frame)?;
        outer.end().map_err(&frame)?;
        let tbs_start =
            der.len() - tbs.raw.len() - signature_algorithm.raw.len() - signature.raw.len();
        let (signature, unused) = der::bit_string(signature.value).map_err(at("signature"))?;
        if unused != 0 {
            return Err(at("signature")(DerError::Value("not whole octets")));
        }

        let mut r = tbs.reader();
        let version = read_version(&mut r).map_err(at("version"))?;
        let serial = r.expect(tag::INTEGER).and_then(der::integer).map_err(at("serialNumber"))?;
        let inner = r.expect(tag::SEQUENCE).map_err(at("signature algorithm"))?;
        if inner.raw != signature_algorithm.raw {
            // RFC 5280 section 4.1.1.2; otherwise the outer one is not covered by the signature.
            return Err(at("signature algorithm")(DerError::Value(
                "inner and outer identifiers differ",
            )));
        }
        let issuer = name::read(&mut r).map_err(at("issuer"))?;
        let mut validity = r.sequence().map_err(at("validity"))?;
        let not_before = validity.any().and_then(Timestamp::from_der).map_err(at("notBefore"))?;
        let not_after = validity.any().and_then(Timestamp::from_der).map_err(at("notAfter"))?;
        validity.end().map_err(at("validity"))?;
        let subject = name::read(&mut r).map_err(at("subject"))?;
        let spki = r.expect(tag::SEQUENCE).map_err(at("subjectPublicKeyInfo"))?;
        let (key_algorithm, public_key) = read_spki(spki).map_err(at("subjectPublicKeyInfo"))?;
        let mut has_unique_ids = false;
        for number in [1, 2] {
            // Unique identifiers: X.509 v2 and up; nothing uses them.
            has_unique_ids |= r.optional(tag::context(number)).map_err(at("uniqueID"))?.is_some();
        }
        if has_unique_ids && version < 2 {
            return Err(at("uniqueID")(DerError::Value("present in a v1 certificate")));
        }
        let extensions = match r.optional(tag::context_constructed(3)).map_err(at("extensions"))? {
            None => Vec::new(),
            Some(_) if version != 3 => {
                return Err(at("extensions")(DerError::Value("present, but not a v3 certificate")));
            }
            Some(wrapped) => read_extensions(wrapped.value).map_err(at("extensions"))?,
        };
        r.end().map_err(at("tbsCertificate"))?;

        let mut certificate = Self {
            fingerprint: Fingerprint::of(der),
            der: der.into(),
            tbs: tbs_start..tbs_start + tbs.raw.len(),
            version,
            serial: serial.into(),
            signature_algorithm: signature_algorithm.value.into(),
            signature: signature.into(),
            issuer,
            subject,
            not_before,
            not_after,
            key: Fingerprint::of(spki.raw),
            spki: spki.raw.into(),
            key_algorithm: key_algorithm.into(),
            public_key: public_key.into(),
            has_unique_ids,
            basic_constraints: None,
            key_usage: None,
            extended_key_usage: None,
            subject_alt_name: None,
            subject_key_id: None,
            authority_key_id: None,
            extensions,
        };
        certificate.read_known_extensions()?;
        Ok(certificate)
    }

    fn read_known_extensions(&mut self) -> Result<(), CertificateError> {
        for extension in &self.extensions {
            let value = &extension.value[..];
            match &extension.oid[..] {
                oid::BASIC_CONSTRAINTS => {
                    self.basic_constraints = Some(
                        extensions::read_basic_constraints(value)
                            .map_err(at("basicConstraints"))?,
                    );
                }
                oid::KEY_USAGE => {
                    let bits = der::single(value, tag::BIT_STRING)
                        .and_then(|e| der::named_bits(e.value))
                        .map_err(at("keyUsage"))?;
                    self.key_usage = Some(KeyUsage(bits));
                }
                oid::EXTENDED_KEY_USAGE => {
                    self.extended_key_usage =
                        Some(read_oids(value).map_err(at("extendedKeyUsage"))?);
                }
                oid::SUBJECT_ALT_NAME => {
                    let names = der::single(value, tag::SEQUENCE)
                        .and_then(|e| read_general_names(e.reader()))
                        .map_err(at("subjectAltName"))?;
                    self.subject_alt_name = Some(names);
                }
                oid::SUBJECT_KEY_IDENTIFIER => {
                    let id = der::single(value, tag::OCTET_STRING)
                        .map_err(at("subjectKeyIdentifier"))?;
                    self.subject_key_id = Some(id.value.into());
                }
                oid::AUTHORITY_KEY_IDENTIFIER => {
                    self.authority_key_id =
                        Some(read_authority_key_id(value).map_err(at("authorityKeyIdentifier"))?);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The whole DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The signed part.
    pub fn tbs(&self) -> &[u8] {
        &self.der[self.tbs.clone()]
    }

    /// Issuer and subject are the same name (RFC 5280 section 3.2); the key may differ.
    pub fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }

    /// The extension with this OID.
    pub fn extension(&self, oid: &[u8]) -> Option<&Extension> {
        self.extensions.iter().find(|e| &*e.oid == oid)
    }

    /// True when `at` is within the validity, both ends included (RFC 5280 section 4.1.2.5).
    pub fn is_valid_at(&self, at: Timestamp) -> bool {
        self.not_before <= at && at <= self.not_after
    }

    /// The serial number in hexadecimal.
    pub fn serial_hex(&self) -> String {
        self.serial.iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate(`{}`, serial {})", self.subject, self.serial_hex())
    }
}

fn read_version(r: &mut Reader<'_>) -> Result<u8, DerError> {
    let Some(wrapped) = r.optional(tag::context_constructed(0))? else { return Ok(1) };
    match der::small_integer(der::single(wrapped.value, tag::INTEGER)?)? {
        // v1 is the DEFAULT and DER leaves defaults out.
        1 => Ok(2),
        2 => Ok(3),
        _ => Err(DerError::Value("neither v1 (absent), v2 nor v3")),
    }
}

fn read_spki(spki: Element<'_>) -> Result<(&[u8], &[u8]), DerError> {
    let mut r = spki.reader();
    let algorithm = r.expect(tag::SEQUENCE)?.value;
    let (key, unused) = der::bit_string(r.expect(tag::BIT_STRING)?.value)?;
    r.end()?;
    if unused != 0 {
        return Err(DerError::Value("key is not whole octets"));
    }
    Ok((algorithm, key))
}

#[cfg(test)]
mod tests;
