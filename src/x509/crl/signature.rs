//! Signature of a list.  The signed bytes are hashed while the list is read if the algorithm signs
//! a hash, and buffered otherwise.

use std::sync::Arc;

use aws_lc_rs::digest::{self, Context, Digest};
use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use rustls_pki_types::{AlgorithmIdentifier, alg_id};

use crate::x509::certificate::{Certificate, KeyUsage, without_null};
use crate::x509::crl::error::Fault;
use crate::x509::name::Name;

/// Signature algorithm that is accepted on lists.  SHA-1 is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Ecdsa(Hash),
    RsaPkcs1(Hash),
    RsaPss(Hash),
    Ed25519,
    MlDsa44,
    MlDsa65,
    MlDsa87,
}

/// Hash function of a signature algorithm that signs a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

/// sha*WithRSAEncryption without the NULL that RFC 4055 section 5 requires.  Some issuers omit it,
/// and the meaning is unambiguous.
const RSA_PKCS1_ABSENT: [(&[u8], Hash); 3] = [
    (&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 0x0b], Hash::Sha256),
    (&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 0x0c], Hash::Sha384),
    (&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 0x0d], Hash::Sha512),
];

impl Algorithm {
    /// Returns the algorithm for the contents of an AlgorithmIdentifier.
    pub(super) fn of(identifier: &[u8]) -> Option<Self> {
        use Hash::{Sha256, Sha384, Sha512};
        let identifier = without_null(identifier).unwrap_or(identifier);
        let known = [
            (alg_id::ECDSA_SHA256, Self::Ecdsa(Sha256)),
            (alg_id::ECDSA_SHA384, Self::Ecdsa(Sha384)),
            (alg_id::ECDSA_SHA512, Self::Ecdsa(Sha512)),
            (alg_id::RSA_PKCS1_SHA256, Self::RsaPkcs1(Sha256)),
            (alg_id::RSA_PKCS1_SHA384, Self::RsaPkcs1(Sha384)),
            (alg_id::RSA_PKCS1_SHA512, Self::RsaPkcs1(Sha512)),
            (alg_id::RSA_PSS_SHA256, Self::RsaPss(Sha256)),
            (alg_id::RSA_PSS_SHA384, Self::RsaPss(Sha384)),
            (alg_id::RSA_PSS_SHA512, Self::RsaPss(Sha512)),
            (alg_id::ED25519, Self::Ed25519),
            (alg_id::ML_DSA_44, Self::MlDsa44),
            (alg_id::ML_DSA_65, Self::MlDsa65),
            (alg_id::ML_DSA_87, Self::MlDsa87),
        ];
        let known = known.iter().find(|(id, _)| id.as_ref() == identifier).map(|found| found.1);
        let absent = RSA_PKCS1_ABSENT.iter().find(|(id, _)| *id == identifier);
        known.or(absent.map(|(_, hash)| Self::RsaPkcs1(*hash)))
    }

    fn hash(self) -> Option<Hash> {
        match self {
            Self::Ecdsa(hash) | Self::RsaPkcs1(hash) | Self::RsaPss(hash) => Some(hash),
            Self::Ed25519 | Self::MlDsa44 | Self::MlDsa65 | Self::MlDsa87 => None,
        }
    }

    /// Returns the verifier for a key of this kind, or `None` if the algorithm does not fit the
    /// key.
    fn verifier(self, key_algorithm: &[u8]) -> Option<&'static dyn VerificationAlgorithm> {
        use Hash::{Sha256, Sha384, Sha512};
        type Row = (Algorithm, AlgorithmIdentifier, &'static dyn VerificationAlgorithm);
        let (p256, p384, p521) = (alg_id::ECDSA_P256, alg_id::ECDSA_P384, alg_id::ECDSA_P521);
        let rsa = alg_id::RSA_ENCRYPTION;
        let rows: [Row; 19] = [
            (Self::Ecdsa(Sha256), p256, &signature::ECDSA_P256_SHA256_ASN1),
            (Self::Ecdsa(Sha384), p256, &signature::ECDSA_P256_SHA384_ASN1),
            (Self::Ecdsa(Sha512), p256, &signature::ECDSA_P256_SHA512_ASN1),
            (Self::Ecdsa(Sha256), p384, &signature::ECDSA_P384_SHA256_ASN1),
            (Self::Ecdsa(Sha384), p384, &signature::ECDSA_P384_SHA384_ASN1),
            (Self::Ecdsa(Sha512), p384, &signature::ECDSA_P384_SHA512_ASN1),
            (Self::Ecdsa(Sha256), p521, &signature::ECDSA_P521_SHA256_ASN1),
            (Self::Ecdsa(Sha384), p521, &signature::ECDSA_P521_SHA384_ASN1),
            (Self::Ecdsa(Sha512), p521, &signature::ECDSA_P521_SHA512_ASN1),
            (Self::RsaPkcs1(Sha256), rsa, &signature::RSA_PKCS1_2048_8192_SHA256),
            (Self::RsaPkcs1(Sha384), rsa, &signature::RSA_PKCS1_2048_8192_SHA384),
            (Self::RsaPkcs1(Sha512), rsa, &signature::RSA_PKCS1_2048_8192_SHA512),
            (Self::RsaPss(Sha256), rsa, &signature::RSA_PSS_2048_8192_SHA256),
            (Self::RsaPss(Sha384), rsa, &signature::RSA_PSS_2048_8192_SHA384),
            (Self::RsaPss(Sha512), rsa, &signature::RSA_PSS_2048_8192_SHA512),
            (Self::Ed25519, alg_id::ED25519, &signature::ED25519),
            (Self::MlDsa44, alg_id::ML_DSA_44, &signature::ML_DSA_44),
            (Self::MlDsa65, alg_id::ML_DSA_65, &signature::ML_DSA_65),
            (Self::MlDsa87, alg_id::ML_DSA_87, &signature::ML_DSA_87),
        ];
        let fits = |row: &&Row| row.0 == self && row.1.as_ref() == key_algorithm;
        rows.iter().find(fits).map(|row| row.2)
    }
}

