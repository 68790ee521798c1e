//! What does a fleet of devices cost the directory: to register, to keep, to follow, to change?
//!
//! Measured over HTTP on loopback, with the requests of an import, a gateway and an administrator.
//! `ANCHORGATE_BENCH_DEVICES` sets the number of devices: 20,000 by default; the published figures are for
//! 1,000,000.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anchorgate::store::Store;
use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::json;
use support::directory::{ADMIN, D, Server, T, answer, template};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// Concurrent requests, as many as `device import` makes by default.
const PARALLEL: u64 = 32;

fn devices() -> u64 {
    let asked = std::env::var("ANCHORGATE_BENCH_DEVICES").ok().and_then(|n| n.parse().ok());
    match asked {
        Some(devices) => devices,
        None if std::env::args().any(|argument| argument == "--test") => 500,
        None => 20_000,
    }
}

async fn register(server: &Arc<Server>, template: &str, devices: u64) {
    let next = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..PARALLEL {
        let (server, next) = (Arc::clone(server), Arc::clone(&next));
        let path = format!("{T}/{template}/createDeviceFromTemplate");
        workers.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= devices {
                    return;
                }
                let body = json!({"externalDeviceId": format!("urn:example:device:{n:012}")});
                let (status, made) = server.post(&path, &body).await;
                assert_eq!(status, 200, "{made}");
            }
        });
    }
    workers.join_all().await;
}

/// Runs one round of the delta query; returns the link for the next and the number of devices received.
async fn follow(server: &Server, mut link: String) -> (String, u64) {
    let mut received = 0;
    loop {
        let (status, page) = answer(server.client.get(&link).bearer_auth(ADMIN)).await;
        assert_eq!(status, 200, "{page}");
        received += page["value"].as_array().expect("a list").len() as u64;
        match (page["@odata.nextLink"].as_str(), page["@odata.deltaLink"].as_str()) {
            (Some(next), _) => link = next.to_owned(),
            (None, delta) => return (delta.expect("a link").to_owned(), received),
        }
    }
}

fn bench(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("directory.redb");
    let devices = devices();
    let (server, of) = runtime.block_on(async {
        let store = Store::open(&path).await.expect("a store");
        let server = Arc::new(Server::on(store).await);
        let fleet = server.configuration("fleet", json!([])).await;
        let of = template(&server, Some(&fleet)).await;
        (server, of)
    });
    let begin = Instant::now();
    runtime.block_on(register(&server, &of, devices));
    let spent = begin.elapsed();
    let bytes = std::fs::metadata(&path).expect("the file").len();
    println!(
        "{devices} devices registered in {spent:.1?}, {:.0} a second; the file has {} bytes a device",
        devices as f64 / spent.as_secs_f64(),
        bytes / devices
    );
    let begin = Instant::now();
    let first = format!("{}{D}/delta?$select=accountEnabled,physicalIds", server.url);
    let (link, received) = runtime.block_on(follow(&server, first));
    assert_eq!(received, devices);
    println!("all of them followed in {:.1?}", begin.elapsed());

    let one = format!("{D}?$filter=displayName eq 'urn:example:device:{:012}'", devices / 2);
    let (_, found) = runtime.block_on(server.get(&one));
    let id = found["value"][0]["id"].as_str().expect("an id").to_owned();
    let mut group = c.benchmark_group("fleet");
    group.sample_size(20);
    group.bench_function("a page of 100", |b| {
        b.to_async(&runtime).iter(|| async { server.get(D).await.1["value"][0]["id"].clone() });
    });
    group.bench_function("found by name", |b| {
        b.to_async(&runtime).iter(|| async { server.get(&one).await.1["value"][0]["id"].clone() });
    });
    group.bench_function("disabled", |b| {
        let body = json!({"accountEnabled": false});
        let path = format!("{D}/{id}");
        b.to_async(&runtime).iter(|| async { server.patch(&path, &body).await });
    });
    let (link, received) = runtime.block_on(follow(&server, link));
    assert!(received <= 1, "one device was changed");
    group.bench_function("nothing new", |b| {
        b.to_async(&runtime).iter(|| answer(server.client.get(&link).bearer_auth(ADMIN)));
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
