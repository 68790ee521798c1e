//! Errors of reading a revocation list.

use crate::x509::der::DerError;
use crate::x509::name::Name;
use crate::x509::time::Timestamp;

/// Reason why a list cannot be used, with its issuer if that could be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("revocation list{}: {fault}", .issuer.as_ref().map(|name| format!(" of `{name}`")).unwrap_or_default())]
pub struct CrlError {
    /// Issuer named by the list.  It is not verified.
    pub issuer: Option<Name>,
    /// First fault found.
    pub fault: Fault,
}

/// Reason why a list cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not a CertificateList of RFC 5280 section 5.1.
    #[error("{part}: {why}")]
    Malformed {
        /// ASN.1 name of the part.
        part: &'static str,
        /// Broken rule.
        why: DerError,
    },
    /// Neither DER nor PEM with the label `X509 CRL`.
    #[error("PEM: {0}")]
    Pem(&'static str),
    /// More bytes than the limit.
    #[error("{bytes} bytes or more; at most {limit} are read")]
    TooLarge {
        /// Bytes received, or length in the header.
        bytes: u64,
        /// Largest accepted value.
        limit: u64,
    },
    /// One part or entry has more bytes than the limit.
    #[error("{part}: {bytes} bytes; at most {limit} are read")]
    PartTooLarge {
        /// ASN.1 name of the part.
        part: &'static str,
        /// Length in the header.
        bytes: u64,
        /// Largest accepted value.
        limit: usize,
    },
    /// More entries of a kind than the limit.
    #[error("more than {limit} {what}")]
    TooMany {
        /// Kind of item, in the plural.
        what: &'static str,
        /// Largest accepted number.
        limit: usize,
    },
    /// A critical extension that is not understood (section 5.2).  The list must not be used.
    #[error("critical extension {oid} is not understood")]
    CriticalExtension {
        /// Dotted identifier.
        oid: String,
    },
    /// A critical entry extension that is not understood (section 5.3).
    #[error("critical entry extension {oid} is not understood")]
    CriticalEntryExtension {
        /// Dotted identifier.
        oid: String,
    },
    /// An extension whose criticality is the opposite of what RFC 5280 requires.
    #[error("{extension} must {}be critical", if *.critical { "not " } else { "" })]
    Criticality {
        /// ASN.1 name of the extension.
        extension: &'static str,
        /// True if it is marked critical.
        critical: bool,
    },
    /// A rule of RFC 5280 for the whole list is broken.
    #[error("{0}")]
    Rule(&'static str),
    /// A signature algorithm that is not accepted.
    #[error("signature algorithm {oid} is not accepted")]
    SignatureAlgorithm {
        /// Dotted identifier.
        oid: String,
    },
    /// None of the known certificates has the name of the issuer.
    #[error("the certificate of the signer is not known")]
    NoSigner,
    /// The keyUsage of the signer does not allow signing lists.
    #[error("keyUsage of the signer does not include cRLSign")]
    NotCrlSigner,
    /// The signature does not verify with any known certificate of that name.
    #[error("the signature does not verify with the key of its issuer")]
    SignatureInvalid,
    /// thisUpdate is later than now.
    #[error("thisUpdate {this_update} is in the future (now: {now})")]
    NotYetValid {
        /// thisUpdate of the list.
        this_update: Timestamp,
        /// Time of reading.
        now: Timestamp,
    },
}
