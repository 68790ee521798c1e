//! Tests of the path search: meshes, loops, duplicates and authorities with the same name.

use super::*;
use crate::trust::configurations::{Configurations, Device, Devices};
use crate::trust::revocation::Revocations;
use crate::trust::snapshot::TrustPolicy;
use crate::trust::subject::SubjectField;
use crate::x509::test_certificates::{self, Key, NOW, Spec, cn};

fn key(n: usize) -> &'static Key {
    Key::number(n)
}

/// Makes the authority `name` with key `own`, signed by `issuer` with key `by`.
fn authority(name: &str, own: usize, issuer: &str, by: usize) -> Vec<u8> {
    Spec::authority(cn(name), cn(issuer)).sign(key(own), key(by))
}

fn root(name: &str, own: usize) -> Vec<u8> {
    authority(name, own, name, own)
}

fn device(issuer: &str, by: usize) -> Vec<u8> {
    Spec::device(cn("device"), cn(issuer)).sign(key(15), key(by))
}

fn read(der: &[u8]) -> Arc<Certificate> {
    Arc::new(Certificate::from_der(der).expect("a certificate"))
}

/// Makes a snapshot of one configuration with these roots and intermediates.
fn snapshot(roots: &[Vec<u8>], intermediates: &[Vec<u8>], policy: TrustPolicy) -> Snapshot {
    let authority = |der: &Vec<u8>, is_root| Authority {
        certificate: read(der),
        is_root,
        crl_url: None,
        delta_crl_url: None,
    };
    let configuration = Configuration {
        id: "fleet".into(),
        domain: Arc::default(),
        display_name: String::new(),
        kind: Device { subject_field: SubjectField::SubjectDn, devices: Devices::Any },
        authorities: roots
            .iter()
            .map(|der| authority(der, true))
            .chain(intermediates.iter().map(|der| authority(der, false)))
            .collect(),
    };
    let anchors = Configurations::from_iter([configuration]);
    Snapshot::new(
        1,
        Arc::new(anchors),
        Arc::new(Revocations::default()),
        Arc::new(policy),
        Arc::default(),
    )
}

/// Returns the names in the path that is found, or the code of the refusal.
fn search(snapshot: &Snapshot, chain: &[Vec<u8>]) -> Result<Vec<String>, Code> {
    let presented: Vec<_> = chain.iter().map(|der| read(der)).collect();
    let search = Search::new(&presented, snapshot, Timestamp(NOW), false);
    let names = |path: Vec<Arc<Certificate>>| path.iter().map(|c| c.subject.to_string()).collect();
    search
        .path(0, &snapshot.device_configurations.configurations[0])
        .map(names)
        .map_err(|refusal| refusal.code)
}

fn found(snapshot: &Snapshot, chain: &[Vec<u8>]) -> bool {
    search(snapshot, chain).is_ok()
}

#[test]
fn ignores_order_duplicates_and_unrelated_certificates() {
    let of = snapshot(&[root("R", 0)], &[], TrustPolicy::default());
    let (a, b) = (authority("A", 1, "R", 0), authority("B", 2, "A", 1));
    let leaf = device("B", 2);
    let path = Ok(["CN=device", "CN=B", "CN=A", "CN=R"].map(String::from).to_vec());
    assert_eq!(search(&of, &[leaf.clone(), b.clone(), a.clone()]), path);
    let mixed =
        [leaf.clone(), a.clone(), root("X", 9), root("R", 0), a, leaf.clone(), b.clone(), b];
    assert_eq!(search(&of, &mixed), path);
    assert_eq!(search(&of, &[leaf]), Err(Code::ChainUntrusted));
}

#[test]
fn configured_intermediates_are_path_material_but_not_anchors() {
    let (a, leaf) = (authority("A", 1, "R", 0), device("A", 1));
    let with_root = snapshot(&[root("R", 0)], std::slice::from_ref(&a), TrustPolicy::default());
    assert_eq!(search(&with_root, std::slice::from_ref(&leaf)).map(|path| path.len()), Ok(3));
    let alone = |policy| snapshot(&[], std::slice::from_ref(&a), policy);
    let chain = [leaf];
    assert_eq!(search(&alone(TrustPolicy::default()), &chain), Err(Code::ChainUntrusted));
    let switched = TrustPolicy { intermediate_anchors: true, ..TrustPolicy::default() };
    assert_eq!(search(&alone(switched), &chain).map(|path| path.len()), Ok(2));
}

#[test]
fn follows_a_cross_signed_authority_to_the_trusted_root() {
    let of = snapshot(&[root("New", 1)], &[], TrustPolicy::default());
    let chain = [device("A", 2), authority("A", 2, "Old", 0), authority("A", 2, "New", 1)];
    assert_eq!(search(&of, &chain).map(|path| path[2].clone()), Ok("CN=New".into()));
}

