//! Following the devices of a scripted directory.

mod enumeration;
mod guard;
mod persistence;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anchorgate::graph::auth::Credential;
use anchorgate::graph::client::Limits;
use anchorgate::runtime::log::Secret;
use anchorgate::sync::RegisteredOnly;
use anchorgate::sync::devices::Status;
use anchorgate::sync::{Config, Handle, HandleError, Metrics, TooOld, follow};
use anchorgate::trust::assembly::Update;
use anchorgate::trust::devices::{DeviceKey, DeviceRegistry, Registry, Standing};
use anchorgate::x509::time::Timestamp;
use reqwest::Url;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::support::misbehaving::{Misbehaving, Reply, Seen};

const NOW: i64 = 1_795_000_000;
/// Upper limit for every wait; far above the expected time.
const TIME_LIMIT: Duration = Duration::from_secs(20);

/// Scripted responses by the token in the request's query; `""` begins an enumeration.
type Pages = Arc<Mutex<HashMap<String, Reply>>>;

struct Rig {
    graph: Misbehaving,
    pages: Pages,
    handle: Handle,
    updates: mpsc::Receiver<Update>,
    in_force: Option<Registry>,
    clock: Arc<AtomicI64>,
    registry: prometheus_client::registry::Registry,
    task: JoinHandle<()>,
    folder: Arc<TempDir>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn device(n: usize, enabled: bool) -> Value {
    json!({ "id": format!("o{n}"), "accountEnabled": enabled, "physicalIds": [format!("[EXTID]:d{n}")] })
}

fn removed(n: usize) -> Value {
    json!({ "id": format!("o{n}"), "@removed": { "reason": "deleted" } })
}

impl Rig {
    /// Starts a sync and waits until `devices` are in force.  Their enumeration ends with the token `1`.
    async fn with(devices: &[Value], change: impl FnOnce(&mut Config)) -> Self {
        let folder = Arc::new(tempfile::tempdir().expect("a folder"));
        let mut rig = Self::start(
            Misbehaving::start().await,
            folder,
            |rig| {
                rig.ends_with("", devices, Some(1));
            },
            change,
        );
        rig.ends_with("1", &[], Some(1));
        rig.until(|status| status.loaded).await;
        rig.in_force();
        rig
    }

    fn start(
        graph: Misbehaving,
        folder: Arc<TempDir>,
        prepare: impl FnOnce(&Self),
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let token = Credential::Static(Secret::new("t"));
        let url = Url::parse(&graph.url).expect("a URL");
        let mut config = Config {
            every: Duration::from_secs(3600),
            limits: Limits { page_bytes: 200_000, retries: 0, ..Limits::default() },
            devices: RegisteredOnly { registered: true, ..RegisteredOnly::default() },
            devices_file: Some(folder.path().join("devices")),
            ..Config::new("hub", url, token)
        };
        change(&mut config);
        let mut registry = prometheus_client::registry::Registry::default();
        let metrics = Metrics::register(&mut registry);
        let (sender, updates) = mpsc::channel(64);
        let clock = Arc::new(AtomicI64::new(NOW));
        let reading = Arc::clone(&clock);
        let now = Arc::new(move || Timestamp(reading.load(Ordering::Relaxed)));
        let pages = Pages::default();
        let answers = Arc::clone(&pages);
        graph.answer(move |seen, _| answer(seen, &answers));
        let (handle, sync) = follow(config, metrics, sender, now).expect("a usable configuration");
        let task = tokio::spawn(async {});
        let mut rig =
            Self { graph, pages, handle, updates, in_force: None, clock, registry, task, folder };
        prepare(&rig);
        rig.task = tokio::spawn(sync.run());
        rig
    }

    /// Ends the sync and starts another one from the saved state.
    async fn restart(&mut self, prepare: impl FnOnce(&Self), change: impl FnOnce(&mut Config)) {
        self.task.abort();
        let (graph, folder) = (self.graph.clone(), Arc::clone(&self.folder));
        *self = Self::start(graph, folder, prepare, change);
    }

