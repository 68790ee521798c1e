//! What does the subject ID of a certificate cost, field by field?
//!
//! The subject ID is read for each request.  For comparison, the SHA-256 of the certificate is computed
//! once for each connection.

use std::hint::black_box;

use anchorgate::trust::subject::{SubjectField, SubjectId};
use anchorgate::x509::certificate::{Certificate, Fingerprint};
use criterion::{Criterion, criterion_group, criterion_main};
use rcgen::{CertificateParams, DnType, KeyPair, SanType};

/// A leaf with one value of each kind, of the lengths that device certificates have.
fn leaf() -> Certificate {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CountryName, "DE");
    params.distinguished_name.push(DnType::OrganizationName, "Fleet Example, Inc.");
    params.distinguished_name.push(DnType::OrganizationalUnitName, "Meters");
    params.distinguished_name.push(DnType::CommonName, "meter-0042");
    params.subject_alt_names = vec![
        SanType::DnsName("meter-0042.berlin.fleet.example".try_into().expect("IA5")),
        SanType::URI("spiffe://fleet.example/berlin/meter/0042".try_into().expect("IA5")),
        SanType::IpAddress(std::net::Ipv6Addr::LOCALHOST.into()),
        SanType::Rfc822Name("meter-0042@fleet.example".try_into().expect("IA5")),
    ];
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    Certificate::from_der(certificate.der()).expect("readable")
}

fn subject(c: &mut Criterion) {
    let leaf = leaf();
    let mut group = c.benchmark_group("subject");
    group.bench_function("sha256", |b| b.iter(|| Fingerprint::of(black_box(leaf.der()))));
    for field in SubjectField::ALL {
        group.bench_function(field.as_str(), |b| {
            b.iter(|| SubjectId::of(black_box(&leaf), field).expect("a subject"));
        });
    }
    group.finish();
}

criterion_group!(benches, subject);
criterion_main!(benches);
