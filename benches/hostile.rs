//! What does a hostile request cost, compared with a good one?
//!
//! Each input is a request to the real endpoint with the chain that the connection presented.  The table at
//! the end has the ratios.  A chain seen for the first time is beside a good device seen for the first time,
//! both with the public-key operations of their handshake.  All others are beside a good request on an open
//! connection.

mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anchorgate::http::peer::Peer;
use anchorgate::oauth::{self, TokenEndpoint};
use anchorgate::runtime::live::Active;
use anchorgate::tls;
use anchorgate::token::application::{Application, AuthMethod, Names};
use anchorgate::token::policy::TokenPolicy;
use anchorgate::token::terms::{Resource, Terms};
use anchorgate::trust::configurations::{
    Authority, Configuration, Configurations, Device, Devices,
};
use anchorgate::trust::judge::devices::UnverifiedChain;
use anchorgate::trust::path::signature::SignatureMemo;
use anchorgate::trust::snapshot::Snapshot;
use anchorgate::trust::subject::{SubjectField, SubjectId};
use anchorgate::x509::certificate::Certificate;
use aws_lc_rs::agreement::{
    EphemeralPrivateKey, PrivateKey, UnparsedPublicKey, X25519, agree_ephemeral,
};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING,
    ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use criterion::{Criterion, criterion_group, criterion_main};
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use tokio::runtime::Runtime;

use support::World;
use support::test_certificates::{CN, Key, Spec, cn, name, seq, tlv};

/// Junk authorities that fit into a presented chain beside the leaf.
const JUNK: usize = 46;
/// Largest cost of a hostile request, in good ones.
const GOAL: f64 = 5.0;

/// A kind of key that a stranger may use.
struct Kind {
    name: &'static str,
    /// AlgorithmIdentifier of a signature.
    algorithm: Vec<u8>,
    curve: Option<(&'static EcdsaSigningAlgorithm, &'static [u8])>,
    /// Bytes of the modulus, and the exponent.
    rsa: (usize, &'static [u8]),
}

fn kinds() -> [Kind; 6] {
    const EC: [u8; 9] = [6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3];
    let ecdsa = |hash| seq(&[[&[6, 8], &EC[2..], &[hash]].concat()]);
    let curve =
        |name, hash, of| Kind { name, algorithm: ecdsa(hash), curve: Some(of), rsa: (0, &[]) };
    let sha256_rsa = tlv(0x30, &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11, 5, 0]);
    let rsa = |name, bytes, exponent| Kind {
        name,
        algorithm: sha256_rsa.clone(),
        curve: None,
        rsa: (bytes, exponent),
    };
    const P256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    const P384: &[u8] = &[6, 5, 0x2b, 0x81, 4, 0, 34];
    const P521: &[u8] = &[6, 5, 0x2b, 0x81, 4, 0, 35];
    [
        curve("P-256", 2, (&ECDSA_P256_SHA256_ASN1_SIGNING, P256)),
        curve("P-384", 3, (&ECDSA_P384_SHA384_ASN1_SIGNING, P384)),
        curve("P-521", 4, (&ECDSA_P521_SHA512_ASN1_SIGNING, P521)),
        rsa("RSA 4096", 512, &[1, 0, 1]),
        rsa("RSA 8192", 1024, &[1, 0, 1]),
        rsa("RSA 8192, exponent of 33 bits", 1024, &[1, 0xff, 0xff, 0xff, 0xff]),
    ]
}