    /// Responds to `token` with these objects, and with a delta link that has the token `end`.
    fn ends_with(&self, token: &str, objects: &[Value], end: Option<usize>) {
        self.answers(token, objects, end.map(|end| ("@odata.deltaLink", end.to_string())));
    }

    /// Responds to `token` with these objects, and with a next link that has the token `next`.
    fn continues_at(&self, token: &str, objects: &[Value], next: &str) {
        self.answers(token, objects, Some(("@odata.nextLink", next.to_owned())));
    }

    fn answers(&self, token: &str, objects: &[Value], link: Option<(&str, String)>) {
        let mut answer = json!({ "value": objects });
        if let Some((name, token)) = link {
            answer[name] = json!(format!("{}/beta/devices/delta?token={token}", self.graph.url));
        }
        self.replies(token, Reply::json(&answer));
    }

    fn replies(&self, token: &str, reply: Reply) {
        self.pages.lock().expect("whole").insert(token.to_owned(), reply);
    }

    fn devices(&self) -> &anchorgate::sync::devices::Handle {
        self.handle.devices().expect("devices are followed")
    }

    fn status(&self) -> Status {
        self.devices().status()
    }

    async fn until(&self, reached: impl Fn(&Status) -> bool) -> Status {
        let start = Instant::now();
        loop {
            let status = self.status();
            if reached(&status) {
                return status;
            }
            assert!(start.elapsed() < TIME_LIMIT, "not reached: {status:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn sync(&self) {
        self.devices().refresh().await.expect("a good poll");
    }

    /// Asserts that a poll fails for this reason and changes nothing.
    async fn fails(&mut self, why: &str) {
        let before = self.standings();
        let error = self.devices().refresh().await.expect_err(why).to_string();
        assert!(error.contains(why), "`{error}` does not contain `{why}`");
        let status = self.status();
        assert_eq!(status.last_error.as_deref(), Some(&*error));
        assert!(status.failures > 0 && status.loaded);
        assert_eq!(self.standings(), before, "what is in force changed");
    }

    /// The registry in force after all updates so far.
    fn in_force(&mut self) -> Option<DeviceRegistry> {
        while let Ok(update) = self.updates.try_recv() {
            if let Update::Devices { source, registry } = update {
                assert_eq!(&*source, "hub");
                self.in_force = Some(registry);
            }
        }
        match &self.in_force {
            Some(Registry::InForce(registry)) => Some(registry.clone()),
            _ => None,
        }
    }

    fn standing(&mut self, n: usize) -> Standing {
        let key = DeviceKey::of(&format!("d{n}"));
        let registry = self.in_force().expect("a registry in force");
        registry.standing(key, &"any".into())
    }

    fn standings(&mut self) -> Vec<Standing> {
        (0..10).map(|n| self.standing(n)).collect()
    }

    /// Tokens of the device requests since the last call.
    fn requested(&self) -> Vec<String> {
        let seen = self.graph.seen();
        let pages = Arc::clone(&self.pages);
        self.graph.answer(move |seen, _| answer(seen, &pages));
        seen.iter().filter_map(token).collect()
    }

    fn metric(&self, line: &str) -> bool {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("text");
        text.lines().any(|l| l == line)
    }
}

/// The token of a device request; `None` for other requests.
fn token(seen: &Seen) -> Option<String> {
    let query = seen.target.strip_prefix("/beta/devices/delta?")?;
    if query == "$select=accountEnabled,physicalIds" {
        return Some(String::new());
    }
    Some(query.strip_prefix("token=").expect("a token").to_owned())
}

fn answer(seen: &Seen, pages: &Pages) -> Reply {
    match token(seen) {
        Some(token) => {
            let pages = pages.lock().expect("whole");
            pages.get(&token).cloned().unwrap_or_else(|| Reply::status(500))
        }
        None => Reply::json(&json!({ "value": [] })),
    }
}
