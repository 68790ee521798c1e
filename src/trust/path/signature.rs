//! Verification of certificate signatures, with a memo of successful ones.

use quick_cache::sync::Cache;
use rustls_pki_types::AlgorithmIdentifier;

use crate::trust::refusal::{Code, Refusal};
use crate::x509::certificate::{Certificate, Fingerprint, without_null};
use crate::x509::der::{self, Reader, tag};
use crate::x509::name::oid::dotted;

/// Accepted sizes of an RSA modulus in bits.  The signature library supports no other sizes.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// AlgorithmIdentifier contents of RSA keys: rsaEncryption with NULL parameters.
const RSA_ENCRYPTION: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];

/// Bounded caches of (key, certificate) pairs whose signature was checked.
///
/// The result depends only on the bytes of the key and the certificate.  An entry is therefore
/// valid forever, and one memo serves every generation of a snapshot.  Failures have a smaller cache
/// of their own, because anyone can produce them: they displace no success.  The capacity bounds the
/// memory that chains of a peer can occupy.
#[derive(Debug)]
pub struct SignatureMemo {
    verified: Cache<Pair, ()>,
    failed: Cache<Pair, ()>,
}

/// The key of an issuer, and a certificate.
type Pair = (Fingerprint, Fingerprint);

impl SignatureMemo {
    /// Default number of pairs, of about 100 bytes each.
    pub(crate) const DEFAULT_CAPACITY: usize = 100_000;

    /// Creates a memo of at most `capacity` successes, and a tenth as many failures.  With 0, nothing
    /// is stored.
    pub fn new(capacity: usize) -> Self {
        Self { verified: Cache::new(capacity), failed: Cache::new(capacity / 10) }
    }

    /// Returns the number of stored successes and failures.
    #[cfg(test)]
    pub(crate) fn len(&self) -> (usize, usize) {
        (self.verified.len(), self.failed.len())
    }

    /// Verifies the signature of `certificate` with the key of `issuer`, unless the memo has the
    /// pair.  Also returns true if the memo had it.
    ///
    /// # Errors
    /// Returns `signature_algorithm` if the algorithm or key is not accepted, and
    /// `signature_invalid` if the signature does not verify.
    pub(crate) fn verify(
        &self,
        certificate: &Certificate,
        issuer: &Certificate,
    ) -> (Result<(), Refusal>, bool) {
        let pair = (issuer.key, certificate.fingerprint);
        if self.verified.get(&pair).is_some() {
            return (Ok(()), true);
        }
        if self.failed.get(&pair).is_some() {
            return (Err(invalid(certificate, issuer)), true);
        }
        let result = verify(certificate, issuer);
        match &result {
            Ok(()) => self.verified.insert(pair, ()),
            Err(refusal) if refusal.code == Code::SignatureInvalid => {
                self.failed.insert(pair, ());
            }
            // An algorithm is refused without cryptography.
            Err(_) => {}
        }
        (result, false)
    }
}

impl Default for SignatureMemo {
    fn default() -> Self {
        Self::new(Self::DEFAULT_CAPACITY)
    }
}

