//! Tests of what a connection keeps.

use super::*;
use crate::trust::configurations::{
    Application, Authority, Configuration, Configurations, Device, Devices, Kind,
};
use crate::trust::judge::applications::judge_application;
use crate::trust::judge::devices::judge;
use crate::trust::path::signature::SignatureMemo;
use crate::trust::refusal::Code;
use crate::trust::snapshot::TrustPolicy;
use crate::trust::subject::SubjectField;
use crate::x509::test_certificates::{Key, NOW, Spec, cn};
use proptest::prelude::*;

const AT: Timestamp = Timestamp(NOW);

fn key(n: usize) -> &'static Key {
    Key::number(n)
}

/// Makes the authority `name` with key `own`, signed by `issuer` with key `by`.
fn authority(name: &str, own: usize, issuer: &str, by: usize) -> Vec<u8> {
    Spec::authority(cn(name), cn(issuer)).sign(key(own), key(by))
}

fn device(issuer: &str, by: usize) -> Vec<u8> {
    Spec::device(cn("device"), cn(issuer)).sign(key(15), key(by))
}

fn chain(presented: &[Vec<u8>]) -> Arc<UnverifiedChain> {
    Arc::new(UnverifiedChain::from_der(presented).expect("readable"))
}

fn configuration<K: Kind>(kind: K, id: &str, authorities: &[(Vec<u8>, bool)]) -> Configuration<K> {
    let authority = |(der, is_root): &(Vec<u8>, bool)| Authority {
        certificate: Arc::new(Certificate::from_der(der).expect("a certificate")),
        is_root: *is_root,
        crl_url: None,
        delta_crl_url: None,
    };
    Configuration {
        id: id.into(),
        domain: Arc::default(),
        display_name: String::new(),
        kind,
        authorities: authorities.iter().map(authority).collect(),
    }
}

/// Makes a snapshot with one configuration of devices and a memo of its own.
fn snapshot(authorities: &[(Vec<u8>, bool)], policy: TrustPolicy) -> Snapshot {
    let kind = Device { subject_field: SubjectField::SubjectDn, devices: Devices::Any };
    let anchors = Configurations::from_iter([configuration(kind, "fleet", authorities)]);
    let memo = Arc::new(SignatureMemo::default());
    Snapshot::new(1, Arc::new(anchors), Arc::default(), Arc::new(policy), memo)
}

fn root() -> (Vec<u8>, bool) {
    (authority("R", 0, "R", 0), true)
}

fn names(chain: &UnverifiedChain) -> Vec<String> {
    chain.certificates().iter().map(|c| c.subject.to_string()).collect()
}

/// Junk authorities: of the issuer's name with other keys, and of its key with a wrong signature.
/// All expire after the real one, so that they are tried first.
fn junk() -> Vec<Vec<u8>> {
    let last = |spec: Spec| spec.valid("200101000000Z", "491231235959Z");
    let of_name = |own: usize| {
        last(Spec::authority(cn("A"), cn("R"))).serial(&[2, own as u8]).sign(key(own), key(9))
    };
    let of_key =
        |n: u8| last(Spec::authority(cn("A"), cn("R"))).serial(&[3, n]).sign(key(1), key(9));
    (2..5).map(of_name).chain((0..3).map(of_key)).collect()
}

#[test]
fn a_junk_intermediate_is_never_verified_again() {
    let real = authority("A", 1, "R", 0);
    let presented: Vec<_> = std::iter::once(device("A", 1)).chain(junk()).chain([real]).collect();
    let presented = chain(&presented);
    let first = snapshot(&[root()], TrustPolicy::default());
    let Admission { verdict, kept, .. } = admit(&presented, &first, AT);
    assert_eq!(verdict, Ok(()));
    assert_eq!(first.signatures.len().1, 6, "the handshake pays");
    assert_eq!(names(&kept), ["CN=device", "CN=A"]);
    // A request does not, even if no result is remembered.
    let forgotten = snapshot(&[root()], TrustPolicy::default());
    assert!(judge(&kept, &forgotten, AT).is_ok());
    assert_eq!(forgotten.signatures.len(), (2, 0));
}

#[test]
fn a_chain_is_known_when_every_signature_was_verified_before() {
    let trust = snapshot(&[root()], TrustPolicy::default());
    let real = authority("A", 1, "R", 0);
    let presented = chain(&[device("A", 1), real.clone()]);
    assert!(!admit(&presented, &trust, AT).is_known);
    assert!(admit(&presented, &trust, AT).is_known);
    // One new signature among two.
    let other = Spec::device(cn("other"), cn("A")).sign(key(8), key(1));
    assert!(!admit(&chain(&[other, real]), &trust, AT).is_known);
}

#[test]
fn a_refused_chain_keeps_no_junk_and_its_refusal() {
    let presented: Vec<_> = std::iter::once(device("A", 8)).chain(junk()).collect();
    let presented = chain(&presented);
    let trust = snapshot(&[root()], TrustPolicy::default());
    let Admission { verdict, kept, .. } = admit(&presented, &trust, AT);
    let refusal = verdict.expect_err("junk");
    assert_eq!(refusal.code, Code::SignatureInvalid);
    assert_eq!(names(&kept), ["CN=device"]);
    let forgotten = snapshot(&[root()], TrustPolicy::default());
    assert_eq!(judge(&kept, &forgotten, AT).map(drop), Err(refusal));
    assert_eq!(forgotten.signatures.len(), (0, 0));
    // The authority comes into force later.
    let known = snapshot(&[root(), (authority("A", 8, "R", 0), false)], TrustPolicy::default());
    assert!(judge(&kept, &known, AT).is_ok());
}

