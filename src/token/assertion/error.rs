//! Reasons why a client assertion is rejected.

use crate::token::assertion::{AssertionAlgorithm, MAX_ASSERTION, MAX_JTI, MAX_LIFETIME, MAX_X5C};
use crate::trust::refusal::Refusal;
use crate::x509::time::Timestamp;

/// Reason why a client assertion is rejected.  All of them are `invalid_client` (RFC 7521 section
/// 4.2.1).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssertionError {
    /// It is longer than the limit.
    #[error("the assertion has {bytes} bytes; at most {MAX_ASSERTION} are allowed")]
    TooLong {
        /// Length in bytes.
        bytes: usize,
    },
    /// It is not a JWT with the members of a client assertion.
    #[error("the assertion is malformed: {0}")]
    Malformed(&'static str),
    /// `alg` is not supported.
    #[error("the assertion's alg `{0}` is not one of RS256, PS256, ES256, ES384, EdDSA")]
    Algorithm(String),
    /// `typ` is that of another kind of JWT.
    #[error("the assertion's typ `{0}` is not JWT or client-authentication+jwt")]
    Type(String),
    /// It has a `crit` header parameter.
    #[error("the assertion has critical header parameters; none are supported")]
    Critical,
    /// It does not identify a certificate.
    #[error("the assertion has neither x5c nor x5t#S256")]
    NoCertificate,
    /// `x5c` has more certificates than the limit.
    #[error("x5c has {certificates} certificates; at most {MAX_X5C} are allowed")]
    ManyCertificates {
        /// Number of certificates.
        certificates: usize,
    },
    /// `x5c` and `x5t#S256` disagree.
    #[error("x5t#S256 is not the thumbprint of the first certificate of x5c")]
    Thumbprint,
    /// `x5t#S256` identifies an unknown certificate.
    #[error("x5t#S256 does not match a configured certificate of the client, and x5c is missing")]
    UnknownThumbprint,
    /// The client is not both issuer and subject.
    #[error("the assertion's iss and sub differ, or are not the client_id")]
    Issuer,
    /// `aud` names another server, or several.
    #[error("the assertion's aud is not exactly the issuer or the address of the token endpoint")]
    Audience,
    /// It is not allowed by the profile.
    #[error("the FAPI 2.0 profile requires {0}")]
    Profile(&'static str),
    /// It has expired.
    #[error("the assertion expired at {exp} (now: {now})")]
    Expired {
        /// Its `exp`.
        exp: Timestamp,
        /// Time of the server.
        now: Timestamp,
    },
    /// It is not valid yet.
    #[error("the assertion's iat or nbf is in the future (now: {now})")]
    NotYet {
        /// Time of the server.
        now: Timestamp,
    },
    /// Its lifetime is longer than the limit.
    #[error("the assertion expires at {exp}; at most {MAX_LIFETIME} seconds from now are allowed")]
    Lifetime {
        /// Its `exp`.
        exp: Timestamp,
    },
    /// `jti` is empty or longer than the limit.
    #[error("the assertion's jti has {bytes} bytes; 1 to {MAX_JTI} are allowed")]
    Id {
        /// Length in bytes.
        bytes: usize,
    },
    /// It was used before.
    #[error("the assertion was used before")]
    Replayed,
    /// The client has too many used assertions that have not expired.
    #[error("the client has {limit} used assertions that have not expired; wait until one expires")]
    Full {
        /// Assertions that are remembered for one client.
        limit: usize,
    },
    /// The certificate's key does not fit the algorithm.
    #[error("the certificate's key does not sign by {}", algorithm.as_str())]
    KeyKind {
        /// Algorithm of the assertion.
        algorithm: AssertionAlgorithm,
    },
    /// The signature is not valid for the certificate's key.
    #[error("the assertion's signature does not verify with the certificate's key")]
    Signature,
    /// The connection presented another certificate.
    #[error("the connection's certificate is not the assertion's")]
    OtherCertificate,
    /// The certificate is refused, or belongs to another client.
    #[error(transparent)]
    Refused(#[from] Refusal),
}
