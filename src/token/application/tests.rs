use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::token::assertion::AssertionAlgorithm;
use crate::token::assertion::tests::{Holder, claims};
use crate::token::authorize::authorize_application;
use crate::token::claims::{Claims, Confirmation, application_claim};
use crate::token::denied::Denied;
use crate::token::grants::{Grant, TokenRequest};
use crate::token::policy::TokenPolicy;
use crate::token::terms::Resource;
use crate::trust::judge::applications::tests::verified_application;

const NOW: Timestamp = Timestamp(1_800_000_000);
const ISSUER: &str = "https://as.example";

fn terms() -> Terms {
    let resource = Resource {
        audience: "https://a.example".to_owned(),
        scopes: vec!["read".to_owned(), "write".to_owned()],
        default_scope: vec!["read".to_owned()],
    };
    Terms { resources: vec![resource], lifetime: Duration::from_secs(600), signing_algorithm: None }
}

fn application(method: AuthMethod) -> Application {
    let holder = Holder::of(AssertionAlgorithm::EdDsa);
    Application {
        id: "app".to_owned(),
        configuration: "c1".into(),
        method,
        names: None,
        certificates: vec![chain_of(&holder)],
        bound: true,
        terms: terms(),
    }
}

fn chain_of(holder: &Holder) -> UnverifiedChain {
    UnverifiedChain::from_der(&[holder.certificate.der()]).expect("a chain")
}

fn policy() -> TokenPolicy {
    TokenPolicy::new(ISSUER, Some(terms())).expect("a policy")
}

fn request(scope: &[&str]) -> TokenRequest {
    TokenRequest {
        grant: Grant::ClientCredentials,
        scope: scope.iter().map(ToString::to_string).collect(),
        resources: Vec::new(),
    }
}

fn code(result: Result<Option<SubjectId>, Refusal>) -> Code {
    result.map(drop).expect_err("refused").code
}

/// Names and certificates must all match, and at least one kind must be configured.
#[test]
fn recognises_an_application_by_names_and_certificates() {
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names =
        vec![rcgen::SanType::DnsName("app.example".try_into().expect("IA5"))];
    let key = rcgen::KeyPair::generate().expect("a key");
    let der = params.self_signed(&key).expect("a certificate");
    let leaf = Certificate::from_der(der.der()).expect("readable");
    let own = UnverifiedChain::from_der(&[der.der()]).expect("a chain");
    let names = |name: &str| {
        let subject = SubjectId::parse(SubjectField::SanDns, name).expect("a name");
        Some(Names { field: SubjectField::SanDns, subjects: HashSet::from([subject]) })
    };
    let recognise = |names: Option<Names>, certificates: &[UnverifiedChain]| {
        let certificates = certificates.to_vec();
        let base = application(AuthMethod::TlsClientAuth);
        Application { names, certificates, ..base }.recognise(&leaf)
    };
    let other = application(AuthMethod::TlsClientAuth).certificates;
    let name = recognise(names("app.example"), &[]).expect("known").expect("a name");
    assert_eq!(name.as_str(), "app.example");
    assert!(recognise(names("APP.example."), std::slice::from_ref(&own)).is_ok());
    assert_eq!(recognise(None, std::slice::from_ref(&own)), Ok(None));
    assert_eq!(code(recognise(None, &[])), Code::ClientMismatch);
    assert_eq!(code(recognise(None, &other)), Code::ClientMismatch);
    assert_eq!(code(recognise(names("app.example"), &other)), Code::ClientMismatch);
    assert_eq!(code(recognise(names("other.example"), &[own])), Code::ClientMismatch);
    let uri = Names { field: SubjectField::SanUri, ..names("app.example").expect("names") };
    assert_eq!(code(recognise(Some(uri), &[])), Code::SubjectMissing);
}

/// A client authenticates with its configured method and with its own assertions only.
#[test]
fn rejects_another_method_and_the_assertion_of_another_client() {
    let holder = Holder::of(AssertionAlgorithm::Es256);
    let text = holder.sign(&holder.header(), &claims());
    let assertion = || Assertion::parse(&text).expect("readable");
    let by_tls = application(AuthMethod::TlsClientAuth);
    let refused = by_tls.check(assertion(), &[ISSUER], NOW).map(drop);
    assert!(matches!(refused, Err(AssertionError::Refused(r)) if r.code == Code::ClientMismatch));
    let by_jwt = application(AuthMethod::PrivateKeyJwt);
    let refused = by_jwt.by_certificate(&chain_of(&holder), &Snapshot::default(), NOW);
    assert_eq!(refused.map(drop).map_err(|r| r.code), Err(Code::ClientMismatch));
    assert!(by_jwt.check(assertion(), &[ISSUER], NOW).is_ok());
    let other = Application { id: "other".to_owned(), ..by_jwt };
    let refused = other.check(assertion(), &[ISSUER], NOW).map(drop);
    assert_eq!(refused, Err(AssertionError::Issuer));
}

