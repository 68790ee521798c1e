//! Certificate parser.  A certificate is parsed once into the fields that path validation,
//! revocation checks and subject IDs use.
//!
//! x509-parser parses the whole certificate first.  The strict reader of `der` then parses every
//! part that a trust decision uses.  A certificate that either of them rejects is malformed.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::x509::der::{self, DerError, Element, Reader, tag};
use crate::x509::name::{self, Name};
use crate::x509::time::Timestamp;

pub(crate) mod extensions;
pub(crate) mod oid;

pub(crate) use extensions::{
    AuthorityKeyIdentifier, BasicConstraints, Extension, GeneralName, KeyUsage,
    read_authority_key_id, read_extensions, read_general_name, read_general_names,
};

/// Names of the encodings that are tolerated in certificates.
pub(crate) const TOLERATED: [&str; 6] = [
    "encoded-default",
    "encoded-default-ca",
    "empty-extensions",
    "ecdsa-null-parameters",
    "irregular-serial",
    "name-not-ia5",
];

/// SHA-256 of a certificate's DER, or of a key's SubjectPublicKeyInfo.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Computes the fingerprint of `bytes`.
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

/// Parsed certificate.  Parsing does not imply trust.
#[derive(Clone)]
pub struct Certificate {
    der: Arc<[u8]>,
    tbs: std::ops::Range<usize>,
    /// SHA-256 of the DER.  Identifies the certificate, and is its `x5t#S256` (RFC 8705 section
    /// 3.1).
    pub fingerprint: Fingerprint,
    /// 1, 2 or 3.
    pub(crate) version: u8,
    /// INTEGER contents, minimal.
    pub serial: Box<[u8]>,
    /// AlgorithmIdentifier contents of the signature.
    pub(crate) signature_algorithm: Box<[u8]>,
    pub(crate) signature: Box<[u8]>,
    /// Name of the authority that signed the certificate.
    pub issuer: Name,
    /// Name of the owner of the key.
    pub subject: Name,
    /// First second of validity.
    pub not_before: Timestamp,
    /// Last second of validity.
    pub not_after: Timestamp,
    /// DER of the SubjectPublicKeyInfo.
    pub spki: Box<[u8]>,
    /// SHA-256 of `spki`.  Identifies the key.
    pub key: Fingerprint,
    /// AlgorithmIdentifier contents of the key.
    pub(crate) key_algorithm: Box<[u8]>,
    /// Bytes of subjectPublicKey.
    pub(crate) public_key: Box<[u8]>,
    /// True if an issuerUniqueID or subjectUniqueID is present.
    pub(crate) has_unique_ids: bool,
    /// True if the list of extensions is present and empty.
    pub(crate) has_empty_extensions: bool,
    pub(crate) basic_constraints: Option<BasicConstraints>,
    pub(crate) key_usage: Option<KeyUsage>,
    /// OIDs of extendedKeyUsage.
    pub(crate) extended_key_usage: Option<Vec<Box<[u8]>>>,
    pub(crate) subject_alt_name: Option<Vec<GeneralName>>,
    /// subjectKeyIdentifier, if present.
    pub subject_key_id: Option<Box<[u8]>>,
    pub(crate) authority_key_id: Option<AuthorityKeyIdentifier>,
    /// All extensions in their order.  No OID occurs twice.
    pub(crate) extensions: Vec<Extension>,
}

/// Reason why a certificate cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("certificate: {part}: {why}")]
pub struct CertificateError {
    /// ASN.1 name of the part that is not valid.
    pub part: &'static str,
    pub(crate) why: DerError,
}

/// Returns a `map_err` argument that names the part.
fn at(part: &'static str) -> impl Fn(DerError) -> CertificateError {
    move |why| CertificateError { part, why }
}

/// The three parts of a certificate.
struct Frame<'a> {
    tbs: Element<'a>,
    signature_algorithm: Element<'a>,
    signature: Element<'a>,
}

