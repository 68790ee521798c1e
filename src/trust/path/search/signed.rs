//! Facts about the signatures of a decision.

use crate::x509::certificate::Fingerprint;

/// Facts about the signatures that a decision verified.
#[derive(Debug, Clone, Default)]
pub struct Signed {
    /// The presented certificates, without the leaf, in paths to an anchor whose signatures are all valid.
    /// Paths of CRL signers and refused paths are included.
    pub certificates: Vec<Fingerprint>,
    /// A signature was verified that had not been before.
    pub has_new_signature: bool,
}

impl Signed {
    /// Adds the facts of another search.
    pub fn add(&mut self, other: Self) {
        self.certificates.extend(other.certificates);
        self.has_new_signature |= other.has_new_signature;
    }
}
