//! An administrator of one trust domain cannot weaken, lock out or slow down another, and no presented
//! chain changes what is known against a certificate.

use std::sync::Arc;
use std::time::Duration;

use anchorgate::trust::assembly::{Assembly, ListState, Update};
use anchorgate::trust::configurations::{
    Authority, Configuration, Configurations, Device, Devices,
};
use anchorgate::trust::judge::devices::{UnverifiedChain, Verified, judge};
use anchorgate::trust::refusal::Code;
use anchorgate::trust::revocation::{AuthorityPolicy, CrlMode, ListPolicy, Selector};
use anchorgate::trust::snapshot::{Snapshot, TrustPolicy};
use anchorgate::trust::subject::SubjectField;
use anchorgate::x509::certificate::Certificate;
use anchorgate::x509::crl::RevocationList;
use anchorgate::x509::time::Timestamp;

use crate::support::crl_maker::{
    Ca, KEY_USAGE_CA, KEY_USAGE_LISTS, List, NOW, extension, name, tlv,
};

const LIST: &str = "http://ca.example/list";
const DELTA: &str = "http://ca.example/delta";

fn root(ca: &Ca) -> Authority {
    Authority {
        certificate: Arc::clone(&ca.certificate),
        is_root: true,
        crl_url: None,
        delta_crl_url: None,
    }
}

fn with_list(ca: &Ca) -> Authority {
    Authority { crl_url: Some(LIST.into()), ..root(ca) }
}

/// The one configuration of a domain.
fn domain(source: &str, authorities: Vec<Authority>) -> Update {
    let configuration = Configuration {
        id: source.into(),
        domain: Arc::default(),
        display_name: String::new(),
        kind: Device { subject_field: SubjectField::SubjectDn, devices: Devices::Any },
        authorities,
    };
    let set = Configurations::from_iter([configuration]);
    Update::Configurations { source: source.into(), set }
}

fn in_force(signer: &Ca, address: &str, list: &List<'_>) -> Update {
    let signers = std::slice::from_ref(&signer.certificate);
    let list = RevocationList::read(&list.sign(), signers, NOW).expect("a list");
    Update::Lists { address: address.into(), lists: vec![ListState::InForce(Arc::new(list))] }
}

/// A snapshot of these updates; the order of domains is `a`, `b`.
fn snapshot(policy: TrustPolicy, lists: ListPolicy, updates: Vec<Update>) -> Snapshot {
    let mut assembly = Assembly::new(lists).with_domain_order(["a", "b"].map(Arc::from).into());
    for update in updates {
        assembly.apply(update);
    }
    assembly.build(&Snapshot::nothing(Arc::new(policy)))
}

fn trust(updates: Vec<Update>) -> Snapshot {
    snapshot(TrustPolicy::default(), ListPolicy::default(), updates)
}

fn decide(trust: &Snapshot, chain: &[&Arc<Certificate>]) -> Result<Vec<Verified>, Code> {
    let der: Vec<_> = chain.iter().map(|certificate| certificate.der()).collect();
    let chain = UnverifiedChain::from_der(&der).expect("a chain");
    judge(&chain, trust, NOW).map_err(|refusal| refusal.code)
}

/// The domains that accept a chain, in order.
fn accepted_by(trust: &Snapshot, chain: &[&Arc<Certificate>]) -> Result<Vec<String>, Code> {
    let verified = decide(trust, chain)?;
    Ok(verified.iter().map(|verified| verified.domain().to_owned()).collect())
}