impl<'a> Frame<'a> {
    fn from_der(der: &'a [u8]) -> Result<Self, CertificateError> {
        let error = |why| at("frame")(why);
        match X509Certificate::from_der(der) {
            Ok(([], _)) => {}
            Ok((rest, _)) => return Err(error(DerError::Trailing(rest.len()))),
            Err(_) => return Err(error(DerError::Value("not an X.509 certificate"))),
        }
        let mut outer = der::single(der, tag::SEQUENCE).map_err(error)?.reader();
        let tbs = outer.expect(tag::SEQUENCE).map_err(error)?;
        let signature_algorithm = outer.expect(tag::SEQUENCE).map_err(error)?;
        let signature = outer.expect(tag::BIT_STRING).map_err(error)?;
        outer.end().map_err(error)?;
        Ok(Self { tbs, signature_algorithm, signature })
    }
}

impl Certificate {
    /// Parses exactly one DER certificate.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let Frame { tbs, signature_algorithm, signature } = Frame::from_der(der)?;
        let start = der.len() - tbs.raw.len() - signature_algorithm.raw.len() - signature.raw.len();
        let (signature, unused) = der::bit_string(signature.value).map_err(at("signature"))?;
        if unused != 0 {
            return Err(at("signature")(DerError::Value("not a whole number of bytes")));
        }

        let mut r = tbs.reader();
        let version = read_version(&mut r).map_err(at("version"))?;
        let serial = r.expect(tag::INTEGER).and_then(der::integer).map_err(at("serialNumber"))?;
        let inner = r.expect(tag::SEQUENCE).map_err(at("signature algorithm"))?;
        if inner.raw != signature_algorithm.raw {
            // RFC 5280 section 4.1.1.2.  The signature does not cover the outer identifier.
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
        let has_unique_ids = read_unique_ids(&mut r, version).map_err(at("uniqueID"))?;
        let extensions = read_all_extensions(&mut r, version).map_err(at("extensions"))?;
        r.end().map_err(at("tbsCertificate"))?;

        let mut certificate = Self {
            fingerprint: Fingerprint::of(der),
            der: der.into(),
            tbs: start..start + tbs.raw.len(),
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
            has_empty_extensions: extensions.as_ref().is_some_and(Vec::is_empty),
            basic_constraints: None,
            key_usage: None,
            extended_key_usage: None,
            subject_alt_name: None,
            subject_key_id: None,
            authority_key_id: None,
            extensions: extensions.unwrap_or_default(),
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
                        Some(extensions::read_oids(value).map_err(at("extendedKeyUsage"))?);
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

    /// Returns the names of the tolerated encodings in this certificate: deviations from DER or the
    /// profile that cannot mean anything else and that the signature covers.  The crate doc lists them.
    pub fn tolerated(&self) -> Vec<&'static str> {
        let explicit_ca = || {
            let constraints = self.extension(oid::BASIC_CONSTRAINTS)?;
            let contents = der::single(&constraints.value, tag::SEQUENCE).ok()?;
            let flag = contents.reader().optional(tag::BOOLEAN).ok()??;
            der::boolean(flag).ok().filter(|ca| !ca)
        };
        let names = self.subject_alt_name.iter().flatten();
        let is_not_ia5 = |name: &GeneralName| match name {
            GeneralName::Dns(text) | GeneralName::Email(text) | GeneralName::Uri(text) => {
                !text.is_ascii()
            }
            _ => false,
        };
        let found = [
            self.extensions.iter().any(|e| e.encodes_default),
            explicit_ca().is_some(),
            self.has_empty_extensions,
            without_null(&self.signature_algorithm).is_some(),
            has_irregular_serial(&self.serial),
            names.into_iter().any(is_not_ia5),
        ];
        TOLERATED
            .into_iter()
            .zip(found)
            .filter_map(|(name, occurs)| occurs.then_some(name))
            .collect()
    }

    /// Returns the whole DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Returns the DER, without copying it.
    pub(crate) fn shared_der(&self) -> Arc<[u8]> {
        Arc::clone(&self.der)
    }

    /// Returns the signed part, tbsCertificate.
    pub fn tbs(&self) -> &[u8] {
        &self.der[self.tbs.clone()]
    }

    /// Returns true if issuer and subject are the same name (RFC 5280 section 3.2).  The key may
    /// differ.
    pub(crate) fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }

