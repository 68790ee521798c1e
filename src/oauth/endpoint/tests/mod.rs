mod judging;

use std::io;
use std::sync::Mutex;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use prometheus_client::registry::Registry;
use serde_json::Value;

use super::*;
use crate::oauth::endpoint::applications::check_scope;
use crate::oauth::rates::Rate;
use crate::runtime::live::{Active, ListenerTls};
use crate::runtime::text::MAX_CHARACTERS;
use crate::token::application::{Application, AuthMethod};
use crate::token::keys::tests::signing_key;
use crate::token::{Algorithm, Claims, Resource, Tenants, Terms};
use crate::trust::configurations as trust_configurations;
use crate::trust::configurations::{Authority, Configuration, Configurations, Device, Devices};
use crate::trust::judge::devices::UnverifiedChain;
use crate::trust::judge::devices::tests::verified;
use crate::trust::subject::SubjectField;
use crate::x509::certificate::Certificate;

const NOW: Timestamp = Timestamp(1_800_000_000);
const FORM: &str = "grant_type=client_credentials&client_id=dev1.example";

fn policy() -> Arc<TokenPolicy> {
    let resource = Resource {
        audience: "https://api.example".to_owned(),
        scopes: vec!["read".to_owned(), "write".to_owned()],
        default_scope: vec!["read".to_owned()],
    };
    let terms = Terms {
        resources: vec![resource],
        lifetime: Duration::from_secs(600),
        signing_algorithm: None,
    };
    Arc::new(TokenPolicy::new("https://as.example", Some(terms)).expect("a policy"))
}

fn service(report: bool) -> TokenService {
    TokenService::new(&Config { report, ..config() }, RateMetrics::default())
}

fn inputs(time: Timestamp, jti: u8) -> Inputs<'static> {
    static RANDOM: std::sync::LazyLock<SystemRandom> = std::sync::LazyLock::new(SystemRandom::new);
    static POLICY: std::sync::LazyLock<Arc<TokenPolicy>> = std::sync::LazyLock::new(policy);
    Inputs { policy: &POLICY, time, jti: [jti; 16], random: &*RANDOM }
}

fn on_token_listener(peer: &Peer) -> Origin<'_> {
    Origin { peer, listener: Listener::Token, scope: &Scope::All }
}

fn config() -> Config {
    let url = |text: &str| url::Url::parse(text).expect("a URL");
    Config::new(url("https://mtls.example"), url("https://as.example"))
}

fn keys() -> SigningKeys {
    SigningKeys::new(signing_key(Algorithm::Es256), &[]).expect("keys")
}

fn peer(chain: Result<Arc<UnverifiedChain>, Refusal>) -> Peer {
    Peer {
        address: ([192, 0, 2, 1], 4711).into(),
        connection: 7,
        certificate: None,
        chain,
        resumed: false,
    }
}

fn stranger() -> Peer {
    let key = rcgen::KeyPair::generate().expect("a key");
    let leaf = rcgen::CertificateParams::default().self_signed(&key).expect("a certificate");
    peer(UnverifiedChain::from_der(&[leaf.der()]).map(Arc::new))
}

fn head(method: &str, path: &str) -> Parts {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/x-www-form-urlencoded");
    request.body(()).expect("a request").into_parts().0
}

fn device() -> Verified {
    verified("c1", SubjectField::SanDns, "dev1.example", NOW.after(Duration::from_secs(60)))
}

/// Returns the outcome of a request whose certificate the judge accepted as `candidates`.
fn grant(form: &str, candidates: &[Verified]) -> Outcome {
    let form = request::parse(&head("POST", TOKEN_PATH), form.as_bytes()).expect("a request");
    service(false).decide_device(&form, Ok(candidates.to_vec()), &keys(), inputs(NOW, 1))
}

async fn body(reply: Reply) -> Value {
    let bytes = reply.into_body().collect().await.expect("a body").to_bytes();
    serde_json::from_slice(&bytes).expect("JSON")
}

