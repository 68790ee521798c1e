//! A directory that misbehaves, and what is in force before and after.
//!
//! Each scenario starts from a good list (two configurations, two roots each), does its worst, and says
//! what the rules leave in force: trust is never wider and never narrower than that.

#[path = "support/directory.rs"]
#[allow(dead_code)]
mod directory;
#[path = "support/misbehaving.rs"]
mod misbehaving;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
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
use directory::{Ca, M, Server, ca_params};
use flate2::Compression;
use flate2::write::GzEncoder;
use misbehaving::{Misbehaving, Reply};
use prometheus_client::registry::Registry;
use reqwest::Url;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The trust list: configuration, then common name, of every authority.
type InForce = BTreeSet<(String, String)>;

/// When the good list is taken.
const NOW: i64 = 1_795_000_000;
const YEAR: i64 = 365 * 86_400;

thread_local! {
    /// What was logged on this thread, which is one test with all its tasks.
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

/// A line of this test's log has all of these in it.
fn logged(parts: &[&str]) -> bool {
    LOG.with_borrow(|log| {
        String::from_utf8_lossy(log).lines().any(|line| parts.iter().all(|p| line.contains(p)))
    })
}

/// What is told within the time that anybody would wait.
async fn soon<T>(told: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), told).await.expect("told in time")
}

fn forget_log() {
    LOG.with_borrow_mut(Vec::clear);
}

