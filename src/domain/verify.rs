//! The judge: a presented chain, under one snapshot, at one time.

use std::sync::Arc;

use crate::domain::cert::{Certificate, Fingerprint};
use crate::domain::refusal::{Code, Refusal};
use crate::domain::subject::SubjectId;
use crate::domain::time::Timestamp;
use crate::domain::trust::anchors::ConfigurationId;
use crate::domain::trust::snapshot::Snapshot;

/// Certificates in a presented chain.
pub const MAX_CHAIN_CERTIFICATES: usize = 10;
/// Bytes of DER in a presented chain.
pub const MAX_CHAIN_BYTES: usize = 64 * 1024;

/// What a peer presented, leaf first, parsed once per connection.
#[derive(Debug, Clone)]
pub struct UnverifiedChain {
    certificates: Vec<Arc<Certificate>>,
}

impl UnverifiedChain {
    /// Parses a chain, leaf first, within the limits.
    pub fn from_der<B: AsRef<[u8]>>(chain: &[B]) -> Result<Self, Refusal> {
        let bytes: usize = chain.iter().map(|c| c.as_ref().len()).sum();
        if chain.is_empty() {
            return Err(Refusal::new(Code::CertificateMissing, "no certificate was presented"));
        }
        if chain.len() > MAX_CHAIN_CERTIFICATES || bytes > MAX_CHAIN_BYTES {
            return Err(Refusal::new(
                Code::ChainTooLong,
                format!(
                    "{} certificates of {bytes} bytes; at most {MAX_CHAIN_CERTIFICATES} of \
                     {MAX_CHAIN_BYTES} are read",
                    chain.len()
                ),
            ));
        }
        let certificates = chain
            .iter()
            .map(|der| Certificate::from_der(der.as_ref()).map(Arc::new))
            .collect::<Result<_, _>>()?;
        Ok(Self { certificates })
    }

    /// The end-entity certificate: the only one that gives identity.
    pub fn leaf(&self) -> &Arc<Certificate> {
        &self.certificates[0]
    }

    /// All certificates, leaf first.
    pub fn certificates(&self) -> &[Arc<Certificate>] {
        &self.certificates
    }
}

/// Proof that one chain was judged good for one configuration.  Only [`judge`] makes it.
#[derive(Debug, Clone)]
pub struct Verified {
    configuration: ConfigurationId,
    subject: SubjectId,
    leaf: Arc<Certificate>,
    path: Vec<Arc<Certificate>>,
    generation: u64,
}

impl Verified {
    /// The configuration that accepts the chain.
    pub fn configuration(&self) -> &ConfigurationId {
        &self.configuration
    }
    /// Whom the leaf speaks for.
    pub fn subject(&self) -> &SubjectId {
        &self.subject
    }
    /// The end-entity certificate.
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }
    /// Leaf, intermediates, anchor.
    pub fn path(&self) -> &[Arc<Certificate>] {
        &self.path
    }
    /// The key of the anchor.
    pub fn anchor_key(&self) -> Option<Fingerprint> {
        self.path.last().map(|anchor| anchor.key)
    }
    /// The generation of the snapshot it was judged under.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

/// Judges `chain` under every configuration that could accept it.  All that do are returned, at least
/// one; which of several is meant is for the request's `client_id` to settle.
///
/// # Errors
/// The most telling refusal of all paths that were tried.
pub fn judge(
    _chain: &UnverifiedChain,
    _snapshot: &Snapshot,
    _now: Timestamp,
) -> Result<Vec<Verified>, Refusal> {
    Err(Refusal::new(Code::ChainUntrusted, "no configuration is in force"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::domain::subject::SubjectField;

    /// A verdict without a judge, for tests of what follows from one.
    pub(crate) fn verified(
        configuration: &str,
        field: SubjectField,
        subject: &str,
        not_after: Timestamp,
    ) -> Verified {
        let key = rcgen::KeyPair::generate().expect("a key");
        let der = rcgen::CertificateParams::default().self_signed(&key).expect("a certificate");
        let mut leaf = Certificate::from_der(der.der()).expect("readable");
        leaf.not_after = not_after;
        Verified {
            configuration: configuration.into(),
            subject: SubjectId::parse(field, subject).expect("a subject"),
            leaf: Arc::new(leaf),
            path: Vec::new(),
            generation: 1,
        }
    }
}
