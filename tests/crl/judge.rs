//! Revocation through the whole judge: accepted signers of lists, and affected certificates.

use std::sync::Arc;

use anchorgate::trust::configurations::{
    Application, Authority, Configuration, Configurations, Device, Devices,
};
use anchorgate::trust::judge::applications::judge_application;
use anchorgate::trust::judge::devices::{UnverifiedChain, judge};
use anchorgate::trust::refusal::Code;
use anchorgate::trust::revocation::{CrlMode, Revocations};
use anchorgate::trust::snapshot::{Snapshot, TrustPolicy};
use anchorgate::trust::subject::SubjectField;
use anchorgate::x509::certificate::Certificate;
use anchorgate::x509::crl::RevocationList;
use anchorgate::x509::time::Timestamp;

use crate::support::crl_maker::{self, Ca, HOUR, KEY_USAGE_CA, KEY_USAGE_LISTS, NOW};

/// A snapshot with a device and an application configuration, both with these roots as anchors.
pub(crate) fn snapshot(roots: &[&Ca], lists: &[Arc<RevocationList>], mode: CrlMode) -> Snapshot {
    fn set<K>(kind: K, roots: &[&Ca]) -> Configurations<K> {
        let authority = |ca: &&Ca| Authority {
            certificate: Arc::clone(&ca.certificate),
            is_root: true,
            crl_url: None,
            delta_crl_url: None,
        };
        let configuration = Configuration {
            id: "1".into(),
            domain: Arc::default(),
            display_name: String::new(),
            kind,
            authorities: roots.iter().map(authority).collect(),
        };
        Configurations::from_iter([configuration])
    }
    let policy = TrustPolicy { crl: Some(mode), ..TrustPolicy::default() };
    let revocations = Arc::new(Revocations::new(lists.iter().cloned()));
    let kind = Device { subject_field: SubjectField::SubjectDn, devices: Devices::Any };
    Snapshot::new(1, Arc::new(set(kind, roots)), revocations, Arc::new(policy), Arc::default())
        .with_applications(set(Application, roots))
}

/// The decision about a chain, which must be the same for a device and for an application.
pub(crate) fn decide(snapshot: &Snapshot, chain: &[&Certificate], now: Timestamp) -> Option<Code> {
    let der: Vec<_> = chain.iter().map(|certificate| certificate.der()).collect();
    let chain = UnverifiedChain::from_der(&der).expect("a chain");
    let device = judge(&chain, snapshot, now).err().map(|refusal| refusal.code);
    let application = judge_application(&chain, &"1".into(), snapshot, now);
    assert_eq!(application.err().map(|refusal| refusal.code), device, "as an application");
    device
}

pub(crate) fn read(signer: &Ca, list: &crl_maker::List<'_>) -> Arc<RevocationList> {
    let signers = std::slice::from_ref(&signer.certificate);
    Arc::new(RevocationList::read(&list.sign(), signers, NOW).expect("a list"))
}

#[test]
fn a_list_signer_is_trusted_only_under_the_same_anchor() {
    let (root, other) = (Ca::root("Root"), Ca::root("Other"));
    let (good, bad) = (root.issue("device", &[4], &[]), root.issue("device", &[5], &[]));
    // All have the issuer's name and may sign lists, but differ in who certified them.
    let own = root.below("Root", 9, KEY_USAGE_LISTS);
    let foreign = other.below("Root", 9, KEY_USAGE_LISTS);
    let stranger = Ca::root("Root");
    let of = |signer: &Ca, roots: &[&Ca], device| {
        let list = read(signer, &signer.list().number(1).revoke(&[5], Some(1)));
        decide(&snapshot(roots, &[list], CrlMode::Require), &[device], NOW)
    };
    assert_eq!(of(&own, &[&root], &good), None);
    assert_eq!(of(&own, &[&root], &bad), Some(Code::CertificateRevoked));
    for roots in [&[&root, &other][..], &[&root]] {
        assert_eq!(of(&foreign, roots, &good), Some(Code::CrlMissing));
        assert_eq!(of(&foreign, roots, &bad), Some(Code::CrlMissing));
    }
    // Another anchor of the same configuration does not count either.
    assert_eq!(of(&stranger, &[&root, &stranger], &good), Some(Code::CrlMissing));
}

#[test]
fn a_revoked_list_signer_is_not_trusted() {
    let root = Ca::root("Root");
    let signer = root.below("Root", 9, KEY_USAGE_LISTS);
    let device = root.issue("device", &[4], &[]);
    let users = read(&signer, &signer.list().number(1).scope(&[0x81, 1, 0xff]));
    let of_authorities = |serial| {
        read(&root, &root.list().number(1).scope(&[0x82, 1, 0xff]).revoke(&[serial], Some(1)))
    };
    let decide = |authorities| {
        let lists = [Arc::clone(&users), authorities];
        decide(&snapshot(&[&root], &lists, CrlMode::Require), &[&device], NOW)
    };
    assert_eq!(decide(of_authorities(8)), None);
    assert_eq!(decide(of_authorities(9)), Some(Code::CrlMissing));
}

#[test]
fn a_revoked_intermediate_revokes_its_devices() {
    let root = Ca::root("Root");
    let between = root.below("Between", 7, KEY_USAGE_CA);
    let device = between.issue("device", &[4], &[]);
    let below = read(&between, &between.list().number(1));
    let above = |serial| read(&root, &root.list().number(1).revoke(&[serial], Some(2)));
    for mode in [CrlMode::Require, CrlMode::IfAvailable] {
        let decide = |lists: &[Arc<RevocationList>]| {
            let chain = [&*device, &*between.certificate];
            decide(&snapshot(&[&root], lists, mode), &chain, NOW)
        };
        // The device's serial on the list of its issuer's issuer is irrelevant.
        assert_eq!(decide(&[above(4), Arc::clone(&below)]), None);
        assert_eq!(decide(&[above(7), Arc::clone(&below)]), Some(Code::CertificateRevoked));
        let without = (mode == CrlMode::Require).then_some(Code::CrlMissing);
        assert_eq!(decide(std::slice::from_ref(&below)), without);
    }
}

#[test]
fn a_revoked_certificate_is_rejected_at_every_time() {
    let root = Ca::root("Root");
    let (held, revoked) = (root.issue("device", &[4], &[]), root.issue("device", &[5], &[]));
    let good = root.issue("device", &[6], &[]);
    let base = read(&root, &root.list().number(1).revoke(&[4], Some(6)));
    let delta = root.list().number(2).delta_to(1).revoke(&[4], Some(8)).revoke(&[5], Some(1));
    let lists = [base, read(&root, &delta)];
    for (mode, unknown) in [
        (CrlMode::IfAvailable, [None, None]),
        (CrlMode::Require, [Some(Code::CrlInvalid), Some(Code::CrlStale)]),
    ] {
        let snapshot = snapshot(&[&root], &lists, mode);
        let at = |device: &Certificate, hours| {
            decide(&snapshot, &[device], Timestamp(NOW.0 + hours * HOUR))
        };
        assert_eq!([at(&good, 0), at(&held, 0)], [None, None], "the delta lifts the hold");
        for (hours, unknown) in [(-2, unknown[0]), (25, unknown[1])] {
            assert_eq!(at(&good, hours), unknown, "{mode:?} after {hours} h");
            // The delta that lifted the hold is not usable then.
            assert_eq!(at(&held, hours), Some(Code::CertificateOnHold), "{mode:?} {hours}");
            assert_eq!(at(&revoked, hours), Some(Code::CertificateRevoked), "{mode:?} {hours}");
        }
    }
}