#[test]
fn terminates_on_loops() {
    let of = snapshot(&[root("R", 0)], &[], TrustPolicy::default());
    let (a, b) = (authority("A", 1, "B", 2), authority("B", 2, "A", 1));
    assert_eq!(search(&of, &[device("A", 1), a.clone(), b.clone()]), Err(Code::ChainUntrusted));
    // A path that leaves the loop is found.
    assert!(found(&of, &[device("A", 1), a, b, authority("B", 2, "R", 0)]));
}

#[test]
fn skips_an_expired_certificate_of_the_same_authority() {
    let of = snapshot(&[root("R", 0)], &[], TrustPolicy::default());
    let old = Spec::authority(cn("A"), cn("R"))
        .valid("200101000000Z", "210101000000Z")
        .sign(key(1), key(0));
    let new = authority("A", 1, "R", 0);
    assert!(found(&of, &[device("A", 1), old.clone(), new]));
    assert_eq!(search(&of, &[device("A", 1), old]), Err(Code::AuthorityExpired));
}

#[test]
fn finds_the_right_one_of_a_hundred_roots_with_the_same_name() {
    let keys: Vec<Key> = (0..100).map(|_| Key::generate()).collect();
    let roots = |with_ids: bool| -> Vec<Vec<u8>> {
        let root = |own: &Key| {
            let spec = Spec::authority(cn("Root"), cn("Root"));
            if with_ids { spec.key_ids(own, own) } else { spec }.sign(own, own)
        };
        keys.iter().map(root).collect()
    };
    let (last, a) = (&keys[99], key(1));
    let chain = [
        Spec::device(cn("device"), cn("A")).key_ids(key(15), a).sign(key(15), a),
        Spec::authority(cn("A"), cn("Root")).key_ids(a, last).sign(a, last),
    ];
    let with_ids = snapshot(&roots(true), &[], TrustPolicy::default());
    assert_eq!(search(&with_ids, &chain).map(|path| path.len()), Ok(3));
    assert_eq!(with_ids.signatures.len(), (2, 0), "key identifiers select the right root");
    // Without identifiers every root costs a signature, which is within the bounds.
    assert!(found(&snapshot(&roots(false), &[], TrustPolicy::default()), &chain));
    let tight = TrustPolicy { max_signatures: 50, ..TrustPolicy::default() };
    assert_eq!(search(&snapshot(&roots(false), &[], tight), &chain), Err(Code::PathBudget));
}

#[test]
fn bounds_the_cost_of_a_chain() {
    // Every level has four certificates of one key: 4^8 paths, and no root.
    let of = snapshot(&[root("R", 0)], &[], TrustPolicy::default());
    let mut chain = vec![device("L0", 1)];
    for level in 0..8 {
        for copy in 0..4 {
            let spec = Spec::authority(cn(&format!("L{level}")), cn(&format!("L{}", level + 1)));
            chain.push(spec.serial(&[1 + copy]).sign(key(1 + level), key(2 + level)));
        }
    }
    let refused = search(&of, &chain);
    assert!(matches!(refused, Err(Code::PathBudget | Code::ChainUntrusted)), "{refused:?}");
    let few = TrustPolicy { max_nodes: 5, ..TrustPolicy::default() };
    let of = snapshot(&[root("R", 0)], &[], few);
    assert_eq!(search(&of, &chain), Err(Code::PathBudget));
}

/// Returns a key of the size of a P-384 key, with which nothing can be verified.
fn key_of_p384_size(n: u8) -> Key {
    const P384: &[u8] = &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4, 0, 34];
    let mut key = Key::generate();
    let point = [&[0, 4][..], &[n; 96]].concat();
    key.spki = test_certificates::seq(&[
        test_certificates::tlv(0x30, P384),
        test_certificates::tlv(3, &point),
    ]);
    key
}

#[test]
fn bounds_the_cost_of_presented_keys_but_not_of_configured_ones() {
    // Three verifications with P-384 fit beside nothing else.  The device's own issuer comes last.
    let chain = |junk: u8| -> Vec<Vec<u8>> {
        let junk = (0..junk).map(|n| {
            let spec = Spec::authority(cn("A"), cn("R")).valid("250101000000Z", "361231235959Z");
            spec.sign(&key_of_p384_size(n), key(0))
        });
        let good = authority("A", 1, "R", 0);
        [device("A", 1)].into_iter().chain(junk).chain([good]).collect()
    };
    let of = snapshot(&[root("R", 0)], &[], TrustPolicy::default());
    assert!(found(&of, &chain(2)));
    assert_eq!(search(&of, &chain(3)), Err(Code::PathBudget));
    // A remembered result counts as well, so that the decision does not depend on earlier ones.
    assert_eq!(search(&of, &chain(3)), Err(Code::PathBudget));
    let configured =
        snapshot(&[root("R", 0)], &[authority("A", 1, "R", 0)], TrustPolicy::default());
    assert!(found(&configured, &chain(40)));
    // The directory's own keys may cost more.
    let junk: Vec<_> = chain(4).split_off(1);
    let own = snapshot(&[root("R", 0)], &junk, TrustPolicy::default());
    assert!(found(&own, &[device("A", 1)]));
}