#[test]
fn another_domain_without_a_list_address_does_not_hide_a_revocation() {
    let ca = Ca::root("Root");
    let (good, stolen) = (ca.issue("good", &[4], &[]), ca.issue("stolen", &[5], &[]));
    let list = || in_force(&ca, LIST, &ca.list().number(1).revoke(&[5], None));
    let both = trust(vec![domain("a", vec![with_list(&ca)]), domain("b", vec![root(&ca)]), list()]);
    assert_eq!(accepted_by(&both, &[&good]), Ok(vec!["a".into(), "b".into()]));
    assert_eq!(accepted_by(&both, &[&stolen]), Err(Code::CertificateRevoked));
    // Without an address anywhere, a list at hand still counts, and none is required.
    let alone = trust(vec![domain("b", vec![root(&ca)]), list()]);
    assert_eq!(accepted_by(&alone, &[&stolen]), Err(Code::CertificateRevoked));
    let without = trust(vec![domain("b", vec![root(&ca)])]);
    assert_eq!(accepted_by(&without, &[&stolen]), Ok(vec!["b".into()]));
    // Only the operator switches checks off.
    let off = TrustPolicy { crl: Some(CrlMode::Off), ..TrustPolicy::default() };
    let off = snapshot(off, ListPolicy::default(), vec![domain("b", vec![root(&ca)]), list()]);
    assert_eq!(accepted_by(&off, &[&stolen]), Ok(vec!["b".into()]));
}

#[test]
fn an_entry_counts_whatever_scope_its_list_has() {
    let ca = Ca::root("Root");
    let stolen = ca.issue("stolen", &[5], &[]);
    let uri = tlv(0xa0, &tlv(0xa0, &tlv(0x86, b"http://ca.example/other")));
    let sent = |lists: Vec<Update>| {
        let updates = vec![domain("a", vec![root(&ca)])];
        accepted_by(&trust(updates.into_iter().chain(lists).collect()), &[&stolen])
    };
    let named = ca.list().number(1).scope(&uri).revoke(&[5], None);
    assert_eq!(sent(vec![in_force(&ca, LIST, &named)]), Err(Code::CertificateRevoked));
    // A complete list without the entry, and a delta of another scope that has it.
    let complete = || in_force(&ca, LIST, &ca.list().number(1));
    let delta = ca.list().number(2).delta_to(1).scope(&uri).revoke(&[5], None);
    let both = vec![complete(), in_force(&ca, DELTA, &delta)];
    assert_eq!(sent(both), Err(Code::CertificateRevoked));
    assert_eq!(sent(vec![complete()]), Ok(vec!["a".into()]));
    // Serials of attribute certificates are another number space.
    let attribute = ca.list().number(1).scope(&[0x85, 1, 0xff]).revoke(&[5], None);
    assert_eq!(sent(vec![in_force(&ca, LIST, &attribute)]), Ok(vec!["a".into()]));
}

#[test]
fn a_refusal_names_what_is_missing() {
    let (ca, other) = (Ca::root("Root"), Ca::root("Other"));
    let between = ca.below("Between", 7, KEY_USAGE_CA);
    let device = between.issue("device", &[4], &[]);
    let detail = |authorities: Vec<Authority>, chain: &[&Arc<Certificate>], lists: Vec<Update>| {
        let updates = std::iter::once(domain("a", authorities)).chain(lists).collect();
        let der: Vec<_> = chain.iter().map(|certificate| certificate.der()).collect();
        let chain = UnverifiedChain::from_der(&der).expect("a chain");
        judge(&chain, &trust(updates), NOW).expect_err("a refusal").detail
    };
    let own = || vec![root(&ca)];
    let unsent = detail(own(), &[&device], Vec::new());
    assert!(unsent.contains("`CN=Between`, which issued `CN=device`"), "{unsent}");
    assert!(unsent.contains("(1 were sent)"), "{unsent}");
    let reverse = [&ca.certificate, &between.certificate, &device];
    let reverse = detail(own(), &reverse, Vec::new());
    assert!(reverse.contains("in reverse order"), "{reverse}");
    let authority = detail(own(), &[&ca.certificate], Vec::new());
    assert!(authority.contains("`CN=Root`, is the authority itself"), "{authority}");
    let foreign = [&device, &between.certificate, &ca.certificate];
    let foreign = detail(vec![root(&other)], &foreign, Vec::new());
    assert!(foreign.contains("root `CN=Root` is not in any configuration"), "{foreign}");
    // A list for another distribution point than the certificate's.
    let uri = |text: &[u8]| tlv(0xa0, &tlv(0xa0, &tlv(0x86, text)));
    let list = ca.list().number(1).scope(&uri(b"http://ca.example/1"));
    let points = tlv(0x30, &tlv(0x30, &uri(b"http://ca.example/2")));
    let device = ca.issue("device", &[5], &[extension(&[0x55, 0x1d, 31], false, &points)]);
    let scope = detail(vec![with_list(&ca)], &[&device], vec![in_force(&ca, LIST, &list)]);
    assert!(scope.contains("for the distribution point `http://ca.example/1`"), "{scope}");
    assert!(scope.contains("the certificate has `http://ca.example/2`"), "{scope}");
}

