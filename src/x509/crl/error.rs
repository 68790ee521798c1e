//! Why a list cannot be used.

use crate::x509::der::DerError;
use crate::x509::name::Name;
use crate::x509::time::Timestamp;

/// A list that is not used, and whose it says it is, as far as that could be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("revocation list{}: {fault}", .issuer.as_ref().map(|name| format!(" of `{name}`")).unwrap_or_default())]
pub struct CrlError {
    /// The issuer that the list names.  Nothing vouches for it.
    pub issuer: Option<Name>,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not a CertificateList of RFC 5280 section 5.1.
    #[error("{part}: {why}")]
    Malformed {
        /// Which part of it.
        part: &'static str,
        /// What is wrong there.
        why: DerError,
    },
    /// Neither DER nor PEM of the label `X509 CRL`.
    #[error("PEM: {0}")]
    Pem(&'static str),
    /// More bytes than the limit.
    #[error("{bytes} bytes or more; at most {limit} are read")]
    TooLarge {
        /// Bytes seen or announced.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// One part or entry has more bytes than the limit.
    #[error("{part}: {bytes} bytes; at most {limit} are read")]
    PartTooLarge {
        /// Which part.
        part: &'static str,
        /// Bytes announced.
        bytes: u64,
        /// The limit.
        limit: usize,
    },
    /// More entries of a kind than the limit.
    #[error("more than {limit} {what}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A critical extension that is not understood (section 5.2): the list decides nothing.
    #[error("critical extension {oid} is not understood")]
    CriticalExtension {
        /// Its identifier, dotted.
        oid: String,
    },
    /// A critical entry extension that is not understood (section 5.3).
    #[error("critical entry extension {oid} is not understood")]
    CriticalEntryExtension {
        /// Its identifier, dotted.
        oid: String,
    },
    /// An extension's criticality is the opposite of what RFC 5280 demands.
    #[error("{extension} must {}be critical", if *.critical { "not " } else { "" })]
    Criticality {
        /// The extension.
        extension: &'static str,
        /// Whether it was marked critical.
        critical: bool,
    },
    /// A rule of RFC 5280 on the whole list is broken.
    #[error("{0}")]
    Rule(&'static str),
    /// An algorithm that is not accepted.
    #[error("signature algorithm {oid} is not accepted")]
    SignatureAlgorithm {
        /// Its identifier, dotted.
        oid: String,
    },
    /// None of the known certificates has the issuer's name.
    #[error("no certificate of its signer is known")]
    NoSigner,
    /// The signer's keyUsage does not allow signing lists.
    #[error("its signer's keyUsage lacks cRLSign")]
    NotCrlSigner,
    /// The signature is no known certificate's of that name.
    #[error("the signature does not verify with the key of its issuer")]
    SignatureInvalid,
    /// thisUpdate is later than now.
    #[error("thisUpdate {this_update} is in the future (now {now})")]
    NotYetValid {
        /// When the list was, or will be, issued.
        this_update: Timestamp,
        /// The time of reading.
        now: Timestamp,
    },
}
