//! Signature algorithms of assertions and the keys that fit them.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use rustls_pki_types::{AlgorithmIdentifier, alg_id};

use crate::token::assertion::Profile;
use crate::x509::certificate::Certificate;

/// Signature algorithm of an assertion.  Symmetric algorithms are not supported, since the public
/// key of a certificate is not a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AssertionAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

/// Reason why a signature is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VerifyError {
    /// The key does not fit the algorithm.
    KeyKind,
    /// The signature is not valid for the key.
    Signature,
}

impl AssertionAlgorithm {
    /// All algorithms.
    pub const ALL: [Self; 5] = [Self::Rs256, Self::Ps256, Self::Es256, Self::Es384, Self::EdDsa];

    /// The algorithms of a profile.
    pub const fn of(profile: Profile) -> &'static [Self] {
        match profile {
            Profile::Plain => &Self::ALL,
            Profile::Fapi2 => &[Self::Ps256, Self::Es256, Self::EdDsa],
        }
    }

    /// Returns the value of `alg` (RFC 7518 section 3.1, RFC 8037 section 3.1).
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// Returns the algorithm with this `alg`.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }

    /// Verifies the signature of `message` with the key of `certificate`.
    ///
    /// # Errors
    /// The key does not fit the algorithm, or the signature is not valid.
    pub(super) fn verify(
        self,
        certificate: &Certificate,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), VerifyError> {
        let (key, algorithm): (AlgorithmIdentifier, &'static dyn VerificationAlgorithm) = match self
        {
            Self::Rs256 => (alg_id::RSA_ENCRYPTION, &RSA_PKCS1_2048_8192_SHA256),
            Self::Ps256 => (alg_id::RSA_ENCRYPTION, &RSA_PSS_2048_8192_SHA256),
            Self::Es256 => (alg_id::ECDSA_P256, &ECDSA_P256_SHA256_FIXED),
            Self::Es384 => (alg_id::ECDSA_P384, &ECDSA_P384_SHA384_FIXED),
            Self::EdDsa => (alg_id::ED25519, &ED25519),
        };
        if *key != *certificate.key_algorithm {
            return Err(VerifyError::KeyKind);
        }
        UnparsedPublicKey::new(algorithm, &certificate.public_key)
            .verify(message, signature)
            .map_err(|_| VerifyError::Signature)
    }
}
