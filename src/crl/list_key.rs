//! Keys of the states of addresses.
//!
//! An address that a directory names has one state, whose key is the address.  An address in certificates
//! has a state for each issuer: any device can name the address of another issuer's list, and a list there
//! must not stand in the way of that issuer's.  If a directory names the address for the same issuer, both
//! are one.

use std::sync::Arc;

use crate::x509::certificate::Fingerprint;
use crate::x509::name::Name;

/// Separates an address from an issuer.  It has no meaning in a URL.
const SEPARATOR: char = '\n';

/// Returns the key of an address that a directory names.  It contains no separator: the parser of URLs
/// ignores line breaks and tabs.
pub(super) fn of_directory(address: &Arc<str>) -> Arc<str> {
    if address.contains(SEPARATOR) {
        return address.replace(SEPARATOR, "").into();
    }
    Arc::clone(address)
}

/// Returns the key of an address in certificates of an issuer.
pub(super) fn of_issuer(address: &Arc<str>, issuer: &Name, key: Fingerprint) -> Arc<str> {
    let issuer = Fingerprint::of(&[&key.0[..], issuer.canonical()].concat());
    format!("{}{SEPARATOR}{issuer}", of_directory(address)).into()
}

/// Returns the address of a key.
pub(super) fn address(key: &str) -> &str {
    key.split_once(SEPARATOR).map_or(key, |(address, _)| address)
}