/// Verifies the signature of `certificate` with the key of `issuer`.
fn verify(certificate: &Certificate, issuer: &Certificate) -> Result<(), Refusal> {
    check_key(issuer)?;
    let signed_with =
        without_null(&certificate.signature_algorithm).unwrap_or(&certificate.signature_algorithm);
    let mut known = false;
    for algorithm in webpki::ALL_VERIFICATION_ALGS {
        if algorithm.signature_alg_id() != identifier(signed_with) {
            continue;
        }
        known = true;
        if algorithm.public_key_alg_id() != identifier(&issuer.key_algorithm) {
            continue;
        }
        return algorithm
            .verify_signature(&issuer.public_key, certificate.tbs(), &certificate.signature)
            .map_err(|_| invalid(certificate, issuer));
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

fn invalid(certificate: &Certificate, issuer: &Certificate) -> Refusal {
    let (subject, issuer) = (&certificate.subject, &issuer.subject);
    let detail = format!("the signature of `{subject}` does not verify with the key of `{issuer}`");
    Refusal::new(Code::SignatureInvalid, detail)
}

/// Returns the cost of a verification with the key of `issuer`.  The unit is about one with ECDSA
/// P-256, or with an RSA key of 4096 bits and the exponent 65537.  `benches/hostile.rs` measures it.
pub(crate) fn cost(issuer: &Certificate) -> usize {
    if &*issuer.key_algorithm == RSA_ENCRYPTION {
        return rsa_cost(&issuer.public_key).unwrap_or(1);
    }
    // The size of an uncompressed point grows with the curve: 65, 97 and 133 bytes.
    match issuer.public_key.len() {
        0..=65 => 1,
        66..=97 => 4,
        _ => 6,
    }
}

/// The exponent costs one multiplication for each bit, and one for each further bit that is set.
fn rsa_cost(key: &[u8]) -> Option<usize> {
    const UNIT: usize = 4096 * 4096 * 18;
    let (bits, exponent) = (rsa_bits(key)?, rsa_exponent(key)?);
    let ones: u32 = exponent.iter().map(|byte| byte.count_ones()).sum();
    let multiplications = bit_length(exponent)? + ones as usize - 1;
    Some(bits.saturating_mul(bits).saturating_mul(multiplications).div_ceil(UNIT))
}

/// Refuses keys of a type or size for which no signature algorithm is accepted.
pub(crate) fn check_key(certificate: &Certificate) -> Result<(), Refusal> {
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
            None => refuse("not a valid RSA key".into()),
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

/// AlgorithmIdentifier contents that can be compared with the identifiers of the signature library.
struct AlgorithmIdentifierBytes<'a>(&'a [u8]);

impl PartialEq<AlgorithmIdentifierBytes<'_>> for AlgorithmIdentifier {
    fn eq(&self, other: &AlgorithmIdentifierBytes<'_>) -> bool {
        self.as_ref() == other.0
    }
}

/// Returns the size of the modulus of an RSAPublicKey in bits.
fn rsa_bits(key: &[u8]) -> Option<usize> {
    let mut parts = der::single(key, tag::SEQUENCE).ok()?.reader();
    bit_length(parts.expect(tag::INTEGER).and_then(der::integer).ok()?)
}

/// Returns the public exponent of an RSAPublicKey.
fn rsa_exponent(key: &[u8]) -> Option<&[u8]> {
    let mut parts = der::single(key, tag::SEQUENCE).ok()?.reader();
    parts.expect(tag::INTEGER).ok()?;
    parts.expect(tag::INTEGER).and_then(der::integer).ok()
}

/// Returns the size of a number in bits; `None` if it is 0.
fn bit_length(number: &[u8]) -> Option<usize> {
    let digits = number.strip_prefix(&[0]).unwrap_or(number);
    let top = digits.first().filter(|top| **top != 0)?;
    Some(digits.len() * 8 - top.leading_zeros() as usize)
}

/// OID contents of id-ecPublicKey, secp256k1 and id-RSASSA-PSS.
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const SECP256K1: &[u8] = &[0x2b, 0x81, 4, 0, 0x0a];
const RSASSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10];

/// Returns the hash and the length of the salt in RSASSA-PSS-params (RFC 4055 section 3.1).
fn pss_parameters(mut reader: Reader<'_>) -> Option<(String, u64)> {
    let mut fields = reader.sequence().ok()?;
    let hash = match fields.optional(tag::context_constructed(0)).ok()? {
        Some(wrapped) => dotted(wrapped.reader().sequence().ok()?.expect(tag::OID).ok()?.value),
        None => "SHA-1".into(),
    };
    fields.optional(tag::context_constructed(1)).ok()?;
    let salt = match fields.optional(tag::context_constructed(2)).ok()? {
        Some(wrapped) => der::integer(wrapped.reader().expect(tag::INTEGER).ok()?)
            .ok()?
            .iter()
            .take(8)
            .fold(0, |length, byte| length << 8 | u64::from(*byte)),
        None => 20,
    };
    Some((hash, salt))
}

