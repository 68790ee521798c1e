//! Validation of one whole path from its anchor down (RFC 5280 sections 6.1.2 to 6.1.5).
//!
//! Signatures and the chaining of names are not checked here.  The search only builds paths where
//! both are valid.

use std::sync::Arc;

use crate::trust::path::constraints::Constraints;
use crate::trust::path::policy::PolicyState;
use crate::trust::path::signature;
use crate::trust::refusal::{Code, Refusal};
use crate::trust::snapshot::TrustPolicy;
use crate::x509::certificate::{Certificate, oid};
use crate::x509::name::oid::dotted;
use crate::x509::time::Timestamp;

/// Longest serial number in bytes.  RFC 5280 section 4.1.2.2 allows issuers 20.  The limit bounds what
/// records and responses repeat.
const MAX_SERIAL: usize = 64;

/// Extensions that may be critical.  Path validation or revocation enforces their meaning.  Others,
/// such as the key identifiers, are understood too, but RFC 5280 forbids marking them critical.
const CRITICAL_ALLOWED: &[&[u8]] = &[
    oid::KEY_USAGE,
    oid::SUBJECT_ALT_NAME,
    oid::ISSUER_ALT_NAME,
    oid::BASIC_CONSTRAINTS,
    oid::NAME_CONSTRAINTS,
    oid::CRL_DISTRIBUTION_POINTS,
    oid::CERTIFICATE_POLICIES,
    oid::POLICY_MAPPINGS,
    oid::POLICY_CONSTRAINTS,
    oid::EXTENDED_KEY_USAGE,
    oid::INHIBIT_ANY_POLICY,
];

/// Use of the end-entity certificate of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// TLS client authentication.
    ClientAuth,
    /// Signing revocation lists (RFC 5280 section 6.3.3 (f)).
    CrlSigning,
}

/// Validates `path`, leaf first and anchor last, except for signatures, chaining of names and
/// revocation.  `comparisons` is the remaining budget of the decision for name constraints.
pub(crate) fn check_path(
    path: &[Arc<Certificate>],
    purpose: Purpose,
    now: Timestamp,
    policy: &TrustPolicy,
    comparisons: &mut usize,
) -> Result<(), Refusal> {
    let Some((anchor, below @ [leaf, ..])) = path.split_last() else {
        return Err(Refusal::new(
            Code::ChainUntrusted,
            "the certificate is an anchor, and an anchor does not identify a device",
        ));
    };
    check_anchor(anchor, purpose, now, policy)?;
    let mut names = Constraints::default();
    names.add(anchor)?;
    let mut policies = PolicyState::new(below.len(), policy, anchor)?;
    let mut max_below = path_length(anchor).unwrap_or(below.len());

    for certificate in below[1..].iter().rev() {
        check_authority(certificate, purpose, now)?;
        if !certificate.is_self_issued() {
            names.check(certificate, comparisons)?;
        }
        policies.process(certificate, false)?;
        // Section 6.1.4 (l) and (m).
        if !certificate.is_self_issued() {
            max_below = max_below.checked_sub(1).ok_or_else(|| {
                Refusal::new(
                    Code::PathLength,
                    format!(
                        "pathLenConstraint does not allow the authority `{}` at its position",
                        certificate.subject
                    ),
                )
            })?;
        }
        max_below = path_length(certificate).map_or(max_below, |length| length.min(max_below));
        names.add(certificate)?;
    }

    check_leaf(leaf, purpose, now, policy)?;
    names.check(leaf, comparisons)?;
    policies.process(leaf, true)
}

/// Checks an anchor by the policy of the operator.  RFC 5280 section 6.1.1 (d) uses only its name
/// and key.
pub(crate) fn check_anchor(
    anchor: &Certificate,
    purpose: Purpose,
    now: Timestamp,
    policy: &TrustPolicy,
) -> Result<(), Refusal> {
    if policy.anchor_validity {
        check_validity(anchor, now)?;
    }
    // RFC 5937 section 2: critical extensions of an anchor must be processed as well.
    check_critical_extensions(anchor)?;
    if policy.anchor_constraints {
        check_may_issue(anchor, purpose)?;
    }
    Ok(())
}

/// Checks a certificate between anchor and leaf: sections 6.1.3 (a) (2) and 6.1.4 (k), (n), (o).
pub(crate) fn check_authority(
    authority: &Certificate,
    purpose: Purpose,
    now: Timestamp,
) -> Result<(), Refusal> {
    check_validity(authority, now)?;
    check_fields(authority)?;
    check_critical_extensions(authority)?;
    check_may_issue(authority, purpose)
}

