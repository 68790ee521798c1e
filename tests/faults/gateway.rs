//! The parts of a gateway that decide who is let in, put together as the process does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anchorgate::crl::{self, Source};
use anchorgate::graph::auth::Credential;
use anchorgate::runtime::clock::Clock;
use anchorgate::runtime::live::{Active, ListenerTls, Live};
use anchorgate::runtime::log::Secret;
use anchorgate::runtime::publisher::{ConfigurationsInForce, Publisher};
use anchorgate::sync::{Config, Handle, Metrics, RegisteredOnly, TooOld, follow};
use anchorgate::token::keys::{Algorithm, SigningKey, SigningKeys};
use anchorgate::trust::assembly::Assembly;
use anchorgate::trust::judge::devices::judge;
use anchorgate::trust::revocation::ListPolicy;
use anchorgate::trust::snapshot::Snapshot;
use anchorgate::x509::time::Timestamp;
use prometheus_client::registry::Registry;
use reqwest::Url;
use rustls::server::ResolvesServerCertUsingSni;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::directory::{GUARD_WINDOW, MAX_AGE, MAX_REMOVAL};
use crate::network::{Shared, lock, network};
use crate::pki::Device;

/// Interval between polls of a directory.
pub const EVERY: Duration = Duration::from_secs(120);

/// A running gateway.
pub struct Gateway {
    live: Live,
    /// Followers, by trust domain.
    pub followers: Vec<Handle>,
    pub lists: crl::Handle,
    tasks: Vec<JoinHandle<()>>,
    /// Keeps the channel of changes of keys open.
    _own: mpsc::Sender<anchorgate::runtime::publisher::GatewayChange>,
}

/// Files of a trust domain below `folder`: configurations and devices.
pub fn state_files(folder: &Path, domain: &str) -> [PathBuf; 2] {
    ["trust", "devices"].map(|kind| folder.join(format!("{kind}-{domain}.state")))
}

/// Directory of the copies of lists.
pub fn lists_folder(folder: &Path) -> PathBuf {
    folder.join("crl")
}

impl Gateway {
    /// Starts a gateway whose state is in `folder`.
    pub fn start(world: &Shared, folder: &Path) -> Self {
        let (updates, inbox) = mpsc::channel(64);
        let (own, own_inbox) = mpsc::channel(1);
        let (in_force, watched) = watch::channel(ConfigurationsInForce::default());
        let (live, writer) = Live::start(|_| Ok::<_, ()>(empty())).expect("a cell");
        let assembly =
            Assembly::new(ListPolicy::default()).with_domain_order(vec!["a".into(), "b".into()]);
        let publisher = Publisher {
            assembly,
            writer,
            updates: inbox,
            own: own_inbox,
            in_force,
            lists: None,
            times: Default::default(),
        };
        let reading = Arc::clone(world);
        let clock: Clock = Arc::new(move || lock(&reading).wall());
        let mut tasks = vec![tokio::spawn(publisher.run())];
        let metrics = Metrics::register(&mut Registry::default());
        let mut followers = Vec::new();
        for name in ["a", "b"] {
            let config = config(world, folder, name);
            let (handle, follower) =
                follow(config, metrics.clone(), updates.clone(), Arc::clone(&clock))
                    .expect("a usable configuration");
            followers.push(handle);
            tasks.push(tokio::spawn(follower.run()));
        }
        let mut config =
            crl::Config { directory: Some(lists_folder(folder)), ..Default::default() };
        config.transport.network = network(world);
        let (source, lists) = Source::new(config, watched, updates, crl::Metrics::default(), clock)
            .expect("a source");
        tasks.push(tokio::spawn(source.run(CancellationToken::new())));
        Self { live, followers, lists, tasks, _own: own }
    }

    /// True if the device is let in.
    pub fn admits(&self, device: &Device, now: Timestamp) -> Result<(), String> {
        let verdict = judge(&device.chain, &self.live.current().trust, now);
        verdict.map(drop).map_err(|refusal| refusal.to_string())
    }

    /// True if a part has ended.
    pub fn has_failed(&self) -> bool {
        self.tasks.iter().any(JoinHandle::is_finished)
    }

    /// Ends the gateway as a crash does: nothing is saved.
    pub async fn crash(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        for task in self.tasks.drain(..) {
            // An error means that the task was aborted.
            let _ = task.await;
        }
    }
}

fn config(world: &Shared, folder: &Path, name: &str) -> Config {
    let url = Url::parse(&format!("https://{name}.example")).expect("a URL");
    let [state, devices] = state_files(folder, name);
    Config {
        prefix_ids: true,
        every: EVERY,
        max_removal: MAX_REMOVAL,
        guard_window: GUARD_WINDOW,
        max_age: MAX_AGE,
        too_old: TooOld::Refuse,
        state_file: Some(state),
        devices_file: Some(devices),
        // One of the two domains admits registered devices only.
        devices: RegisteredOnly { registered: name == "a", ..RegisteredOnly::default() },
        network: network(world),
        ..Config::new(name, url, Credential::Static(Secret::new("t")))
    }
}

/// The state before the first update.
fn empty() -> Active {
    let key = rcgen::KeyPair::generate().expect("a key");
    let signing = SigningKey::from_pkcs8(Algorithm::Es256, &key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
    let tls = Arc::new(tls);
    Active {
        trust: Arc::new(Snapshot::default()),
        keys: Arc::new(SigningKeys::new(Arc::new(signing), &[]).expect("keys")),
        policy: Arc::default(),
        tls: Arc::new(ListenerTls {
            hosts: Arc::default(),
            token: Arc::clone(&tls),
            directory: Arc::clone(&tls),
            public: tls,
        }),
    }
}
