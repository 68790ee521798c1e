//! Second validation of an accepted path with rustls-webpki.

use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm, UnixTime,
};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter};

use crate::trust::path::constraints::NameConstraints;
use crate::trust::refusal::{Code, Refusal};
use crate::x509::certificate::{Certificate, Extension, oid, without_null};
use crate::x509::time::Timestamp;

/// Largest number of intermediate certificates that webpki supports.
const MAX_INTERMEDIATES: usize = 6;

/// Critical extensions that webpki supports.
const CRITICAL_SUPPORTED: &[&[u8]] = &[
    oid::BASIC_CONSTRAINTS,
    oid::KEY_USAGE,
    oid::EXTENDED_KEY_USAGE,
    oid::SUBJECT_ALT_NAME,
    oid::NAME_CONSTRAINTS,
    oid::CRL_DISTRIBUTION_POINTS,
];

/// Refuses a path, leaf first and anchor last, that webpki rejects although it uses only features
/// that webpki supports.  Signatures and key purposes are already verified and not checked again.
pub fn check_with_webpki(path: &[Arc<Certificate>], now: Timestamp) -> Result<(), Refusal> {
    let [leaf, intermediates @ .., anchor] = path else { return Ok(()) };
    if !is_supported_path(path) {
        return Ok(());
    }
    let disagrees = |error: webpki::Error| {
        Refusal::new(
            Code::ChainUntrusted,
            format!(
                "rustls-webpki rejects the path of `{}`, which the validator accepts: {error:?}",
                leaf.subject
            ),
        )
    };
    let der: Vec<CertificateDer<'_>> =
        intermediates.iter().map(|c| CertificateDer::from(c.der())).collect();
    let anchor = CertificateDer::from(anchor.der());
    let anchors = [webpki::anchor_from_trusted_cert(&anchor).map_err(disagrees)?];
    let leaf_der = CertificateDer::from(leaf.der());
    // A leaf before its notBefore was accepted by the tolerance of the operator.
    let seconds = u64::try_from(now.max(leaf.not_before).0).unwrap_or(0);
    let verified: Vec<AlreadyVerified> =
        webpki::ALL_VERIFICATION_ALGS.iter().map(|a| AlreadyVerified(*a)).collect();
    let algorithms: Vec<&dyn SignatureVerificationAlgorithm> =
        verified.iter().map(|a| a as &dyn SignatureVerificationAlgorithm).collect();
    let result = EndEntityCert::try_from(&leaf_der).and_then(|leaf| {
        leaf.verify_for_usage(
            &algorithms,
            &anchors,
            &der,
            UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
            AnyPurpose,
            None,
            None,
        )
        .map(|_| ())
    });
    match result {
        // webpki counts comparisons differently.  Its limit does not mean that the path is invalid.
        Ok(()) | Err(webpki::Error::MaximumNameConstraintComparisonsExceeded) => Ok(()),
        Err(error) => Err(disagrees(error)),
    }
}

/// Returns true if webpki supports every feature that the path uses.
///
/// Names must be equal as bytes, and certificates v3 without unique identifiers or times before
/// 1970.  The path must be short enough, without self-issued authorities, which webpki counts in
/// path lengths.  Only DNS names and IP addresses may be constrained, and critical extensions must
/// be supported.
fn is_supported_path(path: &[Arc<Certificate>]) -> bool {
    let [leaf, authorities @ .., _] = path else { return false };
    let chains = path.windows(2).all(|pair| pair[0].issuer.der() == pair[1].subject.der());
    chains
        && authorities.len() <= MAX_INTERMEDIATES
        && authorities.iter().all(|authority| !authority.is_self_issued())
        // webpki rejects an authority as end entity.  RFC 5280 does not forbid it.
        && !leaf.basic_constraints.is_some_and(|constraints| constraints.ca)
        && path.iter().all(|certificate| is_supported(certificate))
}

fn is_supported(certificate: &Certificate) -> bool {
    let small_path_length = certificate
        .basic_constraints
        .and_then(|constraints| constraints.path_len)
        .is_none_or(|length| u8::try_from(length).is_ok());
    let supported = |extension: &Extension| match &*extension.oid {
        oid::NAME_CONSTRAINTS => {
            NameConstraints::read(&extension.value).is_ok_and(|it| it.is_on_hosts_only())
        }
        other => !extension.critical || CRITICAL_SUPPORTED.contains(&other),
    };
    certificate.version == 3
        && !certificate.has_unique_ids
        && !certificate.has_empty_extensions
        && without_null(&certificate.signature_algorithm).is_none()
        && certificate.not_before.0 >= 0
        && small_path_length
        && certificate.extensions.iter().all(supported)
}