    /// Returns the extension with this OID.
    pub(crate) fn extension(&self, oid: &[u8]) -> Option<&Extension> {
        self.extensions.iter().find(|e| &*e.oid == oid)
    }

    /// Returns true if `at` is within the validity, both ends included (RFC 5280 section 4.1.2.5).
    pub(crate) fn is_valid_at(&self, at: Timestamp) -> bool {
        self.not_before <= at && at <= self.not_after
    }

    /// Formats the serial number in hexadecimal.
    pub(crate) fn serial_hex(&self) -> String {
        self.serial.iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate(`{}`, serial {})", self.subject, self.serial_hex())
    }
}

/// Returns true for a serial number that RFC 5280 section 4.1.2.2 forbids to issuers: zero, negative, or
/// longer than 20 bytes.
fn has_irregular_serial(serial: &[u8]) -> bool {
    matches!(serial, [0]) || serial.first().is_some_and(|top| top & 0x80 != 0) || serial.len() > 20
}

/// Contents of ECDSA AlgorithmIdentifiers: ecdsa-with-SHA256, -SHA384 and -SHA512.
const ECDSA: [&[u8]; 3] = [
    &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2],
    &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3],
    &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4],
];

/// Returns the contents of an ECDSA AlgorithmIdentifier without its NULL parameters, if it has them.
/// RFC 5758 section 3.2 requires to omit the parameters; they have no other meaning.
pub(crate) fn without_null(algorithm: &[u8]) -> Option<&'static [u8]> {
    let bare = algorithm.strip_suffix(&[tag::NULL, 0])?;
    ECDSA.into_iter().find(|known| *known == bare)
}

/// Reads issuerUniqueID and subjectUniqueID, which exist from X.509 v2 on.  Nothing uses them.  Returns
/// true if one is present.
fn read_unique_ids(r: &mut Reader<'_>, version: u8) -> Result<bool, DerError> {
    let mut is_present = false;
    for number in [1, 2] {
        is_present |= r.optional(tag::context(number))?.is_some();
    }
    match is_present && version < 2 {
        true => Err(DerError::Value("present in a v1 certificate")),
        false => Ok(is_present),
    }
}

/// Reads the extensions, which exist in X.509 v3 only.
fn read_all_extensions(
    r: &mut Reader<'_>,
    version: u8,
) -> Result<Option<Vec<Extension>>, DerError> {
    match r.optional(tag::context_constructed(3))? {
        None => Ok(None),
        Some(_) if version != 3 => Err(DerError::Value("present, but not a v3 certificate")),
        Some(wrapped) => read_extensions(wrapped.value).map(Some),
    }
}

fn read_version(r: &mut Reader<'_>) -> Result<u8, DerError> {
    let Some(wrapped) = r.optional(tag::context_constructed(0))? else { return Ok(1) };
    match der::small_integer(der::single(wrapped.value, tag::INTEGER)?)? {
        // An encoded DEFAULT is tolerated.
        0 => Ok(1),
        1 => Ok(2),
        2 => Ok(3),
        _ => Err(DerError::Value("neither v1, v2 nor v3")),
    }
}

fn read_spki(spki: Element<'_>) -> Result<(&[u8], &[u8]), DerError> {
    let mut r = spki.reader();
    let algorithm = r.expect(tag::SEQUENCE)?.value;
    let (key, unused) = der::bit_string(r.expect(tag::BIT_STRING)?.value)?;
    r.end()?;
    if unused != 0 {
        return Err(DerError::Value("key is not a whole number of bytes"));
    }
    Ok((algorithm, key))
}

#[cfg(test)]
mod tests;