struct Rig {
    graph: Misbehaving,
    handle: Handle,
    updates: mpsc::Receiver<Update>,
    /// What the publisher would have in force; `None` before the first update.
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
        let now = Arc::new(move || Timestamp(reading.load(Ordering::Relaxed)));
        let (handle, sync) = follow(config, metrics, sender, now).expect("a usable configuration");
        let task = tokio::spawn(sync.run());
        Self { graph, handle, updates, in_force: None, registry, clock, task, folder }
    }

    /// With the good list in force.
    async fn good() -> (Self, Good) {
        Self::good_with(|_| {}).await
    }

    async fn good_with(change: impl FnOnce(&mut Config)) -> (Self, Good) {
        let (mut rig, good) = (Self::with(change).await, Good::new());
        let list = good.list.clone();
        rig.graph.answer(move |_, _| Reply::json(&list));
        rig.handle.sync_now().await.expect("a good poll");
        assert_eq!(rig.in_force(), Some(good.all.clone()));
        (rig, good)
    }

    /// What is in force after all updates so far.
    fn in_force(&mut self) -> Option<InForce> {
        while let Ok(update) = self.updates.try_recv() {
            let Update::Anchors { source, set } = update else { panic!("not of a directory") };
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

    /// Polls that ended with this result.
    fn polls(&self, result: &str) -> u64 {
        let name = format!("graph_polls_total{{source=\"hub\",result=\"{result}\"}} ");
        let text = self.metrics();
        let count = text.lines().find_map(|l| l.strip_prefix(&name));
        count.map_or(0, |n| n.parse().expect("a number"))
    }

    /// The script fails the poll, for the reason given, and changes nothing.
    async fn fails(
        &mut self,
        name: &str,
        why: &str,
        script: impl Fn(&misbehaving::Seen, usize) -> Reply + Send + Sync + 'static,
    ) {
        let (before, polls) = (self.in_force(), self.polls("failed"));
        forget_log();
        self.graph.answer(script);
        let error = self.handle.sync_now().await.expect_err(name).to_string();
        assert!(error.contains(why), "{name}: `{error}` does not say `{why}`");
        let status = self.handle.status();
        assert_eq!(status.last_error.as_deref(), Some(&*error), "{name}");
        assert!(status.failures > 0 && status.next_poll.is_some(), "{name}");
        assert_eq!(self.polls("failed"), polls + 1, "{name}: not counted");
        let parts = ["WARN", "poll failed, what is in force stays", "source=hub", &error];
        assert!(logged(&parts), "{name}: not logged");
        assert_eq!(self.in_force(), before, "{name}: what is in force changed");
    }

    /// The answer is taken for what it is, and leaves this in force.
    async fn takes(&mut self, name: &str, answer: &Value, want: &InForce) {
        let answer = answer.clone();
        self.graph.answer(move |_, _| Reply::json(&answer));
        let polls = self.polls("changed") + self.polls("unchanged");
        let changes = self.handle.sync_now().await.expect(name);
        assert_eq!(self.polls("changed") + self.polls("unchanged"), polls + 1, "{name}");
        for line in &changes.lines {
            assert!(logged(&["INFO audit", line]), "{name}: `{line}` is not logged");
        }
        for skipped in self.handle.status().skipped {
            assert!(logged(&["WARN", "not in force", &skipped.why]), "{name}: {}", skipped.why);
        }
        assert_eq!(self.in_force().as_ref(), Some(want), "{name}");
        assert!(self.handle.status().held_back.is_none(), "{name}");
    }

    /// The answer is held back and changes nothing.
    async fn holds(&mut self, name: &str, answer: &Value) {
        let (before, polls) = (self.in_force(), self.polls("held_back"));
        forget_log();
        let answer = answer.clone();
        self.graph.answer(move |_, _| Reply::json(&answer));
        self.handle.sync_now().await.expect("the poll itself is good");
        assert!(self.handle.status().held_back.is_some(), "{name}");
        assert_eq!(self.in_force(), before, "{name}: what is in force changed");
        assert!(self.metric("graph_held_back{source=\"hub\"} 1"), "{name}");
        assert_eq!(self.polls("held_back"), polls + 1, "{name}");
        assert!(logged(&["ERROR", "held back", "source=hub"]), "{name}: not logged");
    }
}

/// A good list: configurations `one` and `two`, with two roots each.
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

    /// The good list, changed.
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
async fn no_status_but_200_changes_anything() {
    let (mut rig, _) = Rig::good().await;
    for status in [
        201, 202, 204, 206, 301, 302, 304, 307, 400, 401, 403, 404, 405, 409, 410, 412, 418, 500,
        501, 502, 599,
    ] {
        let reply = match status {
            301 | 302 | 307 => Reply::Plain(status, "location: http://127.0.0.1:1/\r\n", vec![]),
            204 | 304 => Reply::Plain(status, "", vec![]),
            _ => Reply::status(status),
        };
        rig.fails(&status.to_string(), "", move |_, _| reply.clone()).await;
    }
    // These are tried again first, as often as the limit says.
    for status in [429, 503, 504] {
        let body = b"busy".to_vec();
        rig.fails("throttled", &status.to_string(), move |_, _| {
            Reply::Plain(status, "retry-after: 0\r\n", body.clone())
        })
        .await;
        assert_eq!(rig.graph.seen().len(), 3, "{status}");
    }
    assert!(rig.metric("graph_polls_total{source=\"hub\",result=\"failed\"} 24"));
}

#[tokio::test]
async fn answers_that_break_off_or_never_come_change_nothing() {
    let (mut rig, good) = Rig::good().await;
    let text = good.list.to_string();
    let head = |length: usize| {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let bytes = |parts: [&str; 2]| parts.concat().into_bytes();
    let half = &text[..text.len() / 2];
    let chunked = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{half}\r\n",
        half.len()
    );
    for (name, reply, why) in [
        ("closed", Reply::Bytes(vec![]), ""),
        ("no HTTP", Reply::Bytes(b"SSH-2.0-x\r\n\r\n".to_vec()), ""),
        ("slow header", Reply::Stall(b"HTTP/1.1 200 OK\r\n".to_vec()), "timed out"),
        ("slow body", Reply::Stall(bytes([&head(text.len()), half])), "timed out"),
        ("cut body", Reply::Bytes(bytes([&head(text.len()), half])), ""),
        ("cut chunks", Reply::Bytes(chunked.into_bytes()), ""),
        ("length too long", Reply::Bytes(bytes([&head(text.len() + 1), &text])), ""),
        ("length too short", Reply::Bytes(bytes([&head(text.len() - 1), &text])), "not JSON"),
        (
            "length absurd",
            Reply::Bytes(bytes([
                "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
                &text,
            ])),
            "",
        ),
    ] {
        rig.fails(name, why, move |_, _| reply.clone()).await;
    }
}

#[tokio::test]
async fn answers_that_are_no_list_change_nothing() {
    let (mut rig, good) = Rig::good().await;
    let html = b"<html><body>Sign in to the network</body></html>".to_vec();
    let deep = format!("{{\"value\":{}{}}}", "[".repeat(500), "]".repeat(500));
    let large = format!("{{\"value\":[],\"x\":\"{}\"}}", "x".repeat(300_000));
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    bomb.write_all(large.as_bytes()).expect("in memory");
    let bomb = bomb.finish().expect("in memory");
    assert!(bomb.len() < 10_000);
    let no_id = good.but(|list| list["value"][0]["id"] = Value::Null).to_string();
    for (name, header, body, why) in [
        ("HTML", "content-type: text/html\r\n", html, "not JSON"),
        ("nothing", "", vec![], "not JSON"),
        ("null", "", b"null".to_vec(), "no object"),
        ("an error", "", b"{\"error\":{}}".to_vec(), "`value` is no list"),
        ("an object in place of the list", "", b"{\"value\":{}}".to_vec(), "`value` is no list"),
        ("deep", "", deep.into_bytes(), "deeper than 32"),
        ("large", "", large.into_bytes(), "more than 200000 bytes"),
        ("gzip bomb", "content-encoding: gzip\r\n", bomb, "more than 200000 bytes"),
        ("no gzip", "content-encoding: gzip\r\n", b"{\"value\":[]}".to_vec(), ""),
        ("no id", "", no_id.into_bytes(), "no id"),
        ("not UTF-8", "", b"{\"value\":[\"\xff\"]}".to_vec(), "not JSON"),
    ] {
        rig.fails(name, why, move |_, _| Reply::Plain(200, header, body.clone())).await;
    }
    // The media type is not what is judged by: the contents are.
    let body = good.list.to_string().into_bytes();
    rig.graph.answer(move |_, _| Reply::Plain(200, "content-type: text/plain\r\n", body.clone()));
    rig.handle.sync_now().await.expect("a good poll");
}

#[tokio::test]
async fn pages_that_do_not_end_or_lead_away_change_nothing() {
    let (mut rig, good) = Rig::good().await;
    let url = rig.graph.url.clone();
    let page = |list: &Value, next: String| {
        let mut page = list.clone();
        page["@odata.nextLink"] = next.into();
        Reply::json(&page)
    };
    let (list, base) = (good.list.clone(), url.clone());
    rig.fails("endless", "more than 5 pages", move |_, n| page(&list, format!("{base}/x?{n}")))
        .await;
    assert_eq!(rig.graph.seen().len(), 5);
    let (list, base) = (good.list.clone(), url.clone());
    rig.fails("circle", "circle", move |_, _| page(&list, format!("{base}/x"))).await;

    let elsewhere = Misbehaving::start().await;
    for (name, link) in [
        ("another port", format!("{}/beta/x", elsewhere.url)),
        ("another scheme", url.replace("http:", "https:")),
        ("another host", "http://localhost.evil.example/".into()),
        ("user info", format!("{url}@evil.example/")),
        ("relative", "/beta/x".into()),
    ] {
        let list = good.list.clone();
        rig.fails(name, "not the directory's origin", move |_, _| page(&list, link.clone())).await;
    }
    assert!(elsewhere.seen().is_empty(), "a token went elsewhere");

    // The second page fails: the first alone is not the list.
    let (first, base) = (
        good.but(|l| {
            l["value"].as_array_mut().expect("a list").pop();
        }),
        url.clone(),
    );
    rig.fails("half", "500", move |_, n| match n {
        0 => page(&first, format!("{base}/x")),
        _ => Reply::status(500),
    })
    .await;

    // And pages in order, one of them empty, are one list.
    let entries = good.list["value"].as_array().expect("a list").clone();
    rig.graph.answer(move |seen, n| {
        let link = |n: usize| json!(format!("{url}/beta/x?$skiptoken={n}"));
        assert!(seen.head.contains("authorization: bearer t\r\n"));
        match n {
            0 => Reply::json(&json!({"value": [entries[0]], "@odata.nextLink": link(1)})),
            1 => Reply::json(&json!({"value": [], "@odata.nextLink": link(2)})),
            _ => Reply::json(&json!({"value": [entries[1]]})),
        }
    });
    let changes = rig.handle.sync_now().await.expect("a good poll");
    assert!(changes.is_empty());
    assert_eq!(
        rig.graph.seen()[2].target,
        "/beta/x?$skiptoken=2",
        "links are followed as they are"
    );
}

#[tokio::test]
async fn large_removals_wait_for_approval() {
    let (mut rig, good) = Rig::good().await;
    let empty = json!({"value": []});
    rig.holds("empty", &empty).await;
    let one = good.but(|list| {
        list["value"].as_array_mut().expect("a list").pop();
        list["value"][0]["certificateAuthorities"].as_array_mut().expect("a list").pop();
    });
    rig.holds("one of four", &one).await;
    let emptied = good.but(|list| {
        for n in [0, 1] {
            list["value"][n]["certificateAuthorities"] = json!([]);
        }
    });
    rig.holds("no authorities", &emptied).await;
    let others = Good::new().but(|list| {
        list["value"][0]["id"] = "three".into();
        list["value"][1]["id"] = "four".into();
    });
    rig.holds("all others", &others).await;

    // A good answer ends it, and there is nothing to approve then.
    rig.takes("good again", &good.list, &good.all).await;
    assert_eq!(rig.handle.approve().await, Err(HandleError::NothingHeld));

    // Half is not more than half; what a person approves is done.
    let half = good.but(|list| {
        list["value"].as_array_mut().expect("a list").pop();
    });
    rig.takes("half", &half, &good.only("one")).await;
    rig.holds("the rest", &empty).await;
    let since = rig.handle.status().held_back.map(|h| h.since);
    rig.clock.fetch_add(60, Ordering::Relaxed);
    rig.handle.sync_now().await.expect("a good poll");
    assert_eq!(
        rig.handle.status().held_back.map(|h| h.since),
        since,
        "the same answer, waiting on"
    );
    let changes = rig.handle.approve().await.expect("approved");
    assert_eq!((changes.anchors_removed, changes.anchors_before), (2, 2));
    assert_eq!(rig.in_force(), Some(InForce::new()));
    rig.takes("back", &good.list, &good.all).await;
}

#[tokio::test]
async fn the_guard_holds_over_a_restart_and_can_be_switched_off() {
    let (rig, good) = Rig::good().await;
    let (graph, folder) = (rig.graph.clone(), Arc::clone(&rig.folder));
    drop(rig);
    let mut rig = Rig::start(graph.clone(), Arc::clone(&folder), |_| {});
    rig.graph.answer(|_, _| Reply::status(500));
    rig.handle.sync_now().await.expect_err("a dead directory");
    assert_eq!(rig.in_force(), Some(good.all.clone()), "from disk");
    rig.holds("empty after the restart", &json!({"value": []})).await;
    assert_eq!(rig.in_force(), Some(good.all));
    drop(rig);
    let mut rig = Rig::start(graph, folder, |config| config.unguarded = true);
    rig.takes("empty, unguarded", &json!({"value": []}), &InForce::new()).await;
}

#[tokio::test]
async fn a_bad_configuration_goes_alone() {
    let (mut rig, good) = Rig::good().await;
    let unknown = good.but(|list| {
        list["value"][1]["tlsClientAuthParameter"] = "unknownFutureValue".into();
    });
    rig.takes("unknown enum", &unknown, &good.only("one")).await;
    let skipped = rig.handle.status().skipped;
    assert_eq!(skipped[0].configuration, "two");
    assert!(skipped[0].why.contains("unknownFutureValue"));
    assert!(rig.metric("graph_skipped{source=\"hub\"} 1"));
    rig.takes("known again", &good.list, &good.all).await;

    let deleted =
        good.but(|list| list["value"][1]["deletedDateTime"] = "2026-01-01T00:00:00Z".into());
    rig.takes("deleted", &deleted, &good.only("one")).await;
    rig.takes("restored", &good.list, &good.all).await;

    // A certificate that cannot be read is no authority; the others of its configuration are.
    let garbage = good.but(|list| {
        list["value"][1]["certificateAuthorities"][0]["certificate"] = "AAAA".into();
    });
    let mut rest = good.all.clone();
    rest.remove(&("two".into(), "two-1".into()));
    rig.takes("garbage", &garbage, &rest).await;

    // An authority that has expired is the judge's to refuse, at the time of each decision.
    let mut params = ca_params("old");
    params.not_before = rcgen::date_time_ymd(2019, 1, 1);
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let expired = good.but(|list| {
        let list = list["value"][0]["certificateAuthorities"].as_array_mut().expect("a list");
        list.push(Ca::self_signed(params).element(true));
    });
    let mut with = good.all.clone();
    with.insert(("one".into(), "old".into()));
    rig.takes("expired", &expired, &with).await;
}

#[tokio::test]
async fn what_the_list_leaves_out_stays_or_is_asked_for() {
    let (mut rig, good) = Rig::good().await;
    let cut = |list: &mut Value| {
        list["value"][1]["certificateAuthorities"] =
            json!([{"@odata.type": "microsoft.graph.certificateAuthority"}]);
    };
    // The GET by id fails too: what is in force stays.
    rig.takes("cut to the type", &good.but(cut), &good.all).await;
    assert!(rig.handle.status().skipped[0].why.contains("stays as it was"));
    for (name, damage) in [
        ("no list", json!(null)),
        ("wrong base64", json!([{"certificate": "MII*", "isRootAuthority": true}])),
        ("no root flag", json!([{"certificate": "AAAA"}])),
    ] {
        let list = good.but(|list| list["value"][1]["certificateAuthorities"] = damage);
        rig.takes(name, &list, &good.all).await;
    }
    let no_parameter = good.but(|list| {
        list["value"][1]["tlsClientAuthParameter"].take();
    });
    rig.takes("no parameter", &no_parameter, &good.all).await;
    let twice = good.but(|list| {
        let mut twin = list["value"][1].clone();
        twin["certificateAuthorities"] = json!([]);
        list["value"].as_array_mut().expect("a list").push(twin);
    });
    rig.takes("listed twice", &twice, &good.all).await;

    // The GET by id brings the whole object, newer than what is in force.
    let whole = good.but(|list| {
        list["value"][1]["certificateAuthorities"].as_array_mut().expect("a list").pop();
    });
    let (shortened, whole) = (good.but(cut), whole["value"][1].clone());
    rig.graph.answer(move |seen, _| match seen.target.ends_with("/two") {
        true => Reply::json(&whole),
        false => Reply::json(&shortened),
    });
    rig.handle.sync_now().await.expect("a good poll");
    let mut rest = good.all.clone();
    rest.remove(&("two".into(), "two-2".into()));
    assert_eq!(rig.in_force(), Some(rest.clone()));
    assert!(rig.handle.status().skipped.is_empty());

    // An answer for another object is none for this one.
    let (shortened, other) = (good.but(cut), good.list["value"][0].clone());
    rig.graph.answer(move |seen, _| match seen.target.ends_with("/two") {
        true => Reply::json(&other),
        false => Reply::json(&shortened),
    });
    rig.handle.sync_now().await.expect("a good poll");
    assert_eq!(rig.in_force(), Some(rest));
}

#[tokio::test]
async fn throttling_is_obeyed() {
    let (mut rig, good) = Rig::good().await;
    let list = good.list.clone();
    rig.graph.answer(move |_, n| match n {
        0 => Reply::Plain(429, "retry-after: 0\r\n", vec![]),
        1 => Reply::Plain(503, "retry-after: Sun, 06 Nov 1994 08:49:37 GMT\r\n", vec![]),
        _ => Reply::json(&list),
    });
    rig.handle.sync_now().await.expect("the third try is good");
    rig.fails("for an hour", "429", |_, _| Reply::Plain(429, "retry-after: 7200\r\n", vec![]))
        .await;
    assert_eq!(rig.graph.seen().len(), 1, "not tried again at once");
    let next = rig.handle.status().next_poll.expect("a time");
    let earliest = Timestamp(rig.clock.load(Ordering::Relaxed) + 7200);
    assert!(Timestamp::parse_rfc3339(&next).is_some_and(|at| at >= earliest), "{next}");
}

#[tokio::test]
async fn tokens_are_renewed_once_and_their_endpoint_may_die() {
    let tokens = Misbehaving::start().await;
    tokens.answer(|seen, n| {
        assert!(seen.body.contains("client_secret=s3cret") && seen.body.contains("grant_type=client_credentials"));
        Reply::json(&json!({"token_type": "Bearer", "expires_in": 3600, "access_token": format!("token-{n}")}))
    });
    let url = Url::parse(&format!("{}/contoso/oauth2/v2.0/token", tokens.url)).expect("a URL");
    let credential = Credential::ClientSecret {
        endpoint: TokenEndpoint {
            url,
            client_id: "app".into(),
            scope: "https://graph/.default".into(),
        },
        secret: Secret::new("s3cret"),
    };
    let (mut rig, good) = Rig::good_with(|config| config.credential = credential).await;
    let asked = tokens.seen().len();
    rig.takes("the token is kept", &good.list, &good.all).await;
    assert_eq!(tokens.seen().len(), asked);

    // 401: one fresh token, with the claims that were asked for.
    let list = good.list.clone();
    let challenge =
        "www-authenticate: Bearer error=\"insufficient_claims\", claims=\"eyJhIjoxfQ==\"\r\n";
    rig.graph.answer(move |seen, n| match n {
        0 => Reply::Plain(401, challenge, vec![]),
        _ => {
            assert!(seen.head.contains(&format!("bearer token-{asked}\r\n")), "{}", seen.head);
            Reply::json(&list)
        }
    });
    rig.handle.sync_now().await.expect("good with the fresh token");
    assert!(tokens.seen().last().is_some_and(|s| s.body.contains("claims=%7B%22a%22%3A1%7D")));
    let asked = tokens.seen().len();
    rig.fails("401 again and again", "401", |_, _| Reply::Plain(401, challenge, vec![])).await;
    assert_eq!((rig.graph.seen().len(), tokens.seen().len()), (2, asked + 1));

    // The endpoint dies: the token lives on, and when that is refused nothing changes.
    tokens.answer(|_, _| {
        Reply::Plain(
            400,
            "",
            b"{\"error\":\"invalid_client\",\"error_description\":\"AADSTS7000222: expired\"}"
                .to_vec(),
        )
    });
    rig.takes("the token lives on", &good.list, &good.all).await;
    rig.fails("refused", "AADSTS7000222", |_, _| Reply::Plain(401, "", vec![])).await;
    tokens.answer(|_, _| Reply::Stall(vec![]));
    rig.fails("silent", "timed out", |_, _| Reply::Plain(401, "", vec![])).await;
    let debug = format!("{:?}", rig.handle.status());
    assert!(!debug.contains("s3cret") && !debug.contains("token-"), "{debug}");
}

#[tokio::test]
async fn a_restart_without_the_network_serves_the_last_good_list() {
    let (rig, good) = Rig::good().await;
    let (graph, folder) = (rig.graph.clone(), Arc::clone(&rig.folder));
    drop(rig);
    graph.answer(|_, _| Reply::Bytes(vec![]));
    let restart = || Rig::start(graph.clone(), Arc::clone(&folder), |_| {});
    let mut rig = restart();
    let _ = rig.handle.sync_now().await;
    assert_eq!(rig.in_force(), Some(good.all.clone()));
    assert!(rig.handle.status().from_disk);

    // A second generation, then damage to it: the older one is taken.
    let grown = good.but(|list| {
        let list = list["value"][0]["certificateAuthorities"].as_array_mut().expect("a list");
        list.push(Ca::root("one-3").element(true));
    });
    let mut more = good.all.clone();
    more.insert(("one".into(), "one-3".into()));
    rig.takes("grown", &grown, &more).await;
    drop(rig);
    let file: PathBuf = folder.path().join("anchors");
    let mut bytes = std::fs::read(&file).expect("the file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).expect("damaged");
    graph.answer(|_, _| Reply::Bytes(vec![]));
    let mut rig = restart();
    let _ = rig.handle.sync_now().await;
    assert_eq!(rig.in_force(), Some(good.all));
    assert!(logged(&["ERROR", "the newest list on disk is not usable", "its header is"]));
    drop(rig);
    // Both damaged: nothing is in force, nothing is made up.
    for name in ["anchors", "anchors.1"] {
        std::fs::write(folder.path().join(name), b"garbage").expect("damaged");
    }
    let mut rig = restart();
    let _ = rig.handle.sync_now().await;
    assert_eq!(rig.in_force(), None);
    assert!(logged(&["ERROR", "the list of the last run cannot be used", "damaged"]));
}

#[tokio::test]
async fn a_full_disk_stops_no_update() {
    let (mut rig, good) = Rig::good_with(|config| {
        // The folder is a file: every write fails, as on a full disk.
        config.state_file = Some(PathBuf::from("/proc/version/anchors"));
    })
    .await;
    let half = good.but(|list| {
        list["value"].as_array_mut().expect("a list").pop();
    });
    rig.takes("half", &half, &good.only("one")).await;
    assert!(logged(&["ERROR", "in force, but was not written to disk", "/proc/version"]));
}

/// Where the child of [`kill_nine_leaves_a_whole_list`] keeps its state, and where it syncs from.
const CHILD: [&str; 2] = ["GRAPH_FAULTS_FOLDER", "GRAPH_FAULTS_URL"];

/// Not a test of its own: the process that is killed.  Says when it has taken a list.
#[tokio::test]
async fn child_that_syncs() {
    let [Ok(folder), Ok(url)] = CHILD.map(std::env::var) else { return };
    let mut config = config(&url);
    config.state_file = Some(PathBuf::from(folder).join("anchors"));
    let (sender, mut updates) = mpsc::channel(64);
    let metrics = Metrics::register(&mut Registry::default());
    let clock = Arc::new(|| Timestamp(NOW));
    let (handle, sync) = follow(config, metrics, sender, clock).expect("usable");
    tokio::spawn(sync.run());
    loop {
        handle.sync_now().await.expect("a good poll");
        while updates.try_recv().is_ok() {}
        println!("taken");
    }
}

/// Each list that is taken is written; the process is killed somewhere between the first byte of a
/// file and its name.
#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_leaves_a_whole_list() {
    let (graph, good) = (Misbehaving::start().await, Good::new());
    let grown = good.but(|list| {
        let list = list["value"][0]["certificateAuthorities"].as_array_mut().expect("a list");
        list.push(Ca::root("one-3").element(true));
    });
    let mut more = good.all.clone();
    more.insert(("one".into(), "one-3".into()));
    let folder = Arc::new(tempfile::tempdir().expect("a folder"));
    let mut written = BTreeSet::new();
    for round in 0..12u64 {
        let lists = [good.list.clone(), grown.clone()];
        graph.answer(move |_, n| Reply::json(&lists[n % 2]));
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "child_that_syncs", "--nocapture"])
            .envs(CHILD.into_iter().zip([folder.path().as_os_str(), graph.url.as_ref()]))
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let killed = tokio::task::spawn_blocking(move || {
            let taken = lines.by_ref().map_while(Result::ok).filter(|l| l.ends_with("taken"));
            // At another moment of the writing each time.
            let taken = taken.take(3 + usize::try_from(round).expect("small")).count();
            std::thread::sleep(Duration::from_micros(round * 700));
            child.kill().expect("killed");
            child.wait().expect("ended");
            taken
        });
        assert!(killed.await.expect("no panic") >= 3, "the child synced until it was killed");
        written.extend(
            std::fs::read_dir(folder.path()).expect("it").map(|f| f.expect("it").file_name()),
        );

        graph.answer(|_, _| Reply::Bytes(vec![]));
        let mut rig = Rig::start(graph.clone(), Arc::clone(&folder), |_| {});
        rig.handle.sync_now().await.expect_err("a dead directory");
        let in_force = rig.in_force().expect("a list");
        assert!(in_force == good.all || in_force == more, "round {round}: {in_force:?}");
        assert!(rig.handle.status().from_disk);
    }
    assert!(written.iter().any(|f| f == "anchors.1"), "{written:?}");
}

