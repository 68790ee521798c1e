//! One entry of revokedCertificates (RFC 5280 sections 5.1.2.6 and 5.3).

use crate::x509::certificate::{self, GeneralName, oid};
use crate::x509::crl::error::Fault;
use crate::x509::crl::reason::Reason;
use crate::x509::der::{self, DerError, Element, Reader, tag};
use crate::x509::name::Name;
use crate::x509::name::oid::dotted;
use crate::x509::time::Timestamp;

/// One entry of a list.
pub(super) struct Entry<'a> {
    /// userCertificate: the contents of a minimal INTEGER.
    pub(super) serial: &'a [u8],
    pub(super) reason: Reason,
    pub(super) has_extensions: bool,
}

/// The most common extensions, without the last byte: a single reasonCode that is not critical.
const REASON_ONLY: [u8; 13] = [0x30, 0x0c, 0x30, 0x0a, 0x06, 3, 0x55, 0x1d, 21, 0x04, 3, 0x0a, 1];

/// Fast path of [`parse`] for the most common form of an entry.  Returns `None` for any other form,
/// valid or not.
///
/// The function is small so that its result stays in registers.  In memory, the loads would wait
/// for the stores of earlier serials, which makes parsing a list half as slow again.
#[inline]
pub(super) fn parse_common(contents: &[u8]) -> Option<Entry<'_>> {
    let mut r = Reader::new(contents);
    let serial = r.expect(tag::INTEGER).and_then(der::integer).ok()?;
    r.any().ok().filter(|&date| is_plain_date(date))?;
    match r.rest() {
        [] => Some(Entry { serial, reason: Reason::Unspecified, has_extensions: false }),
        [head @ .., number] if head == REASON_ONLY => {
            Some(Entry { serial, reason: Reason::from_number(*number)?, has_extensions: true })
        }
        _ => None,
    }
}

/// Parses the contents of one entry's SEQUENCE.  Also returns certificateIssuer: the issuer of the
/// certificates from this entry on (section 5.3.3).
pub(super) fn parse(contents: &[u8]) -> Result<(Entry<'_>, Option<Name>), Fault> {
    let mut r = Reader::new(contents);
    let serial = r.expect(tag::INTEGER).and_then(der::integer).map_err(at("serial number"))?;
    // The date is checked and not kept: an entry counts from the publication of the list.
    r.any().and_then(Timestamp::from_der).map_err(at("revocationDate"))?;
    let mut entry = Entry { serial, reason: Reason::Unspecified, has_extensions: false };
    let mut issuer = None;
    if !r.rest().is_empty() {
        entry.has_extensions = true;
        let list = r.expect(tag::SEQUENCE).map_err(at("crlEntryExtensions"))?;
        r.end().map_err(at("entry"))?;
        issuer = read_extensions(list.raw, &mut entry)?;
    }
    Ok((entry, issuer))
}

fn at(part: &'static str) -> impl Fn(DerError) -> Fault {
    move |why| Fault::Malformed { part, why }
}

/// Returns true for a UTCTime on day 1 to 28 of a month, which is valid without a calendar.
#[inline]
fn is_plain_date(date: Element<'_>) -> bool {
    let [digits @ .., b'Z'] = date.value else { return false };
    if date.tag != tag::UTC_TIME || digits.len() != 12 {
        return false;
    }
    let mut numbers = [0u8; 6];
    let mut are_digits = true;
    for (number, pair) in numbers.iter_mut().zip(digits.as_chunks::<2>().0) {
        let [tens, ones] = pair.map(|digit| digit.wrapping_sub(b'0'));
        are_digits &= tens <= 9 && ones <= 9;
        *number = tens.wrapping_mul(10).wrapping_add(ones);
    }
    let [_, month, day, hour, minute, second] = numbers;
    are_digits
        && (1..=12).contains(&month)
        && (1..=28).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60
}

fn read_extensions(der: &[u8], entry: &mut Entry<'_>) -> Result<Option<Name>, Fault> {
    let mut issuer = None;
    for extension in certificate::read_extensions(der).map_err(at("crlEntryExtensions"))? {
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
                issuer = Some(read_issuer(value).map_err(at("certificateIssuer"))?);
            }
            // The date of a suspected key loss is ignored: an entry counts from its publication.
            oid::INVALIDITY_DATE => {}
            other if extension.critical => {
                return Err(Fault::CriticalEntryExtension { oid: dotted(other) });
            }
            _ => {}
        }
    }
    Ok(issuer)
}

fn read_reason(der: &[u8]) -> Result<Reason, DerError> {
    match der::single(der, tag::ENUMERATED)?.value {
        // RFC 5280 section 5.3.1 does not use 7.  The entry can only mean that the certificate is revoked.
        [7] => Ok(Reason::Unspecified),
        [number] => Reason::from_number(*number).ok_or(DerError::Value("not a reason")),
        _ => Err(DerError::Value("not a reason")),
    }
}

/// Returns the only directory name.  With several, an entry stored under one would be missed under
/// the others.
fn read_issuer(der: &[u8]) -> Result<Name, DerError> {
    let names = certificate::read_general_names(der::single(der, tag::SEQUENCE)?.reader())?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Encodes an entry of `serial`, a UTCTime of `date`, and `rest`.
    fn entry(serial: &[u8], date: &[u8], rest: &[u8]) -> Vec<u8> {
        let mut entry = vec![tag::INTEGER, serial.len() as u8];
        entry.extend(serial);
        entry.extend([tag::UTC_TIME, date.len() as u8]);
        entry.extend(date);
        entry.extend(rest);
        entry
    }

    /// Returns true if the fast path applies, and asserts that [`parse`] gives the same result.
    fn has_common_form(contents: &[u8]) -> bool {
        let Some(short) = parse_common(contents) else { return false };
        let (whole, issuer) = parse(contents).expect("an entry");
        assert!(issuer.is_none());
        assert_eq!(short.serial, whole.serial);
        assert_eq!((short.reason, short.has_extensions), (whole.reason, whole.has_extensions));
        true
    }

    #[test]
    fn the_fast_path_parses_common_entries() {
        let reason = [&REASON_ONLY[..], &[1]].concat();
        assert!(has_common_form(&entry(&[5], b"260228235959Z", &[])));
        assert!(has_common_form(&entry(&[0, 0xff], b"260101000000Z", &reason)));
        // Days that need the calendar: one exists, the other does not.
        let (good, bad) = (entry(&[5], b"260131000000Z", &[]), entry(&[5], b"260231000000Z", &[]));
        assert!(parse_common(&good).is_none() && parse(&good).is_ok());
        assert!(parse_common(&bad).is_none() && parse(&bad).is_err());
    }

    proptest! {
        #[test]
        fn both_paths_return_the_same_entry(
            serial in prop::collection::vec(any::<u8>(), 0..24),
            date in "[0-9]{2}(0[0-9]|1[0-3])[0-3][0-9][0-2][0-9]([0-6][0-9]){2}Z?",
            reason in prop::option::of(0u8..14),
            change in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let rest = reason.map(|number| [&REASON_ONLY[..], &[number]].concat());
            let mut contents = entry(&serial, date.as_bytes(), &rest.unwrap_or_default());
            if let Some((at, byte)) = change {
                *at.get_mut(&mut contents) = byte;
            }
            has_common_form(&contents);
        }

        #[test]
        fn does_not_panic_on_any_bytes(contents in prop::collection::vec(any::<u8>(), 0..64)) {
            has_common_form(&contents);
        }
    }
}
