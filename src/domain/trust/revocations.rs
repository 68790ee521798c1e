//! The revocation sets in force, and the question that path validation asks of them.

use crate::domain::cert::{Certificate, Fingerprint};
use crate::domain::name::Name;
use crate::domain::refusal::{Code, Refusal};
use crate::domain::time::Timestamp;

/// What a certification authority's certificates need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CrlMode {
    /// A usable, fresh list; none is a refusal.
    #[default]
    Require,
    /// A list is used where there is one; none, or a stale one, is no refusal.
    IfAvailable,
    /// Lists are not looked at.
    Off,
}

/// One certificate whose status is asked.
pub struct Question<'a> {
    /// The certificate.
    pub certificate: &'a Certificate,
    /// Its issuer's name, as the path has it.
    pub issuer: &'a Name,
    /// The key that verified the certificate's signature.
    pub issuer_key: Fingerprint,
    /// What its issuer demands.
    pub mode: CrlMode,
    /// The time of the decision.
    pub now: Timestamp,
    /// Asked for a list that another key than `issuer_key` signed: does this CRL signer's certificate
    /// have a valid path to the same anchor (RFC 5280 section 6.3.3 (f))?
    pub signer_is_trusted: &'a dyn Fn(&Certificate) -> bool,
}

/// All revocation sets in force.
#[derive(Debug, Default)]
pub struct Revocations {}

impl Revocations {
    /// RFC 5280 section 6.3.3 for one certificate: `Ok` when it is not revoked, or when its
    /// authority's mode lets an unknown status pass.
    pub fn check(&self, question: &Question<'_>) -> Result<(), Refusal> {
        match question.mode {
            CrlMode::Require => Err(Refusal::new(
                Code::CrlMissing,
                format!("no revocation list of `{}` was ever loaded", question.issuer),
            )),
            CrlMode::IfAvailable | CrlMode::Off => Ok(()),
        }
    }
}
