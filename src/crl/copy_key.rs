//! Keys of the copies on disk.
//!
//! An address can have lists of several issuers, and each list has a copy.  The key of a copy is the address
//! with a hash of the issuer's name and key.  The list of an issuer that does not name the address has the
//! address alone, as all copies of an earlier version had.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use crate::crl::targets::{Expected, SEPARATOR};
use crate::x509::certificate::{Certificate, Fingerprint};
use crate::x509::crl::RevocationList;
use crate::x509::name::Name;

/// Returns the key of the copy of `list`.
pub(super) fn of(address: &str, expected: &Expected, list: &RevocationList) -> Arc<str> {
    if !expected.names(&list.issuer) {
        return address.into();
    }
    let key = list.signer_key().filter(|key| expected.has_authority(&list.issuer, *key));
    of_issuer(address, &list.issuer, key).into()
}

/// Returns the keys of all copies that can hold a list of `issuer`.
pub(super) fn of_name(address: &str, expected: &Expected, issuer: &Name) -> BTreeSet<String> {
    let authorities = expected.authorities.iter().filter(|authority| authority.name == *issuer);
    let keys = authorities.map(|authority| of_issuer(address, issuer, Some(authority.key)));
    keys.chain([address.to_owned(), of_issuer(address, issuer, None)]).collect()
}

/// Returns the keys of all copies that can hold a list of the address.  `signers` may have keys of an
/// authority's name that do not name the address any more.
pub(super) fn all(
    address: &str,
    expected: &Expected,
    signers: &[Arc<Certificate>],
) -> BTreeSet<String> {
    let names: HashSet<&Name> = expected.authorities.iter().map(|a| &a.name).collect();
    let signers = signers.iter().filter(|signer| names.contains(&signer.subject));
    let authorities = expected.authorities.iter().map(|a| (&a.name, a.key));
    let keys = authorities
        .chain(signers.map(|signer| (&signer.subject, signer.key)))
        .map(|(name, key)| of_issuer(address, name, Some(key)));
    let without_key = names.iter().map(|name| of_issuer(address, name, None));
    keys.chain(without_key).chain([address.to_owned()]).collect()
}

/// Returns the address of a key.
pub(super) fn address(key: &str) -> &str {
    key.split_once(SEPARATOR).map_or(key, |(address, _)| address)
}

/// `key` is `None` for a list that another key than an authority's has signed.
fn of_issuer(address: &str, issuer: &Name, key: Option<Fingerprint>) -> String {
    let key = key.as_ref().map_or(&[][..], |key| &key.0);
    let issuer = Fingerprint::of(&[key, issuer.canonical()].concat());
    format!("{address}{SEPARATOR}{issuer}")
}
