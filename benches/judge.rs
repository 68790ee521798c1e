//! What does a decision cost, compared with rustls-webpki alone on the same path?

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use anchorgate::trust::configurations::{
    Authority, Configuration, Configurations, Device, Devices,
};
use anchorgate::trust::devices::{
    Change, DeviceKey, DeviceRegistry, KnownTo, NewState, ObjectKey, Registries, Registry,
};
use anchorgate::trust::judge::devices::{UnverifiedChain, judge};
use anchorgate::trust::path::signature::SignatureMemo;
use anchorgate::trust::path::webpki::check_with_webpki;
use anchorgate::trust::revocation::Revocations;
use anchorgate::trust::snapshot::{Snapshot, TrustPolicy};
use anchorgate::trust::subject::SubjectField;
use anchorgate::x509::certificate::Certificate;
use anchorgate::x509::time::Timestamp;
use criterion::{Criterion, criterion_group, criterion_main};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

mod support;
use support::test_certificates::{Key, NOW, Spec, cn};

/// Configurations in a snapshot: a tenant's limit in Graph, and a hundred tenants.
const CONFIGURATIONS: [usize; 2] = [1, 10_000];

/// Devices in a registry: one, and a fleet.
const REGISTERED: [(&str, usize); 2] = [("1", 1), ("1,000,000", 1_000_000)];

struct World {
    root: Vec<u8>,
    chain: Vec<Vec<u8>>,
}

/// Leaf, intermediate and root, as a device PKI has them.
fn world() -> World {
    let [root, intermediate, leaf] = [0, 1, 2].map(Key::number);
    World {
        root: Spec::authority(cn("Root"), cn("Root")).key_ids(root, root).sign(root, root),
        chain: vec![
            Spec::device(cn("device-1"), cn("Intermediate"))
                .key_ids(leaf, intermediate)
                .sign(leaf, intermediate),
            Spec::authority(cn("Intermediate"), cn("Root"))
                .key_ids(intermediate, root)
                .sign(intermediate, root),
        ],
    }
}

fn snapshot(root: &[u8], configurations: usize, signatures: SignatureMemo) -> Snapshot {
    let authority = |certificate: Vec<u8>| Authority {
        certificate: Arc::new(Certificate::from_der(&certificate).expect("a certificate")),
        is_root: true,
        crl_url: None,
        delta_crl_url: None,
    };
    let other = |n: usize| {
        let (name, key) = (cn(&format!("Root {n}")), Key::number(3));
        Spec::authority(name.clone(), name).sign(key, key)
    };
    let configuration = |n: usize| Configuration {
        id: format!("configuration-{n}").as_str().into(),
        domain: Arc::default(),
        display_name: String::new(),
        kind: Device { subject_field: SubjectField::SubjectDn, devices: Devices::Any },
        authorities: vec![authority(if n == 0 { root.to_vec() } else { other(n) })],
    };
    let anchors: Configurations<Device> = (0..configurations).map(configuration).collect();
    Snapshot::new(
        1,
        Arc::new(anchors),
        Arc::new(Revocations::default()),
        Arc::new(TrustPolicy::default()),
        Arc::new(signatures),
    )
}

/// A registry of `devices` devices that contains `one`.
fn registry(devices: usize, one: &str) -> DeviceRegistry {
    let change = |n: usize| Change {
        object: ObjectKey::of(&format!("object-{n}")),
        state: NewState::Is {
            device: Some(Some(DeviceKey::of(&if n == 0 {
                one.to_owned()
            } else {
                format!("device-{n}.example")
            }))),
            enabled: Some(true),
            known_to: Some(KnownTo::Only("configuration-0".into())),
        },
    };
    let changes: Vec<_> = (0..devices).map(change).collect();
    DeviceRegistry::default().changed(&changes, devices).expect("within the limit").0
}

/// The snapshot with configurations that admit only devices of the registry.
fn registered(snapshot: &Snapshot, registry: DeviceRegistry) -> Snapshot {
    let mut anchors = Configurations::clone(&snapshot.device_configurations);
    for configuration in &mut anchors.configurations {
        Arc::make_mut(configuration).kind.devices = Devices::Registered("hub".into());
    }
    let mut registries = Registries::default();
    registries.set("hub".into(), Registry::InForce(registry));
    let revocations = Arc::clone(&snapshot.revocations);
    snapshot.next(Some(anchors), revocations).with_devices(Arc::new(registries))
}

fn decisions(c: &mut Criterion) {
    let World { root, chain } = world();
    let mut group = c.benchmark_group("judge");
    let now = Timestamp(NOW);

    let der: Vec<CertificateDer<'_>> = chain.iter().map(|c| CertificateDer::from(&c[..])).collect();
    let root_der = CertificateDer::from(&root[..]);
    let anchors = [webpki::anchor_from_trusted_cert(&root_der).expect("an anchor")];
    let time = UnixTime::since_unix_epoch(Duration::from_secs(NOW as u64));
    group.bench_function("webpki alone", |b| {
        b.iter(|| {
            let leaf = EndEntityCert::try_from(&der[0]).expect("a leaf");
            let path = leaf.verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &anchors,
                &der[1..],
                time,
                KeyUsage::client_auth(),
                None,
                None,
            );
            black_box(path.expect("a path").anchor().subject.len());
        });
    });

    for count in CONFIGURATIONS {
        let cold = snapshot(&root, count, SignatureMemo::new(0));
        group.bench_function(
            format!("parse and judge, nothing remembered, {count} configurations"),
            |b| {
                b.iter(|| {
                    let chain = UnverifiedChain::from_der(&chain).expect("a chain");
                    black_box(judge(&chain, &cold, now).expect("accepted"));
                });
            },
        );
        let warm = snapshot(&root, count, SignatureMemo::default());
        let parsed = UnverifiedChain::from_der(&chain).expect("a chain");
        group.bench_function(format!("judge again, {count} configurations"), |b| {
            b.iter(|| black_box(judge(&parsed, &warm, now).expect("accepted")));
        });
    }

    for (name, devices) in REGISTERED {
        let registry = registry(devices, "CN=device-1");
        let warm = registered(&snapshot(&root, 1, SignatureMemo::default()), registry);
        let parsed = UnverifiedChain::from_der(&chain).expect("a chain");
        group.bench_function(format!("judge again, registered devices: {name}"), |b| {
            b.iter(|| black_box(judge(&parsed, &warm, now).expect("accepted")));
        });
    }

    group.bench_function("parse", |b| {
        b.iter(|| black_box(UnverifiedChain::from_der(&chain).expect("a chain")));
    });
    let warm = snapshot(&root, 1, SignatureMemo::default());
    let parsed = UnverifiedChain::from_der(&chain).expect("a chain");
    let verified = judge(&parsed, &warm, now).expect("accepted");
    group.bench_function("second opinion", |b| {
        b.iter(|| check_with_webpki(black_box(verified[0].path()), now).expect("agreement"));
    });
    group.finish();
}

criterion_group!(benches, decisions);
criterion_main!(benches);
