//! Why a client assertion is refused.

use crate::token::assertion::{AssertionAlgorithm, MAX_ASSERTION, MAX_JTI, MAX_LIFETIME, MAX_X5C};
use crate::trust::refusal::Refusal;
use crate::x509::time::Timestamp;

/// Why a client assertion is refused.  All of it is `invalid_client` (RFC 7521 section 4.2.1).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssertionError {
    /// Longer than is read.
    #[error("the assertion has {bytes} bytes; at most {MAX_ASSERTION} are read")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not a JWT with the members that a client assertion has.
    #[error("the assertion is malformed: {0}")]
    Malformed(&'static str),
    /// Its `alg` is not accepted.
    #[error("the assertion's alg `{0}` is none of RS256, PS256, ES256, ES384, EdDSA")]
    Algorithm(String),
    /// A JWT of another kind.
    #[error("the assertion's typ `{0}` is not JWT or client-authentication+jwt")]
    Type(String),
    /// It has extensions that must be understood.
    #[error("the assertion has critical header parameters; none are understood")]
    Critical,
    /// It does not say by which certificate.
    #[error("the assertion has neither x5c nor x5t#S256")]
    NoCertificate,
    /// More certificates than are read.
    #[error("x5c has {certificates} certificates; at most {MAX_X5C} are read")]
    ManyCertificates {
        /// Their number.
        certificates: usize,
    },
    /// The two ways of naming the certificate disagree.
    #[error("x5t#S256 is not the thumbprint of the first certificate of x5c")]
    Thumbprint,
    /// It names a certificate that we do not have.
    #[error("x5t#S256 names none of the client's configured certificates, and there is no x5c")]
    UnknownThumbprint,
    /// It is not of a client about itself.
    #[error("the assertion's iss and sub differ, or are not the client_id")]
    Issuer,
    /// It is for somebody else, or for others too.
    #[error("the assertion's aud is not the issuer's or the token endpoint's address alone")]
    Audience,
    /// It has ended.
    #[error("the assertion has ended at {exp}; it is {now}")]
    Expired {
        /// When.
        exp: Timestamp,
        /// Our time.
        now: Timestamp,
    },
    /// It has not begun.
    #[error("the assertion's iat or nbf is in the future; it is {now}")]
    NotYet {
        /// Our time.
        now: Timestamp,
    },
    /// It lives longer than it may.
    #[error("the assertion lives until {exp}; at most {MAX_LIFETIME} seconds from now are allowed")]
    Lifetime {
        /// Its end.
        exp: Timestamp,
    },
    /// Its `jti` is empty or too long.
    #[error("the assertion's jti has {bytes} bytes; 1 to {MAX_JTI} are read")]
    Id {
        /// Its length.
        bytes: usize,
    },
    /// It was used before.
    #[error("the assertion was used before")]
    Replayed,
    /// No more assertions of this client can be remembered.
    #[error(
        "{limit} assertions of the client were used and have not ended; no more are taken \
         until one does"
    )]
    Full {
        /// The limit.
        limit: usize,
    },
    /// The certificate's key does not sign by that algorithm.
    #[error("the certificate's key does not sign by {}", algorithm.as_str())]
    KeyKind {
        /// The assertion's.
        algorithm: AssertionAlgorithm,
    },
    /// Another key has signed it.
    #[error("the assertion's signature does not verify with the certificate's key")]
    Signature,
    /// It came over a connection with another certificate.
    #[error("the connection's certificate is not the assertion's")]
    OtherCertificate,
    /// The certificate is refused, or not the client's.
    #[error(transparent)]
    Refused(#[from] Refusal),
}