#[test]
fn a_removed_anchor_refuses_what_was_kept() {
    let root = root();
    let presented = chain(&[device("A", 1), authority("A", 1, "R", 0), root.0.clone()]);
    let kept = admit(&presented, &snapshot(&[root], TrustPolicy::default()), AT).kept;
    assert!(Arc::ptr_eq(&kept, &presented), "a chain without junk is not copied");
    let other = snapshot(&[(authority("S", 3, "S", 3), true)], TrustPolicy::default());
    let refusal = judge(&kept, &other, AT).map(drop).expect_err("removed");
    assert_eq!(refusal.code, Code::ChainUntrusted);
}

#[test]
fn a_failed_anchor_is_replaced_by_an_authority_of_the_directory() {
    let presented = chain(&[device("A", 1), authority("A", 1, "R", 0), authority("A", 4, "R", 9)]);
    let kept = admit(&presented, &snapshot(&[root()], TrustPolicy::default()), AT).kept;
    assert_eq!(kept.certificates().len(), 2);
    let [cross, other] = [authority("A", 1, "S", 3), authority("S", 3, "S", 3)];
    let moved = snapshot(&[(cross, false), (other, true)], TrustPolicy::default());
    assert!(judge(&kept, &moved, AT).is_ok());
}

/// A chain that both kinds accept, each by another certificate of its issuer.
#[test]
fn keeps_the_paths_of_devices_and_applications() {
    let presented = chain(&[
        device("A", 1),
        authority("A", 1, "R", 0),
        authority("A", 1, "S", 3),
        authority("A", 1, "T", 4),
    ]);
    let other = configuration(Application, "app", &[(authority("S", 3, "S", 3), true)]);
    let trust = snapshot(&[root()], TrustPolicy::default())
        .with_applications(Configurations::from_iter([other]));
    let Admission { verdict, kept, .. } = admit(&presented, &trust, AT);
    assert_eq!(verdict, Ok(()));
    assert_eq!(kept.certificates().len(), 3);
    assert!(judge(&kept, &trust, AT).is_ok());
    assert!(judge_application(&kept, &"app".into(), &trust, AT).is_ok());
}

/// Every authority of a small mesh: names, keys and issuers, with right and wrong signatures.
fn mesh() -> &'static [Vec<u8>] {
    static MESH: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();
    MESH.get_or_init(|| {
        let mut all = Vec::new();
        for (name, own) in [("A", 1), ("A", 2), ("B", 3), ("R", 0), ("S", 4)] {
            for (issuer, by) in [("A", 1), ("A", 2), ("B", 3), ("R", 0), ("S", 4), ("R", 9)] {
                all.push(authority(name, own, issuer, by));
            }
        }
        all
    })
}

fn some_of_mesh(most: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..mesh().len(), 0..most)
}

/// Authorities in force, each with whether it is a root.
fn some_authorities() -> impl Strategy<Value = Vec<(usize, bool)>> {
    prop::collection::vec((0..mesh().len(), any::<bool>()), 1..5)
}

proptest! {
    /// Under the snapshot of the handshake, the kept part is accepted if the whole is.  Under any other,
    /// it is accepted only if the whole is.
    #[test]
    fn what_is_kept_decides_like_the_presented_chain(
        presented in some_of_mesh(8),
        issuer in 0..3usize,
        now in some_authorities(),
        later in some_authorities(),
    ) {
        let (issuer, by) = [("A", 1), ("A", 2), ("B", 3)][issuer];
        let others = presented.into_iter().map(|n| mesh()[n].clone());
        let presented: Vec<_> = std::iter::once(device(issuer, by)).chain(others).collect();
        let presented = chain(&presented);
        let large = || TrustPolicy {
            max_failed_signatures: 100,
            max_presented_cost: 1_000,
            max_nodes: 100_000,
            max_signatures: 10_000,
            ..TrustPolicy::default()
        };
        let force = |authorities: &[(usize, bool)]| -> Vec<_> {
            authorities.iter().map(|(n, is_root)| (mesh()[*n].clone(), *is_root)).collect()
        };
        let (now, later) = (force(&now), force(&later));
        let trust = snapshot(&now, TrustPolicy::default());
        let Admission { verdict, kept, .. } = admit(&presented, &trust, AT);
        prop_assert_eq!(verdict.is_ok(), judge(&presented, &trust, AT).is_ok());
        prop_assert!(verdict.is_err() || judge(&kept, &trust, AT).is_ok());
        for authorities in [&now, &later] {
            let whole = judge(&presented, &snapshot(authorities, large()), AT);
            let part = judge(&kept, &snapshot(authorities, TrustPolicy::default()), AT);
            prop_assert!(part.is_err() || whole.is_ok());
        }
    }
}
