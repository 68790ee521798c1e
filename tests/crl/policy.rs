//! The operator's policy for lists: general rules and rules for single authorities.

use std::sync::Arc;
use std::time::Duration;

use anchorgate::trust::configurations::{
    Authority, Configuration, ConfigurationId, Configurations, Device, Devices,
};
use anchorgate::trust::refusal::Code;
use anchorgate::trust::revocation::{
    AuthorityPolicy, AuthorityRules, CrlMode, ListPolicy, ListRules, Question, RevocationPolicy,
    Revocations, Selector, Unusable,
};
use anchorgate::trust::subject::SubjectField;
use anchorgate::x509::certificate::Certificate;
use anchorgate::x509::time::Timestamp;

use crate::support::crl_maker::{Ca, NOW};
use crate::support::crl_questions::{check_at, code, read};

#[test]
fn applies_the_list_rules_of_the_operator() {
    let ca = Ca::root("Root");
    let device = ca.issue("device", &[4], &[]);
    let key = ca.certificate.key;
    let ask = |der: Vec<u8>, policy: RevocationPolicy, later: i64| {
        let revocations = Revocations::new([Arc::new(read(&ca, &der))]).with_policy(policy);
        code(check_at(&revocations, &ca, &device, Timestamp(NOW.0 + later)))
    };
    let policy = |rules| RevocationPolicy { rules, ..RevocationPolicy::default() };
    let rules = ListRules::default;
    let list = || ca.list().number(1).next_update(Some(NOW)).sign();
    let grace = Duration::from_secs(10);
    assert_eq!(ask(list(), policy(ListRules { grace, ..rules() }), 10), None);
    assert_eq!(ask(list(), policy(ListRules { grace, ..rules() }), 11), Some(Code::CrlStale));
    let without_end = || ca.list().number(1).next_update(None).sign();
    assert_eq!(ask(without_end(), policy(rules()), 0), Some(Code::CrlInvalid));
    let without_next_update = true;
    assert_eq!(ask(without_end(), policy(ListRules { without_next_update, ..rules() }), 0), None);
    let require_delta = true;
    assert_eq!(
        ask(list(), policy(ListRules { require_delta, ..rules() }), 0),
        Some(Code::CrlStale)
    );
    // Rules for an authority apply to its name with its key only.
    let of = |domain: &str, ca: &Ca| {
        let (domain, name) = (Arc::from(domain), ca.certificate.subject.clone());
        vec![AuthorityRules { domain, name, rules: ListRules { grace, ..rules() } }]
    };
    let of_it = || of("", &ca);
    let by_authority_policy = |key, of| RevocationPolicy {
        by_authority: [(key, of)].into(),
        ..RevocationPolicy::default()
    };
    assert_eq!(ask(list(), by_authority_policy(key, of_it()), 10), None);
    assert_eq!(ask(list(), by_authority_policy(key, of_it()), 11), Some(Code::CrlStale));
    let (same_name, other) = (Ca::root("Root"), Ca::root("Other"));
    assert_eq!(
        ask(list(), by_authority_policy(same_name.certificate.key, of_it()), 1),
        Some(Code::CrlStale)
    );
    let stale = Some(Code::CrlStale);
    assert_eq!(ask(list(), by_authority_policy(key, of("", &other)), 1), stale);
    assert_eq!(ask(list(), by_authority_policy(key, of("another domain", &ca)), 1), stale);
}

/// An authority of the directory, optionally with an address for deltas.
fn authority(certificate: &Arc<Certificate>, delta: bool) -> Authority {
    Authority {
        certificate: Arc::clone(certificate),
        is_root: true,
        crl_url: Some("http://ca.example/base".into()),
        delta_crl_url: delta.then(|| "http://ca.example/delta".into()),
    }
}

fn in_force(authorities: Vec<Authority>) -> Configurations<Device> {
    let configuration = Configuration {
        id: ConfigurationId::from("1"),
        domain: Arc::default(),
        display_name: String::new(),
        kind: Device { subject_field: SubjectField::SanDns, devices: Devices::Any },
        authorities,
    };
    Configurations::from_iter([configuration])
}

#[test]
fn settings_select_authorities_by_subject_fingerprint_or_key_id() {
    let (one, two) = (Ca::root("One"), Ca::root("Two"));
    let with_key_id = {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let der = params.self_signed(&key).expect("a certificate");
        Arc::new(Certificate::from_der(der.der()).expect("readable"))
    };
    let anchors = in_force(vec![
        authority(&one.certificate, true),
        authority(&two.certificate, false),
        authority(&with_key_id, true),
    ]);
    let entry = |selector, hours: u64| AuthorityPolicy {
        selector,
        grace: Some(Duration::from_secs(hours * 3600)),
        ..AuthorityPolicy::default()
    };
    let none = Selector::default;
    let subject = Some(one.certificate.subject.clone());
    let sha256 = Some(two.certificate.fingerprint);
    let settings = ListPolicy {
        require_delta: true,
        grace: Duration::from_secs(1),
        authorities: vec![
            entry(Selector { subject: subject.clone(), sha256, ..none() }, 9),
            entry(Selector { subject, ..none() }, 1),
            entry(Selector { sha256, ..none() }, 2),
            entry(Selector { key_id: with_key_id.subject_key_id.clone(), ..none() }, 3),
            entry(Selector { sha256, ..none() }, 8),
            entry(none(), 7),
        ],
        ..ListPolicy::default()
    };
    let policy = settings.resolve(anchors.authorities_by_domain());
    let rules = |c: &Certificate| {
        let rules = policy.of("", &c.subject, c.key);
        (rules.grace.as_secs() / 3600, rules.require_delta)
    };
    assert_eq!(rules(&one.certificate), (1, true), "the first entry requires both to match");
    assert_eq!(
        rules(&two.certificate),
        (2, false),
        "without a delta address; the first of two entries counts"
    );
    assert_eq!(rules(&with_key_id), (3, true));
    assert_eq!(rules(&Ca::root("One").certificate), (0, false), "the same name with another key");
    assert_eq!(policy.unmatched.len(), 3, "{:?}", policy.unmatched);
    assert!(policy.unmatched[0].contains("CN=One"), "{:?}", policy.unmatched);
}