/// 6749-2: only POST is allowed; 6749-13: no response may be cached.
#[test]
fn only_post_reaches_the_endpoint() {
    let routed = |method: &str, path: &str| reject_misrouted(&head(method, path), &policy());
    assert!(routed("POST", "/oauth2/token").is_none());
    assert!(routed("POST", "/oauth2/token?x=1").is_none());
    for method in ["GET", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH"] {
        let reply = routed(method, "/oauth2/token").expect("refused");
        assert_eq!(reply.status(), 405, "{method}");
        assert_eq!(reply.headers()["allow"], "POST");
        assert_eq!(reply.headers()["cache-control"], "no-store");
    }
    for path in
        ["/", "/oauth2", "/oauth2/token/", "/oauth2/Token", "/a/oauth2/token", "/oauth2/v2.0/token"]
    {
        assert_eq!(routed("POST", path).expect("refused").status(), 404, "{path}");
    }
}

#[test]
fn accepts_any_tenant_unless_there_are_several_directories() {
    let path = |tenant: &str| head("POST", &format!("/{tenant}/oauth2/v2.0/token"));
    let open = |head: &Parts| reject_misrouted(head, &policy());
    assert!(open(&path("contoso.example")).is_none());
    assert_eq!(open(&path("a/b")).expect("refused").status(), 404);
    assert_eq!(open(&path("")).expect("refused").status(), 404);
    let tenants = Tenants::new(&[("a".into(), Some("contoso.example".into())), ("b".into(), None)]);
    let policy = TokenPolicy::clone(&policy()).with_tenants(tenants);
    let several = |head: &Parts| reject_misrouted(head, &policy);
    assert!(several(&path("contoso.example")).is_none());
    assert!(several(&path("b")).is_none());
    assert!(several(&head("POST", TOKEN_PATH)).is_none());
    assert_eq!(several(&path("other")).expect("refused").status(), 404);
}

/// A path that selects a directory selects the applications of that directory only.
#[test]
fn an_application_belongs_to_one_directory() {
    let application = Application {
        id: "app".into(),
        configuration: "b/1".into(),
        method: AuthMethod::TlsClientAuth,
        names: None,
        certificates: Vec::new(),
        bound: true,
        terms: policy().own_terms().expect("terms").clone(),
    };
    let configuration = Configuration {
        id: "b/1".into(),
        domain: "b".into(),
        display_name: String::new(),
        kind: trust_configurations::Application,
        authorities: Vec::new(),
    };
    let mut trust = Snapshot::default();
    let within = |trust: &Snapshot, scope: &Scope| {
        check_scope(&application, scope, trust).map_err(|refusal| refusal.code)
    };
    let only = |domain: &str| Scope::Only(vec![domain.into()]);
    assert_eq!(within(&trust, &only("a")), Ok(()), "the judge refuses what is not in force");
    trust.applications = Arc::new(Configurations::from_iter([configuration]));
    assert_eq!(within(&trust, &Scope::All), Ok(()));
    assert_eq!(within(&trust, &only("b")), Ok(()));
    assert_eq!(within(&trust, &only("a")), Err(Code::ClientMismatch));
}

/// 6749-10, -11, -13, -14, 8705-13: the response to a granted request.
#[tokio::test]
async fn a_device_gets_a_bound_token() {
    let device = device();
    let fingerprint = device.leaf().fingerprint;
    let outcome = grant(FORM, &[device]);
    let reply = outcome.reply(false);
    assert_eq!(reply.status(), 200);
    assert_eq!(reply.headers()["content-type"], "application/json");
    assert_eq!(reply.headers()["cache-control"], "no-store");
    assert_eq!(reply.headers()["pragma"], "no-cache");
    let answer = body(reply).await;
    let members: Vec<_> = answer.as_object().expect("an object").keys().collect();
    assert_eq!(members, ["access_token", "expires_in", "scope", "token_type"]);
    assert_eq!(answer["token_type"], "Bearer");
    assert_eq!(answer["scope"], "read");
    // The certificate expires in 60 s, before the lifetime of 600 s.
    assert_eq!(answer["expires_in"], 60);
    let token = answer["access_token"].as_str().expect("a token");
    let claims: Value = jsonwebtoken::dangerous::insecure_decode(token).expect("a JWT").claims;
    assert_eq!(claims["iss"], "https://as.example");
    assert_eq!(claims["sub"], "c1/dev1.example");
    assert_eq!(claims["exp"].as_i64(), Some(NOW.0 + 60));
    let bound = crate::token::claims::Confirmation::certificate(fingerprint);
    assert_eq!(claims["cnf"]["x5t#S256"], bound.x5t_s256);
}

