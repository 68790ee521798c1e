//! Addresses of revocation lists that certificates name: cRLDistributionPoints and freshestCRL (RFC 5280
//! sections 4.2.1.13 and 4.2.1.15).
//!
//! A decision records the addresses of certificates whose path to an anchor is valid.  The CRL source
//! fetches the lists, and a later decision uses them.  The first decision about an address therefore
//! has no list: it is `crl_missing` where one is required, and no request waits for a server.  Addresses
//! of a path that is not valid are never recorded, so that a stranger cannot make the gateway fetch from
//! an address of their choice.
//!
//! # Design notes
//! The record is shared and changes while decisions are made, which this rank does not do.  A snapshot
//! therefore holds an [`ObserveAddresses`], and the CRL source implements it.

use std::fmt;
use std::sync::Arc;

use crate::x509::certificate::{Certificate, Fingerprint, GeneralName, oid};
use crate::x509::crl::{DistributionPoint, read_points};
use crate::x509::der::DerError;
use crate::x509::time::Timestamp;

/// Points that are read from one extension.
pub(crate) const MAX_ADDRESSES: usize = 16;
/// Addresses of one point that are kept.
pub(crate) const MAX_ALTERNATIVES: usize = 4;
/// Bytes of an address.
pub(crate) const MAX_ADDRESS: usize = 2_048;

/// The web addresses of one distribution point, in its order.  They are alternatives: each of them leads
/// to the same list (RFC 5280 section 4.2.1.13).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointAddresses {
    /// The first address.  It names the list.
    pub first: Arc<str>,
    /// The other addresses, for when the first one returns no list.
    pub others: Vec<Arc<str>>,
}

impl PointAddresses {
    /// Reads the http and https addresses of a point.  Returns `None` if it has none.
    pub(crate) fn of(point: &DistributionPoint) -> Option<Self> {
        let mut all: Vec<Arc<str>> = Vec::new();
        for address in point.names.iter().flatten().filter_map(web_address) {
            if all.len() < MAX_ALTERNATIVES && !all.iter().any(|known| **known == *address) {
                all.push(address.into());
            }
        }
        let mut all = all.into_iter();
        Some(Self { first: all.next()?, others: all.collect() })
    }
}

/// Addresses that certificates of one issuer name, in one spelling of the extensions.
#[derive(Debug, Clone)]
pub struct SeenAddresses {
    /// The issuer in the path.
    pub issuer: Arc<Certificate>,
    /// The anchor of the path.
    pub anchor: Fingerprint,
    /// The trust domain in which the path was found.
    pub domain: Arc<str>,
    /// Value of cRLDistributionPoints.
    pub points: Box<[u8]>,
    /// Value of freshestCRL, if the certificate has one.
    pub freshest: Option<Box<[u8]>>,
    /// Addresses of complete lists.
    pub complete: Vec<PointAddresses>,
    /// Addresses of deltas.
    pub delta: Vec<PointAddresses>,
    /// Time of the last decision about such a certificate.
    pub seen: Timestamp,
}

impl SeenAddresses {
    /// Reads the addresses that these extension values name.
    ///
    /// # Errors
    /// A value that does not have the form of RFC 5280.
    pub fn new(
        issuer: Arc<Certificate>,
        anchor: Fingerprint,
        points: &[u8],
        freshest: Option<&[u8]>,
        seen: Timestamp,
    ) -> Result<Self, DerError> {
        let complete = addresses(points, &issuer)?;
        let delta = freshest.map(|value| addresses(value, &issuer)).transpose()?;
        Ok(Self {
            anchor,
            domain: Arc::default(),
            points: points.into(),
            freshest: freshest.map(Into::into),
            complete,
            delta: delta.unwrap_or_default(),
            issuer,
            seen,
        })
    }

    /// Sets the trust domain.
    #[must_use]
    pub(crate) fn in_domain(self, domain: &str) -> Self {
        Self { domain: domain.into(), ..self }
    }
}

/// A shared record of addresses.  Neither function waits.
pub trait ObserveAddresses: fmt::Debug + Send + Sync {
    /// Returns true if the extension values of certificates of `issuer` are recorded, and records that
    /// they were seen `now`.
    fn is_known(&self, issuer: &Certificate, values: &AddressValues<'_>, now: Timestamp) -> bool;

    /// Records addresses.  An implementation that is busy may ignore them: the certificate returns.
    fn record(&self, addresses: SeenAddresses);
}

/// The extension values of one certificate that name addresses.
#[derive(Debug, Clone, Copy)]
pub struct AddressValues<'c> {
    /// Value of cRLDistributionPoints.
    pub points: &'c [u8],
    /// Value of freshestCRL.
    pub freshest: Option<&'c [u8]>,
}

