//! Whether one key signed one certificate.

use quick_cache::sync::Cache;
use rustls_pki_types::AlgorithmIdentifier;

use crate::trust::refusal::{Code, Refusal};
use crate::x509::certificate::{Certificate, Fingerprint};
use crate::x509::der::{self, Reader, tag};
use crate::x509::name::oid::dotted;

/// Bits of an RSA modulus that are accepted.  The signature library verifies with no other size.
pub const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The algorithm identifier contents of RSA keys: rsaEncryption with NULL parameters.
const RSA_ENCRYPTION: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];

/// Pairs of (key, certificate) whose signature was verified.
///
/// Whether a key signed a certificate is a function of their bytes alone, so an entry is true for ever
/// and one memo serves every generation of a snapshot.  Only successes are kept: a peer can make up
/// any number of failures, but to fill this it needs the signatures of our authorities.
#[derive(Debug)]
pub struct SignatureMemo {
    verified: Cache<(Fingerprint, Fingerprint), ()>,
}

impl SignatureMemo {
    /// Pairs that are kept by default, of about 100 bytes each.
    pub const DEFAULT_CAPACITY: usize = 100_000;

    /// A memo that keeps at most `capacity` pairs; 0 keeps none.
    pub fn new(capacity: usize) -> Self {
        Self { verified: Cache::new(capacity) }
    }

    /// Pairs in the memo.
    pub fn len(&self) -> usize {
        self.verified.len()
    }

    /// True when nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.verified.is_empty()
    }

    /// Verifies `certificate`'s signature with `issuer`'s key, unless that was done before.
    ///
    /// # Errors
    /// `signature_algorithm` for an algorithm or key that is not accepted, `signature_invalid`
    /// otherwise.
    pub fn verify(&self, certificate: &Certificate, issuer: &Certificate) -> Result<(), Refusal> {
        let pair = (issuer.key, certificate.fingerprint);
        if self.verified.get(&pair).is_none() {
            verify(certificate, issuer)?;
            self.verified.insert(pair, ());
        }
        Ok(())
    }
}

impl Default for SignatureMemo {
    fn default() -> Self {
        Self::new(Self::DEFAULT_CAPACITY)
    }
}

/// Verifies `certificate`'s signature with `issuer`'s key.
pub fn verify(certificate: &Certificate, issuer: &Certificate) -> Result<(), Refusal> {
    key_is_accepted(issuer)?;
    let mut known = false;
    for algorithm in webpki::ALL_VERIFICATION_ALGS {
        if algorithm.signature_alg_id() != identifier(&certificate.signature_algorithm) {
            continue;
        }
        known = true;
        if algorithm.public_key_alg_id() != identifier(&issuer.key_algorithm) {
            continue;
        }
        return algorithm
            .verify_signature(&issuer.public_key, certificate.tbs(), &certificate.signature)
            .map_err(|_| {
                Refusal::new(
                    Code::SignatureInvalid,
                    format!(
                        "the signature of `{}` does not verify with the key of `{}`",
                        certificate.subject, issuer.subject
                    ),
                )
            });
    }
    let of = if known { " for a key of that kind" } else { "" };
    Err(Refusal::new(
        Code::SignatureAlgorithm,
        format!(
            "`{}` is signed with {}, which is not accepted{of}",
            certificate.subject,
            algorithm_name(&certificate.signature_algorithm)
        ),
    ))
}

/// Refuses keys that no accepted signature can be made with.
pub fn key_is_accepted(certificate: &Certificate) -> Result<(), Refusal> {
    let refuse = |what: String| {
        let detail = format!("the key of `{}` is {what}", certificate.subject);
        Err(Refusal::new(Code::SignatureAlgorithm, detail))
    };
    if &*certificate.key_algorithm == RSA_ENCRYPTION {
        return match rsa_bits(&certificate.public_key) {
            Some(bits) if RSA_BITS.contains(&bits) => Ok(()),
            Some(bits) => refuse(format!(
                "RSA of {bits} bits; {} to {} are accepted",
                RSA_BITS.start(),
                RSA_BITS.end()
            )),
            None => refuse("no RSA key".into()),
        };
    }
    let key = identifier(&certificate.key_algorithm);
    if webpki::ALL_VERIFICATION_ALGS.iter().any(|a| a.public_key_alg_id() == key) {
        return Ok(());
    }
    refuse(format!("{}, which is not accepted", algorithm_name(&certificate.key_algorithm)))
}

fn identifier(contents: &[u8]) -> AlgorithmIdentifierBytes<'_> {
    AlgorithmIdentifierBytes(contents)
}

/// Compares with the library's identifiers, which own static bytes.
struct AlgorithmIdentifierBytes<'a>(&'a [u8]);

