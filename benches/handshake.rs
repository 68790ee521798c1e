//! What does a handshake cost the server beyond the required cryptography?
//!
//! Measured in memory without sockets or runtime; only the server's time counts.  `floor/*` are the bare
//! operations in the same run, so that figures can be given as ratios: a full handshake against three
//! verifications (leaf, issuer, CertificateVerify), one signature and one key agreement.

mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anchorgate::runtime::live::Live;
use anchorgate::tls;
use aws_lc_rs::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, ParsedPublicKey,
};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConnection};

use support::World;

/// Entries of the list: none, as many as public CAs publish, and as many as a fleet of a million devices
/// may reach.
const REVOKED: [u64; 3] = [0, 1_000, 100_000];

fn client(world: &World, resume: bool) -> Arc<ClientConfig> {
    let provider = CryptoProvider {
        kx_groups: vec![provider::kx_group::X25519],
        ..provider::default_provider()
    };
    let mut roots = RootCertStore::empty();
    roots.add(world.server_root.certificate.der().to_vec().into()).expect("a root");
    let key = PrivateKeyDer::from_pem_slice(world.device.key_pem.as_bytes()).expect("a key");
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_client_auth_cert(support::chain(&world.device), key)
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
        let (live, mut writer) = world.live(world.snapshot(revoked), &tls::Config::default());
        let mut active = anchorgate::runtime::live::Active::clone(&live.current());
        group.bench_function(BenchmarkId::new("full, new device, CRL entries", revoked), |b| {
            b.iter_custom(|n| {
                (0..n)
                    .map(|_| {
                        // No signature is remembered: the device and its issuer are new.
                        let mut trust = anchorgate::trust::snapshot::Snapshot::clone(&active.trust);
                        trust.signatures = Arc::default();
                        active.trust = Arc::new(trust);
                        writer.publish(active.clone());
                        handshake(&live, &client).0
                    })
                    .sum()
            });
        });
    }
    let resuming = client(&world, true);
    let (live, _writer) = world.live(world.snapshot(1_000), &tls::Config::default());
    handshake(&live, &resuming);
    group.bench_function("resumed", |b| {
        b.iter_custom(|n| {
            (0..n)
                .map(|_| {
                    let (took, kind) = handshake(&live, &resuming);
                    assert_eq!(kind, HandshakeKind::Resumed);
                    took
                })
                .sum()
        });
    });
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

criterion_group!(benches, handshakes, floor);
criterion_main!(benches);