/// Returns the refusal's detail, which must be of the code `path_budget`.
fn exceeded(snapshot: &Snapshot, chain: &[Vec<u8>]) -> String {
    let presented: Vec<_> = chain.iter().map(|der| read(der)).collect();
    let search = Search::new(&presented, snapshot, Timestamp(NOW), false);
    let refusal = search.path(0, &snapshot.device_configurations.configurations[0]);
    let refusal = refusal.expect_err("a bound is exceeded");
    assert_eq!(refusal.code, Code::PathBudget, "{refusal:?}");
    refusal.detail.to_string()
}

/// Presented authorities `A` that did not sign the device.  They are tried before one of 2026.
fn impostors(number: usize) -> impl Iterator<Item = Vec<u8>> {
    (0..number).map(|_| {
        let spec = Spec::authority(cn("A"), cn("R")).valid("250101000000Z", "361231235959Z");
        spec.sign(&Key::generate(), key(0))
    })
}

#[test]
fn tries_at_most_eight_invalid_signatures_of_presented_certificates() {
    let chain = |junk: usize| -> Vec<Vec<u8>> {
        let good = authority("A", 1, "R", 0);
        [device("A", 1)].into_iter().chain(impostors(junk)).chain([good]).collect()
    };
    let of = snapshot(&[root("R", 0)], &[], TrustPolicy::default());
    assert!(found(&of, &chain(7)));
    assert_eq!(of.signatures.len(), (2, 7));
    let of = snapshot(&[root("R", 0)], &[], TrustPolicy::default());
    let detail = exceeded(&of, &chain(8));
    assert!(detail.contains("8 signatures of presented certificates are invalid"), "{detail}");
    assert_eq!(of.signatures.len(), (0, 8));
}

#[test]
fn verifies_at_most_128_signatures() {
    let keys: Vec<Key> = (0..129).map(|_| Key::generate()).collect();
    let chain = |signer: &Key| [Spec::device(cn("device"), cn("Root")).sign(key(15), signer)];
    let with = |roots: usize| {
        let root = |own: &Key| Spec::authority(cn("Root"), cn("Root")).sign(own, own);
        let roots: Vec<_> = keys.iter().take(roots).map(root).collect();
        snapshot(&roots, &[], TrustPolicy::default())
    };
    // The failures of the directory's namesakes count once for each certificate.
    let of = with(128);
    assert!(found(&of, &chain(&keys[127])));
    assert_eq!(of.signatures.len(), (1, 127));
    let of = with(129);
    let detail = exceeded(&of, &chain(&keys[128]));
    assert!(detail.contains("within 128 signature verifications"), "{detail}");
    assert_eq!(of.signatures.len(), (0, 128));
}

#[test]
fn tries_the_directorys_authorities_before_presented_ones() {
    let own = snapshot(&[root("R", 0)], &[authority("A", 1, "R", 0)], TrustPolicy::default());
    let chain: Vec<_> = [device("A", 1)].into_iter().chain(impostors(20)).collect();
    assert!(found(&own, &chain));
    // Presented certificates do not come first by claiming the key identifier that the device names.
    let leaf = Spec::device(cn("device"), cn("A")).key_ids(key(15), key(1)).sign(key(15), key(1));
    let claim = |_| {
        let spec = Spec::authority(cn("A"), cn("R")).valid("250101000000Z", "361231235959Z");
        spec.key_ids(key(1), key(0)).sign(&Key::generate(), key(0))
    };
    let chain: Vec<_> = [leaf].into_iter().chain((0..20).map(claim)).collect();
    assert!(found(&own, &chain));
    assert_eq!(own.signatures.len(), (3, 0), "no presented key was used");
}

#[test]
fn bounds_the_number_of_complete_paths() {
    // 2^6 paths to the root, and a leaf that is refused in each.
    let mut chain = vec![
        Spec::device(cn("device"), cn("L0"))
            .with(test_certificates::KEY_USAGE, true, test_certificates::key_usage(&[2]))
            .sign(key(15), key(1)),
    ];
    for level in 0..6 {
        for copy in 0..2 {
            let spec = Spec::authority(cn(&format!("L{level}")), cn(&format!("L{}", level + 1)));
            chain.push(spec.serial(&[1 + copy]).sign(key(1 + level), key(2 + level)));
        }
    }
    let roots = [root("L6", 7)];
    let of = snapshot(&roots, &[], TrustPolicy::default());
    assert_eq!(search(&of, &chain), Err(Code::KeyUsage));
    let few = TrustPolicy { max_paths: 10, ..TrustPolicy::default() };
    assert_eq!(search(&snapshot(&roots, &[], few), &chain), Err(Code::PathBudget));
}

