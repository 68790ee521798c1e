//! One entry of revokedCertificates (RFC 5280 sections 5.1.2.6 and 5.3).

use crate::x509::certificate::{self, GeneralName, oid};
use crate::x509::crl::error::Fault;
use crate::x509::crl::reason::Reason;
use crate::x509::der::{self, DerError, Element, Reader, tag};
use crate::x509::name::Name;
use crate::x509::name::oid::dotted;
use crate::x509::time::Timestamp;

/// What an entry says.
pub(super) struct Entry<'a> {
    /// userCertificate: the contents of a minimal INTEGER.
    pub(super) serial: &'a [u8],
    pub(super) reason: Reason,
    /// Extensions are present.
    pub(super) extended: bool,
}

/// The usual extensions: reasonCode alone, not critical, up to its last octet.
const REASON_ONLY: [u8; 13] = [0x30, 0x0c, 0x30, 0x0a, 0x06, 3, 0x55, 0x1d, 21, 0x04, 3, 0x0a, 1];

/// Reads the contents of one entry's SEQUENCE, if it is like nearly all; `None` says nothing.
///
/// Small, so that what it finds stays in registers.  In memory it would queue behind the serials that
/// are on their way to their places, and to read a list would take half as long again.
#[inline]
pub(super) fn usual(contents: &[u8]) -> Option<Entry<'_>> {
    let mut r = Reader::new(contents);
    let serial = r.expect(tag::INTEGER).and_then(der::integer).ok()?;
    r.any().ok().filter(|&date| is_plain(date))?;
    match r.rest() {
        [] => Some(Entry { serial, reason: Reason::Unspecified, extended: false }),
        [usual @ .., number] if usual == REASON_ONLY => {
            Some(Entry { serial, reason: Reason::from_number(*number)?, extended: true })
        }
        _ => None,
    }
}

/// Reads the contents of one entry's SEQUENCE, whatever it says; and certificateIssuer: from this entry
/// on, the issuer of the certificates (section 5.3.3).
pub(super) fn read(contents: &[u8]) -> Result<(Entry<'_>, Option<Name>), Fault> {
    let mut r = Reader::new(contents);
    let serial = r.expect(tag::INTEGER).and_then(der::integer).map_err(at("serial number"))?;
    // The date decides nothing (an entry counts from when the list is published): it is not kept.
    r.any().and_then(Timestamp::from_der).map_err(at("revocationDate"))?;
    let mut entry = Entry { serial, reason: Reason::Unspecified, extended: false };
    let mut issuer = None;
    if !r.rest().is_empty() {
        entry.extended = true;
        let list = r.expect(tag::SEQUENCE).map_err(at("crlEntryExtensions"))?;
        r.end().map_err(at("entry"))?;
        issuer = read_extensions(list.raw, &mut entry)?;
    }
    Ok((entry, issuer))
}

fn at(part: &'static str) -> impl Fn(DerError) -> Fault {
    move |why| Fault::Malformed { part, why }
}

/// True of a UTCTime on one of the first 28 days of a month, which needs no calendar.
#[inline]
fn is_plain(date: Element<'_>) -> bool {
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
            // When the key may have been lost decides nothing: an entry counts from its publication.
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
        [number] => Reason::from_number(*number).ok_or(DerError::Value("not a reason")),
        _ => Err(DerError::Value("not a reason")),
    }
}

/// The one directory name: of several, an entry under one would be overlooked under the others.
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

    /// An entry of `serial`, a UTCTime of `date`, and `rest`.
    fn entry(serial: &[u8], date: &[u8], rest: &[u8]) -> Vec<u8> {
        let mut entry = vec![tag::INTEGER, serial.len() as u8];
        entry.extend(serial);
        entry.extend([tag::UTC_TIME, date.len() as u8]);
        entry.extend(date);
        entry.extend(rest);
        entry
    }

    fn same(contents: &[u8]) -> bool {
        let Some(short) = usual(contents) else { return false };
        let (whole, issuer) = read(contents).expect("an entry");
        assert!(issuer.is_none());
        assert_eq!(short.serial, whole.serial);
        assert_eq!((short.reason, short.extended), (whole.reason, whole.extended));
        true
    }

    #[test]
    fn nearly_all_entries_are_usual() {
        let reason = [&REASON_ONLY[..], &[1]].concat();
        assert!(same(&entry(&[5], b"260228235959Z", &[])));
        assert!(same(&entry(&[0, 0xff], b"260101000000Z", &reason)));
        // A day that needs the calendar, which has it or has not.
        let (good, bad) = (entry(&[5], b"260131000000Z", &[]), entry(&[5], b"260231000000Z", &[]));
        assert!(usual(&good).is_none() && read(&good).is_ok());
        assert!(usual(&bad).is_none() && read(&bad).is_err());
    }

    proptest! {
        /// The short way says nothing else than the long one.
        #[test]
        fn both_ways_read_the_same(
            serial in prop::collection::vec(any::<u8>(), 0..24),
            date in "[0-9]{2}(0[0-9]|1[0-3])[0-3][0-9][0-2][0-9]([0-6][0-9]){2}Z?",
            reason in prop::option::of(0u8..14),
            change in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let rest = reason.map(|number| [&REASON_ONLY[..], &[number]].concat());
            let mut contents = entry(&serial, date.as_bytes(), &rest.unwrap_or_default());
            if let Some((at, octet)) = change {
                *at.get_mut(&mut contents) = octet;
            }
            same(&contents);
        }

        #[test]
        fn no_bytes_make_it_panic(contents in prop::collection::vec(any::<u8>(), 0..64)) {
            same(&contents);
        }
    }
}