#[test]
fn a_delegated_list_counts_beside_the_issuers_own() {
    let ca = Ca::root("Root");
    let signer = ca.below("Lists", 9, KEY_USAGE_LISTS);
    let crl_issuer = tlv(0xa2, &tlv(0xa4, &name("Lists")));
    let points = extension(&[0x55, 0x1d, 31], false, &tlv(0x30, &tlv(0x30, &crl_issuer)));
    let device = |serial| ca.issue("device", &[serial], std::slice::from_ref(&points));
    let own = || in_force(&ca, LIST, &ca.list().number(1));
    let indirect = || {
        let issuer = extension(&[0x55, 0x1d, 29], true, &tlv(0x30, &tlv(0xa4, &name("Root"))));
        let list = signer.list().number(1).scope(&[0x84, 1, 0xff]);
        in_force(&signer, DELTA, &list.entry(&[5], &issuer))
    };
    let of_root = || domain("a", vec![with_list(&ca)]);
    let trust = trust(vec![of_root(), own(), indirect()]);
    let chain = |device: Arc<Certificate>| accepted_by(&trust, &[&device, &signer.certificate]);
    assert_eq!(chain(device(4)), Ok(vec!["a".into()]));
    assert_eq!(chain(device(5)), Err(Code::CertificateRevoked));
    // If the budget ends before the signer of the list is proven, nothing is accepted.
    let few = TrustPolicy { max_signatures: 1, ..TrustPolicy::default() };
    let few = snapshot(few, ListPolicy::default(), vec![of_root(), own(), indirect()]);
    assert_eq!(accepted_by(&few, &[&device(4)]), Ok(vec!["a".into()]));
    assert_eq!(accepted_by(&few, &[&device(5)]), Err(Code::PathBudget));
}

#[test]
fn an_intermediate_that_ends_a_path_is_asked_about() {
    let ca = Ca::root("Root");
    let between = ca.below("Between", 7, KEY_USAGE_CA);
    let device = between.issue("device", &[4], &[]);
    let decide = |serial: u8| {
        let policy = TrustPolicy { intermediate_anchors: true, ..TrustPolicy::default() };
        let authorities = vec![root(&ca), Authority { is_root: false, ..root(&between) }];
        let list = in_force(&ca, LIST, &ca.list().number(1).revoke(&[serial], None));
        let updates = vec![domain("a", authorities), list];
        accepted_by(&snapshot(policy, ListPolicy::default(), updates), &[&device])
    };
    assert_eq!(decide(8), Ok(vec!["a".into()]));
    assert_eq!(decide(7), Err(Code::CertificateRevoked));
}

#[test]
fn namesakes_of_one_domain_use_up_their_own_budget_only() {
    let ca = Ca::root("Root");
    let device = ca.issue("device", &[4], &[]);
    let namesakes: Vec<_> = (0..130).map(|_| root(&Ca::root("Root"))).collect();
    for (mine, theirs) in [("a", "b"), ("b", "a")] {
        let trust = trust(vec![domain(theirs, namesakes.clone()), domain(mine, vec![root(&ca)])]);
        assert_eq!(accepted_by(&trust, &[&device]), Ok(vec![mine.into()]));
    }
    let alone = trust(vec![domain("b", namesakes)]);
    assert_eq!(accepted_by(&alone, &[&device]), Err(Code::PathBudget));
}

