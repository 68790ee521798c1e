//! Directories that misbehave.
//!
//! Each scenario starts from a good list (two configurations with two roots each) and compares the list
//! in force afterwards with the rules: trust is never wider and never narrower.

mod persistence;
mod responses;
mod trust_list;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use anchorgate::graph::auth::{Credential, TokenEndpoint};
use anchorgate::graph::client::Limits;
use anchorgate::runtime::log::Secret;
use anchorgate::sync::{Config, Handle, HandleError, Metrics, TooOld, follow};
use anchorgate::trust::assembly::Update;
use anchorgate::x509::time::Timestamp;
use flate2::Compression;
use flate2::write::GzEncoder;
use prometheus_client::registry::Registry;
use reqwest::Url;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::support::directory::{self, Ca, M, Server, ca_params};
use crate::support::misbehaving::{self, Misbehaving, Reply};

/// Configuration and common name of every authority in force.
type InForce = BTreeSet<(String, String)>;

/// Time at which the good list is fetched.
const NOW: i64 = 1_795_000_000;
const YEAR: i64 = 365 * 86_400;
/// Makes the clock of a [`Rig`] panic.
const BROKEN: i64 = i64::MIN;

thread_local! {
    /// The log of this thread, which runs one test with all its tasks.
    static LOG: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.with_borrow_mut(|log| log.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn capture() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing_subscriber::fmt()
            .with_env_filter("info")
            .with_ansi(false)
            .with_writer(|| Log)
            .init();
    });
}

/// True if one line of this test's log contains all `parts`.
fn logged(parts: &[&str]) -> bool {
    LOG.with_borrow(|log| {
        String::from_utf8_lossy(log).lines().any(|line| parts.iter().all(|p| line.contains(p)))
    })
}

/// Waits at most 10 seconds.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("within 10 s")
}

fn forget_log() {
    LOG.with_borrow_mut(Vec::clear);
}

struct Rig {
    graph: Misbehaving,
    handle: Handle,
    updates: mpsc::Receiver<Update>,
    /// The list that a publisher would put in force; `None` before the first update.
    in_force: Option<InForce>,
    registry: Registry,
    clock: Arc<AtomicI64>,
    task: JoinHandle<()>,
    folder: Arc<TempDir>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn config(url: &str) -> Config {
    let token = Credential::Static(Secret::new("t"));
    Config {
        every: Duration::from_secs(3600),
        limits: Limits {
            read: Duration::from_millis(300),
            request: Duration::from_millis(600),
            page_bytes: 200_000,
            pages: 5,
            retries: 2,
            ..Limits::default()
        },
        ..Config::new("hub", Url::parse(url).expect("a URL"), token)
    }
}

impl Rig {
    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = Arc::new(tempfile::tempdir().expect("a folder"));
        Self::start(Misbehaving::start().await, folder, change)
    }

    fn start(graph: Misbehaving, folder: Arc<TempDir>, change: impl FnOnce(&mut Config)) -> Self {
        Self::start_at(NOW, graph, folder, change)
    }

    fn start_at(
        now: i64,
        graph: Misbehaving,
        folder: Arc<TempDir>,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        capture();
        let mut config = config(&graph.url);
        config.state_file = Some(folder.path().join("anchors"));
        change(&mut config);
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let (sender, updates) = mpsc::channel(64);
        let clock = Arc::new(AtomicI64::new(now));
        let reading = Arc::clone(&clock);
        let now = Arc::new(move || {
            let now = reading.load(Ordering::Relaxed);
            assert_ne!(now, BROKEN, "the clock of the test is broken");
            Timestamp(now)
        });
        let (handle, sync) = follow(config, metrics, sender, now).expect("a usable configuration");
        let task = tokio::spawn(sync.run());
        Self { graph, handle, updates, in_force: None, registry, clock, task, folder }
    }

    /// Starts a sync and puts the good list in force.
    async fn good() -> (Self, Good) {
        Self::good_with(|_| {}).await
    }

    async fn good_with(change: impl FnOnce(&mut Config)) -> (Self, Good) {
        let (mut rig, good) = (Self::with(change).await, Good::new());
        let list = good.list.clone();
        rig.graph.answer(move |_, _| Reply::json(&list));
        rig.handle.refresh().await.expect("a good poll");
        assert_eq!(rig.in_force(), Some(good.all.clone()));
        (rig, good)
    }

    /// The list in force after all updates so far.
    fn in_force(&mut self) -> Option<InForce> {
        while let Ok(update) = self.updates.try_recv() {
            let Update::Configurations { source, set } = update else {
                panic!("not of a directory")
            };
            assert_eq!(&*source, "hub");
            let pairs = set.configurations.iter().flat_map(|c| {
                c.authorities.iter().map(|a| {
                    (c.id.to_string(), a.certificate.subject.to_string().replace("CN=", ""))
                })
            });
            self.in_force = Some(pairs.collect());
        }
        self.in_force.clone()
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("text");
        text
    }

    fn metric(&self, line: &str) -> bool {
        self.metrics().lines().any(|l| l == line)
    }

    /// Number of polls with this result.
    fn polls(&self, result: &str) -> u64 {
        let name = format!("graph_polls_total{{source=\"hub\",result=\"{result}\"}} ");
        let text = self.metrics();
        let count = text.lines().find_map(|l| l.strip_prefix(&name));
        count.map_or(0, |n| n.parse().expect("a number"))
    }