impl Kind {
    /// A key pair; for RSA a modulus without a private key.
    fn key(&self) -> (Vec<u8>, Option<EcdsaKeyPair>) {
        let Some((algorithm, oid)) = self.curve else {
            let mut modulus = vec![0; self.rsa.0];
            SystemRandom::new().fill(&mut modulus).expect("random bytes");
            modulus[0] |= 0x80;
            *modulus.last_mut().expect("a byte") |= 1;
            let key = seq(&[tlv(2, &[&[0], &modulus[..]].concat()), tlv(2, self.rsa.1)]);
            let encryption = tlv(0x30, &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0]);
            return (seq(&[encryption, tlv(3, &[&[0], &key[..]].concat())]), None);
        };
        let pair = EcdsaKeyPair::generate(algorithm).expect("a key");
        let public = [6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
        let kind = seq(&[public.to_vec(), oid.to_vec()]);
        let point = [&[0], pair.public_key().as_ref()].concat();
        (seq(&[kind, tlv(3, &point)]), Some(pair))
    }

    /// A certificate of `subject` with the key `spki`.  Without `signer`, its signature is well-formed and
    /// wrong.
    fn certificate(&self, spec: &Spec, spki: &[u8], signer: Option<&EcdsaKeyPair>) -> Vec<u8> {
        let mut key = Key::generate();
        key.spki = spki.to_vec();
        let spec = Spec { algorithm: self.algorithm.clone(), ..spec.clone() };
        let der = spec.sign(&key, Key::number(0));
        let (_, contents) = element(&der);
        let (tbs, _) = element(contents);
        let signature = match (signer, self.curve) {
            (Some(pair), _) => sign(pair, tbs),
            (None, Some((algorithm, _))) => {
                sign(&EcdsaKeyPair::generate(algorithm).expect("a key"), tbs)
            }
            (None, None) => vec![0x11; self.rsa.0],
        };
        let signature = tlv(3, &[&[0], &signature[..]].concat());
        seq(&[tbs.to_vec(), self.algorithm.clone(), signature])
    }

    /// A leaf and authorities of the anchor's name, none of which signed it.
    fn junk(&self) -> Vec<Vec<u8>> {
        let leaf = self.certificate(&device("stranger", "Root"), &Key::number(5).spki, None);
        let authority = |n: usize| {
            let spec = authority("Root", "Root").serial(&[1, n as u8]);
            self.certificate(&spec, &self.key().0, None)
        };
        fitting(std::iter::once(leaf).chain((0..JUNK).map(authority)))
    }

    /// A chain of the stranger's own authorities, each signed by the next, with three certificates for
    /// each key.  The last one has the anchor's name as its issuer.
    fn tower(&self) -> Option<Vec<Vec<u8>>> {
        let keys: Vec<_> = (0..9).map(|_| self.key()).collect();
        let signer = |level: usize| keys[level].1.as_ref();
        let leaf =
            self.certificate(&device("stranger", "L0"), &Key::number(5).spki, Some(signer(0)?));
        let mut chain = vec![leaf];
        for (level, (spki, _)) in keys[..8].iter().enumerate() {
            let issuer = if level == 7 { "Root".into() } else { format!("L{}", level + 1) };
            for copy in 0..5 {
                let spec = authority(&format!("L{level}"), &issuer).serial(&[1, copy]);
                chain.push(self.certificate(&spec, spki, signer(level + 1)));
            }
        }
        Some(fitting(chain))
    }
}

/// The part of a chain that is read.
fn fitting(chain: impl IntoIterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    let mut bytes = 0;
    let fits = |der: &Vec<u8>| {
        bytes += der.len();
        bytes <= 64 * 1024
    };
    chain.into_iter().take_while(fits).collect()
}

fn device(subject: &str, issuer: &str) -> Spec {
    Spec::device(cn(subject), cn(issuer))
}

fn authority(subject: &str, issuer: &str) -> Spec {
    Spec::authority(cn(subject), cn(issuer))
}

fn sign(pair: &EcdsaKeyPair, message: &[u8]) -> Vec<u8> {
    pair.sign(&SystemRandom::new(), message).expect("a signature").as_ref().to_vec()
}