/// Validator that accepts every key purpose.  `checks` verified them, including
/// anyExtendedKeyUsage, which webpki does not support.
struct AnyPurpose;

impl ExtendedKeyUsageValidator for AnyPurpose {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

/// Algorithm that accepts every signature.  The search verified the signatures of this path before.
#[derive(Debug)]
struct AlreadyVerified(&'static dyn SignatureVerificationAlgorithm);

impl SignatureVerificationAlgorithm for AlreadyVerified {
    fn verify_signature(&self, _: &[u8], _: &[u8], _: &[u8]) -> Result<(), InvalidSignature> {
        Ok(())
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.0.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.0.signature_alg_id()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x509::test_certificates::{self, Key, NOW, Spec, cn};

    /// Makes a path of leaf, intermediate and root, after `change`.
    fn path(change: impl FnOnce(&mut [Spec; 3])) -> Vec<Arc<Certificate>> {
        let mut specs = [
            Spec::device(cn("d"), cn("A")),
            Spec::authority(cn("A"), cn("R")),
            Spec::authority(cn("R"), cn("R")),
        ];
        change(&mut specs);
        let sign =
            |(i, spec): (usize, &Spec)| spec.sign(Key::number(i), Key::number((i + 1).min(2)));
        let read = |der: Vec<u8>| Arc::new(Certificate::from_der(&der).expect("a certificate"));
        specs.iter().enumerate().map(sign).map(read).collect()
    }

    #[test]
    fn refuses_a_path_that_webpki_rejects() {
        assert_eq!(check_with_webpki(&path(|_| {}), Timestamp(NOW)), Ok(()));
        // The validator refuses each of these as well, but it is not called here.
        for broken in [
            path(|[leaf, ..]| leaf.not_after = "260531235959Z".into()),
            path(|[_, authority, _]| {
                *authority = authority.clone().without(test_certificates::BASIC_CONSTRAINTS);
            }),
            path(|[_, authority, _]| authority.not_before = "260601000001Z".into()),
            path(|[leaf, authority, _]| {
                let only = test_certificates::name_constraints(&[(2, b"a.example".to_vec())], &[]);
                *authority =
                    authority.clone().with(test_certificates::NAME_CONSTRAINTS, true, only);
                let san = test_certificates::general_names(&[(2, b"b.example".to_vec())]);
                *leaf = leaf.clone().with(test_certificates::SUBJECT_ALT_NAME, false, san);
            }),
        ] {
            let refusal = check_with_webpki(&broken, Timestamp(NOW)).expect_err("webpki refuses");
            assert_eq!(refusal.code, Code::ChainUntrusted);
            assert!(refusal.detail.contains("rustls-webpki rejects"), "{refusal}");
        }
    }

    #[test]
    fn leaves_not_before_of_the_leaf_to_the_tolerance_of_the_operator() {
        let early = path(|[leaf, ..]| leaf.not_before = "260601000001Z".into());
        assert_eq!(check_with_webpki(&early, Timestamp(NOW)), Ok(()));
    }

    #[test]
    fn skips_paths_with_features_that_webpki_lacks() {
        let mail = || test_certificates::name_constraints(&[(1, b"a.example".to_vec())], &[]);
        for unsupported in [
            path(|[leaf, ..]| {
                leaf.issuer = test_certificates::name(&[(test_certificates::CN, 0x13, "a")]);
            }),
            path(|[_, authority, _]| {
                *authority =
                    authority.clone().with(test_certificates::NAME_CONSTRAINTS, true, mail());
            }),
            path(|[leaf, ..]| {
                *leaf = leaf.clone().with(
                    test_certificates::CERTIFICATE_POLICIES,
                    true,
                    test_certificates::policies(&[test_certificates::policy(1)]),
                );
            }),
            path(|[leaf, authority, _]| {
                (authority.subject, leaf.issuer) = (cn("R"), cn("R"));
            }),
            path(|[_, authority, _]| *authority = authority.clone().path_length(300)),
            path(|[leaf, ..]| {
                *leaf = leaf.clone().with(
                    test_certificates::BASIC_CONSTRAINTS,
                    true,
                    test_certificates::seq(&[test_certificates::tlv(1, &[0xff])]),
                );
            }),
            path(|[leaf, ..]| leaf.not_before = "500101000000Z".into()),
        ] {
            assert!(!is_supported_path(&unsupported));
            assert_eq!(check_with_webpki(&unsupported, Timestamp(NOW)), Ok(()));
        }
    }
}
