//! Revocation list with its fields, and the parser of its extensions.

use std::fmt;
use std::sync::Arc;

use crate::x509::certificate::{
    self, AuthorityKeyIdentifier, Certificate, Extension, Fingerprint, oid,
};
use crate::x509::crl::entries::Entries;
use crate::x509::crl::error::Fault;
use crate::x509::crl::reason::Reason;
use crate::x509::crl::scope::{self, DistributionPoint, IssuingDistributionPoint, OnlyContains};
use crate::x509::der::{self, DerError, Element, Reader, tag};
use crate::x509::name::Name;
use crate::x509::name::oid::dotted;
use crate::x509::time::Timestamp;

/// Names of the encodings that are tolerated in lists.
pub(crate) const TOLERATED: [&str; 5] = [
    "encoded-default",
    "empty-extensions",
    "ecdsa-null-parameters",
    "empty-revoked-list",
    "long-crl-number",
];

/// Complete or delta list.  Its signature was verified, unless it is inside
/// [`Unverified`](crate::x509::crl::Unverified).
#[derive(Debug)]
pub struct RevocationList {
    /// Name of the issuer.
    pub issuer: Name,
    /// Certificates of the key that signed the list.  Each has the issuer's name and may sign
    /// lists.
    pub signers: Vec<Arc<Certificate>>,
    /// 1 or 2.
    pub version: u8,
    /// Complete or delta.
    pub kind: Kind,
    /// cRLNumber.  It is absent in v1 lists, and in v2 lists of some issuers.
    pub number: Option<CrlNumber>,
    /// Time of issue.
    pub this_update: Timestamp,
    /// Last second at which the list is fresh.
    pub next_update: Option<Timestamp>,
    /// Planned time of the next list (Next-CRL-Publish of Microsoft).
    pub(crate) next_publish: Option<Timestamp>,
    /// issuingDistributionPoint, if present.
    pub scope: Option<IssuingDistributionPoint>,
    /// freshestCRL: the addresses of deltas.
    pub(crate) freshest: Vec<DistributionPoint>,
    /// Names of the tolerated encodings.  The crate doc lists them.
    pub tolerated: Vec<&'static str>,
    /// Length of the DER in bytes.
    pub(crate) bytes: u64,
    /// Signature over the list.
    pub(super) signature: Box<[u8]>,
    /// Entries by certificate issuer: first the list's issuer, then others sorted by canonical
    /// name.
    pub(super) by_issuer: Vec<(Name, Entries)>,
}

/// Kind of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// All revoked certificates in the scope.
    Complete,
    /// Changes since the complete list with number `base` (section 5.2.4).
    Delta {
        /// BaseCRLNumber.
        base: CrlNumber,
    },
}

impl RevocationList {
    /// Returns the reason for which the certificate with this issuer and serial (INTEGER contents)
    /// is listed, or `None` if it is not.
    pub fn listed(&self, issuer: &Name, serial: &[u8]) -> Option<Reason> {
        let (own, others) = self.by_issuer.split_first()?;
        if own.0 == *issuer {
            return own.1.get(serial);
        }
        let canonical = |(name, _): &(Name, Entries)| name.canonical().cmp(issuer.canonical());
        others[others.binary_search_by(canonical).ok()?].1.get(serial)
    }

    /// Returns the issuers of the listed certificates: first the list's issuer, then those that an
    /// indirect list names.
    pub fn certificate_issuers(&self) -> impl Iterator<Item = &Name> {
        self.by_issuer.iter().map(|(name, _)| name)
    }

    /// Returns the number of entries.
    pub fn entries(&self) -> usize {
        self.by_issuer.iter().map(|(_, entries)| entries.len()).sum()
    }

    /// Returns the memory used by the entries, in bytes.
    pub fn resident_bytes(&self) -> usize {
        self.by_issuer.iter().map(|(_, entries)| entries.bytes()).sum()
    }

    /// Returns true for a delta list.
    pub fn is_delta(&self) -> bool {
        matches!(self.kind, Kind::Delta { .. })
    }

    /// Returns true for a list of attribute certificates, whose serials are another number space.
    pub(crate) fn is_about_attribute_certificates(&self) -> bool {
        self.scope.as_ref().is_some_and(|scope| scope.only == OnlyContains::Attribute)
    }

    /// Returns the key that signed the list.
    pub fn signer_key(&self) -> Option<Fingerprint> {
        self.signers.first().map(|signer| signer.key)
    }

    /// Returns true if `other` is the same list.  Equal signatures imply equal contents.
    pub(crate) fn is_copy_of(&self, other: &Self) -> bool {
        self.signature == other.signature && self.issuer == other.issuer
    }

    /// Returns true if both lists have the same issuer, key and scope, so that one may replace or
    /// amend the other (section 5.2.4).
    pub(crate) fn is_same_series(&self, other: &Self) -> bool {
        let scope = |list: &Self| list.scope.as_ref().map(|scope| scope.der.clone());
        self.issuer == other.issuer
            && self.signer_key() == other.signer_key()
            && scope(self) == scope(other)
    }
}

/// cRLNumber: a non-negative integer, big-endian (section 5.2.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CrlNumber([u8; 21]);

impl CrlNumber {
    fn read(element: Element<'_>) -> Result<Self, DerError> {
        let digits = match der::integer(element)? {
            [0, rest @ ..] => rest,
            [first, ..] if first & 0x80 != 0 => return Err(DerError::Value("is negative")),
            whole => whole,
        };
        let mut number = [0; 21];
        let start =
            21usize.checked_sub(digits.len()).ok_or(DerError::Value("is longer than 21 bytes"))?;
        number[start..].copy_from_slice(digits);
        Ok(Self(number))
    }

    /// True if the number has more than the 20 bytes that section 5.2.3 allows to issuers.
    pub(super) fn is_long(&self) -> bool {
        let [first, second, ..] = self.0;
        first != 0 || second & 0x80 != 0
    }
}

impl From<u64> for CrlNumber {
    fn from(value: u64) -> Self {
        let mut number = [0; 21];
        number[13..].copy_from_slice(&value.to_be_bytes());
        Self(number)
    }
}

/// Decimal below 2^64, hexadecimal from there on.
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

/// Decoded extensions of a list (section 5.2).
#[derive(Default)]
pub(super) struct Extensions {
    pub(super) number: Option<CrlNumber>,
    pub(super) base: Option<CrlNumber>,
    pub(super) scope: Option<IssuingDistributionPoint>,
    pub(super) signer: Option<AuthorityKeyIdentifier>,
    pub(super) next_publish: Option<Timestamp>,
    pub(super) freshest: Vec<DistributionPoint>,
    /// `critical FALSE` is encoded.
    pub(super) encodes_default: bool,
    /// crlExtensions is present without an extension.
    pub(super) is_empty: bool,
}

/// 1.3.6.1.4.1.311.21.4.
const NEXT_CRL_PUBLISH: &[u8] = &[0x2b, 6, 1, 4, 1, 0x82, 0x37, 21, 4];

impl Extensions {
    /// Parses crlExtensions of a list of `issuer`.
    pub(super) fn read(value: &[u8], issuer: &Name) -> Result<Self, Fault> {
        let extensions = certificate::read_extensions(value).map_err(at("crlExtensions"))?;
        let encodes_default = extensions.iter().any(|extension| extension.encodes_default);
        let mut out = Self { encodes_default, is_empty: extensions.is_empty(), ..Self::default() };
        for extension in extensions {
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
            // Parsers that ignore the extension would treat the delta as a complete list.
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