    /// Asserts that the script makes the poll fail for this reason and changes nothing.
    async fn fails(
        &mut self,
        name: &str,
        why: &str,
        script: impl Fn(&misbehaving::Seen, usize) -> Reply + Send + Sync + 'static,
    ) {
        let (before, polls) = (self.in_force(), self.polls("failed"));
        forget_log();
        self.graph.answer(script);
        let error = self.handle.refresh().await.expect_err(name).to_string();
        assert!(error.contains(why), "{name}: `{error}` does not contain `{why}`");
        let status = self.handle.status();
        assert_eq!(status.last_error.as_deref(), Some(&*error), "{name}");
        assert!(status.failures > 0 && status.next_poll.is_some(), "{name}");
        assert_eq!(self.polls("failed"), polls + 1, "{name}: not counted");
        let parts = ["WARN", "poll failed, what is in force stays", "source=hub", &error];
        assert!(logged(&parts), "{name}: not logged");
        assert_eq!(self.in_force(), before, "{name}: what is in force changed");
    }

    /// Asserts that the response is accepted and leaves `want` in force.
    async fn accepts(&mut self, name: &str, answer: &Value, want: &InForce) {
        let answer = answer.clone();
        self.graph.answer(move |_, _| Reply::json(&answer));
        let polls = self.polls("changed") + self.polls("unchanged");
        let changes = self.handle.refresh().await.expect(name);
        assert_eq!(self.polls("changed") + self.polls("unchanged"), polls + 1, "{name}");
        for line in &changes.lines {
            assert!(logged(&["INFO audit", line]), "{name}: `{line}` is not logged");
        }
        for skipped in self.handle.status().content.skipped {
            assert!(logged(&["WARN", "not in force", &skipped.why]), "{name}: {}", skipped.why);
        }
        assert_eq!(self.in_force().as_ref(), Some(want), "{name}");
        assert!(self.handle.status().held_back.is_none(), "{name}");
    }

    /// Asserts that the response is held back and changes nothing.
    async fn holds(&mut self, name: &str, answer: &Value) {
        let (before, polls) = (self.in_force(), self.polls("held_back"));
        forget_log();
        let answer = answer.clone();
        self.graph.answer(move |_, _| Reply::json(&answer));
        self.handle.refresh().await.expect("the poll itself is good");
        assert!(self.handle.status().held_back.is_some(), "{name}");
        assert_eq!(self.in_force(), before, "{name}: what is in force changed");
        assert!(self.metric("graph_held_back{source=\"hub\"} 1"), "{name}");
        assert_eq!(self.polls("held_back"), polls + 1, "{name}");
        assert!(logged(&["ERROR", "held back", "source=hub"]), "{name}: not logged");
    }
}

/// A good list: the configurations `one` and `two` with two roots each.
struct Good {
    list: Value,
    all: InForce,
}

impl Good {
    fn new() -> Self {
        let entry = |id: &str| {
            let roots = [1, 2].map(|n| Ca::root(&format!("{id}-{n}")).element(true));
            json!({
                "id": id, "displayName": id, "deletedDateTime": null,
                "tlsClientAuthParameter": "tls_client_auth_san_uri",
                "certificateAuthorities": roots,
            })
        };
        let all = ["one", "two"]
            .iter()
            .flat_map(|id| [1, 2].map(|n| ((*id).to_owned(), format!("{id}-{n}"))));
        Self { list: json!({"value": [entry("one"), entry("two")]}), all: all.collect() }
    }

    /// The good list with a change.
    fn but(&self, change: impl FnOnce(&mut Value)) -> Value {
        let mut list = self.list.clone();
        change(&mut list);
        list
    }

    fn only(&self, id: &str) -> InForce {
        self.all.iter().filter(|(c, _)| c == id).cloned().collect()
    }
}

#[tokio::test]
async fn two_gateways_follow_one_hub_at_once() {
    let hub = Server::start().await;
    let id = hub.configuration("fleet", json!([Ca::root("a").element(true)])).await;
    let gateway = || async {
        let (sender, mut updates) = mpsc::channel(64);
        let mut config = Config::new(
            "hub",
            Url::parse(&hub.url).expect("a URL"),
            Credential::Static(Secret::new(directory::READER)),
        );
        config.every = Duration::from_secs(3600);
        config.wait = Some(Duration::from_secs(20));
        let clock = Arc::new(|| Timestamp(1_795_000_000));
        let metrics = Metrics::register(&mut Registry::default());
        let (handle, sync) = follow(config, metrics, sender, clock).expect("usable");
        let task = tokio::spawn(sync.run());
        let Some(Update::Configurations { set, .. }) = soon(updates.recv()).await else {
            panic!("no update")
        };
        assert_eq!(set.configurations[0].authorities.len(), 1);
        (handle, updates, task)
    };
    let (mut one, mut two) = (gateway().await, gateway().await);
    let both = json!({"certificateAuthorities": [Ca::root("b").element(true), Ca::root("c").element(true)]});
    // The change removes the only anchor: both gateways see it and hold it back.
    assert_eq!(hub.patch(&format!("{M}/{id}"), &both).await.0, 200);
    let mut grown = hub.get(&format!("{M}/{id}")).await.1;
    grown["certificateAuthorities"]
        .as_array_mut()
        .expect("a list")
        .push(Ca::root("d").element(true));
    for (handle, _, _) in [&one, &two] {
        handle.refresh().await.expect("a good poll");
        let held = handle.status().held_back.expect("held back");
        handle.approve(&held.digest).await.expect("approved");
        handle.refresh().await.expect("a good poll");
    }
    assert_eq!(hub.patch(&format!("{M}/{id}"), &grown).await.0, 200);
    for (_, updates, task) in [&mut one, &mut two] {
        let three = async {
            loop {
                let Some(Update::Configurations { set, .. }) = updates.recv().await else {
                    panic!("ended")
                };
                if set.configurations[0].authorities.len() == 3 {
                    break;
                }
            }
        };
        soon(three).await;
        task.abort();
    }
}
