//! Base and delta revocation lists (RFC 5280 section 5) of the development PKI.

use anyhow::Context;
use rcgen::SigningKey as _;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::cli::quickstart::pki::{Authority, KeyKind};
use crate::x509::certificate::oid;
use crate::x509::der::tag;
use crate::x509::time::Timestamp;

/// AlgorithmIdentifier of ecdsa-with-SHA256.
const ECDSA_WITH_SHA256: &[u8] =
    &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// AlgorithmIdentifier of id-ml-dsa-44 (RFC 9881 section 2).
const ML_DSA_44: &[u8] =
    &[0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x11];

/// Reason of a revocation (RFC 5280 section 5.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// keyCompromise.
    KeyCompromise = 1,
    /// certificateHold.
    Hold = 6,
    /// removeFromCRL, in deltas only.
    Remove = 8,
}

/// One entry of a list.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The certificate's serial number, INTEGER contents.
    pub serial: Box<[u8]>,
    /// revocationDate.
    pub at: Timestamp,
    /// reasonCode.
    pub reason: Reason,
}

/// Contents of a list to issue.
#[derive(Debug, Clone)]
pub struct List<'a> {
    /// cRLNumber.
    pub number: u64,
    /// The BaseCRLNumber of a delta; `None` for a complete list.
    pub base: Option<u64>,
    /// thisUpdate.
    pub this_update: Timestamp,
    /// nextUpdate.
    pub next_update: Timestamp,
    /// revokedCertificates.
    pub entries: &'a [Entry],
}

/// Signs a list with the key of `authority`.  Returns DER.
///
/// # Errors
/// A time is outside the years 1 to 9999, or signing fails.
pub fn issue(authority: &Authority, list: &List<'_>) -> anyhow::Result<Vec<u8>> {
    let mut entries = Vec::new();
    for entry in list.entries {
        let reason =
            extension(oid::REASON_CODE, false, &tlv(tag::ENUMERATED, &[entry.reason as u8]));
        entries.extend(sequence(&[
            tlv(tag::INTEGER, &entry.serial),
            time(entry.at)?,
            sequence(&[reason]),
        ]));
    }
    let certificate = &authority.certificate;
    let key_id =
        certificate.subject_key_id.as_deref().context("the authority has no key identifier")?;
    let mut extensions = vec![
        extension(oid::AUTHORITY_KEY_IDENTIFIER, false, &sequence(&[tlv(tag::context(0), key_id)])),
        extension(oid::CRL_NUMBER, false, &integer(list.number)),
    ];
    if let Some(base) = list.base {
        extensions.push(extension(oid::DELTA_CRL_INDICATOR, true, &integer(base)));
    }
    let algorithm = match authority.kind {
        KeyKind::P256 => ECDSA_WITH_SHA256,
        KeyKind::MlDsa44 => ML_DSA_44,
    };
    let mut parts = vec![
        integer(1),
        algorithm.to_vec(),
        certificate.subject.der().to_vec(),
        time(list.this_update)?,
        time(list.next_update)?,
    ];
    if !entries.is_empty() {
        parts.push(tlv(tag::SEQUENCE, &entries));
    }
    parts.push(tlv(tag::context_constructed(0), &sequence(&extensions)));
    let tbs = sequence(&parts);
    let signature = authority.key().sign(&tbs)?;
    Ok(sequence(&[tbs, algorithm.to_vec(), tlv(tag::BIT_STRING, &[&[0], &signature[..]].concat())]))
}

fn extension(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let mut parts = vec![tlv(tag::OID, oid)];
    if critical {
        parts.push(tlv(tag::BOOLEAN, &[0xff]));
    }
    parts.push(tlv(tag::OCTET_STRING, value));
    sequence(&parts)
}

/// UTCTime until 2049, GeneralizedTime after (RFC 5280 section 5.1.2.4).
fn time(at: Timestamp) -> anyhow::Result<Vec<u8>> {
    let at = OffsetDateTime::from_unix_timestamp(at.0)?;
    Ok(if at.year() < 2050 {
        let text = at.format(format_description!(
            "[year repr:last_two][month][day][hour][minute][second]Z"
        ))?;
        tlv(tag::UTC_TIME, text.as_bytes())
    } else {
        let text = at.format(format_description!("[year][month][day][hour][minute][second]Z"))?;
        tlv(tag::GENERALIZED_TIME, text.as_bytes())
    })
}

fn integer(value: u64) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let zeros = bytes.iter().take(7).take_while(|b| **b == 0).count();
    let mut contents = bytes[zeros..].to_vec();
    if contents[0] & 0x80 != 0 {
        contents.insert(0, 0);
    }
    tlv(tag::INTEGER, &contents)
}

fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(tag::SEQUENCE, &parts.concat())
}

fn tlv(tag: u8, contents: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = contents.len();
    if length < 0x80 {
        out.push(length as u8);
    } else {
        let bytes = length.to_be_bytes();
        let zeros = bytes.iter().take_while(|b| **b == 0).count();
        out.push(0x80 | (bytes.len() - zeros) as u8);
        out.extend_from_slice(&bytes[zeros..]);
    }
    out.extend_from_slice(contents);
    out
}
