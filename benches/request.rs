//! What does a token cost over real sockets: on an open connection, after a resumed and after a full
//! handshake?
//!
//! Client and server share the process and the machine's cores, so the figures include both sides.  The
//! benches `handshake` and `mint` measure the server alone.

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anchorgate::cli::quickstart::client::Device;
use anchorgate::http::listen::bind;
use anchorgate::http::peer::Peer;
use anchorgate::http::serve::RequestBody;
use anchorgate::oauth::{self, TokenEndpoint};
use anchorgate::runtime::live::Active;
use anchorgate::tls::acceptor::{Bounds, TlsListener, serve};
use anchorgate::tls::{self, metrics::Metrics};
use anchorgate::token::policy::TokenPolicy;
use anchorgate::token::terms::{Resource, Terms};
use criterion::{Criterion, criterion_group, criterion_main};
use hyper::Request;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use support::World;

/// Starts only the token listener and returns its address.
fn start(runtime: &Runtime, world: &World) -> SocketAddr {
    let (live, mut writer) = world.live(world.snapshot(1_000), &tls::Config::default());
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
    let policy = TokenPolicy::new("https://gw.example", Some(terms)).expect("a policy");
    // The cell keeps the last published value without its writer.
    writer.publish(Active { policy: Arc::new(policy), ..Active::clone(&live.current()) });
    drop(writer);
    let origin: url::Url = "https://gw.example".parse().expect("a URL");
    let config = oauth::Config::new(origin.clone(), origin);
    let endpoint = TokenEndpoint::new(
        live.clone(),
        &config,
        oauth::Metrics::register(&mut prometheus_client::registry::Registry::default()),
    );
    let endpoint = Arc::new(endpoint);
    let _context = runtime.enter();
    let listener = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a port");
    let address = listener.local_addr().expect("bound");
    let edge = TlsListener {
        name: "token",
        tls: |tls| &tls.token,
        bounds: tokio::sync::watch::channel(Bounds::default()).1,
        live,
        metrics: Metrics::default(),
        keeps_chains: true,
        memory: Default::default(),
        open: None,
    };
    runtime.spawn(serve(
        edge,
        listener,
        CancellationToken::new(),
        move |peer: Arc<Peer>, request: Request<RequestBody>| {
            let endpoint = Arc::clone(&endpoint);
            async move { endpoint.handle(request, &peer).await }
        },
    ));
    address
}

fn requests(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let world = World::new();
    let address = start(&runtime, &world);
    let device = || {
        let ca = world.server_root.certificate_pem();
        Device::new(&ca, &world.device.chain_pem, &world.device.key_pem).expect("a device")
    };
    let mut group = c.benchmark_group("request");
    let known = device();
    let mut open = runtime.block_on(known.connect(address)).expect("connected");
    group.bench_function("token on an open connection", |b| {
        b.iter(|| {
            let answer = runtime.block_on(open.token("device-1")).expect("an answer");
            assert_eq!(answer.status, 200);
        });
    });
    group.bench_function("token after a resumed handshake", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let mut connection = known.connect(address).await.expect("connected");
                assert!(connection.resumed);
                assert_eq!(connection.token("device-1").await.expect("an answer").status, 200);
            });
        });
    });
    group.bench_function("token after a full handshake", |b| {
        b.iter_batched(
            &device,
            |device| {
                runtime.block_on(async {
                    let mut connection = device.connect(address).await.expect("connected");
                    assert!(!connection.resumed);
                    assert_eq!(connection.token("device-1").await.expect("an answer").status, 200);
                });
            },
            criterion::BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, requests);
criterion_main!(benches);