fn check_leaf(
    leaf: &Certificate,
    purpose: Purpose,
    now: Timestamp,
    policy: &TrustPolicy,
) -> Result<(), Refusal> {
    let early = leaf.not_before.0.saturating_sub(now.0);
    if early > policy.not_before_tolerance.max(0) {
        let detail = format!(
            "`{}` is valid from {} (now: {now}), in {early} s; `trust.not_before_tolerance` is {} s",
            leaf.subject, leaf.not_before, policy.not_before_tolerance
        );
        return Err(Refusal::new(Code::CertificateNotYetValid, detail));
    }
    if now > leaf.not_after {
        let detail = format!("`{}` was valid until {} (now: {now})", leaf.subject, leaf.not_after);
        return Err(Refusal::new(Code::CertificateExpired, detail));
    }
    check_fields(leaf)?;
    check_critical_extensions(leaf)?;
    let is_ca = leaf.basic_constraints.is_some_and(|b| b.ca);
    if !is_ca && leaf.extension(oid::NAME_CONSTRAINTS).is_some() {
        return Err(Refusal::new(
            Code::NameConstraint,
            format!(
                "`{}` has nameConstraints but is not an authority (RFC 5280 section 4.2.1.10)",
                leaf.subject
            ),
        ));
    }
    match purpose {
        Purpose::ClientAuth => {
            if leaf.key_usage.is_some_and(|usage| !usage.digital_signature()) {
                return Err(key_usage_refusal(leaf, "digitalSignature"));
            }
            signature::check_key(leaf)?;
            let usages = leaf.extended_key_usage.as_deref();
            let allowed = match usages {
                Some(usages) if policy.require_client_auth => contains(usages, oid::CLIENT_AUTH),
                Some(usages) => allows_client_auth(usages),
                None => !policy.require_client_auth,
            };
            if allowed { Ok(()) } else { Err(extended_key_usage_refusal(leaf)) }
        }
        Purpose::CrlSigning => {
            if leaf.key_usage.is_some_and(|usage| !usage.crl_sign()) {
                return Err(key_usage_refusal(leaf, "cRLSign"));
            }
            Ok(())
        }
    }
}

fn check_validity(authority: &Certificate, now: Timestamp) -> Result<(), Refusal> {
    if authority.is_valid_at(now) {
        return Ok(());
    }
    Err(Refusal::new(
        Code::AuthorityExpired,
        format!(
            "authority `{}` is valid from {} until {} (now: {now})",
            authority.subject, authority.not_before, authority.not_after
        ),
    ))
}

/// Checks that `authority` may sign certificates that are used for `purpose`.
fn check_may_issue(authority: &Certificate, purpose: Purpose) -> Result<(), Refusal> {
    let not_ca = |why: &str| {
        let detail = format!("`{}` cannot issue certificates: {why}", authority.subject);
        Err(Refusal::new(Code::AuthorityNotCa, detail))
    };
    if authority.version != 3 {
        return not_ca("it is not an X.509 v3 certificate");
    }
    match authority.basic_constraints {
        None => return not_ca("it has no basicConstraints"),
        Some(constraints) if !constraints.ca => return not_ca("basicConstraints cA is false"),
        Some(_) => {}
    }
    if authority.subject.is_empty() {
        // RFC 5280 section 4.1.2.6.
        return not_ca("its subject is empty");
    }
    if authority.key_usage.is_some_and(|usage| !usage.key_cert_sign()) {
        return Err(key_usage_refusal(authority, "keyCertSign"));
    }
    // RFC 5280 does not define extendedKeyUsage in an authority.  Other implementations apply it to
    // the certificates below.
    let usages = authority.extended_key_usage.as_deref();
    if purpose == Purpose::ClientAuth && usages.is_some_and(|usages| !allows_client_auth(usages)) {
        return Err(extended_key_usage_refusal(authority));
    }
    Ok(())
}

/// Checks rules of RFC 5280 for fields that could mislead a verifier.
fn check_fields(certificate: &Certificate) -> Result<(), Refusal> {
    let malformed = |why: String| {
        let detail = format!("`{}`: {why}", certificate.subject);
        Err(Refusal::new(Code::CertificateMalformed, detail))
    };
    // Zero, negative and long serial numbers are tolerated: lists are searched for the exact number.
    if certificate.serial.len() > MAX_SERIAL {
        return malformed(format!(
            "serial number of {} bytes; at most {MAX_SERIAL} are allowed",
            certificate.serial.len()
        ));
    }
    if certificate.issuer.is_empty() {
        return malformed("the issuer name is empty".into());
    }
    Ok(())
}

