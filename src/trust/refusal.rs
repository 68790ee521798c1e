//! Why a certificate was refused: a stable code and a sentence for people.

use std::fmt;

use crate::x509::certificate::CertificateError;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// The stable name of a refusal.  Codes are API: they appear in the audit log, as a metrics
        /// label, in the output of `verify`, and in `report` mode's answers.  Ordered from the least
        /// to the most telling: of several failed paths the one that got furthest explains most.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($(#[$doc])* $variant,)* }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The code as written on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

codes! {
    /// The peer presented no certificate.
    CertificateMissing = "certificate_missing",
    /// No path to an anchor was found.
    ChainUntrusted = "chain_untrusted",
    /// The key or signature algorithm is not one that is accepted.
    SignatureAlgorithm = "signature_algorithm",
    /// A signature does not verify with the issuer's key.
    SignatureInvalid = "signature_invalid",
    /// An issuer is not a certification authority.
    AuthorityNotCa = "authority_not_ca",
    /// An issuer or anchor is outside its validity.
    AuthorityExpired = "authority_expired",
    /// More certificates below an authority than it allows, or than the limit.
    PathLength = "path_length",
    /// An extension that is critical and not understood.
    CriticalExtension = "critical_extension",
    /// A name that an authority's constraints do not permit.
    NameConstraint = "name_constraint",
    /// The path is not valid for any acceptable certificate policy.
    Policy = "policy",
    /// keyUsage does not allow what the certificate was used for.
    KeyUsage = "key_usage",
    /// extendedKeyUsage does not allow client authentication.
    ExtendedKeyUsage = "extended_key_usage",
    /// The end-entity certificate is not valid yet.
    CertificateNotYetValid = "certificate_not_yet_valid",
    /// The end-entity certificate is past its validity.
    CertificateExpired = "certificate_expired",
    /// A list exists and cannot be used.
    CrlInvalid = "crl_invalid",
    /// A revocation list is required and was never loaded.
    CrlMissing = "crl_missing",
    /// A revocation list is required and the one in force is past its nextUpdate.
    CrlStale = "crl_stale",
    /// A certificate of the path is on hold.
    CertificateOnHold = "certificate_on_hold",
    /// A certificate of the path is revoked.
    CertificateRevoked = "certificate_revoked",
    /// Path building reached its bound on signatures or candidates.
    PathBudget = "path_budget",
    /// A certificate cannot be read.
    CertificateMalformed = "certificate_malformed",
    /// More certificates, or bytes of them, than the limit.
    ChainTooLong = "chain_too_long",
    /// The certificate has no value of the kind that names its subject.
    SubjectMissing = "subject_missing",
    /// The certificate has several values of the kind that names its subject.
    SubjectAmbiguous = "subject_ambiguous",
    /// The value that names the subject breaks the rules of its kind.
    SubjectInvalid = "subject_invalid",
    /// Several configurations accept the certificate and `client_id` does not settle which.
    ConfigurationAmbiguous = "configuration_ambiguous",
    /// No client of that `client_id`.
    ClientUnknown = "client_unknown",
    /// The client of that `client_id` does not cover this certificate.
    ClientMismatch = "client_mismatch",
    /// The configuration admits registered devices only, and this is none.
    DeviceUnknown = "device_unknown",
    /// The device is registered and disabled.
    DeviceDisabled = "device_disabled",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A decision against a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Refusal {
    /// What to branch on.
    pub code: Code,
    /// What to read: names the certificate, the value and the limit.
    pub detail: String,
}

impl Refusal {
    /// A refusal with its explanation.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    /// True where nothing speaks against the certificate but that its revocation status is not known.
    pub fn is_for_want_of_a_list(&self) -> bool {
        matches!(self.code, Code::CrlMissing | Code::CrlStale | Code::CrlInvalid)
    }

    /// The more telling of two refusals; the first of equals.
    #[must_use]
    pub fn best(self, other: Self) -> Self {
        if other.code > self.code { other } else { self }
    }
}

impl From<CertificateError> for Refusal {
    fn from(error: CertificateError) -> Self {
        Self::new(Code::CertificateMalformed, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_snake_case() {
        let mut seen = std::collections::HashSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()));
            assert!(code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        }
        assert_eq!(seen.len(), 30);
    }

    #[test]
    fn the_more_telling_refusal_wins() {
        let untrusted = Refusal::new(Code::ChainUntrusted, "a");
        let expired = Refusal::new(Code::CertificateExpired, "b");
        assert_eq!(untrusted.clone().best(expired.clone()), expired);
        assert_eq!(expired.clone().best(untrusted), expired);
    }
}