#[test]
fn a_presented_chain_costs_at_most_eight_failed_signatures() {
    let ca = Ca::root("Root");
    let trust = trust(vec![domain("a", vec![root(&ca)])]);
    // No authority of this name signed the device.
    let device = Ca::root("Root").issue("device", &[4], &[]);
    let junk: Vec<_> = (0..40).map(|_| Ca::root("Root").certificate).collect();
    let chain = |count: usize, device| {
        let all: Vec<_> = std::iter::once(device).chain(&junk[..count]).collect();
        accepted_by(&trust, &all)
    };
    // One failed signature with the directory's authority, the others with presented ones.
    assert_eq!(chain(7, &device), Err(Code::SignatureInvalid));
    assert_eq!(chain(8, &device), Err(Code::PathBudget));
    // A good device is found first, whatever it presents.
    assert_eq!(chain(40, &ca.issue("device", &[4], &[])), Ok(vec!["a".into()]));
}

#[test]
fn another_domain_changes_no_rule_of_an_authority() {
    let ca = Ca::root("Root");
    let (good, stolen) = (ca.issue("device", &[4], &[]), ca.issue("device", &[5], &[]));
    let late = ca.list().number(1).next_update(Some(Timestamp(NOW.0 - 1))).revoke(&[5], None);
    // The operator's entry is for a certificate that only domain `b` sends.  It has the name and key of
    // domain `a`'s root.
    let twin = ca.issue_to_itself(&[]);
    let entry = |mode| AuthorityPolicy {
        selector: Selector { sha256: Some(twin.fingerprint), ..Selector::default() },
        mode,
        grace: Some(Duration::from_secs(3600)),
        ..AuthorityPolicy::default()
    };
    let decide = |mode, list: &List<'_>, device| {
        let lists = ListPolicy {
            authorities: vec![entry(mode)],
            require_delta: true,
            ..ListPolicy::default()
        };
        let twin = Authority {
            certificate: Arc::clone(&twin),
            delta_crl_url: Some(DELTA.into()),
            ..with_list(&ca)
        };
        let mine = domain("a", vec![with_list(&ca)]);
        let updates = vec![mine, domain("b", vec![twin]), in_force(&ca, LIST, list)];
        accepted_by(&snapshot(TrustPolicy::default(), lists, updates), &[device])
    };
    let fresh = ca.list().number(1).revoke(&[5], None);
    // `b` needs a delta, has a grace and can be switched off.  `a` needs a fresh list and no delta.
    assert_eq!(decide(None, &fresh, &good), Ok(vec!["a".into()]));
    assert_eq!(decide(None, &late, &good), Err(Code::CrlStale));
    let off = Some(CrlMode::Off);
    assert_eq!(decide(off, &late, &good), Ok(vec!["b".into()]));
    assert_eq!(
        decide(off, &fresh, &stolen),
        Ok(vec!["b".into()]),
        "the operator's setting for `b`"
    );
}

#[test]
fn the_operators_order_of_directories_decides_and_not_their_names() {
    let ca = Ca::root("Root");
    let device = ca.issue("device", &[4], &[]);
    let order = |domains: [&str; 2]| {
        let mut assembly =
            Assembly::new(ListPolicy::default()).with_domain_order(domains.map(Arc::from).into());
        for source in ["a", "b"] {
            assembly.apply(domain(source, vec![root(&ca)]));
        }
        accepted_by(&assembly.build(&Snapshot::default()), &[&device])
    };
    assert_eq!(order(["a", "b"]), Ok(vec!["a".into(), "b".into()]));
    assert_eq!(order(["b", "a"]), Ok(vec!["b".into(), "a".into()]));
}

#[test]
fn a_list_of_another_key_is_not_used() {
    let (ca, attacker) = (Ca::root("Root"), Ca::root("Root"));
    let signers = std::slice::from_ref(&ca.certificate);
    let read = |list: &List<'_>| RevocationList::read(&list.sign(), signers, NOW).is_ok();
    assert!(read(&ca.list().number(1).revoke(&[5], None)));
    assert!(!read(&attacker.list().number(2)), "the name of the issuer, another key");
    // An old list that the server replays is stale at its nextUpdate, and then refuses.
    let device = ca.issue("device", &[5], &[]);
    let replayed = ca.list().number(1).next_update(Some(Timestamp(NOW.0 - 1)));
    let updates = vec![domain("a", vec![with_list(&ca)]), in_force(&ca, LIST, &replayed)];
    assert_eq!(accepted_by(&trust(updates), &[&device]), Err(Code::CrlStale));
}
