//! What does a revocation list cost: to read, to keep, to amend, to ask?
//!
//! Sizes: a public authority's list, a large enterprise's, a fleet's; with `ANCHORGATE_BENCH_10M=1`
//! also ten million entries (a list of 400 MB).  Times are quoted as ratios to SHA-256 over the same
//! bytes, which any verifier of the list must spend, measured in the same run.

mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anchorgate::trust::revocation::{CrlMode, Question, Revocations};
use anchorgate::x509::crl::{ListReader, RevocationList};
use aws_lc_rs::digest::{SHA256, digest};
use criterion::{Bencher, Criterion, Throughput, criterion_group, criterion_main};
use support::crl_maker::{self, Ca, NOW};

/// Devices that are looked up in turn.
const DEVICES: u64 = 16_384;

fn sizes() -> Vec<u64> {
    let mut sizes = vec![1_000, 100_000, 1_000_000];
    if std::env::var_os("ANCHORGATE_BENCH_10M").is_some() {
        sizes.push(10_000_000);
    }
    sizes
}

fn read(der: &[u8], ca: &Ca) -> RevocationList {
    let mut reader = ListReader::new(1 << 30);
    // Pieces as a socket delivers them.
    for piece in der.chunks(16 * 1024) {
        reader.feed(piece).expect("a list");
    }
    reader.finish(std::slice::from_ref(&ca.certificate), NOW).expect("a list")
}

fn fastest(mut work: impl FnMut()) -> Duration {
    let once = |work: &mut dyn FnMut()| {
        let begin = Instant::now();
        work();
        begin.elapsed()
    };
    (0..5).map(|_| once(&mut work)).min().expect("five runs")
}

/// The peak of resident memory during `work` minus the value before it, in bytes.  Linux only.
fn peak_while(work: impl FnOnce()) -> Option<u64> {
    let status = |field: &str| {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
    };
    // Resets the peak.
    std::fs::write("/proc/self/clear_refs", "5").ok()?;
    let before = status("VmRSS:")?;
    work();
    status("VmHWM:")?.checked_sub(before)
}

fn lists(c: &mut Criterion) {
    let ca = Ca::root("Root");
    let delta = {
        let mut list = ca.list().number(2).delta_to(1);
        list.entries = crl_maker::many(1 << 40, 10_000);
        list.sign()
    };
    for size in sizes() {
        let mut list = ca.list().number(1);
        list.entries = crl_maker::many(0, size);
        let der = list.sign();
        drop(list);

        let mut group = c.benchmark_group(format!("crl/{size}"));
        group.sample_size(10);
        group.throughput(Throughput::Bytes(der.len() as u64));
        group.bench_function("sha256", |b| b.iter(|| digest(&SHA256, black_box(&der))));
        group.bench_function("read", |b| b.iter(|| read(black_box(&der), &ca)));
        group.throughput(Throughput::Elements(1));

        let base = Arc::new(read(&der, &ca));
        let issuer = &base.issuer;
        let mut at = 0;
        let mut next = |step: u64| {
            at = (at + step) % size;
            at
        };
        group.bench_function("listed/hit", |b| {
            b.iter(|| base.listed(issuer, &crl_maker::serial(next(7_919))));
        });
        group.bench_function("listed/miss", |b| {
            b.iter(|| base.listed(issuer, &crl_maker::serial(size + next(7_919))));
        });
        group.bench_function("amend/10k", |b| {
            b.iter(|| Revocations::new([Arc::clone(&base), Arc::new(read(&delta, &ca))]));
        });
        let revocations = Revocations::new([Arc::clone(&base), Arc::new(read(&delta, &ca))]);
        let device = ca.issue("device", &crl_maker::serial(size + 1), &[]);
        let question = Question {
            domain: "",
            certificate: &device,
            issuer,
            issuer_key: ca.certificate.key,
            mode: CrlMode::Require,
            now: NOW,
            signer_is_trusted: &|_| false,
        };
        group.bench_function("check", |b| b.iter(|| revocations.check(black_box(&question))));
        group.bench_function("path of four", path_of_four(&ca, &base, size));
        group.finish();

        let hashing = fastest(|| {
            black_box(digest(&SHA256, &der));
        });
        let reading = fastest(|| drop(black_box(read(&der, &ca))));
        if let Some(extra) = peak_while(|| drop(black_box(read(&der, &ca)))) {
            println!(
                "crl/{size}: at most {:.2} x the new set in memory while it is read",
                extra as f64 / base.resident_bytes() as f64
            );
        }
        println!(
            "crl/{size}: {:.1} bytes an entry; read in {:.2} x SHA-256 ({reading:?} / {hashing:?})",
            base.resident_bytes() as f64 / base.entries() as f64,
            reading.as_secs_f64() / hashing.as_secs_f64(),
        );
    }
}

/// Checks a path of leaf, two intermediates and root: three look-ups.  The leaf's issuer has the large
/// list, and each check uses another device.  The lists of the root and of the other intermediate have
/// 1,000 entries.
fn path_of_four(
    issuing: &Ca,
    base: &Arc<RevocationList>,
    size: u64,
) -> impl FnMut(&mut Bencher<'_>) {
    let (root, middle) = (Ca::root("Anchor"), Ca::root("Middle"));
    let small = |ca: &Ca| {
        let mut list = ca.list().number(1);
        list.entries = crl_maker::many(0, 1_000);
        Arc::new(read(&list.sign(), ca))
    };
    let revocations = Revocations::new([small(&root), small(&middle), Arc::clone(base)]);
    let stride = (size / DEVICES).max(1) + 7_919;
    let devices: Vec<_> = (0..DEVICES)
        .map(|n| issuing.issue("device", &crl_maker::serial(size + n * stride), &[]))
        .collect();
    let above = [middle.issue("Issuing", &[9], &[]), root.issue("Middle", &[9], &[])];
    let issuers = [issuing, &middle, &root].map(|ca| Arc::clone(&ca.certificate));
    let mut at = 0;
    move |b| {
        b.iter(|| {
            at = (at + 1) % devices.len();
            let path = [&devices[at], &above[0], &above[1]];
            let is_good = path.into_iter().zip(&issuers).all(|(certificate, issuer)| {
                let question = Question {
                    domain: "",
                    certificate,
                    issuer: &issuer.subject,
                    issuer_key: issuer.key,
                    mode: CrlMode::Require,
                    now: NOW,
                    signer_is_trusted: &|_| false,
                };
                revocations.check(black_box(&question)).is_ok()
            });
            assert!(is_good);
        });
    }
}

criterion_group!(benches, lists);
criterion_main!(benches);