#[test]
fn bounds_the_number_of_certificates_in_a_path() {
    let chain_of = |intermediates: usize| {
        let mut chain = vec![device(&format!("L{intermediates}"), intermediates)];
        for level in (1..=intermediates).rev() {
            chain.push(authority(
                &format!("L{level}"),
                level,
                &format!("L{}", level - 1),
                level - 1,
            ));
        }
        chain
    };
    let of = snapshot(&[root("L0", 0)], &[], TrustPolicy::default());
    assert!(found(&of, &chain_of(8)));
    assert_eq!(search(&of, &chain_of(9)), Err(Code::PathLength));
}

#[test]
fn self_issued_authorities_do_not_count_for_path_lengths() {
    let rollover = |own: usize, by: usize| authority("A", own, "A", by);
    let top = Spec::authority(cn("A"), cn("R")).path_length(0).sign(key(1), key(0));
    let of = snapshot(&[root("R", 0)], &[], TrustPolicy::default());
    assert!(found(&of, &[device("A", 2), rollover(2, 1), top.clone()]));
    assert_eq!(
        search(&of, &[device("B", 3), authority("B", 3, "A", 1), top]),
        Err(Code::PathLength)
    );
}

#[test]
fn anchors_are_checked_by_the_policy_of_the_operator() {
    let leaf = [device("R", 0)];
    let strict = TrustPolicy::default;
    let lax = || TrustPolicy { anchor_validity: false, anchor_constraints: false, ..strict() };
    let spec = || Spec::authority(cn("R"), cn("R"));
    let mut version_1 = Spec::new(cn("R"), cn("R"));
    version_1.version = 1;
    for (root, code) in [
        (spec().valid("200101000000Z", "210101000000Z"), Code::AuthorityExpired),
        (spec().without(test_certificates::BASIC_CONSTRAINTS), Code::AuthorityNotCa),
        (version_1, Code::AuthorityNotCa),
        (
            spec().with(test_certificates::KEY_USAGE, true, test_certificates::key_usage(&[0, 6])),
            Code::KeyUsage,
        ),
    ] {
        let root = [root.sign(key(0), key(0))];
        assert_eq!(search(&snapshot(&root, &[], strict()), &leaf), Err(code));
        assert!(found(&snapshot(&root, &[], lax()), &leaf), "{code}");
    }
}

#[test]
fn refuses_an_anchor_as_end_entity() {
    let of = snapshot(&[root("R", 0)], &[], TrustPolicy::default());
    assert_eq!(search(&of, &[root("R", 0)]), Err(Code::ChainUntrusted));
}

#[test]
fn names_chain_regardless_of_case_and_string_type() {
    let of = snapshot(&[root("Iot  root", 0)], &[], TrustPolicy::default());
    let issuer = test_certificates::name(&[(test_certificates::CN, 0x13, " IOT ROOT")]);
    let leaf = Spec::device(cn("device"), issuer).sign(key(15), key(0));
    assert!(found(&of, &[leaf]));
}

#[test]
fn returns_the_most_informative_refusal() {
    let of = snapshot(&[root("R", 0)], &[], TrustPolicy::default());
    let expired = Spec::device(cn("device"), cn("A"))
        .valid("200101000000Z", "210101000000Z")
        .sign(key(15), key(1));
    let forged = authority("A", 1, "R", 7);
    let good = authority("A", 1, "R", 0);
    assert_eq!(search(&of, &[expired.clone(), forged.clone()]), Err(Code::SignatureInvalid));
    assert_eq!(search(&of, &[expired, forged, good]), Err(Code::CertificateExpired));
}

#[test]
fn an_explanation_contains_every_path() {
    let of = snapshot(&[root("R", 0)], &[], TrustPolicy::default());
    let chain = [device("A", 1), authority("A", 1, "X", 5), authority("A", 1, "R", 0)];
    let presented: Vec<_> = chain.iter().map(|der| read(der)).collect();
    let search = Search::new(&presented, &of, Timestamp(NOW), true);
    assert!(search.path(0, &of.device_configurations.configurations[0]).is_ok());
    let ends: Vec<_> = search
        .into_attempts()
        .into_iter()
        .map(|a| (a.path.len(), a.refusal.map(|r| r.code)))
        .collect();
    assert_eq!(ends, [(2, Some(Code::ChainUntrusted)), (3, None)]);
}
