//! What does a token cost beyond its signature?
//!
//! For each algorithm: the bare signature over as many bytes as in a token, and the whole token from claims
//! to text.  The difference is serialization and base64url.

use std::hint::black_box;

use anchorgate::token::claims::{Claims, Confirmation};
use anchorgate::token::{Algorithm, SigningKey};
use anchorgate::x509::certificate::Fingerprint;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256,
    RSA_PSS_SHA256, RsaKeyPair,
};
use criterion::{Criterion, criterion_group, criterion_main};

fn claims() -> Claims {
    Claims {
        iss: "https://login.fleet.example".to_owned(),
        sub: "5b0c1f2e-7a64-4a0e-9a52-0d3c7e1f9b11/meter-0042.fleet.example".to_owned(),
        aud: "https://telemetry.fleet.example".to_owned(),
        client_id: "meter-0042.fleet.example".to_owned(),
        iat: 1_800_000_000,
        exp: 1_800_000_300,
        jti: "AQEBAQEBAQEBAQEBAQEBAQ".to_owned(),
        scope: Some("telemetry:write config:read".to_owned()),
        cnf: Some(Confirmation::certificate(Fingerprint::of(b"a certificate"))),
    }
}

/// Signs some bytes without building a token.
type Sign = Box<dyn Fn(&[u8])>;

/// A new key of the algorithm as PKCS#8, and its bare signing function.
fn key(algorithm: Algorithm) -> (Vec<u8>, Sign) {
    let random = SystemRandom::new();
    match algorithm {
        Algorithm::Es256 => {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
            let der = pair.to_pkcs8v1().expect("DER").as_ref().to_vec();
            let sign = move |m: &[u8]| {
                black_box(pair.sign(&random, m).expect("a signature"));
            };
            (der, Box::new(sign))
        }
        Algorithm::EdDsa => {
            let pair = Ed25519KeyPair::generate().expect("a key");
            let der = pair.to_pkcs8().expect("DER").as_ref().to_vec();
            let sign = move |m: &[u8]| {
                black_box(pair.sign(m));
            };
            (der, Box::new(sign))
        }
        Algorithm::Ps256 | Algorithm::Rs256 => {
            let pair = rsa::KeyPair::generate(KeySize::Rsa2048).expect("a key");
            let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).expect("DER").as_ref().to_vec();
            let pair = RsaKeyPair::from_pkcs8(&der).expect("a key");
            let padding = match algorithm {
                Algorithm::Ps256 => &RSA_PSS_SHA256,
                _ => &RSA_PKCS1_SHA256,
            };
            let sign = move |m: &[u8]| {
                let mut out = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, m, &mut out).expect("a signature");
                black_box(out);
            };
            (der, Box::new(sign))
        }
    }
}

fn mint(c: &mut Criterion) {
    let claims = claims();
    for algorithm in Algorithm::ALL {
        let (der, bare) = key(algorithm);
        let key = SigningKey::from_pkcs8(algorithm, &der).expect("a key");
        let token = key.sign(&claims, &SystemRandom::new()).expect("a token");
        let signed = token.expose().rfind('.').expect("three parts");
        let message = vec![b'x'; signed];
        let mut group = c.benchmark_group(format!("mint/{}", algorithm.as_str()));
        group.bench_function("signature", |b| b.iter(|| bare(black_box(&message))));
        group.bench_function("token", |b| {
            b.iter(|| key.sign(black_box(&claims), &SystemRandom::new()));
        });
        group.finish();
    }
}

criterion_group!(benches, mint);
criterion_main!(benches);
