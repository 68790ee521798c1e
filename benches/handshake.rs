//! What does a handshake cost the server beyond the required cryptography?
//!
//! Measured in memory without sockets or runtime; only the server's time counts.  `floor/*` are the bare
//! operations in the same run, so that figures can be given as ratios: a full handshake against three
//! verifications (leaf, issuer, CertificateVerify), one signature and one key agreement.

mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anchorgate::runtime::live::{Active, Live, Writer};
use anchorgate::tls;
use anchorgate::trust::snapshot::Snapshot;
use aws_lc_rs::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, ParsedPublicKey,
};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConnection,
    SupportedProtocolVersion,
};

use support::{Chain, World};

/// Entries of the list: none, as many as public CAs publish, and as many as a fleet of a million devices
/// may reach.
const REVOKED: [u64; 3] = [0, 1_000, 100_000];

/// A client with the device of `world`.
fn client(world: &World, resume: bool) -> Arc<ClientConfig> {
    let key = PrivateKeyDer::from_pem_slice(world.device.key_pem.as_bytes()).expect("a key");
    client_with(world, support::chain(&world.device), key, &[&TLS13], resume)
}

fn client_with(
    world: &World,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
    resume: bool,
) -> Arc<ClientConfig> {
    let provider = CryptoProvider {
        kx_groups: vec![provider::kx_group::X25519],
        ..CryptoProvider::clone(&tls::provider())
    };
    let mut roots = RootCertStore::empty();
    roots.add(world.server_root.certificate.der().to_vec().into()).expect("a root");
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .expect("an identity");
    config.resumption =
        if resume { Resumption::in_memory_sessions(4) } else { Resumption::disabled() };
    Arc::new(config)
}

/// Makes one handshake and returns the server's time.
fn handshake(live: &Live, client: &Arc<ClientConfig>) -> (Duration, HandshakeKind) {
    let name = ServerName::try_from("localhost").expect("a name");
    let mut client = ClientConnection::new(Arc::clone(client), name).expect("a client");
    let start = Instant::now();
    let config = Arc::clone(&live.current().tls.token);
    let mut server = ServerConnection::new(config).expect("a server");
    let mut took = start.elapsed();
    let mut wire = Vec::new();
    while client.is_handshaking() || server.is_handshaking() || client.wants_write() {
        wire.clear();
        while client.wants_write() {
            client.write_tls(&mut wire).expect("written");
        }
        let start = Instant::now();
        let mut bytes = &wire[..];
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).expect("read");
            server.process_new_packets().expect("a good handshake");
        }
        let mut back = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut back).expect("written");
        }
        took += start.elapsed();
        let mut bytes = &back[..];
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).expect("read");
            client.process_new_packets().expect("a good handshake");
        }
    }
    (took, server.handshake_kind().expect("done"))
}

fn handshakes(c: &mut Criterion) {
    let world = World::new();
    let mut group = c.benchmark_group("handshake");
    for revoked in REVOKED {
        let client = client(&world, false);
        let (live, _writer) = world.live(world.snapshot(revoked), &tls::Config::default());
        // The device is known: the signatures of its path are remembered.
        group.bench_function(BenchmarkId::new("full, known device, CRL entries", revoked), |b| {
            b.iter_custom(|n| (0..n).map(|_| handshake(&live, &client).0).sum());
        });
        let (mut live, mut writer) = world.live(world.snapshot(revoked), &tls::Config::default());
        group.bench_function(BenchmarkId::new("full, new device, CRL entries", revoked), |b| {
            b.iter_custom(|n| {
                (0..n).map(|_| first_handshake(&mut live, &mut writer, &client)).sum()
            });
        });
    }
    let resuming = client(&world, true);
    let (live, _writer) = world.live(world.snapshot(1_000), &tls::Config::default());
    handshake(&live, &resuming);
    group.bench_function("resumed", |b| {
        b.iter_custom(|n| (0..n).map(|_| resumed_handshake(&live, &resuming)).sum());
    });
    group.finish();
}

/// A handshake of a device that is new: no signature of its chain is remembered.
fn first_handshake(live: &mut Live, writer: &mut Writer, client: &Arc<ClientConfig>) -> Duration {
    let mut active = Active::clone(&live.current());
    let mut trust = Snapshot::clone(&active.trust);
    trust.signatures = Arc::default();
    active.trust = Arc::new(trust);
    writer.publish(active);
    handshake(live, client).0
}

fn resumed_handshake(live: &Live, client: &Arc<ClientConfig>) -> Duration {
    let (took, kind) = handshake(live, client);
    assert_eq!(kind, HandshakeKind::Resumed);
    took
}

/// Chains with other algorithms, and TLS 1.2.  The server's certificate stays the same.
fn chains(c: &mut Criterion) {
    let world = World::new();
    let cases: [(_, _, &'static SupportedProtocolVersion); 5] = [
        ("P-256, TLS 1.2", &rcgen::PKCS_ECDSA_P256_SHA256, &TLS12),
        ("P-384", &rcgen::PKCS_ECDSA_P384_SHA384, &TLS13),
        ("RSA-2048", &rcgen::PKCS_RSA_SHA256, &TLS13),
        ("ML-DSA-44", &rcgen::PKCS_ML_DSA_44, &TLS13),
        ("ML-DSA-65", &rcgen::PKCS_ML_DSA_65, &TLS13),
    ];
    let mut group = c.benchmark_group("chain");
    for (name, algorithm, version) in cases {
        let chain = Chain::new(algorithm, world.now);
        let client = |resume| {
            let (certificates, key) = (chain.certificates.clone(), chain.key.clone_key());
            client_with(&world, certificates, key, &[version], resume)
        };
        let (mut live, mut writer) = world.live(chain.snapshot(), &tls::Config::default());
        let full = client(false);
        group.bench_function(BenchmarkId::new("full, new device", name), |b| {
            b.iter_custom(|n| (0..n).map(|_| first_handshake(&mut live, &mut writer, &full)).sum());
        });
        group.bench_function(BenchmarkId::new("full, known device", name), |b| {
            b.iter_custom(|n| (0..n).map(|_| handshake(&live, &full).0).sum());
        });
        let resuming = client(true);
        handshake(&live, &resuming);
        group.bench_function(BenchmarkId::new("resumed", name), |b| {
            b.iter_custom(|n| (0..n).map(|_| resumed_handshake(&live, &resuming)).sum());
        });
    }
    group.finish();
}

/// The operations alone.
fn floor(c: &mut Criterion) {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key");
    let message = [7u8; 512];
    let signature = key.sign(&random, &message).expect("signed");
    let mut group = c.benchmark_group("floor");
    group.bench_function("P-256 verify", |b| {
        b.iter(|| {
            ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key().as_ref())
                .expect("a key")
                .verify_sig(black_box(&message), signature.as_ref())
                .expect("good");
        });
    });
    group.bench_function("P-256 sign", |b| {
        b.iter(|| key.sign(&random, black_box(&message)).expect("signed"));
    });
    let peer = EphemeralPrivateKey::generate(&X25519, &random).expect("a key");
    let peer = UnparsedPublicKey::new(&X25519, peer.compute_public_key().expect("a key"));
    group.bench_function("X25519 generate and agree", |b| {
        b.iter(|| {
            let own = EphemeralPrivateKey::generate(&X25519, &random).expect("a key");
            black_box(own.compute_public_key().expect("a key"));
            agree_ephemeral(own, black_box(&peer), (), |secret| Ok(secret.len())).expect("agreed")
        });
    });
    group.finish();
}

criterion_group!(benches, handshakes, chains, floor);
criterion_main!(benches);