/// Signed bytes that arrive in pieces.
pub(super) enum Message {
    /// The algorithm is not known yet.  It is among the first bytes.
    Pending(Vec<u8>),
    Hashing(Algorithm, Context),
    /// The algorithm signs the message itself.
    Whole(Algorithm, Vec<u8>),
}

impl Message {
    pub(super) fn new() -> Self {
        Self::Pending(Vec::new())
    }

    /// Chooses between hashing and buffering.  Called once.
    pub(super) fn set_algorithm(&mut self, algorithm: Algorithm) {
        let Self::Pending(early) = self else { return };
        let early = std::mem::take(early);
        *self = match algorithm.hash() {
            None => Self::Whole(algorithm, early),
            Some(hash) => {
                let mut context = Context::new(match hash {
                    Hash::Sha256 => &digest::SHA256,
                    Hash::Sha384 => &digest::SHA384,
                    Hash::Sha512 => &digest::SHA512,
                });
                context.update(&early);
                Self::Hashing(algorithm, context)
            }
        };
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Pending(buffer) | Self::Whole(_, buffer) => buffer.extend_from_slice(bytes),
            Self::Hashing(_, context) => context.update(bytes),
        }
    }

    pub(super) fn finish(self) -> Option<SignedData> {
        match self {
            Self::Pending(_) => None,
            Self::Hashing(algorithm, context) => {
                Some(SignedData::Digest(algorithm, context.finish()))
            }
            Self::Whole(algorithm, bytes) => Some(SignedData::Bytes(algorithm, bytes)),
        }
    }
}

/// Complete signed bytes, or their hash.
pub(super) enum SignedData {
    Digest(Algorithm, Digest),
    Bytes(Algorithm, Vec<u8>),
}

impl SignedData {
    /// Returns true if `signature` over these bytes verifies with the key of `signer`.
    pub(super) fn verifies(&self, signer: &Certificate, signature: &[u8]) -> bool {
        let (Self::Digest(algorithm, _) | Self::Bytes(algorithm, _)) = self;
        let Some(verifier) = algorithm.verifier(&signer.key_algorithm) else { return false };
        let key = UnparsedPublicKey::new(verifier, &signer.public_key);
        match self {
            Self::Digest(_, digest) => key.verify_digest(digest, signature).is_ok(),
            Self::Bytes(_, bytes) => key.verify(bytes, signature).is_ok(),
        }
    }
}

/// Returns the certificates in `known` whose key made the signature.  All have the same key.
pub(super) fn signers_of(
    issuer: &Name,
    key_id: Option<&[u8]>,
    known: &[Arc<Certificate>],
    signed: &SignedData,
    signature: &[u8],
) -> Result<Vec<Arc<Certificate>>, Fault> {
    // The key identifier sets the order of attempts, and the signature decides.  An authority may
    // have reissued its certificate with another identifier for the same key.
    let id_differs = |certificate: &&Arc<Certificate>| {
        let own = certificate.subject_key_id.as_deref();
        key_id.zip(own).is_some_and(|(wanted, own)| wanted != own)
    };
    let mut candidates: Vec<_> =
        known.iter().filter(|certificate| certificate.subject == *issuer).collect();
    candidates.sort_by_key(id_differs);
    let mut tried = Vec::new();
    for candidate in &candidates {
        if tried.contains(&candidate.key) {
            continue;
        }
        tried.push(candidate.key);
        if signed.verifies(candidate, signature) {
            let may_sign =
                |signer: &&Arc<Certificate>| signer.key_usage.is_none_or(KeyUsage::crl_sign);
            let signers: Vec<_> = candidates
                .iter()
                .copied()
                .filter(|certificate| certificate.key == candidate.key)
                .filter(may_sign)
                .cloned()
                .collect();
            return if signers.is_empty() { Err(Fault::NotCrlSigner) } else { Ok(signers) };
        }
    }
    Err(if tried.is_empty() { Fault::NoSigner } else { Fault::SignatureInvalid })
}
