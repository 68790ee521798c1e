//! Refusals: decisions against a certificate, with a stable code and an explanation.

use std::fmt;

use crate::x509::certificate::CertificateError;

macro_rules! codes {
    ($(#[doc = $meaning:literal] $variant:ident = $text:literal,)*) => {
        /// Stable code of a refusal.
        ///
        /// Codes are API: they appear in the audit log, as a metrics label, in the output of
        /// `verify` and in the responses of `report` mode.  They are ordered from the least to the
        /// most informative.  If several paths fail, the refusal of the path that came furthest is
        /// returned.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $(#[doc = $meaning] $variant,)* }

        impl Code {
            /// All codes, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the code as it appears in logs, metrics and responses.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// Returns a sentence that explains the code to people.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning.trim_ascii(),)* }
            }

            /// Returns the code with this name.
            pub fn find(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| code.as_str() == name)
            }
        }
    };
}

codes! {
    /// The peer presented no certificate.
    CertificateMissing = "certificate_missing",
    /// No path to an anchor was found.
    ChainUntrusted = "chain_untrusted",
    /// The key or signature algorithm is not accepted.
    SignatureAlgorithm = "signature_algorithm",
    /// A signature does not verify with the issuer's key.
    SignatureInvalid = "signature_invalid",
    /// An issuer is not a certificate authority.
    AuthorityNotCa = "authority_not_ca",
    /// An issuer or anchor is outside its validity.
    AuthorityExpired = "authority_expired",
    /// The path has more certificates than an authority or the limit allows.
    PathLength = "path_length",
    /// A critical extension is not understood.
    CriticalExtension = "critical_extension",
    /// A name is not permitted by the constraints of an authority.
    NameConstraint = "name_constraint",
    /// The path is not valid for any acceptable certificate policy.
    Policy = "policy",
    /// keyUsage does not allow the use of the certificate.
    KeyUsage = "key_usage",
    /// extendedKeyUsage does not allow client authentication.
    ExtendedKeyUsage = "extended_key_usage",
    /// The end-entity certificate is not valid yet.
    CertificateNotYetValid = "certificate_not_yet_valid",
    /// The end-entity certificate is past its validity.
    CertificateExpired = "certificate_expired",
    /// A revocation list exists but cannot be used.
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
    /// The presented chain exceeds the limit on certificates or bytes.
    ChainTooLong = "chain_too_long",
    /// The certificate has no value for the subject field.
    SubjectMissing = "subject_missing",
    /// The certificate has several values for the subject field.
    SubjectAmbiguous = "subject_ambiguous",
    /// The value of the subject field breaks the rules of the field.
    SubjectInvalid = "subject_invalid",
    /// Several configurations accept the certificate, and `client_id` does not select one.
    ConfigurationAmbiguous = "configuration_ambiguous",
    /// No client has this `client_id`.
    ClientUnknown = "client_unknown",
    /// The client with this `client_id` does not cover the certificate.
    ClientMismatch = "client_mismatch",
    /// The configuration accepts only registered devices, and this device is not registered.
    DeviceUnknown = "device_unknown",
    /// The device is registered and disabled.
    DeviceDisabled = "device_disabled",
    /// A rate limit refuses the request.
    RateLimited = "rate_limited",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Decision against a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Refusal {
    /// Stable code, for programs.
    pub code: Code,
    /// Explanation for people, with the certificate, the value and the limit.
    pub detail: String,
}

impl Refusal {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    /// Returns true if the only objection is that the revocation status is unknown.
    pub(crate) fn is_revocation_unknown(&self) -> bool {
        matches!(self.code, Code::CrlMissing | Code::CrlStale | Code::CrlInvalid)
    }

    /// Returns the more informative of two refusals, or the first if their codes are equal.
    #[must_use]
    pub(crate) fn best(self, other: Self) -> Self {
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
            assert_eq!(Code::find(code.as_str()), Some(*code));
            assert!(code.meaning().ends_with('.') && !code.meaning().starts_with(' '));
        }
        assert_eq!(seen.len(), 31);
    }

    #[test]
    fn the_more_informative_refusal_is_returned() {
        let untrusted = Refusal::new(Code::ChainUntrusted, "a");
        let expired = Refusal::new(Code::CertificateExpired, "b");
        assert_eq!(untrusted.clone().best(expired.clone()), expired);
        assert_eq!(expired.clone().best(untrusted), expired);
    }
}