/// The first element of `der` as a whole, and its contents.
fn element(der: &[u8]) -> (&[u8], &[u8]) {
    let (start, length) = match der[1] {
        short @ 0..=0x7f => (2, usize::from(short)),
        0x81 => (3, usize::from(der[2])),
        _ => (4, usize::from(der[2]) << 8 | usize::from(der[3])),
    };
    (&der[..start + length], &der[start..start + length])
}

/// The endpoint with one configuration of the anchor `Root`.
struct Gateway {
    endpoint: TokenEndpoint,
    runtime: Runtime,
}

impl Gateway {
    fn new(root: &[u8], memo: SignatureMemo) -> Self {
        let configuration = Configuration {
            id: "fleet".into(),
            domain: Arc::default(),
            display_name: String::new(),
            kind: Device { subject_field: SubjectField::SubjectDn, devices: Devices::Any },
            authorities: vec![Authority {
                certificate: Arc::new(Certificate::from_der(root).expect("a certificate")),
                is_root: true,
                crl_url: None,
                delta_crl_url: None,
            }],
        };
        let anchors = Arc::new(Configurations::from_iter([configuration]));
        let snapshot = Snapshot::new(1, anchors, Arc::default(), Arc::default(), Arc::new(memo));
        let (live, mut writer) = World::new().live(snapshot, &tls::Config::default());
        let resource = Resource {
            audience: "https://api.example".into(),
            scopes: vec!["telemetry:write".into()],
            default_scope: vec!["telemetry:write".into()],
        };
        let terms = Terms {
            resources: vec![resource],
            lifetime: Duration::from_secs(300),
            signing_algorithm: None,
        };
        let inventory = Application {
            id: "inventory".into(),
            configuration: "applications".into(),
            method: AuthMethod::PrivateKeyJwt,
            names: Some(Names {
                field: SubjectField::SubjectDn,
                subjects: SubjectId::parse(SubjectField::SubjectDn, "CN=inventory")
                    .into_iter()
                    .collect(),
            }),
            certificates: Vec::new(),
            bound: false,
            terms: terms.clone(),
        };
        let policy = TokenPolicy::new("https://gw.example", Some(terms))
            .and_then(|policy| policy.with_applications(vec![inventory]))
            .expect("a policy");
        writer.publish(Active { policy: Arc::new(policy), ..Active::clone(&live.current()) });
        // The cell keeps the last published value without its writer.
        drop(writer);
        let origin: url::Url = "https://gw.example".parse().expect("a URL");
        let endpoint = TokenEndpoint::new(
            live,
            &oauth::Config::new(origin.clone(), origin),
            oauth::Metrics::register(&mut prometheus_client::registry::Registry::default()),
        );
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { endpoint, runtime }
    }

    /// Sends one request and returns the status.
    fn request(&self, chain: &Arc<UnverifiedChain>, body: &Bytes) -> u16 {
        let peer = Peer {
            address: ([127, 0, 0, 1], 1).into(),
            connection: 1,
            certificate: Some(chain.leaf().fingerprint),
            chain: Ok(Arc::clone(chain)),
            resumed: false,
        };
        let request = Request::post("/oauth2/token")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::new(body.clone()))
            .expect("a request");
        self.runtime.block_on(self.endpoint.handle(request, &peer)).status().as_u16()
    }

    /// Parses a chain and sends one request.
    fn first_request(&self, chain: &[Vec<u8>], body: &Bytes) -> u16 {
        match UnverifiedChain::from_der(chain) {
            Ok(chain) => self.request(&Arc::new(chain), body),
            Err(_) => 0,
        }
    }
}

/// Returns the time of one call, the fastest of several rounds.
fn measure(mut call: impl FnMut()) -> Duration {
    let rounds = (0..9).map(|_| {
        let start = Instant::now();
        for _ in 0..20 {
            call();
        }
        start.elapsed() / 20
    });
    rounds.min().expect("a round")
}

