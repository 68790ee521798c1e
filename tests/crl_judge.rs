//! Revocation through the whole judge: who may sign a list, and whom it reaches.

#[path = "support/crl_maker.rs"]
mod crl_maker;

use std::sync::Arc;

use anchorgate::trust::configurations::{AnchorSet, Authority, Configuration, Devices, Kind};
use anchorgate::trust::judge::applications::judge_application;
use anchorgate::trust::judge::devices::{UnverifiedChain, judge};
use anchorgate::trust::refusal::Code;
use anchorgate::trust::revocation::{CrlMode, Revocations};
use anchorgate::trust::snapshot::{Snapshot, TrustPolicy};
use anchorgate::trust::subject::SubjectField;
use anchorgate::x509::certificate::Certificate;
use anchorgate::x509::crl::RevocationList;
use anchorgate::x509::time::Timestamp;
use crl_maker::{Ca, HOUR, KEY_USAGE_CA, KEY_USAGE_LISTS, NOW};

/// A configuration of devices, and one of applications, that these roots are anchors of.
fn snapshot(roots: &[&Ca], lists: &[Arc<RevocationList>], mode: CrlMode) -> Snapshot {
    let set = |kind| {
        let authority = |ca: &&Ca| Authority {
            certificate: Arc::clone(&ca.certificate),
            is_root: true,
            crl_url: None,
            delta_crl_url: None,
        };
        let configuration = Configuration {
            id: "1".into(),
            display_name: String::new(),
            kind,
            devices: Devices::Any,
            authorities: roots.iter().map(authority).collect(),
        };
        AnchorSet { configurations: vec![configuration], skipped: Vec::new() }
    };
    let policy = TrustPolicy { crl: Some(mode), ..TrustPolicy::default() };
    let revocations = Arc::new(Revocations::new(lists.iter().cloned()));
    let devices = Arc::new(set(Kind::Devices(SubjectField::SubjectDn)));
    Snapshot::new(1, devices, revocations, Arc::new(policy), Arc::default())
        .with_applications(set(Kind::Applications))
}

/// What becomes of a chain as a device's and as an application's: the same.
fn decide(snapshot: &Snapshot, chain: &[&Certificate], now: Timestamp) -> Option<Code> {
    let der: Vec<_> = chain.iter().map(|certificate| certificate.der()).collect();
    let chain = UnverifiedChain::from_der(&der).expect("a chain");
    let device = judge(&chain, snapshot, now).err().map(|refusal| refusal.code);
    let application = judge_application(&chain, &"1".into(), snapshot, now);
    assert_eq!(application.err().map(|refusal| refusal.code), device, "as an application");
    device
}

fn read(signer: &Ca, list: &crl_maker::List<'_>) -> Arc<RevocationList> {
    let signers = std::slice::from_ref(&signer.certificate);
    Arc::new(RevocationList::read(&list.sign(), signers, NOW).expect("a list"))
}

#[test]
fn a_signer_of_lists_is_believed_under_the_same_anchor_only() {
    let (root, other) = (Ca::root("Root"), Ca::root("Other"));
    let (good, bad) = (root.issue("device", &[4], &[]), root.issue("device", &[5], &[]));
    // All of the issuer's name and allowed to sign lists, by whoever certified them.
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
    // An anchor of the same configuration is another anchor all the same.
    assert_eq!(of(&stranger, &[&root, &stranger], &good), Some(Code::CrlMissing));
}

#[test]
fn a_signer_of_lists_that_is_revoked_is_not_believed() {
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
fn an_intermediate_that_is_revoked_takes_its_devices_with_it() {
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
        // The device's own serial on the list of its issuer's issuer says nothing of it.
        assert_eq!(decide(&[above(4), Arc::clone(&below)]), None);
        assert_eq!(decide(&[above(7), Arc::clone(&below)]), Some(Code::CertificateRevoked));
        let without = (mode == CrlMode::Require).then_some(Code::CrlMissing);
        assert_eq!(decide(std::slice::from_ref(&below)), without);
    }
}

#[test]
fn no_clock_makes_a_revoked_certificate_good() {
    let root = Ca::root("Root");
    let (held, doomed) = (root.issue("device", &[4], &[]), root.issue("device", &[5], &[]));
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
            // The list that lifted it is none to go by then.
            assert_eq!(at(&held, hours), Some(Code::CertificateOnHold), "{mode:?} {hours}");
            assert_eq!(at(&doomed, hours), Some(Code::CertificateRevoked), "{mode:?} {hours}");
        }
    }
}
