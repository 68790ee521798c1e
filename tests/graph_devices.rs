//! A directory's devices, as the sync takes them from a server that answers by a script, and what is in
//! force before and after.

#[path = "support/misbehaving.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod misbehaving;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anchorgate::graph::auth::Credential;
use anchorgate::graph::client::Limits;
use anchorgate::runtime::log::Secret;
use anchorgate::sync::Admission;
use anchorgate::sync::devices::Status;
use anchorgate::sync::{Config, Handle, HandleError, Metrics, TooOld, follow};
use anchorgate::trust::assembly::Update;
use anchorgate::trust::devices::{DeviceKey, DeviceRegistry, Registry, Standing};
use anchorgate::x509::time::Timestamp;
use misbehaving::{Misbehaving, Reply, Seen};
use reqwest::Url;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

const NOW: i64 = 1_795_000_000;
/// How long anything may take; far more than it should.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the directory answers, by the token in the request's query; `""` is where an enumeration begins.
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
    /// With devices registered, and one enumeration of `devices` in force that ends with the token `1`.
    async fn with(devices: &[Value], change: impl FnOnce(&mut Config)) -> Self {
        let folder = Arc::new(tempfile::tempdir().expect("a folder"));
        let mut rig = Self::start(
            Misbehaving::start().await,
            folder,
            |rig| {
                rig.says("", devices, Some(1));
            },
            change,
        );
        rig.says("1", &[], Some(1));
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
            devices: Admission { registered: true, ..Admission::default() },
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

    /// The process ends, and another one starts with what is on disk.
    async fn again(&mut self, prepare: impl FnOnce(&Self), change: impl FnOnce(&mut Config)) {
        self.task.abort();
        let (graph, folder) = (self.graph.clone(), Arc::clone(&self.folder));
        *self = Self::start(graph, folder, prepare, change);
    }

    /// What is answered to `token` from now on: these objects, and that the answer ends with the token
    /// `end`.
    fn says(&self, token: &str, objects: &[Value], end: Option<usize>) {
        self.answers(token, objects, end.map(|end| ("@odata.deltaLink", end.to_string())));
    }

    /// As [`Rig::says`], but the answer goes on at the token `next`.
    fn goes_on(&self, token: &str, objects: &[Value], next: &str) {
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
            assert!(start.elapsed() < PATIENCE, "not reached: {status:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn sync(&self) {
        self.devices().sync_now().await.expect("a good poll");
    }

    /// The poll fails for this reason, and nothing changes.
    async fn fails(&mut self, why: &str) {
        let before = self.standings();
        let error = self.devices().sync_now().await.expect_err(why).to_string();
        assert!(error.contains(why), "`{error}` does not say `{why}`");
        let status = self.status();
        assert_eq!(status.last_error.as_deref(), Some(&*error));
        assert!(status.failures > 0 && status.loaded);
        assert_eq!(self.standings(), before, "what is in force changed");
    }

    /// What is in force after all updates so far.
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

    /// The tokens that devices were asked for with since the last time.
    fn asked(&self) -> Vec<String> {
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

/// The token of a request for devices; `None` for another request.
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

#[tokio::test]
async fn devices_come_into_force_when_all_are_known_and_change_from_there() {
    let folder = Arc::new(tempfile::tempdir().expect("a folder"));
    let graph = Misbehaving::start().await;
    let mut rig = Rig::start(
        graph,
        folder,
        |rig| {
            rig.goes_on("", &[device(1, true), json!({ "id": "laptop" })], "a");
            rig.goes_on("a", &[], "b");
        },
        |_| {},
    );
    let status = rig.until(|status| status.pages == 2 && status.last_error.is_some()).await;
    assert!(!status.loaded && rig.in_force().is_none(), "part of it is in force");
    // It goes on with the page that failed.
    rig.asked();
    rig.says("b", &[device(2, false), device(1, true)], Some(1));
    let status = rig.until(|status| status.loaded).await;
    assert_eq!(rig.asked().first().map(String::as_str), Some("b"));
    assert_eq!((status.known, status.enabled, status.disabled, status.skipped), (2, 1, 1, 1));
    assert_eq!(
        (1..4).map(|n| rig.standing(n)).collect::<Vec<_>>(),
        [Standing::Enabled, Standing::Disabled, Standing::Unknown]
    );

    // What changes is told where the last answer ended; what it leaves out stays.
    rig.says("1", &[json!({ "id": "o2", "accountEnabled": true }), removed(1)], Some(2));
    rig.sync().await;
    rig.says("2", &[device(3, true), json!({ "id": "o3", "accountEnabled": false })], Some(3));
    rig.sync().await;
    assert_eq!(rig.asked(), ["1", "2"]);
    assert_eq!(
        (1..4).map(|n| rig.standing(n)).collect::<Vec<_>>(),
        [Standing::Unknown, Standing::Enabled, Standing::Disabled]
    );
    let (_, change) = rig.status().last_change.expect("a change");
    assert_eq!((change.added, change.removed, change.before), (1, 0, 1));
    assert!(rig.metric("graph_devices{source=\"hub\",state=\"disabled\"} 1"));

    // The same again changes nothing, and tells nobody.
    rig.says("3", &[device(2, true)], Some(4));
    rig.sync().await;
    assert!(rig.updates.try_recv().is_err());
    assert!(rig.metric("graph_device_polls_total{source=\"hub\",result=\"unchanged\"} 1"));
}

#[tokio::test]
async fn answers_that_cannot_be_used_change_nothing() {
    let mut rig = Rig::with(&[device(1, true), device(2, false)], |_| {}).await;
    let cut = json!({ "value": [removed(1)], "@odata.deltaLink": "x" }).to_string();
    let cut = cut.as_bytes()[..cut.len() - 1].to_vec();
    for (name, reply, why) in [
        ("broken off", Reply::Bytes(vec![]), ""),
        ("cut", Reply::Plain(200, "", cut), "not JSON"),
        ("a page of HTML", Reply::Plain(200, "", b"<html>".to_vec()), "not JSON"),
        ("empty", Reply::Plain(200, "", vec![]), "not JSON"),
        ("too large", Reply::Plain(200, "", vec![b' '; 200_001]), "more than 200000 bytes"),
        ("no end", Reply::json(&json!({ "value": [removed(1)] })), "neither @odata.nextLink"),
        (
            "elsewhere",
            Reply::json(
                &json!({ "value": [], "@odata.nextLink": "http://127.0.0.2:1/beta/devices" }),
            ),
            "not the directory's origin",
        ),
        (
            "ends elsewhere",
            Reply::json(
                &json!({ "value": [removed(1)], "@odata.deltaLink": "https://evil.example/" }),
            ),
            "not the directory's origin",
        ),
        ("error", Reply::status(500), "500"),
        ("throttled", Reply::Plain(429, "retry-after: 1\r\n", vec![]), "429"),
        ("denied", Reply::status(403), "403"),
    ] {
        println!("{name}");
        rig.replies("1", reply);
        rig.fails(why).await;
    }
    // A circle, and a first page whose changes wait for the rest.
    rig.goes_on("1", &[removed(1)], "a");
    rig.goes_on("a", &[], "1");
    rig.fails("runs in a circle").await;
    rig.says("1", &[removed(1)], Some(1));
    rig.sync().await;
    assert_eq!(rig.standing(1), Standing::Unknown, "a good answer is taken again");
}

#[tokio::test]
async fn a_directory_that_forgot_its_token_is_asked_for_everything() {
    let mut rig = Rig::with(&[device(1, true), device(2, true)], |_| {}).await;
    for status in [410, 400, 404] {
        rig.asked();
        rig.replies("1", Reply::status(status));
        rig.goes_on("", &[device(1, false)], "more");
        rig.replies("more", Reply::status(500));
        let syncing = rig.devices().clone();
        let syncing = tokio::spawn(async move { syncing.sync_now().await });
        // The enumeration does not come to its end: what was in force stays.  That it began anew is
        // an error too, and told before.
        let broke_off = |error: &String| error.contains("500");
        rig.until(|status| status.pages == 1 && status.last_error.as_ref().is_some_and(broke_off))
            .await;
        assert_eq!(rig.standing(2), Standing::Enabled, "{status}");
        rig.says("more", &[device(2, true)], Some(2));
        let told = syncing.await.expect("no panic");
        // The operator is told of the page that failed in between, and asks again.
        assert!(told.is_err());
        rig.says("2", &[], Some(1));
        rig.sync().await;
        assert_eq!(rig.standing(1), Standing::Disabled, "{status}");
        let asked = rig.asked();
        assert_eq!(asked[..2], ["1".to_owned(), String::new()], "{status}");
    }
}

#[tokio::test]
async fn an_enumeration_that_names_nobody_waits_for_approval() {
    let mut rig = Rig::with(&[device(1, true), device(2, true)], |_| {}).await;
    rig.replies("1", Reply::status(410));
    rig.says("", &[], Some(2));
    rig.says("2", &[], Some(2));
    rig.sync().await;
    let held = rig.status().held_back.expect("held back");
    assert_eq!((held.changes.removed, held.changes.before), (2, 2));
    assert!(rig.metric("graph_devices_held_back{source=\"hub\"} 1"));
    assert_eq!(rig.standing(1), Standing::Enabled);
    // Nothing new does not make it more credible; and a restart holds it back again.
    rig.sync().await;
    assert!(rig.status().held_back.is_some());
    rig.again(
        |rig| {
            rig.replies("1", Reply::status(410));
            rig.says("", &[], Some(2));
            rig.says("2", &[], Some(2));
        },
        |_| {},
    )
    .await;
    rig.until(|status| status.held_back.is_some()).await;
    assert_eq!(rig.standing(2), Standing::Enabled);
    // Part of it comes back, which is no more than may go.
    rig.says("2", &[device(1, true)], Some(3));
    rig.says("3", &[removed(1)], Some(4));
    rig.sync().await;
    assert_eq!(rig.status().held_back, None);
    assert_eq!((rig.standing(1), rig.standing(2)), (Standing::Enabled, Standing::Unknown));
    // That the directory removes the last device by name is its word.
    rig.sync().await;
    assert_eq!((rig.status().held_back, rig.standing(1)), (None, Standing::Unknown));
    let nothing = rig.devices().approve().await;
    assert!(matches!(nothing, Err(HandleError::NothingHeld)));
}

#[tokio::test]
async fn more_removals_than_are_allowed_wait_for_approval() {
    let all: Vec<_> = (0..202).map(|n| device(n, true)).collect();
    let gone = |numbers: std::ops::Range<usize>| numbers.map(removed).collect::<Vec<_>>();
    let rig = Rig::with(&all, |_| {}).await;
    rig.says("1", &gone(100..201), Some(2));
    rig.says("2", &gone(201..202), Some(3));
    rig.says("3", &[], Some(3));
    rig.sync().await;
    assert!(rig.status().held_back.is_none(), "half may go");
    rig.sync().await;
    assert_eq!((rig.status().held_back, rig.status().known), (None, 100), "one of 101");

    let mut rig = Rig::with(&all, |_| {}).await;
    rig.says("1", &gone(100..202), Some(2));
    rig.says("2", &[], Some(2));
    rig.sync().await;
    assert_eq!(rig.status().held_back.expect("more than half").changes.removed, 102);
    assert_eq!(rig.standing(150), Standing::Enabled);
    let difference = rig.devices().approve().await.expect("it was held back");
    assert_eq!(difference.removed, 102);
    assert_eq!((rig.standing(150), rig.standing(9)), (Standing::Unknown, Standing::Enabled));
    rig.sync().await;
    assert_eq!(rig.status().held_back, None);

    let mut rig = Rig::with(&all, |config| config.unguarded = true).await;
    rig.says("1", &gone(0..202), Some(2));
    rig.sync().await;
    assert_eq!(rig.standing(150), Standing::Unknown);
}

#[tokio::test]
async fn more_devices_than_are_kept_change_nothing() {
    let mut rig = Rig::with(&[device(1, true), device(2, true)], |c| c.max_devices = 2).await;
    rig.says("1", &[device(3, true)], Some(2));
    rig.fails("3 devices; at most 2 are kept").await;
    rig.says("1", &[device(3, true), removed(1)], Some(2));
    rig.sync().await;
    assert_eq!(rig.standing(3), Standing::Enabled);
}

#[tokio::test]
async fn an_answer_without_end_is_given_up() {
    let mut rig = Rig::with(&[device(1, true)], |config| config.max_devices = 1).await;
    let (url, pages) = (rig.graph.url.clone(), Arc::clone(&rig.pages));
    rig.graph.answer(move |seen, n| match token(seen) {
        Some(_) => {
            let next = format!("{url}/beta/devices/delta?token=n{n}");
            Reply::json(&json!({ "value": [], "@odata.nextLink": next }))
        }
        None => answer(seen, &pages),
    });
    rig.fails("more than 1000 pages").await;
}

#[tokio::test]
async fn a_start_without_the_directory_goes_on_with_what_is_on_disk() {
    let mut rig = Rig::with(&[device(1, true), device(2, false)], |_| {}).await;
    let saved = rig.folder.path().join("devices");
    let start = Instant::now();
    while !saved.exists() {
        assert!(start.elapsed() < PATIENCE, "not written");
        sleep(Duration::from_millis(10)).await;
    }
    rig.again(|rig| rig.replies("1", Reply::Bytes(vec![])), |_| {}).await;
    let status = rig.until(|status| status.failures > 0).await;
    assert!(status.loaded && status.from_disk);
    assert_eq!((status.known, status.disabled), (2, 1));
    assert_eq!((rig.standing(1), rig.standing(2)), (Standing::Enabled, Standing::Disabled));
    // It is asked for what changed since, and for no more.
    rig.asked();
    rig.says("1", &[json!({ "id": "o1", "accountEnabled": false })], Some(2));
    rig.sync().await;
    assert_eq!((rig.asked(), rig.standing(1)), (vec!["1".to_owned()], Standing::Disabled));
    assert!(!rig.status().from_disk);

    // Another directory's devices are nobody's here.
    let (other, folder) = (Misbehaving::start().await, Arc::clone(&rig.folder));
    let mut rig = Rig::start(other, folder, |_| {}, |_| {});
    rig.until(|status| status.failures > 0).await;
    assert!(!rig.status().loaded && rig.in_force().is_none());
}

#[tokio::test]
async fn a_damaged_file_is_told_and_not_used() {
    let folder = Arc::new(tempfile::tempdir().expect("a folder"));
    std::fs::write(folder.path().join("devices"), "anchorgate devices/1 x\nx").expect("written");
    let mut rig = Rig::start(Misbehaving::start().await, folder, |_| {}, |_| {});
    rig.until(|status| status.failures > 0).await;
    assert!(!rig.status().loaded && rig.in_force().is_none());
    rig.says("", &[device(1, true)], Some(1));
    rig.says("1", &[], Some(1));
    rig.sync().await;
    assert_eq!(rig.standing(1), Standing::Enabled);
}

#[tokio::test]
async fn devices_that_are_too_old_are_withdrawn_where_the_policy_says_so() {
    let short = |config: &mut Config| {
        config.max_age = Duration::from_millis(300);
        config.too_old = TooOld::Refuse;
    };
    let mut rig = Rig::with(&[device(1, true)], short).await;
    rig.replies("1", Reply::status(500));
    rig.until(|status| status.too_old).await;
    let start = Instant::now();
    while rig.in_force().is_some() {
        assert!(start.elapsed() < PATIENCE, "still in force");
        sleep(Duration::from_millis(10)).await;
    }
    assert!(matches!(rig.in_force, Some(Registry::Withdrawn(_))));
    assert!(rig.metric("graph_devices_too_old{source=\"hub\"} 1"));
    rig.says("1", &[], Some(1));
    rig.sync().await;
    assert_eq!(rig.standing(1), Standing::Enabled, "nothing new, and in force again");

    // What is too old when it is read from disk is not in force either.
    rig.again(
        |rig| {
            rig.clock.store(NOW + 3600, Ordering::Relaxed);
            rig.replies("1", Reply::status(500));
        },
        short,
    )
    .await;
    rig.until(|status| status.too_old && status.failures > 0).await;
    assert!(rig.in_force().is_none());
    rig.says("1", &[], Some(1));
    rig.sync().await;
    assert_eq!(rig.standing(1), Standing::Enabled);
}

#[tokio::test]
async fn devices_are_asked_for_only_where_somebody_needs_them() {
    let folder = Arc::new(tempfile::tempdir().expect("a folder"));
    let nobody = |config: &mut Config| config.devices = Admission::default();
    let mut rig = Rig::start(Misbehaving::start().await, folder, |_| {}, nobody);
    rig.handle.sync_now().await.expect("a good poll");
    assert!(rig.handle.devices().is_none() && rig.handle.status().devices.is_none());
    assert!(rig.asked().is_empty() && rig.in_force().is_none());
}

#[tokio::test]
async fn only_changes_are_waited_for() {
    let mut rig = Rig::with(&[device(1, true)], |c| c.wait = Some(Duration::from_secs(30))).await;
    let body = |end: usize| {
        let link = format!("{}/beta/devices/delta?token={end}", rig.graph.url);
        json!({ "value": [removed(1)], "@odata.deltaLink": link }).to_string().into_bytes()
    };
    rig.replies("1", Reply::Plain(200, "preference-applied: wait=30\r\n", body(2)));
    rig.replies("2", Reply::Stall(Vec::new()));
    rig.until(|status| status.known == 0).await;
    let start = Instant::now();
    while !rig.graph.seen().iter().any(|seen| token(seen).as_deref() == Some("2")) {
        assert!(start.elapsed() < PATIENCE, "not asked again at once");
        sleep(Duration::from_millis(10)).await;
    }
    for seen in rig.graph.seen() {
        if let Some(token) = token(&seen) {
            assert_eq!(seen.head.contains("prefer: wait=30"), !token.is_empty(), "{seen:?}");
        }
    }
    assert_eq!(rig.standing(1), Standing::Unknown);
}