/// Clients of Entra ID compare the token type with the one that they requested.
#[tokio::test]
async fn returns_the_requested_token_type() {
    let answer =
        body(grant(&format!("{FORM}&token_type=mtls_pop"), &[device()]).reply(false)).await;
    assert_eq!(answer["token_type"], "mtls_pop");
}

/// 6749-8, 8705-4: without an accepted certificate, no token is issued.
#[tokio::test]
async fn a_refused_certificate_is_an_invalid_client() {
    for report in [false, true] {
        for peer in [peer(Err(Refusal::new(Code::CertificateMissing, "none"))), stranger()] {
            let outcome = service(report).decide(
                &head("POST", TOKEN_PATH),
                &FORM.into(),
                on_token_listener(&peer),
                &Snapshot::default(),
                &keys(),
                inputs(NOW, 0),
            );
            let refusal = outcome.refusal().expect("a refusal").clone();
            let reply = outcome.reply(report);
            assert_eq!(reply.status(), 401);
            assert!(reply.headers().contains_key("www-authenticate"));
            let answer = body(reply).await;
            assert_eq!(answer["error"], "invalid_client");
            assert_eq!(answer.get("access_token"), None);
            let reported = report.then(|| Value::from(refusal.code.as_str()));
            assert_eq!(answer.get("refusal"), reported.as_ref());
            assert_eq!(answer.get("detail"), report.then(|| Value::from(refusal.detail)).as_ref());
        }
    }
}

/// The limit of an address applies to every request, and before the certificate is judged.
#[tokio::test]
async fn an_address_above_its_rate_gets_429_with_retry_after() {
    let rate = Rate { tokens: 1, per: Duration::from_secs(3_600) };
    let rate_limits = RateLimits { address: Some(rate), ..RateLimits::default() };
    let config = Config { rate_limits, ..config() };
    let service = TokenService::new(&config, RateMetrics::default());
    let count = |address: [u8; 4]| service.count_address(address.into(), &SystemRandom::new());
    assert_eq!(count([192, 0, 2, 1]), Ok(()));
    assert_eq!(count([192, 0, 2, 2]), Ok(()));
    let outcome = Outcome::refused(count([192, 0, 2, 1]).expect_err("the second one"));
    assert_eq!(outcome.refusal().map(|refusal| refusal.code), Some(Code::RateLimited));
    let reply = outcome.reply(false);
    assert_eq!(reply.status(), 429);
    assert_eq!(reply.headers()["cache-control"], "no-store");
    let after = reply.headers()["retry-after"].to_str().expect("visible").parse::<u64>();
    assert!((3_600..=5_400).contains(&after.expect("seconds")));
    let answer = body(reply).await;
    assert_eq!(answer["error"], "temporarily_unavailable");
    assert_eq!(answer["error_description"], "too many requests of this address; try again later");
    assert_eq!(answer.get("refusal"), None);
}

#[tokio::test]
async fn reports_the_error_of_a_malformed_request() {
    let outcome = service(false).decide(
        &head("POST", TOKEN_PATH),
        &"grant_type=password".into(),
        on_token_listener(&stranger()),
        &Snapshot::default(),
        &keys(),
        inputs(NOW, 0),
    );
    let reply = outcome.reply(false);
    assert_eq!(reply.status(), 400);
    assert_eq!(body(reply).await["error"], "unsupported_grant_type");
}