/// The order is: certificate of the connection, identity of the client, signature, path.
#[test]
fn performs_expensive_checks_last() {
    let holder = Holder::of(AssertionAlgorithm::Es256);
    let other = Holder::of(AssertionAlgorithm::Es256);
    let mut app = application(AuthMethod::PrivateKeyJwt);
    let trust = Snapshot::default();
    let decide = |app: &Application, text: &str, connection: Option<&UnverifiedChain>| {
        let assertion = Assertion::parse(text).expect("readable");
        let checked = app.check(assertion, &[ISSUER], NOW).expect("acceptable");
        let chain = checked.chain().expect("a chain");
        checked.authenticate(&chain, connection, &trust, NOW).map(drop).expect_err("refused")
    };
    let code = |error: AssertionError| match error {
        AssertionError::Refused(refusal) => refusal.code,
        other => panic!("{other}"),
    };
    let good = holder.sign(&holder.header(), &claims());
    let forged = other.sign(&holder.header(), &claims());
    let refused = decide(&app, &good, Some(&chain_of(&other)));
    assert_eq!(refused, AssertionError::OtherCertificate);
    assert_eq!(code(decide(&app, &forged, None)), Code::ClientMismatch);
    app.certificates = vec![chain_of(&holder)];
    assert_eq!(decide(&app, &forged, None), AssertionError::Signature);
    assert_eq!(code(decide(&app, &good, None)), Code::ChainUntrusted);
    assert_eq!(code(decide(&app, &good, Some(&chain_of(&holder)))), Code::ChainUntrusted);
}

fn granted(bound: bool, over_tls: bool, request: &TokenRequest) -> Result<Claims, Denied> {
    let mut leaf = Certificate::clone(&Holder::of(AssertionAlgorithm::EdDsa).certificate);
    leaf.not_after = Timestamp(NOW.0 + 300);
    let leaf = Arc::new(leaf);
    let application = Application { bound, ..application(AuthMethod::PrivateKeyJwt) };
    let verified = verified_application("c1", &leaf);
    let authenticated =
        Authenticated { application: &application, verified, subject: None, over_tls };
    let claims = authorize_application(&authenticated, request, &policy(), NOW, [7; 16])?;
    let bound_to = claims.cnf.clone();
    assert_eq!(bound_to, over_tls.then(|| Confirmation::certificate(leaf.fingerprint)));
    Ok(claims)
}

#[test]
fn binds_a_token_to_the_certificate_of_the_connection() {
    let claims = granted(true, true, &request(&[])).expect("a grant");
    assert_eq!((&*claims.sub, &*claims.client_id), ("app", "app"));
    assert_eq!((&*claims.aud, claims.scope.as_deref()), ("https://a.example", Some("read")));
    assert_eq!(claims.exp, NOW.0 + 300, "the token expires with the certificate");
    assert!(granted(false, true, &request(&["write"])).is_ok());
    assert!(granted(false, false, &request(&["read"])).is_ok());
    assert!(matches!(granted(true, false, &request(&[])), Err(Denied::InvalidRequest(_))));
    assert!(matches!(granted(true, true, &request(&["admin"])), Err(Denied::InvalidScope(_))));
    let unbound = granted(false, false, &request(&[])).expect("a grant");
    assert!(serde_json::to_value(&unbound).expect("JSON").get("cnf").is_none());
}

#[test]
fn reports_all_problems_of_applications() {
    let bad = Application {
        names: Some(Names { field: SubjectField::SanDns, subjects: HashSet::new() }),
        bound: false,
        ..application(AuthMethod::TlsClientAuth)
    };
    let unidentified = Application {
        id: "unidentified".to_owned(),
        certificates: Vec::new(),
        ..application(AuthMethod::PrivateKeyJwt)
    };
    let good = application(AuthMethod::PrivateKeyJwt);
    let problems = policy().with_applications(vec![bad, unidentified, good]).expect_err("refused");
    let texts: Vec<_> = problems.iter().map(ToString::to_string).collect();
    for why in [
        "has no subject",
        "always bound",
        "neither subjects nor",
        "several clients have this client_id",
    ] {
        assert!(texts.iter().any(|t| t.contains(why)), "{why}: {texts:?}");
    }
    assert_eq!(texts.len(), 4, "{texts:?}");
}

/// A device with the `client_id` of an application as its name does not become the application.
#[test]
fn no_device_may_use_the_client_id_of_an_application() {
    use crate::token::select;
    use crate::trust::judge::devices::tests::verified;
    let policy = policy().with_applications(vec![application(AuthMethod::TlsClientAuth)]);
    let policy = policy.expect("a policy");
    let end = NOW.after(Duration::from_secs(300));
    let device = [verified("c1", SubjectField::SanDns, "app", end)];
    let refused = select(&device, Some("app"), &policy);
    assert!(matches!(refused, Err(Denied::Refused(r)) if r.code == Code::ClientMismatch));
    let as_json = json!(application_claim("a/b:c%"));
    assert_eq!(as_json, "a%2Fb%3Ac%25");
}
