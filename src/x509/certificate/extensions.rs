//! Readers of extensions, for certificates and revocation lists.

use crate::x509::certificate::{AuthorityKeyIdentifier, BasicConstraints, Extension, GeneralName};
use crate::x509::der::{self, DerError, Element, Reader, tag};
use crate::x509::name::Name;

/// Extensions in a certificate or list; each is compared with all before it.
pub const MAX_EXTENSIONS: usize = 100;

/// Extensions ::= SEQUENCE SIZE (1..MAX) OF Extension; each OID once (RFC 5280 section 4.2).
pub fn read_extensions(der: &[u8]) -> Result<Vec<Extension>, DerError> {
    let mut list = der::single(der, tag::SEQUENCE)?.reader();
    let mut out: Vec<Extension> = Vec::new();
    while !list.is_empty() {
        let mut r = list.sequence()?;
        let oid = r.expect(tag::OID).and_then(der::object_identifier)?;
        let critical = match r.optional(tag::BOOLEAN)? {
            None => false,
            Some(flag) => match der::boolean(flag)? {
                true => true,
                false => {
                    return Err(DerError::Value("critical is FALSE, the DEFAULT, yet encoded"));
                }
            },
        };
        let value = r.expect(tag::OCTET_STRING)?.value;
        r.end()?;
        if out.len() == MAX_EXTENSIONS {
            return Err(DerError::Value("more than 100 extensions"));
        }
        if out.iter().any(|e| &*e.oid == oid) {
            return Err(DerError::Value("an extension occurs twice"));
        }
        out.push(Extension { oid: oid.into(), critical, value: value.into() });
    }
    if out.is_empty() {
        return Err(DerError::Value("an empty list"));
    }
    Ok(out)
}

pub(super) fn read_basic_constraints(der: &[u8]) -> Result<BasicConstraints, DerError> {
    let mut r = der::single(der, tag::SEQUENCE)?.reader();
    let ca = match r.optional(tag::BOOLEAN)? {
        // An encoded DEFAULT FALSE is not DER, but common; it says nothing dangerous.
        Some(flag) => der::boolean(flag)?,
        None => false,
    };
    let path_len = r.optional(tag::INTEGER)?.map(der::small_integer).transpose()?;
    r.end()?;
    Ok(BasicConstraints { ca, path_len })
}

/// SEQUENCE SIZE (1..MAX) OF OBJECT IDENTIFIER.
pub fn read_oids(der: &[u8]) -> Result<Vec<Box<[u8]>>, DerError> {
    let mut r = der::single(der, tag::SEQUENCE)?.reader();
    let mut out = Vec::new();
    while !r.is_empty() {
        out.push(r.expect(tag::OID)?.value.into());
    }
    if out.is_empty() { Err(DerError::Value("an empty list")) } else { Ok(out) }
}

/// GeneralNames from the reader of their SEQUENCE's (or implicit tag's) contents; at least one.
pub fn read_general_names(mut r: Reader<'_>) -> Result<Vec<GeneralName>, DerError> {
    let mut out = Vec::new();
    while !r.is_empty() {
        out.push(read_general_name(r.any()?)?);
    }
    if out.is_empty() { Err(DerError::Value("an empty list of names")) } else { Ok(out) }
}

/// One GeneralName.
pub fn read_general_name(element: Element<'_>) -> Result<GeneralName, DerError> {
    const NOT_IA5: DerError = DerError::Value("a name is not an IA5String");
    let ia5 = || if element.value.is_ascii() { Ok(element.value.into()) } else { Err(NOT_IA5) };
    Ok(match element.tag {
        0xa0 => GeneralName::Other(element.raw.into()),
        0x81 => GeneralName::Email(ia5()?),
        0x82 => GeneralName::Dns(ia5()?),
        // Name is a CHOICE, so the tag is explicit.
        0xa4 => GeneralName::Directory(Name::from_der(element.value)?),
        0x86 => GeneralName::Uri(ia5()?),
        0x87 => GeneralName::Ip(element.value.into()),
        0xa3 => GeneralName::Unsupported(3, element.raw.into()),
        0xa5 => GeneralName::Unsupported(5, element.raw.into()),
        0x88 => GeneralName::Unsupported(8, element.raw.into()),
        _ => return Err(DerError::Value("not a GeneralName")),
    })
}

/// authorityKeyIdentifier's contents, as found in certificates and CRLs.
pub fn read_authority_key_id(der: &[u8]) -> Result<AuthorityKeyIdentifier, DerError> {
    let mut r = der::single(der, tag::SEQUENCE)?.reader();
    let key_id = r.optional(tag::context(0))?.map(|e| e.value.into());
    let issuer = match r.optional(tag::context_constructed(1))? {
        Some(names) => read_general_names(names.reader())?,
        None => Vec::new(),
    };
    let serial = r.optional(tag::context(2))?.map(der::integer).transpose()?.map(Into::into);
    r.end()?;
    Ok(AuthorityKeyIdentifier { key_id, issuer, serial })
}