/// A writer that collects log output.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic while logging").extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn audited(outcome: &Outcome) -> String {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || outcome.audit(&stranger()));
    let bytes = log.0.lock().expect("no panic while logging").clone();
    String::from_utf8(bytes).expect("UTF-8")
}

/// 6749-19: a decision is one audit record, which does not contain the token.
#[tokio::test]
async fn a_decision_is_audited_without_its_token() {
    let outcome = grant(FORM, &[device()]);
    let line = audited(&outcome);
    let event: Value = serde_json::from_str(&line).expect("one JSON line");
    assert_eq!(event["target"], "audit");
    let fields = &event["fields"];
    assert_eq!(fields["outcome"], "issued");
    assert_eq!(fields["configuration"], "c1");
    assert_eq!(fields["subject"], "dev1.example");
    assert_eq!(fields["client_id"], "dev1.example");
    assert_eq!(fields["jti"], "AQEBAQEBAQEBAQEBAQEBAQ");
    assert_eq!(fields["generation"], 1);
    assert_eq!(fields["certificate"].as_str().map(str::len), Some(64));
    let answer = body(outcome.reply(false)).await;
    let token = answer["access_token"].as_str().expect("a token");
    for part in token.split('.') {
        assert!(!line.contains(part), "{line}");
    }
}

#[test]
fn a_refusal_is_audited_with_its_code_in_one_line() {
    let form = format!("{FORM}%0A%7B%22outcome%22%3A%22issued%22%7D{}", "x".repeat(1000));
    let line = audited(&grant(&form, &[device()]));
    assert_eq!(line.lines().count(), 1);
    let event: Value = serde_json::from_str(&line).expect("one JSON line");
    assert_eq!(event["fields"]["outcome"], "refused");
    assert_eq!(event["fields"]["error"], "invalid_client");
    assert_eq!(event["fields"]["refusal"], "client_unknown");
    assert_eq!(event["fields"]["configuration"], "c1");
    let id = event["fields"]["client_id"].as_str().expect("a client_id");
    assert!(id.chars().count() == MAX_CHARACTERS && !id.contains('\n'));
}

pub(in crate::oauth) fn live() -> Live {
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::default().self_signed(&key).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .map(Arc::new)
        .expect("a configuration");
    let started = Live::start(|_| {
        Ok::<_, ()>(Active {
            trust: Arc::new(Snapshot::default()),
            keys: Arc::new(keys()),
            policy: policy(),
            tls: Arc::new(ListenerTls {
                hosts: Arc::default(),
                token: Arc::clone(&tls),
                directory: Arc::clone(&tls),
                public: tls,
            }),
        })
    });
    started.expect("a live cell").0
}

#[tokio::test]
async fn requests_are_bounded_and_counted() {
    let mut registry = Registry::default();
    let config = config();
    let metrics = Metrics::register(&mut registry);
    let endpoint = TokenEndpoint::new(live(), &config, metrics);
    let ask = async |body: String| {
        let head = head("POST", TOKEN_PATH);
        let reply = endpoint
            .handle(Request::from_parts(head, Full::new(Bytes::from(body))), &stranger())
            .await;
        reply.status().as_u16()
    };
    assert_eq!(ask("x".repeat(MAX_BODY + 1)).await, 413);
    assert_eq!(ask("x".repeat(MAX_BODY)).await, 400);
    assert_eq!(ask(FORM.to_owned()).await, 401);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
    for line in [
        "token_requests_total{result=\"invalid_request\",refusal=\"\"} 2",
        "token_requests_total{result=\"invalid_client\",refusal=\"chain_untrusted\"} 1",
        "token_request_duration_seconds_count 3",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

/// 9068-3: no `jti` occurs twice.
#[test]
fn identifiers_do_not_repeat() {
    let random = SystemRandom::new();
    let jtis = (0..100_000).map(|_| random_jti(&random).expect("random bits"));
    assert_eq!(jtis.collect::<std::collections::HashSet<_>>().len(), 100_000);
}
