//! Certification paths: the complete validation of RFC 5280 section 6.1, and the search for a path
//! that passes it.
//!
//! # Modules
//! - `search` extends a path from the certificate towards an anchor, within bounds.
//! - `checks` validates a whole path from the anchor down.
//! - `constraints` and `names` implement name constraints.
//! - `policy` implements certificate policies.
//! - [`signature`] verifies signatures and remembers successful verifications.
//! - [`webpki`](mod@webpki) validates the path a second time with rustls-webpki.
//!
//! # Design notes
//! rustls-webpki lacks too much to be extended: names that are not compared as bytes, policies,
//! keyUsage, checks of anchors, constraints on e-mail addresses, URIs and directory names, and
//! self-issued certificates.  The validator in this module is therefore complete, and it decides.
//! Two independent parsers of one certificate rarely have the same bug, though.  If a path uses
//! only features that webpki supports, webpki must accept it too, or the path is refused.

pub(crate) mod checks;
pub(crate) mod constraints;
pub(crate) mod names;
pub(crate) mod policy;
pub(crate) mod search;
pub mod signature;
pub mod webpki;
