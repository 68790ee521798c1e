//! One entry of revokedCertificates (RFC 5280 sections 5.1.2.6 and 5.3).

use crate::domain::cert::{self, GeneralName, oid};
use crate::domain::der::{self, DerError, Element, Reader, tag};
use crate::domain::dn;
use crate::domain::name::Name;
use crate::domain::time::Timestamp;
use crate::domain::trust::crl::error::Fault;
use crate::domain::trust::crl::reason::Reason;

/// What an entry says.
pub(super) struct Entry<'a> {
    /// userCertificate: the contents of a minimal INTEGER.
    pub(super) serial: &'a [u8],
    pub(super) reason: Reason,
    /// certificateIssuer: from this entry on, the issuer of the certificates (section 5.3.3).
    pub(super) issuer: Option<Name>,
    /// Extensions are present.
    pub(super) extended: bool,
}

/// The usual extensions: reasonCode alone, not critical, up to its last octet.
const REASON_ONLY: [u8; 13] = [0x30, 0x0c, 0x30, 0x0a, 0x06, 3, 0x55, 0x1d, 21, 0x04, 3, 0x0a, 1];

/// Reads the contents of one entry's SEQUENCE.
pub(super) fn read(contents: &[u8]) -> Result<Entry<'_>, Fault> {
    let mut r = Reader::new(contents);
    let serial = r.expect(tag::INTEGER).and_then(der::integer).map_err(at("serial number"))?;
    r.any().and_then(check_time).map_err(at("revocationDate"))?;
    let mut entry = Entry { serial, reason: Reason::Unspecified, issuer: None, extended: false };
    match r.rest() {
        [] => {}
        [usual @ .., number] if usual == REASON_ONLY => {
            entry.extended = true;
            entry.reason = reason(*number).map_err(at("reasonCode"))?;
        }
        _ => {
            entry.extended = true;
            let list = r.expect(tag::SEQUENCE).map_err(at("crlEntryExtensions"))?;
            r.end().map_err(at("entry"))?;
            read_extensions(list.raw, &mut entry)?;
        }
    }
    Ok(entry)
}

fn at(part: &'static str) -> impl Fn(DerError) -> Fault {
    move |why| Fault::Malformed { part, why }
}

/// The date decides nothing (an entry counts from when the list is published), so it is checked and
/// not kept.
fn check_time(element: Element<'_>) -> Result<(), DerError> {
    let digits = match (element.tag, element.value) {
        (tag::UTC_TIME, [digits @ .., b'Z']) if digits.len() == 12 => digits,
        (tag::GENERALIZED_TIME, [_, _, digits @ .., b'Z']) if digits.len() == 12 => digits,
        _ => return Timestamp::from_der(element).map(|_| ()),
    };
    // The first 28 days of every month need no calendar.
    let mut numbers = [0u8; 6];
    let mut are_digits = true;
    for (number, pair) in numbers.iter_mut().zip(digits.as_chunks::<2>().0) {
        let [tens, ones] = pair.map(|digit| digit.wrapping_sub(b'0'));
        are_digits &= tens <= 9 && ones <= 9;
        *number = tens.wrapping_mul(10).wrapping_add(ones);
    }
    let [_, month, day, hour, minute, second] = numbers;
    let is_plain = are_digits
        && (1..=12).contains(&month)
        && (1..=28).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if is_plain && element.tag == tag::UTC_TIME {
        return Ok(());
    }
    Timestamp::from_der(element).map(|_| ())
}

fn reason(number: u8) -> Result<Reason, DerError> {
    Reason::from_number(number).ok_or(DerError::Value("not a reason"))
}

fn read_extensions(der: &[u8], entry: &mut Entry<'_>) -> Result<(), Fault> {
    for extension in cert::read_extensions(der).map_err(at("crlEntryExtensions"))? {
        let value = &extension.value[..];
        match &extension.oid[..] {
            oid::REASON_CODE => {
                entry.reason = read_reason(value).map_err(at("reasonCode"))?;
            }
            oid::CERTIFICATE_ISSUER => {
                if !extension.critical {
                    return Err(Fault::Criticality {
                        extension: "certificateIssuer",
                        critical: false,
                    });
                }
                entry.issuer = Some(read_issuer(value).map_err(at("certificateIssuer"))?);
            }
            // When the key may have been lost decides nothing: an entry counts from its publication.
            oid::INVALIDITY_DATE => {}
            other if extension.critical => {
                return Err(Fault::CriticalEntryExtension { oid: dn::dotted(other) });
            }
            _ => {}
        }
    }
    Ok(())
}

fn read_reason(der: &[u8]) -> Result<Reason, DerError> {
    match der::single(der, tag::ENUMERATED)?.value {
        [number] => reason(*number),
        _ => Err(DerError::Value("not a reason")),
    }
}

/// The one directory name: of several, an entry under one would be overlooked under the others.
fn read_issuer(der: &[u8]) -> Result<Name, DerError> {
    let names = cert::read_general_names(der::single(der, tag::SEQUENCE)?.reader())?;
    let mut found = names.into_iter().filter_map(|name| match name {
        GeneralName::Directory(name) => Some(name),
        _ => None,
    });
    let first = found.next().ok_or(DerError::Value("no directory name"))?;
    match found.all(|other| other == first) {
        true => Ok(first),
        false => Err(DerError::Value("several directory names")),
    }
}