/// The addresses that one certificate names.
pub(in crate::trust) enum Named<'c> {
    /// No address that lists are fetched from.
    Nothing,
    /// Addresses that are recorded.
    Known,
    /// Other values, readable or not.
    New(AddressValues<'c>),
}

impl<'c> Named<'c> {
    /// Reads `certificate`, which `issuer` signed, and asks `observer` about it.
    pub(in crate::trust) fn by(
        certificate: &'c Certificate,
        issuer: &Certificate,
        observer: &dyn ObserveAddresses,
        now: Timestamp,
    ) -> Self {
        let value = |oid| certificate.extension(oid).map(|extension| &*extension.value);
        let Some(points) = value(oid::CRL_DISTRIBUTION_POINTS) else { return Self::Nothing };
        let values = AddressValues { points, freshest: value(oid::FRESHEST_CRL) };
        if observer.is_known(issuer, &values, now) {
            return Self::Known;
        }
        match addresses(points, issuer) {
            Ok(complete) if complete.is_empty() => Self::Nothing,
            _ => Self::New(values),
        }
    }

    /// True if a list of the certificate is published somewhere.  Unreadable values may mean that too.
    pub(in crate::trust) fn has_address(&self) -> bool {
        !matches!(self, Self::Nothing)
    }
}

/// Returns the http and https addresses of the points.
fn addresses(points: &[u8], issuer: &Certificate) -> Result<Vec<PointAddresses>, DerError> {
    let mut out: Vec<PointAddresses> = Vec::new();
    for point in read_points(points, &issuer.subject)? {
        if let Some(addresses) = PointAddresses::of(&point)
            && !out.contains(&addresses)
            && out.len() < MAX_ADDRESSES
        {
            out.push(addresses);
        }
    }
    Ok(out)
}

/// Returns the text of a name that is an http or https address of at most [`MAX_ADDRESS`] bytes.
pub(crate) fn web_address(name: &GeneralName) -> Option<&str> {
    let GeneralName::Uri(uri) = name else { return None };
    let uri = std::str::from_utf8(uri).ok().filter(|uri| uri.is_ascii())?;
    let scheme = uri.split_once("://")?.0;
    let is_web = ["http", "https"].iter().any(|web| scheme.eq_ignore_ascii_case(web));
    (is_web && uri.len() <= MAX_ADDRESS).then_some(uri)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x509::test_certificates::{Key, Spec, cn, distribution_points};

    fn issuer() -> Arc<Certificate> {
        let der = Spec::authority(cn("A"), cn("A")).sign(Key::number(1), Key::number(1));
        Arc::new(Certificate::from_der(&der).expect("a certificate"))
    }

    #[test]
    fn reads_the_web_addresses_of_each_point() {
        let read = |of: &[&[&str]]| -> Vec<Vec<String>> {
            let found = addresses(&distribution_points(of), &issuer()).expect("readable");
            let all = |point: &PointAddresses| {
                let all = std::iter::once(&point.first).chain(&point.others);
                all.map(ToString::to_string).collect()
            };
            found.iter().map(all).collect()
        };
        let (one, two) = ("http://ca.example/1", "HTTPS://ca.example/2");
        let none = [] as [[&str; 1]; 0];
        assert_eq!(
            read(&[&["ldap://ca.example/x", one, two, one], &[two], &[two]]),
            [vec![one, two], vec![two]]
        );
        assert_eq!(read(&[&["ldap://ca.example/x", "file:///etc/passwd", "http:/x"]]), none);
        let long = format!("http://ca.example/{}", "x".repeat(MAX_ADDRESS - 18));
        assert_eq!(read(&[&[&long]]).len(), 1);
        assert_eq!(read(&[&[&format!("{long}x")]]), none);
        let many: Vec<String> = (0..=MAX_ADDRESSES).map(|n| format!("http://x/{n}")).collect();
        let one_point: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(read(&[&one_point])[0].len(), MAX_ALTERNATIVES);
        let points: Vec<&[&str]> = one_point.chunks(1).collect();
        assert_eq!(read(&points).len(), MAX_ADDRESSES);
        assert!(addresses(&[0x30, 0], &issuer()).is_err());
    }
}
