//! A verified list.

use std::fmt;
use std::sync::Arc;

use crate::x509::certificate::{
    self, AuthorityKeyIdentifier, Certificate, Extension, Fingerprint, oid,
};
use crate::x509::crl::entries::Entries;
use crate::x509::crl::error::Fault;
use crate::x509::crl::reason::Reason;
use crate::x509::crl::scope::{self, DistributionPoint, IssuingDistributionPoint};
use crate::x509::der::{self, DerError, Element, Reader, tag};
use crate::x509::name::Name;
use crate::x509::name::oid::dotted;
use crate::x509::time::Timestamp;

/// A complete or delta list whose signature was verified.  Only
/// [`ListReader::finish`](crate::x509::crl::ListReader::finish) makes one.
#[derive(Debug)]
pub struct RevocationList {
    /// Who issued it, by name.
    pub issuer: Name,
    /// Certificates of the key that signed it, all of the issuer's name and allowed to sign lists.
    pub signers: Vec<Arc<Certificate>>,
    /// 1 or 2.
    pub version: u8,
    /// Complete, or what has changed since.
    pub kind: Kind,
    /// cRLNumber; absent in v1 lists and from careless issuers.
    pub number: Option<CrlNumber>,
    /// thisUpdate.
    pub this_update: Timestamp,
    /// nextUpdate: up to and including this second the list is fresh.
    pub next_update: Option<Timestamp>,
    /// When the issuer means to publish the next list (Microsoft's Next-CRL-Publish).
    pub next_publish: Option<Timestamp>,
    /// issuingDistributionPoint.
    pub scope: Option<IssuingDistributionPoint>,
    /// freshestCRL: where its deltas are.
    pub freshest: Vec<DistributionPoint>,
    /// Octets of its DER.
    pub bytes: u64,
    /// The signature over all of that.
    pub(super) signature: Box<[u8]>,
    /// By certificate issuer: first the list's own, then the others by their canonical names.
    pub(super) groups: Vec<(Name, Entries)>,
}

/// Complete list or delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// All revoked certificates of its scope.
    Complete,
    /// Changes since the complete list of that number (section 5.2.4).
    Delta {
        /// BaseCRLNumber.
        base: CrlNumber,
    },
}

impl RevocationList {
    /// Why the certificate of this issuer and serial (INTEGER contents) is listed.
    pub fn listed(&self, issuer: &Name, serial: &[u8]) -> Option<Reason> {
        let (own, others) = self.groups.split_first()?;
        if own.0 == *issuer {
            return own.1.get(serial);
        }
        let canonical = |(name, _): &(Name, Entries)| name.canonical().cmp(issuer.canonical());
        others[others.binary_search_by(canonical).ok()?].1.get(serial)
    }

    /// Whose certificates the entries are: the list's own issuer, then those an indirect list names.
    pub fn certificate_issuers(&self) -> impl Iterator<Item = &Name> {
        self.groups.iter().map(|(name, _)| name)
    }

    /// Entries of all certificate issuers.
    pub fn entries(&self) -> usize {
        self.groups.iter().map(|(_, entries)| entries.len()).sum()
    }

    /// Octets that the entries occupy.
    pub fn resident_bytes(&self) -> usize {
        self.groups.iter().map(|(_, entries)| entries.bytes()).sum()
    }

    /// Changes only.
    pub fn is_delta(&self) -> bool {
        matches!(self.kind, Kind::Delta { .. })
    }

    /// The key that signed it.
    pub fn signer_key(&self) -> Option<Fingerprint> {
        self.signers.first().map(|signer| signer.key)
    }

    /// The same list again, to its last octet: what else would have the same signature?
    pub fn is_copy_of(&self, other: &Self) -> bool {
        self.signature == other.signature && self.issuer == other.issuer
    }

    /// Same issuer, key and scope: one may replace or amend the other (section 5.2.4).
    pub fn is_same_series(&self, other: &Self) -> bool {
        let scope = |list: &Self| list.scope.as_ref().map(|scope| scope.der.clone());
        self.issuer == other.issuer
            && self.signer_key() == other.signer_key()
            && scope(self) == scope(other)
    }
}

/// cRLNumber: an integer of at most 20 octets (section 5.2.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CrlNumber([u8; 20]);

