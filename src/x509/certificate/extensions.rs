//! Certificate extensions: their types, and parsers shared with revocation lists.

use crate::x509::der::{self, DerError, Element, Reader, tag};
use crate::x509::name::Name;

/// Largest number of extensions in a certificate or list.  Each is compared with all before it.
pub(super) const MAX_EXTENSIONS: usize = 100;

/// keyUsage (RFC 5280 section 4.2.1.3).  Bit n is set for named bit n.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyUsage(pub(super) u16);

impl KeyUsage {
    /// Returns bit 0.
    pub(crate) fn digital_signature(self) -> bool {
        self.0 & 1 != 0
    }

    /// Returns bit 5.
    pub(crate) fn key_cert_sign(self) -> bool {
        self.0 & (1 << 5) != 0
    }

    /// Returns bit 6.
    pub(crate) fn crl_sign(self) -> bool {
        self.0 & (1 << 6) != 0
    }
}

/// basicConstraints (RFC 5280 section 4.2.1.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BasicConstraints {
    pub ca: bool,
    /// Largest number of intermediate certificates below, not counting self-issued ones.
    pub path_len: Option<u32>,
}

/// GeneralName (RFC 5280 section 4.2.1.6).  Only its DER is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GeneralName {
    /// otherName: the whole encoding.
    Other(Box<[u8]>),
    /// rfc822Name, unchanged.
    Email(Box<[u8]>),
    /// dNSName, unchanged.
    Dns(Box<[u8]>),
    /// directoryName.
    Directory(Name),
    /// uniformResourceIdentifier, unchanged.
    Uri(Box<[u8]>),
    /// iPAddress: 4 or 16 bytes in a certificate, 8 or 32 in a constraint.
    Ip(Box<[u8]>),
    /// x400Address, ediPartyName or registeredID: the tag number and the whole encoding.
    Unsupported(u8, Box<[u8]>),
}

/// authorityKeyIdentifier (RFC 5280 section 4.2.1.1).  The other two fields are parsed and not
/// kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AuthorityKeyIdentifier {
    pub key_id: Option<Box<[u8]>>,
}

/// One extension, undecoded.
#[derive(Debug, Clone)]
pub(crate) struct Extension {
    /// OBJECT IDENTIFIER contents.
    pub oid: Box<[u8]>,
    pub critical: bool,
    /// True if `critical` is FALSE and encoded, although DER omits a DEFAULT value.
    pub encodes_default: bool,
    /// DER inside extnValue.
    pub value: Box<[u8]>,
}

/// Parses `Extensions ::= SEQUENCE SIZE (1..MAX) OF Extension`.  Each OID may occur once (RFC 5280
/// section 4.2).  An empty list and an encoded DEFAULT are tolerated: nothing else can be meant.
pub(crate) fn read_extensions(der: &[u8]) -> Result<Vec<Extension>, DerError> {
    let mut list = der::single(der, tag::SEQUENCE)?.reader();
    let mut out: Vec<Extension> = Vec::new();
    while !list.is_empty() {
        let mut r = list.sequence()?;
        let oid = r.expect(tag::OID).and_then(der::object_identifier)?;
        let encoded = r.optional(tag::BOOLEAN)?.map(der::boolean).transpose()?;
        let (critical, encodes_default) = (encoded == Some(true), encoded == Some(false));
        let value = r.expect(tag::OCTET_STRING)?.value;
        r.end()?;
        if out.len() == MAX_EXTENSIONS {
            return Err(DerError::Value("more than 100 extensions"));
        }
        if out.iter().any(|e| &*e.oid == oid) {
            return Err(DerError::Value("an extension occurs twice"));
        }
        out.push(Extension { oid: oid.into(), critical, encodes_default, value: value.into() });
    }
    Ok(out)
}

pub(super) fn read_basic_constraints(der: &[u8]) -> Result<BasicConstraints, DerError> {
    let mut r = der::single(der, tag::SEQUENCE)?.reader();
    let ca = match r.optional(tag::BOOLEAN)? {
        // An encoded DEFAULT FALSE is tolerated.
        Some(flag) => der::boolean(flag)?,
        None => false,
    };
    let path_len = r.optional(tag::INTEGER)?.map(der::small_integer).transpose()?;
    r.end()?;
    Ok(BasicConstraints { ca, path_len })
}

/// Parses `SEQUENCE SIZE (1..MAX) OF OBJECT IDENTIFIER`.
pub(super) fn read_oids(der: &[u8]) -> Result<Vec<Box<[u8]>>, DerError> {
    let mut r = der::single(der, tag::SEQUENCE)?.reader();
    let mut out = Vec::new();
    while !r.is_empty() {
        out.push(r.expect(tag::OID)?.value.into());
    }
    if out.is_empty() { Err(DerError::Value("an empty list")) } else { Ok(out) }
}

/// Parses GeneralNames from a reader over the contents of their SEQUENCE or implicit tag.  At least
/// one name is required.
pub(crate) fn read_general_names(mut r: Reader<'_>) -> Result<Vec<GeneralName>, DerError> {
    let mut out = Vec::new();
    while !r.is_empty() {
        out.push(read_general_name(r.any()?)?);
    }
    if out.is_empty() { Err(DerError::Value("an empty list of names")) } else { Ok(out) }
}

pub(crate) fn read_general_name(element: Element<'_>) -> Result<GeneralName, DerError> {
    // Bytes that are not IA5String are kept: subject IDs and name constraints reject them where the name
    // matters.
    let text = || element.value.into();
    Ok(match element.tag {
        0xa0 => GeneralName::Other(element.raw.into()),
        0x81 => GeneralName::Email(text()),
        0x82 => GeneralName::Dns(text()),
        // Name is a CHOICE, so the tag is explicit.
        0xa4 => GeneralName::Directory(Name::from_der(element.value)?),
        0x86 => GeneralName::Uri(text()),
        0x87 => GeneralName::Ip(element.value.into()),
        0xa3 => GeneralName::Unsupported(3, element.raw.into()),
        0xa5 => GeneralName::Unsupported(5, element.raw.into()),
        0x88 => GeneralName::Unsupported(8, element.raw.into()),
        _ => return Err(DerError::Value("not a GeneralName")),
    })
}

/// Parses authorityKeyIdentifier of a certificate or CRL.
pub(crate) fn read_authority_key_id(der: &[u8]) -> Result<AuthorityKeyIdentifier, DerError> {
    let mut r = der::single(der, tag::SEQUENCE)?.reader();
    let key_id = r.optional(tag::context(0))?.map(|e| e.value.into());
    if let Some(names) = r.optional(tag::context_constructed(1))? {
        read_general_names(names.reader())?;
    }
    r.optional(tag::context(2))?.map(der::integer).transpose()?;
    r.end()?;
    Ok(AuthorityKeyIdentifier { key_id })
}
