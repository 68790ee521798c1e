//! Certification paths: the complete validation of RFC 5280 section 6.1, and the search for a path
//! that passes it.
//!
//! # Rooms
//! [`search`] grows a path from the certificate upwards and knows the bounds; [`checks`] judges a whole
//! path from the anchor downwards, with [`constraints`] (on [`names`]), [`policy`] (certificate policies) and
//! [`signature`] for the parts that have state or cost of their own; [`webpki`](mod@webpki) asks rustls-webpki
//! for its opinion; [`index`](crate::trust::index) finds the configurations and authorities that can matter.
//!
//! # Why two judges
//! What rustls-webpki cannot do (names beyond bytes, policies, keyUsage, anchors, e-mail, URI and
//! directory constraints, self-issued certificates) is too much to bolt on, so the validator here is
//! whole and decides.  Two independent readers of one certificate rarely err alike, though: wherever
//! a path uses nothing but what webpki supports, webpki must agree, or the path is refused.

pub mod checks;
pub mod constraints;
pub mod names;
pub mod policy;
pub mod search;
pub mod signature;
pub mod webpki;