impl CrlNumber {
    fn read(element: Element<'_>) -> Result<Self, DerError> {
        let digits = match der::integer(element)? {
            [0, rest @ ..] => rest,
            [first, ..] if first & 0x80 != 0 => return Err(DerError::Value("negative")),
            whole => whole,
        };
        let mut number = [0; 20];
        let start =
            20usize.checked_sub(digits.len()).ok_or(DerError::Value("longer than 20 octets"))?;
        number[start..].copy_from_slice(digits);
        Ok(Self(number))
    }
}

impl From<u64> for CrlNumber {
    fn from(value: u64) -> Self {
        let mut number = [0; 20];
        number[12..].copy_from_slice(&value.to_be_bytes());
        Self(number)
    }
}

/// Decimal below 2^64, else hexadecimal.
impl fmt::Display for CrlNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (high, low) = self.0.split_at(12);
        if high.iter().all(|&b| b == 0) {
            let value = low.iter().fold(0u64, |n, &b| (n << 8) | u64::from(b));
            return write!(f, "{value}");
        }
        f.write_str("0x")?;
        self.0.iter().skip_while(|&&b| b == 0).try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for CrlNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a list's extensions say (section 5.2).
#[derive(Default)]
pub(super) struct Extensions {
    pub(super) number: Option<CrlNumber>,
    pub(super) base: Option<CrlNumber>,
    pub(super) scope: Option<IssuingDistributionPoint>,
    pub(super) signer: Option<AuthorityKeyIdentifier>,
    pub(super) next_publish: Option<Timestamp>,
    pub(super) freshest: Vec<DistributionPoint>,
}

/// 1.3.6.1.4.1.311.21.4.
const NEXT_CRL_PUBLISH: &[u8] = &[0x2b, 6, 1, 4, 1, 0x82, 0x37, 21, 4];

impl Extensions {
    /// Reads crlExtensions; `issuer` is the list's.
    pub(super) fn read(value: &[u8], issuer: &Name) -> Result<Self, Fault> {
        let mut out = Self::default();
        for extension in certificate::read_extensions(value).map_err(at("crlExtensions"))? {
            out.add(&extension, issuer)?;
        }
        Ok(out)
    }

    fn add(&mut self, extension: &Extension, issuer: &Name) -> Result<(), Fault> {
        let value = &extension.value[..];
        let wrong = |name| Fault::Criticality { extension: name, critical: extension.critical };
        match &extension.oid[..] {
            oid::CRL_NUMBER if extension.critical => return Err(wrong("cRLNumber")),
            oid::CRL_NUMBER => {
                self.number = Some(read_number(value).map_err(at("cRLNumber"))?);
            }
            // Overlooked, a delta would pass for a complete list.
            oid::DELTA_CRL_INDICATOR if !extension.critical => {
                return Err(wrong("deltaCRLIndicator"));
            }
            oid::DELTA_CRL_INDICATOR => {
                self.base = Some(read_number(value).map_err(at("deltaCRLIndicator"))?);
            }
            oid::ISSUING_DISTRIBUTION_POINT => {
                let scope = IssuingDistributionPoint::read(value, issuer);
                self.scope = Some(scope.map_err(at("issuingDistributionPoint"))?);
            }
            oid::AUTHORITY_KEY_IDENTIFIER => {
                let id = certificate::read_authority_key_id(value);
                self.signer = Some(id.map_err(at("authorityKeyIdentifier"))?);
            }
            other if extension.critical => {
                return Err(Fault::CriticalExtension { oid: dotted(other) });
            }
            oid::FRESHEST_CRL => {
                self.freshest = scope::read_points(value, issuer).map_err(at("freshestCRL"))?;
            }
            NEXT_CRL_PUBLISH => {
                let time = read_time(value).map_err(at("Next-CRL-Publish"))?;
                self.next_publish = Some(time);
            }
            _ => {}
        }
        Ok(())
    }
}

fn at(part: &'static str) -> impl Fn(DerError) -> Fault {
    move |why| Fault::Malformed { part, why }
}

fn read_number(value: &[u8]) -> Result<CrlNumber, DerError> {
    CrlNumber::read(der::single(value, tag::INTEGER)?)
}

fn read_time(value: &[u8]) -> Result<Timestamp, DerError> {
    let mut r = Reader::new(value);
    let time = Timestamp::from_der(r.any()?)?;
    r.end()?;
    Ok(time)
}