/// Describes the algorithm of AlgorithmIdentifier contents in messages.
fn algorithm_name(contents: &[u8]) -> String {
    let mut reader = Reader::new(contents);
    let Ok(oid) = reader.expect(tag::OID) else { return "an unreadable algorithm".into() };
    match oid.value {
        EC_PUBLIC_KEY => match reader.expect(tag::OID) {
            Ok(curve) if curve.value == SECP256K1 => "on the elliptic curve secp256k1".into(),
            Ok(curve) => format!("on the elliptic curve {}", dotted(curve.value)),
            Err(_) => "on an elliptic curve without a name".into(),
        },
        RSASSA_PSS => match pss_parameters(reader) {
            Some((hash, salt)) => format!(
                "RSASSA-PSS of hash {hash} and a salt of {salt} bytes (accepted: SHA-256 with 32, \
                 SHA-384 with 48, SHA-512 with 64)"
            ),
            None => "RSASSA-PSS with unreadable parameters".into(),
        },
        other => format!("algorithm {}", dotted(other)),
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
    fn remembers_successes_and_failures_apart() {
        let memo = SignatureMemo::default();
        let issuer = certificate(&Spec::authority(cn("R"), cn("R")), 0, 0);
        let stranger = certificate(&Spec::authority(cn("R"), cn("R")), 1, 1);
        let leaf = certificate(&Spec::device(cn("d"), cn("R")), 2, 0);
        let code = |result: Result<(), Refusal>| result.map_err(|refusal| refusal.code);
        assert_eq!(code(memo.verify(&leaf, &stranger).0), Err(Code::SignatureInvalid));
        assert_eq!(memo.len(), (0, 1));
        assert_eq!(code(memo.verify(&leaf, &issuer).0), Ok(()));
        assert_eq!(memo.len(), (1, 1));
        // An entry for one key does not apply to another.
        assert_eq!(code(memo.verify(&leaf, &stranger).0), Err(Code::SignatureInvalid));
        assert_eq!(code(memo.verify(&leaf, &issuer).0), Ok(()));
        let disabled = SignatureMemo::new(0);
        assert_eq!(code(disabled.verify(&leaf, &issuer).0), Ok(()));
        assert_eq!(disabled.len(), (0, 0));
        // An algorithm that is not accepted costs nothing, and anyone can name one.
        let mut spec = Spec::device(cn("d"), cn("R"));
        spec.algorithm = test_certificates::ECDSA_SHA1.to_vec();
        let old = certificate(&spec, 2, 0);
        assert_eq!(code(memo.verify(&old, &issuer).0), Err(Code::SignatureAlgorithm));
        assert_eq!(memo.len(), (1, 1));
    }

    #[test]
    fn failures_do_not_displace_successes() {
        let memo = SignatureMemo::new(20);
        let issuer = certificate(&Spec::authority(cn("R"), cn("R")), 0, 0);
        let stranger = certificate(&Spec::authority(cn("R"), cn("R")), 1, 1);
        let leaf = |n: usize| certificate(&Spec::device(cn(&format!("d{n}")), cn("R")), 2, 0);
        let good = leaf(0);
        assert_eq!(memo.verify(&good, &issuer).0, Ok(()));
        for n in 1..100 {
            assert!(memo.verify(&leaf(n), &stranger).0.is_err());
        }
        let (successes, failures) = memo.len();
        assert_eq!(successes, 1);
        assert!(failures <= 2, "{failures}");
    }

    #[test]
    fn a_key_costs_what_its_size_and_exponent_cost() {
        let mut key = certificate(&Spec::authority(cn("R"), cn("R")), 0, 0);
        assert_eq!(cost(&key), 1);
        for (point, expected) in [(97, 4), (133, 6)] {
            key.public_key = vec![4; point].into();
            assert_eq!(cost(&key), expected);
        }
        key.key_algorithm = RSA_ENCRYPTION.into();
        let mut rsa = |bytes: usize, exponent: &[u8]| {
            let modulus = [&[0, 0x80][..], &vec![1; bytes - 1]].concat();
            let parts = [test_certificates::tlv(2, &modulus), test_certificates::tlv(2, exponent)];
            key.public_key = test_certificates::seq(&parts).into();
            cost(&key)
        };
        assert_eq!([256, 384, 512].map(|bytes| rsa(bytes, &[1, 0, 1])), [1, 1, 1]);
        assert_eq!([640, 1024].map(|bytes| rsa(bytes, &[1, 0, 1])), [2, 4]);
        assert_eq!(rsa(1024, &[3]), 1);
        assert_eq!(rsa(1024, &[1, 0xff, 0xff, 0xff, 0xff]), 15);
    }

    #[test]
    fn a_refusal_names_the_algorithm() {
        let issuer = certificate(&Spec::authority(cn("R"), cn("R")), 0, 0);
        let mut spec = Spec::device(cn("d"), cn("R"));
        spec.algorithm = test_certificates::ECDSA_SHA1.to_vec();
        let refusal = verify(&certificate(&spec, 2, 0), &issuer).expect_err("SHA-1");
        assert_eq!(refusal.code, Code::SignatureAlgorithm);
        assert!(refusal.detail.contains("1.2.840.10045.4.1"), "{refusal}");
    }

    #[test]
    fn an_algorithm_is_named_by_its_parameters() {
        let curve = |oid: &[u8]| {
            [test_certificates::tlv(6, EC_PUBLIC_KEY), test_certificates::tlv(6, oid)].concat()
        };
        assert_eq!(algorithm_name(&curve(SECP256K1)), "on the elliptic curve secp256k1");
        assert_eq!(algorithm_name(&curve(&[0x2b, 1])), "on the elliptic curve 1.3.1");
        let sha256 = [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
        let hash = test_certificates::seq(&[test_certificates::tlv(6, &sha256)]);
        let salt = test_certificates::tlv(2, &[0, 222]);
        let parameters = test_certificates::seq(&[
            test_certificates::tlv(0xa0, &hash),
            test_certificates::tlv(0xa2, &salt),
        ]);
        let name = algorithm_name(&[test_certificates::tlv(6, RSASSA_PSS), parameters].concat());
        assert!(name.contains("hash 2.16.840.1.101.3.4.2.1 and a salt of 222 bytes"), "{name}");
        let unreadable = algorithm_name(&test_certificates::tlv(6, RSASSA_PSS));
        assert_eq!(unreadable, "RSASSA-PSS with unreadable parameters");
    }

    #[test]
    fn refuses_rsa_keys_of_other_sizes() {
        let key = |modulus: &[u8]| {
            test_certificates::seq(&[
                test_certificates::tlv(2, modulus),
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
        let refusal = check_key(&weak).expect_err("1023 bits");
        assert!(refusal.detail.contains("RSA of 1023 bits; 2048 to 8192"), "{refusal}");
    }

    proptest! {
        #[test]
        fn does_not_panic_on_any_key(
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