/// Checks sections 6.1.4 (o) and 6.1.5 (f): every critical extension must be processed.
fn check_critical_extensions(certificate: &Certificate) -> Result<(), Refusal> {
    let processed = |oid: &[u8]| CRITICAL_ALLOWED.contains(&oid);
    match certificate.extensions.iter().find(|e| e.critical && !processed(&e.oid)) {
        None => Ok(()),
        Some(extension) => Err(Refusal::new(
            Code::CriticalExtension,
            format!(
                "`{}` has the critical extension {}, which is unknown or must not be critical",
                certificate.subject,
                dotted(&extension.oid)
            ),
        )),
    }
}

/// Returns pathLenConstraint as a number of certificates.
fn path_length(authority: &Certificate) -> Option<usize> {
    let length = authority.basic_constraints?.path_len?;
    Some(usize::try_from(length).unwrap_or(usize::MAX))
}

fn allows_client_auth(usages: &[Box<[u8]>]) -> bool {
    contains(usages, oid::CLIENT_AUTH) || contains(usages, oid::ANY_EXTENDED_KEY_USAGE)
}

fn contains(usages: &[Box<[u8]>], wanted: &[u8]) -> bool {
    usages.iter().any(|usage| **usage == *wanted)
}

fn key_usage_refusal(certificate: &Certificate, wanted: &str) -> Refusal {
    let detail = format!("keyUsage of `{}` does not include {wanted}", certificate.subject);
    Refusal::new(Code::KeyUsage, detail)
}