#[tokio::test]
async fn age_is_measured_past_jumps_of_the_clock_and_acted_on() {
    let (mut rig, good) = Rig::good_with(|config| config.too_old = TooOld::Refuse).await;
    rig.clock.fetch_add(YEAR, Ordering::Relaxed);
    rig.fails("a year ahead", "500", |_, _| Reply::status(500)).await;
    assert_eq!(rig.in_force(), Some(good.all.clone()), "the clock jumped, the list did not age");
    assert!(!rig.handle.status().too_old);

    // After a restart a year later the list on disk is old, by the clock.
    let (graph, folder) = (rig.graph.clone(), Arc::clone(&rig.folder));
    drop(rig);
    let start = |too_old, now| {
        let (graph, folder) = (graph.clone(), Arc::clone(&folder));
        Rig::start_at(now, graph, folder, move |config| config.too_old = too_old)
    };
    let mut rig = start(TooOld::Refuse, NOW + YEAR);
    let update = soon(rig.updates.recv()).await.expect("an update");
    let Update::Anchors { set, .. } = update else { panic!("not of a directory") };
    assert!(set.configurations.is_empty());
    assert!(set.skipped[0].why.contains("was not reached for"));
    assert!(logged(&["ERROR", "was not reached for", "in force no longer"]));
    assert!(rig.handle.status().too_old && rig.metric("graph_too_old{source=\"hub\"} 1"));
    drop(rig);
    let mut rig = start(TooOld::Continue, NOW + YEAR);
    let _ = rig.handle.sync_now().await;
    assert_eq!(rig.in_force(), Some(good.all.clone()));
    assert!(rig.handle.status().too_old, "in force, with an alarm");
    assert!(logged(&["ERROR", "was not reached for", "still in force, as the policy says"]));
    drop(rig);
    // Reached again, the list is in force again though nothing in it has changed.
    let mut rig = start(TooOld::Refuse, NOW + YEAR);
    let _ = rig.handle.sync_now().await;
    assert_eq!(rig.in_force(), Some(InForce::new()));
    rig.takes("reached again", &good.list, &good.all).await;
    assert!(!rig.handle.status().too_old);
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
        let Some(Update::Anchors { set, .. }) = soon(updates.recv()).await else {
            panic!("no update")
        };
        assert_eq!(set.configurations[0].authorities.len(), 1);
        (handle, updates, task)
    };
    let (mut one, mut two) = (gateway().await, gateway().await);
    let both = json!({"certificateAuthorities": [Ca::root("b").element(true), Ca::root("c").element(true)]});
    // The guard sees the only anchor go: the change is told, and held back.
    assert_eq!(hub.patch(&format!("{M}/{id}"), &both).await.0, 200);
    let mut grown = hub.get(&format!("{M}/{id}")).await.1;
    grown["certificateAuthorities"]
        .as_array_mut()
        .expect("a list")
        .push(Ca::root("d").element(true));
    for (handle, _, _) in [&one, &two] {
        handle.sync_now().await.expect("a good poll");
        assert!(handle.status().held_back.is_some());
        handle.approve().await.expect("approved");
        handle.sync_now().await.expect("a good poll");
    }
    assert_eq!(hub.patch(&format!("{M}/{id}"), &grown).await.0, 200);
    for (_, updates, task) in [&mut one, &mut two] {
        let three = async {
            loop {
                let Some(Update::Anchors { set, .. }) = updates.recv().await else {
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