/// Returns the time of a handshake's public-key operations: an agreement, a signature, and the verification
/// of the client's.
fn handshake() -> Duration {
    let random = SystemRandom::new();
    let own = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key");
    let peer = PrivateKey::generate(&X25519).expect("a key");
    let share = UnparsedPublicKey::new(&X25519, peer.compute_public_key().expect("a share"));
    measure(|| {
        let private = EphemeralPrivateKey::generate(&X25519, &random).expect("a key");
        black_box(private.compute_public_key().expect("a share"));
        agree_ephemeral(private, share.clone(), (), |secret| {
            black_box(secret);
            Ok(())
        })
        .expect("an agreement");
        let signature = sign(&own, b"transcript");
        let public =
            signature::UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, own.public_key().as_ref());
        public.verify(b"transcript", &signature).expect("verified");
    })
}

/// The ratios of a run.
#[derive(Default)]
struct Table {
    rows: Vec<(String, f64)>,
}

impl Table {
    fn add(&mut self, name: &str, cost: Duration, good: Duration) {
        self.rows.push((name.to_owned(), cost.as_secs_f64() / good.as_secs_f64()));
    }

    fn print(&self) {
        println!("\nhostile input: cost in good requests (goal: at most {GOAL})");
        for (name, ratio) in &self.rows {
            let note = if *ratio > GOAL { "  ABOVE THE GOAL" } else { "" };
            println!("  {ratio:5.2}  {name}{note}");
        }
    }
}

/// Bodies of requests that a good one does not need.
fn bodies() -> Vec<(&'static str, Bytes)> {
    let start = "grant_type=client_credentials&client_id=x";
    let tokens: Vec<String> = (0..2_600).map(|n| format!("s{n:04}")).collect();
    let parameters: String = (0..2_000).map(|n| format!("&p{n}=1")).collect();
    let resources = "&resource=urn:x".repeat(1_000);
    let escapes = "%41".repeat(5_000);
    let invisible = "%E2%80%8B".repeat(1_700);
    [
        ("scope of 2,600 tokens", format!("{start}&scope={}", tokens.join("+"))),
        ("2,000 parameters", format!("{start}{parameters}")),
        ("1,000 resources", format!("{start}{resources}")),
        (
            "client_id of 5,000 escaped letters",
            format!("grant_type=client_credentials&client_id={escapes}"),
        ),
        (
            "client_id of 1,700 invisible characters",
            format!("grant_type=client_credentials&client_id={invisible}"),
        ),
        ("scope of one token of 15,000 letters", format!("{start}&scope={}", "a".repeat(15_000))),
    ]
    .into_iter()
    .map(|(name, body)| (name, Bytes::from(body)))
    .collect()
}