/// Nothing is fetched or published between the two seconds: time alone decides.
#[test]
fn grace_is_applied_per_authority() {
    let (late, strict) = (Ca::root("Late"), Ca::root("Strict"));
    let lists = |ca: &Ca| {
        let base = ca.list().number(1).next_update(Some(NOW)).sign();
        let delta = ca.list().number(2).delta_to(1).next_update(Some(Timestamp(NOW.0 + 60))).sign();
        [Arc::new(read(ca, &base)), Arc::new(read(ca, &delta))]
    };
    let settings = |require_delta| ListPolicy {
        authorities: vec![AuthorityPolicy {
            selector: Selector {
                subject: Some(late.certificate.subject.clone()),
                ..Selector::default()
            },
            grace: Some(Duration::from_secs(7200)),
            require_delta,
            ..AuthorityPolicy::default()
        }],
        ..ListPolicy::default()
    };
    let anchors =
        in_force(vec![authority(&late.certificate, true), authority(&strict.certificate, true)]);
    for (require_delta, with_delta, last) in [
        (None, true, [60 + 7200, 60]),
        (None, false, [7200, 0]),
        (Some(true), true, [60 + 7200, 60]),
    ] {
        let all = [lists(&late), lists(&strict)].concat();
        let all = all.into_iter().filter(|list| with_delta || !list.is_delta());
        let policy = settings(require_delta).resolve(anchors.authorities_by_domain());
        let revocations = Revocations::new(all).with_policy(policy);
        for (ca, last) in [&late, &strict].into_iter().zip(last) {
            let device = ca.issue("device", &[4], &[]);
            let at = |second| code(check_at(&revocations, ca, &device, Timestamp(NOW.0 + second)));
            assert_eq!(at(last), None, "{with_delta} {last}");
            assert_eq!(at(last + 1), Some(Code::CrlStale), "{with_delta} {last}");
        }
    }
    // A required delta that was never loaded.
    let policy = settings(Some(true)).resolve(anchors.authorities_by_domain());
    let revocations = Revocations::new([lists(&late)[0].clone()]).with_policy(policy);
    let device = late.issue("device", &[4], &[]);
    assert_eq!(code(check_at(&revocations, &late, &device, NOW)), Some(Code::CrlStale));
}

#[test]
fn the_mode_decides_about_an_unknown_status() {
    let ca = Ca::root("Root");
    let stale =
        ca.list().number(1).next_update(Some(Timestamp(NOW.0 - 1))).revoke(&[5], None).sign();
    let stale = Revocations::new([Arc::new(read(&ca, &stale))]);
    let (good, bad) = (ca.issue("device", &[4], &[]), ca.issue("device", &[5], &[]));
    let ask = |revocations: &Revocations, certificate, mode| {
        code(revocations.check(&Question {
            domain: "",
            certificate,
            issuer: &ca.certificate.subject,
            issuer_key: ca.certificate.key,
            mode,
            now: NOW,
            signer_is_trusted: &|_| false,
        }))
    };
    let none = Revocations::default();
    assert_eq!(ask(&none, &good, CrlMode::Require), Some(Code::CrlMissing));
    assert_eq!(ask(&stale, &good, CrlMode::Require), Some(Code::CrlStale));
    assert_eq!(ask(&none, &good, CrlMode::IfAvailable), None);
    assert_eq!(ask(&stale, &good, CrlMode::IfAvailable), None);
    assert_eq!(ask(&stale, &bad, CrlMode::IfAvailable), Some(Code::CertificateRevoked));
    assert_eq!(ask(&stale, &bad, CrlMode::Off), None);
    let noted = |issuers| {
        let why = "the signature is forged".to_owned();
        Revocations::default().with_unusable(vec![Unusable { issuers, why }])
    };
    let of_ca = vec![ca.certificate.subject.clone()];
    assert_eq!(ask(&noted(of_ca), &good, CrlMode::Require), Some(Code::CrlInvalid));
    assert_eq!(ask(&noted(Vec::new()), &good, CrlMode::Require), Some(Code::CrlInvalid));
    let of_other = vec![Ca::root("Other").certificate.subject.clone()];
    assert_eq!(ask(&noted(of_other), &good, CrlMode::Require), Some(Code::CrlMissing));
}