impl PartialEq<AlgorithmIdentifierBytes<'_>> for AlgorithmIdentifier {
    fn eq(&self, other: &AlgorithmIdentifierBytes<'_>) -> bool {
        self.as_ref() == other.0
    }
}

/// Bits of the modulus of an RSAPublicKey.
fn rsa_bits(key: &[u8]) -> Option<usize> {
    let mut parts = der::single(key, tag::SEQUENCE).ok()?.reader();
    let modulus = parts.expect(tag::INTEGER).and_then(der::integer).ok()?;
    let digits = modulus.strip_prefix(&[0]).unwrap_or(modulus);
    let top = digits.first()?;
    Some(digits.len() * 8 - top.leading_zeros() as usize)
}

/// The OID of an AlgorithmIdentifier's contents, dotted.
fn algorithm_name(contents: &[u8]) -> String {
    match Reader::new(contents).expect(tag::OID) {
        Ok(oid) => format!("algorithm {}", dotted(oid.value)),
        Err(_) => "an unreadable algorithm".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x509::test_certificates::{self, Key, Spec, cn};
    use proptest::prelude::*;

    fn certificate(spec: &Spec, own: usize, signer: usize) -> Certificate {
        let der = spec.sign(Key::number(own), Key::number(signer));
        Certificate::from_der(&der).expect("a certificate")
    }

    #[test]
    fn only_success_is_remembered() {
        let memo = SignatureMemo::default();
        let issuer = certificate(&Spec::authority(cn("R"), cn("R")), 0, 0);
        let stranger = certificate(&Spec::authority(cn("R"), cn("R")), 1, 1);
        let leaf = certificate(&Spec::device(cn("d"), cn("R")), 2, 0);
        let code = |result: Result<(), Refusal>| result.map_err(|refusal| refusal.code);
        assert_eq!(code(memo.verify(&leaf, &stranger)), Err(Code::SignatureInvalid));
        assert!(memo.is_empty());
        assert_eq!(code(memo.verify(&leaf, &issuer)), Ok(()));
        assert_eq!(memo.len(), 1);
        // What is remembered of one key says nothing of another.
        assert_eq!(code(memo.verify(&leaf, &stranger)), Err(Code::SignatureInvalid));
        assert_eq!(code(memo.verify(&leaf, &issuer)), Ok(()));
        let forgetful = SignatureMemo::new(0);
        assert_eq!(code(forgetful.verify(&leaf, &issuer)), Ok(()));
        assert!(forgetful.is_empty());
    }

    #[test]
    fn an_algorithm_that_is_not_accepted_is_named() {
        let issuer = certificate(&Spec::authority(cn("R"), cn("R")), 0, 0);
        let mut spec = Spec::device(cn("d"), cn("R"));
        spec.algorithm = test_certificates::ECDSA_SHA1.to_vec();
        let refusal = verify(&certificate(&spec, 2, 0), &issuer).expect_err("SHA-1");
        assert_eq!(refusal.code, Code::SignatureAlgorithm);
        assert!(refusal.detail.contains("1.2.840.10045.4.1"), "{refusal}");
    }

    #[test]
    fn rsa_keys_are_measured() {
        let key = |octets: &[u8]| {
            test_certificates::seq(&[
                test_certificates::tlv(2, octets),
                test_certificates::uint(65537),
            ])
        };
        assert_eq!(rsa_bits(&key(&[&[0, 0x80][..], &[1; 255]].concat())), Some(2048));
        assert_eq!(rsa_bits(&key(&[&[0x7f][..], &[1; 255]].concat())), Some(2047));
        assert_eq!(rsa_bits(&key(&[1])), Some(1));
        assert_eq!(rsa_bits(&key(&[0])), None);
        assert_eq!(rsa_bits(&[]), None);
        let mut weak = certificate(&Spec::authority(cn("R"), cn("R")), 0, 0);
        weak.key_algorithm = RSA_ENCRYPTION.into();
        weak.public_key = key(&[0x7f; 128]).into();
        let refusal = key_is_accepted(&weak).expect_err("1023 bits");
        assert!(refusal.detail.contains("RSA of 1023 bits; 2048 to 8192"), "{refusal}");
    }

    proptest! {
        #[test]
        fn no_key_makes_it_panic(
            key in prop::collection::vec(any::<u8>(), 0..40),
            algorithm in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut issuer = certificate(&Spec::authority(cn("R"), cn("R")), 0, 0);
            let leaf = certificate(&Spec::device(cn("d"), cn("R")), 2, 0);
            issuer.public_key = key.clone().into();
            prop_assert!(verify(&leaf, &issuer).is_err());
            issuer.key_algorithm = RSA_ENCRYPTION.into();
            prop_assert!(verify(&leaf, &issuer).is_err());
            issuer.key_algorithm = algorithm.into();
            prop_assert!(verify(&leaf, &issuer).is_err());
        }
    }
}
