//! Gateways that follow external directories: one hub for two gateways, and several directories for one.

use std::time::{Duration, Instant};

use anchorgate::cli::quickstart::client::{Connection, Device};
use anchorgate::cli::quickstart::world::{Domain, World};
use anchorgate::trust::subject::SubjectField;
use serde_json::{Value, json};

use super::{Gateway, IN_FORCE};
use crate::support::misbehaving::{Misbehaving, Reply};

/// The configuration of a gateway without its own directory that follows `sources`: name, address, token,
/// and further keys.
pub(super) fn following(text: &str, sources: &[(&str, &str, &str, &str)]) -> String {
    let (head, rest) = text.split_once("[directory]").expect("a directory");
    let (_, tail) = rest.split_once("[revocation]").expect("revocation");
    let source = |(name, url, token, keys): &(&str, &str, &str, &str)| {
        format!(
            "[[graph]]\nname = \"{name}\"\nurl = \"{url}\"\n{keys}\n\
             [graph.credential]\ntoken = \"{token}\"\n\n"
        )
    };
    let sources: String = sources.iter().map(source).collect();
    format!("{head}{sources}[revocation]{tail}")
}

/// The configuration of a hub: no tokens, and no directory that it follows.
pub(super) fn hub(text: &str) -> String {
    let text =
        text.replace("[public]\n", "[unused]\n").replace("[graph.credential]\n", "[unused]\n");
    let (mut kept, mut keeps) = (String::new(), true);
    for line in text.lines() {
        if line.starts_with('[') {
            let unused = ["[token]", "[unused]", "[oauth]", "[[graph]]"];
            keeps = !unused.contains(&line);
        }
        if keeps {
            kept += &format!("{line}\n");
        }
    }
    kept
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_without_tokens_is_ready_and_serves_gateways() {
    let hub = Gateway::start(&[], |text| hub(&text)).await;
    hub.until_ready().await;
    assert_eq!((hub.app.addresses.token, hub.app.addresses.public), (None, None));
    assert!(!hub.world.dir.join("data/signing-key.pem").exists(), "nothing is signed");
    let (code, output) = hub
        .program(&format!("check-config --config {}/anchorgate.toml", hub.world.dir.display()))
        .await;
    assert_eq!(code, Some(0), "{output}");
    let gateway = follower(&hub.world, "every = \"1s\"\nwait = \"60s\"").await;
    let domain = hub.domain(SubjectField::SanDns);
    hub.create(domain).await;
    let mut connection = gateway.served(domain).await;
    let answer = connection.token(&domain.devices[0].subject_id).await.expect("an answer");
    assert_eq!(answer.status, 200);
    let (_, metrics) = hub.admin("/metrics").await;
    let created = r#"anchorgate_directory_requests_total{method="post",status="201"} 1"#;
    assert!(metrics.lines().any(|line| line == created), "{metrics}");
    let start = Instant::now();
    while !hub.admin("/metrics").await.1.contains("anchorgate_directory_waiting_requests 1") {
        assert!(start.elapsed() < IN_FORCE, "the gateway's long poll is not counted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (_, status) = hub.admin("/status.json").await;
    let status: Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(status["signingKeys"], json!([]), "{status}");
}

/// Starts a gateway that follows the directory of `hub`.
pub(super) async fn follower(hub: &World, keys: &str) -> Gateway {
    let url = format!("http://{}", hub.ports.directory_http);
    let source = ("hub", &*url, &*hub.directory_token, keys);
    Gateway::start(&[], |text| following(&text, &[source])).await
}

impl Gateway {
    /// A device of another gateway's world that trusts this gateway.
    pub(super) fn guest(&self, domain: &Domain) -> Device {
        let identity = &domain.devices[0].identity;
        self.device_of(&identity.chain_pem, &identity.key_pem)
    }

    pub(super) fn ids(&self) -> Vec<String> {
        let trust = &self.app.live.current().trust;
        trust.device_configurations.configurations.iter().map(|c| c.id.to_string()).collect()
    }

    /// Waits until `count` configurations are in force and returns the time taken.
    pub(super) async fn configurations(&self, count: usize) -> Duration {
        let start = Instant::now();
        while self.ids().len() != count {
            assert!(start.elapsed() < IN_FORCE, "in force: {:?}", self.ids());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        start.elapsed()
    }

    /// Waits until the source was reached once.
    pub(super) async fn reached(&self, source: &str) {
        let start = Instant::now();
        while self.source(source).await["last_success"].is_null() {
            assert!(start.elapsed() < IN_FORCE, "{source} is not reached");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) async fn source(&self, name: &str) -> Value {
        let (_, status) = self.admin("/status.json").await;
        let status: Value = serde_json::from_str(&status).expect("JSON");
        let sources = status["sources"].as_array().expect("a list");
        sources.iter().find(|s| s["source"] == name).expect("the source").clone()
    }

    /// Waits until a device gets a token and returns its connection.
    pub(super) async fn served(&self, domain: &Domain) -> Connection {
        let start = Instant::now();
        loop {
            if let Ok(mut connection) =
                self.guest(domain).connect(self.app.addresses.token.unwrap()).await
                && let Ok(answer) = connection.token(&domain.devices[0].subject_id).await
                && answer.status == 200
            {
                return connection;
            }
            assert!(start.elapsed() < IN_FORCE, "not served");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_in_the_hub_is_in_force_in_both_gateways_within_a_poll_interval() {
    let hub = Gateway::start(&[], |text| text).await;
    let gateways = [
        follower(&hub.world, "every = \"1s\"").await,
        follower(&hub.world, "every = \"1s\"").await,
    ];
    for gateway in &gateways {
        gateway.reached("hub").await;
    }
    hub.create(hub.domain(SubjectField::SanDns)).await;
    for gateway in &gateways {
        let took = gateway.configurations(1).await;
        // The interval, its jitter of a tenth, and a margin for busy machines.
        assert!(took < Duration::from_millis(1100) + Duration::from_secs(3), "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_polling_gateways_apply_changes_at_once() {
    let hub = Gateway::start(&[], |text| text).await;
    let keys = "every = \"1h\"\nwait = \"60s\"";
    let gateways = [follower(&hub.world, keys).await, follower(&hub.world, keys).await];
    for gateway in &gateways {
        gateway.reached("hub").await;
    }
    // The minimum interval between polls is a second; the rest is a margin for busy machines.  Polling alone
    // would take an hour.
    let at_once = Duration::from_secs(5);
    let [stays, goes] = [SubjectField::SanDns, SubjectField::SanUri].map(|f| hub.domain(f));
    hub.create(stays).await;
    for gateway in &gateways {
        assert!(gateway.configurations(1).await < at_once);
    }
    let id = hub.create(goes).await;
    let mut open = Vec::new();
    for gateway in &gateways {
        assert!(gateway.configurations(2).await < at_once);
        open.push((gateway, gateway.served(stays).await, gateway.served(goes).await));
    }
    let removed = hub
        .http
        .patch(hub.directory(&format!("/{id}")))
        .bearer_auth(&hub.world.directory_token)
        .json(&json!({ "certificateAuthorities": [] }));
    assert_eq!(removed.send().await.expect("an answer").status(), 200);
    let start = Instant::now();
    for (gateway, beside, connection) in &mut open {
        gateway.until(connection, &goes.devices[0].subject_id, 401).await;
        let answer = beside.token(&stays.devices[0].subject_id).await.expect("an answer");
        assert_eq!(answer.status, 200);
    }
    assert!(start.elapsed() < at_once, "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_directories_do_not_delay_others() {
    let hub = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    let (dead, silent) = (Misbehaving::start().await, Misbehaving::start().await);
    dead.answer(|_, _| Reply::Bytes(vec![]));
    silent.answer(|_, _| Reply::Stall(vec![]));
    let url = format!("http://{}", hub.world.ports.directory_http);
    let token = &*hub.world.directory_token;
    let keys = "every = \"1s\"";
    let sources = [
        ("dead", &*dead.url, "x", keys),
        ("silent", &*silent.url, "x", keys),
        ("one", &*url, token, keys),
        ("two", &*url, token, keys),
    ];
    let gateway = Gateway::start(&[], |text| following(&text, &sources)).await;
    gateway.configurations(2).await;
    let id = hub.ids().pop().expect("one");
    let mut ids = gateway.ids();
    ids.sort();
    assert_eq!(ids, [format!("one/{id}"), format!("two/{id}")]);
    // A change arrives while the failed directories stay failed.
    hub.create(hub.domain(SubjectField::SanUri)).await;
    let took = gateway.configurations(4).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(gateway.source("dead").await["failures"].as_u64() > Some(0));
    assert!(gateway.source("silent").await["last_success"].is_null());
    assert_eq!(silent.seen().len(), 1, "the first request is still pending");
    let (_, metrics) = gateway.admin("/metrics").await;
    for (source, count) in [("one", 2), ("dead", 0)] {
        let line = format!("anchorgate_graph_configurations{{source=\"{source}\"}} {count}");
        assert!(metrics.lines().any(|l| l == line), "{line}: {metrics}");
    }
}