fn extended_key_usage_refusal(certificate: &Certificate) -> Refusal {
    let detail = format!("extendedKeyUsage of `{}` does not allow clientAuth", certificate.subject);
    Refusal::new(Code::ExtendedKeyUsage, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x509::test_certificates::{self, Key, NOW, Spec, cn};

    fn read(spec: &Spec) -> Arc<Certificate> {
        let key = Key::number(0);
        Arc::new(Certificate::from_der(&spec.sign(key, key)).expect("a certificate"))
    }

    /// Validates a leaf directly below a valid anchor.
    fn validate(spec: &Spec, purpose: Purpose, policy: &TrustPolicy) -> Result<(), Code> {
        let anchor = read(&Spec::authority(cn("Root"), cn("Root")));
        check_path(&[read(spec), anchor], purpose, Timestamp(NOW), policy, &mut 10)
            .map_err(|r| r.code)
    }

    fn device() -> Spec {
        Spec::device(cn("device"), cn("Root"))
    }

    fn usages(of: &[&[u8]]) -> Vec<u8> {
        test_certificates::seq(
            &of.iter().map(|usage| test_certificates::oid(usage)).collect::<Vec<_>>(),
        )
    }

    #[test]
    fn a_device_with_extended_key_usage_needs_client_auth() {
        let lax = TrustPolicy::default();
        let strict = TrustPolicy { require_client_auth: true, ..TrustPolicy::default() };
        let with =
            |of: &[&[u8]]| device().with(test_certificates::EXTENDED_KEY_USAGE, true, usages(of));
        let refused = Err(Code::ExtendedKeyUsage);
        for (spec, by_lax, by_strict) in [
            (with(&[test_certificates::CLIENT_AUTH]), Ok(()), Ok(())),
            (
                with(&[test_certificates::SERVER_AUTH, test_certificates::CLIENT_AUTH]),
                Ok(()),
                Ok(()),
            ),
            (with(&[test_certificates::SERVER_AUTH]), refused, refused),
            (with(&[test_certificates::ANY_USAGE]), Ok(()), refused),
            (device().without(test_certificates::EXTENDED_KEY_USAGE), Ok(()), refused),
        ] {
            assert_eq!(validate(&spec, Purpose::ClientAuth, &lax), by_lax);
            assert_eq!(validate(&spec, Purpose::ClientAuth, &strict), by_strict);
            // clientAuth is not required for signing lists.
            let signer =
                spec.with(test_certificates::KEY_USAGE, true, test_certificates::key_usage(&[6]));
            assert_eq!(validate(&signer, Purpose::CrlSigning, &strict), Ok(()));
        }
    }

    #[test]
    fn each_purpose_requires_its_key_usage() {
        let policy = TrustPolicy::default();
        let with = |bits: &[u8]| {
            device().with(test_certificates::KEY_USAGE, false, test_certificates::key_usage(bits))
        };
        for (bits, client, signer) in [
            (&[0][..], true, false),
            (&[6], false, true),
            (&[0, 6], true, true),
            (&[2, 4], false, false),
        ] {
            assert_eq!(
                validate(&with(bits), Purpose::ClientAuth, &policy).is_ok(),
                client,
                "{bits:?}"
            );
            assert_eq!(
                validate(&with(bits), Purpose::CrlSigning, &policy).is_ok(),
                signer,
                "{bits:?}"
            );
        }
        let without = device().without(test_certificates::KEY_USAGE);
        assert_eq!(validate(&without, Purpose::ClientAuth, &policy), Ok(()));
        assert_eq!(validate(&without, Purpose::CrlSigning, &policy), Ok(()));
    }

    #[test]
    fn serial_numbers_are_bounded_and_otherwise_of_any_value() {
        for (serial, good) in [
            (&[1][..], true),
            (&[0, 0xff], true),
            (&[0x7f; 21], true),
            (&[0], true),
            (&[0xff], true),
            (&[0x7f; 64], true),
            (&[0x7f; 65], false),
        ] {
            let result =
                validate(&device().serial(serial), Purpose::ClientAuth, &TrustPolicy::default());
            let wanted = if good { Ok(()) } else { Err(Code::CertificateMalformed) };
            assert_eq!(result, wanted, "{serial:02x?}");
        }
    }

    #[test]
    fn not_before_tolerance_is_inclusive_and_named_in_the_refusal() {
        let anchor = read(&Spec::authority(cn("Root"), cn("Root")));
        let mut spec = device();
        // One minute after NOW.
        spec.not_before = "260601000100Z".into();
        let leaf = read(&spec);
        let check = |tolerance, now| {
            let policy = TrustPolicy { not_before_tolerance: tolerance, ..TrustPolicy::default() };
            let path = [Arc::clone(&leaf), Arc::clone(&anchor)];
            check_path(&path, Purpose::ClientAuth, Timestamp(now), &policy, &mut 10)
        };
        assert!(check(60, NOW).is_ok());
        assert!(check(0, NOW + 60).is_ok());
        for (tolerance, now, missing) in
            [(0, NOW, 60), (59, NOW, 60), (60, NOW - 1, 61), (-5, NOW + 59, 1)]
        {
            let refusal = check(tolerance, now).expect_err("too early");
            assert_eq!(refusal.code, Code::CertificateNotYetValid);
            assert!(refusal.detail.contains(&format!("in {missing} s")), "{}", refusal.detail);
        }
    }

    #[test]
    fn refuses_critical_extensions_that_are_not_processed() {
        let policy = TrustPolicy::default();
        let key_id = test_certificates::tlv(4, &[1, 2, 3]);
        for (kind, der) in
            [(&[0x2a, 3, 4][..], vec![5, 0]), (test_certificates::SUBJECT_KEY_ID, key_id)]
        {
            let (critical, not) =
                (device().with(kind, true, der.clone()), device().with(kind, false, der));
            let refused = Err(Code::CriticalExtension);
            assert_eq!(validate(&critical, Purpose::ClientAuth, &policy), refused);
            assert_eq!(validate(&not, Purpose::ClientAuth, &policy), Ok(()));
        }
    }

    #[test]
    fn empty_names_and_a_path_of_one_are_refused() {
        let empty_name = || test_certificates::seq::<Vec<u8>>(&[]);
        let policy = TrustPolicy::default();
        let result = validate(&Spec::device(cn("d"), empty_name()), Purpose::ClientAuth, &policy);
        assert_eq!(result, Err(Code::CertificateMalformed));
        let anchor = read(&Spec::authority(empty_name(), cn("Root")));
        let result = check_anchor(&anchor, Purpose::ClientAuth, Timestamp(NOW), &policy);
        assert_eq!(result.map_err(|r| r.code), Err(Code::AuthorityNotCa));
        let alone = [read(&Spec::authority(cn("Root"), cn("Root")))];
        let result = check_path(&alone, Purpose::ClientAuth, Timestamp(NOW), &policy, &mut 10);
        assert_eq!(result.map_err(|r| r.code), Err(Code::ChainUntrusted));
    }
}