/// Requests with a client assertion that does not authenticate anything.
fn assertions() -> Vec<(&'static str, Bytes)> {
    let leaf = device("inventory", "Root").sign(Key::number(6), Key::number(6));
    let filler = name(&[(CN, 0x0c, &"x".repeat(2_000))]);
    let filler = Spec { subject: filler, ..authority("x", "Root") };
    let filler = filler.sign(Key::number(6), Key::number(6));
    let x5c = |certificates: usize| {
        let all = std::iter::once(&leaf).chain(std::iter::repeat(&filler)).take(certificates);
        let all: Vec<_> = all.map(|der| format!("\"{}\"", STANDARD.encode(der))).collect();
        format!(r#"{{"alg":"ES256","x5c":[{}]}}"#, all.join(","))
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let claims = |client: &str, more: &str| {
        format!(
            r#"{{"iss":"{client}","sub":"{client}","aud":"https://gw.example","exp":{},"jti":"1"{more}}}"#,
            now + 300
        )
    };
    let body = |header: &str, claims: &str| {
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (header, claims) = (part(header.as_bytes()), part(claims.as_bytes()));
        Bytes::from(format!(
            "grant_type=client_credentials&client_assertion_type=urn:ietf:params:oauth:\
             client-assertion-type:jwt-bearer&client_assertion={header}.{claims}.{}",
            part(&[0x11; 64])
        ))
    };
    let plain = r#"{"alg":"ES256"}"#;
    let members: String = (0..4_000).map(|n| format!(r#","m{n}":0"#)).collect();
    let members = &members[..28_000].rsplit_once(',').expect("a member").0;
    vec![
        ("assertion of 38,000 bytes that is not JSON", body(plain, &"x".repeat(28_000))),
        (
            "assertion of an unknown client, thousands of members",
            body(plain, &claims("x", members)),
        ),
        ("assertion of an unknown client, 10 certificates", body(&x5c(10), &claims("x", ""))),
        ("assertion with a wrong signature", body(&x5c(1), &claims("inventory", ""))),
        (
            "assertion with a wrong signature, 10 certificates",
            body(&x5c(10), &claims("inventory", "")),
        ),
    ]
}

fn hostile(c: &mut Criterion) {
    let [root_key, issuer_key, leaf_key] = [0, 1, 2].map(Key::number);
    let root = authority("Root", "Root").sign(root_key, root_key);
    let good = vec![
        device("device", "Issuer").sign(leaf_key, issuer_key),
        authority("Issuer", "Root").sign(issuer_key, root_key),
    ];
    let form = Bytes::from("grant_type=client_credentials&client_id=CN%3Ddevice");
    let (forgets, remembers) =
        (Gateway::new(&root, SignatureMemo::new(0)), Gateway::new(&root, SignatureMemo::default()));
    let parsed = |chain: &[Vec<u8>]| Arc::new(UnverifiedChain::from_der(chain).expect("a chain"));
    let known = parsed(&good);
    assert_eq!(remembers.request(&known, &form), 200);
    let mut group = c.benchmark_group("hostile");
    let first = measure(|| assert_eq!(forgets.first_request(&good, &form), 200));
    let (first, handshake) = (first + handshake(), handshake());
    let again = measure(|| assert_eq!(remembers.request(&known, &form), 200));
    group.bench_function("good, first", |b| b.iter(|| forgets.first_request(&good, &form)));
    group.bench_function("good, again", |b| b.iter(|| remembers.request(&known, &form)));

    let mut table = Table::default();
    let mut chains: Vec<(String, Vec<Vec<u8>>)> = Vec::new();
    for kind in kinds() {
        chains.push((format!("{JUNK} junk authorities, {}", kind.name), kind.junk()));
        chains.extend(
            kind.tower().map(|chain| (format!("tower of own authorities, {}", kind.name), chain)),
        );
    }
    let beside: Vec<_> = kinds()[5].junk().split_off(1);
    chains.push(("good device beside junk authorities".into(), [&good[..], &beside].concat()));
    let long = name(&[(CN, 0x0c, &"\u{fb01}\u{130}".repeat(1_600))]);
    let long = Spec { subject: long, ..device("x", "Issuer") }.sign(leaf_key, issuer_key);
    chains.push(("subject of 8,000 bytes to fold".into(), vec![long, good[1].clone()]));
    for (name, chain) in &chains {
        let cost = measure(|| _ = black_box(forgets.first_request(chain, &form)));
        table.add(name, cost + handshake, first);
        group.bench_function(format!("{name}, first"), |b| {
            b.iter(|| forgets.first_request(chain, &form));
        });
        let Ok(chain) = UnverifiedChain::from_der(chain).map(Arc::new) else { continue };
        let name = format!("{name}, again");
        table.add(&name, measure(|| _ = black_box(remembers.request(&chain, &form))), again);
        group.bench_function(name, |b| b.iter(|| remembers.request(&chain, &form)));
    }
    for (name, body) in bodies().into_iter().chain(assertions()) {
        table.add(name, measure(|| _ = black_box(remembers.request(&known, &body))), again);
        group.bench_function(name, |b| b.iter(|| remembers.request(&known, &body)));
    }
    group.finish();
    table.print();
}

criterion_group!(benches, hostile);
criterion_main!(benches);
