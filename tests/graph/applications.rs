//! Application configurations of a directory: complete, shortened, paged, or missing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anchorgate::graph::Collection;
use anchorgate::graph::auth::Credential;
use anchorgate::graph::client::Limits;
use anchorgate::runtime::log::Secret;
use anchorgate::sync::{Config, Handle, Metrics, follow};
use anchorgate::trust::assembly::Update;
use anchorgate::x509::time::Timestamp;
use prometheus_client::registry::Registry;
use reqwest::Url;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::support::directory::{self, A, ADMIN, Ca, Server};
use crate::support::misbehaving::{Misbehaving, Reply, Seen};

struct Rig {
    handle: Handle,
    updates: mpsc::Receiver<Update>,
    registry: Registry,
}

impl Rig {
    /// Follows the applications of the directory at `url`.  It polls only on request.
    fn follow(url: &str, token: &str, state_file: Option<PathBuf>) -> Self {
        let credential = Credential::Static(Secret::new(token));
        let config = Config {
            collection: Collection::CertificateBasedApplication,
            prefix_ids: true,
            every: Duration::from_secs(3600),
            state_file,
            limits: Limits { pages: 4, retries: 0, ..Limits::default() },
            ..Config::new("hub", Url::parse(url).expect("a URL"), credential)
        };
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let (sender, updates) = mpsc::channel(64);
        let clock = Arc::new(|| Timestamp(1_795_000_000));
        let (handle, sync) = follow(config, metrics, sender, clock).expect("a configuration");
        tokio::spawn(sync.run());
        Self { handle, updates, registry }
    }

    /// Configuration and common name of every authority in force.
    fn in_force(&mut self) -> Vec<(String, String)> {
        let mut last = Vec::new();
        while let Ok(update) = self.updates.try_recv() {
            let Update::Applications { source, set } = update else {
                panic!("not of applications")
            };
            assert_eq!(&*source, "hub/applications");
            let pairs = set.configurations.iter().flat_map(|c| {
                c.authorities.iter().map(|a| {
                    (c.id.to_string(), a.certificate.subject.to_string().replace("CN=", ""))
                })
            });
            last = pairs.collect();
        }
        last
    }
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(id, name)| ((*id).to_owned(), (*name).to_owned())).collect()
}

fn configuration(id: &str, authorities: Option<Value>) -> Value {
    let mut object = json!({"id": id, "deletedDateTime": null, "displayName": "scripts"});
    if let Some(authorities) = authorities {
        object["trustedCertificateAuthorities"] = authorities;
    }
    object
}

#[tokio::test]
async fn reads_an_expanded_list_with_one_request() {
    let graph = Misbehaving::start().await;
    let (root, issuer) = (Ca::root("r"), Ca::root("i"));
    let list = json!({"value": [
        configuration("1", Some(json!([root.element(true), issuer.element(false)]))),
        configuration("2", Some(json!([]))),
    ]});
    graph.answer(move |_, _| Reply::json(&list));
    let mut rig = Rig::follow(&graph.url, "t", None);
    assert_eq!(rig.handle.source().as_ref(), "hub/applications");
    rig.handle.refresh().await.expect("a good poll");
    assert_eq!(rig.in_force(), pairs(&[("hub/1", "r"), ("hub/1", "i")]));
    let targets: Vec<_> = graph.seen().into_iter().map(|seen| seen.target).collect();
    assert!(targets.iter().all(|t| *t == format!("{A}?$expand=trustedCertificateAuthorities")));
    let status = rig.handle.status();
    assert_eq!(
        (status.content.configurations, status.content.anchors, status.content.intermediates),
        (2, 1, 1)
    );
    assert_eq!(status.content.source, "hub/applications");
    let mut metrics = String::new();
    prometheus_client::encoding::text::encode(&mut metrics, &rig.registry).expect("text");
    let line = "graph_anchors{source=\"hub/applications\"} 1";
    assert!(metrics.lines().any(|l| l == line), "{metrics}");
}

/// Omitted authorities are fetched separately, page by page.
#[tokio::test]
async fn a_shortened_expansion_is_completed() {
    let graph = Misbehaving::start().await;
    let [a, b, c] = ["a", "b", "c"].map(|name| Ca::root(name).element(true));
    let url = graph.url.clone();
    let (first, second) = (a.clone(), [b.clone(), c.clone()]);
    graph.answer(move |seen: &Seen, _| {
        let of_2 = format!("{A}/2/trustedCertificateAuthorities");
        let mut goes_on = configuration("2", Some(json!([b])));
        goes_on["trustedCertificateAuthorities@odata.nextLink"] = json!(format!("{url}{of_2}"));
        match seen.target.strip_prefix(&of_2) {
            Some("") => Reply::json(&json!({
                "value": [b], "@odata.nextLink": format!("{url}{of_2}?$skiptoken=x"),
            })),
            Some(_) => Reply::json(&json!({"value": [c]})),
            None if seen.target == format!("{A}/1/trustedCertificateAuthorities") => {
                Reply::json(&json!({"value": [first]}))
            }
            None => Reply::json(&json!({"value": [configuration("1", None), goes_on]})),
        }
    });
    let mut rig = Rig::follow(&graph.url, "t", None);
    rig.handle.refresh().await.expect("a good poll");
    let whole = pairs(&[("hub/1", "a"), ("hub/2", "b"), ("hub/2", "c")]);
    assert_eq!(rig.in_force(), whole);
    assert!(rig.handle.status().content.skipped.is_empty());
    assert_eq!(rig.handle.in_force().applications.configurations[0].display_name, "scripts");

    // From now on fetching the rest fails in different ways: the list in force stays.
    let elsewhere = "https://evil.example/x";
    let circle = format!("{}{A}/1/trustedCertificateAuthorities", graph.url);
    for rest in [
        Reply::status(500),
        Reply::status(404),
        Reply::json(&json!({"value": {}})),
        Reply::json(&json!({"value": [], "@odata.nextLink": elsewhere})),
        Reply::json(&json!({"value": [], "@odata.nextLink": circle})),
        Reply::json(&json!({"value": [{"isRootAuthority": true}]})),
        Reply::Bytes(vec![]),
    ] {
        let (second, rest) = (second.clone(), rest.clone());
        graph.answer(move |seen: &Seen, _| {
            let list = json!({"value": [
                configuration("1", None), configuration("2", Some(json!([second]))),
            ]});
            if seen.target.contains("/1/") { rest.clone() } else { Reply::json(&list) }
        });
        rig.handle.refresh().await.expect("the rest of the response is good");
        let in_force = rig.handle.in_force();
        let names: Vec<_> = in_force
            .applications
            .configurations
            .iter()
            .flat_map(|c| &c.authorities)
            .map(|a| a.certificate.subject.to_string())
            .collect();
        assert_eq!(names, ["CN=a", "CN=b", "CN=c"]);
        let skipped = rig.handle.status().content.skipped;
        assert!(skipped[0].why.contains("stays as it was"), "{skipped:?}");
    }
}

#[tokio::test]
async fn a_failed_response_changes_nothing_and_the_last_good_list_is_on_disk() {
    let graph = Misbehaving::start().await;
    let folder: TempDir = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("applications");
    let root = Ca::root("r").element(true);
    let list = json!({"value": [configuration("1", Some(json!([root])))]});
    let good = list.clone();
    graph.answer(move |_, _| Reply::json(&good));
    let mut rig = Rig::follow(&graph.url, "t", Some(file.clone()));
    rig.handle.refresh().await.expect("a good poll");
    assert_eq!(rig.in_force(), pairs(&[("hub/1", "r")]));
    let cut = list.to_string().as_bytes()[..200].to_vec();
    for bad in [Reply::status(403), Reply::Plain(200, "", cut), Reply::Bytes(vec![])] {
        graph.answer(move |_, _| bad.clone());
        rig.handle.refresh().await.expect_err("a failed poll");
        assert_eq!(rig.in_force(), [], "no update");
        assert_eq!(rig.handle.in_force().applications.configurations.len(), 1);
    }
    // An empty list would remove every anchor: it is held back.
    graph.answer(|_, _| Reply::json(&json!({"value": []})));
    rig.handle.refresh().await.expect("an answer");
    assert!(rig.handle.status().held_back.is_some());
    assert_eq!(rig.in_force(), []);

    // A new process, and the directory does not respond.
    graph.answer(|_, _| Reply::Bytes(vec![]));
    let mut rig = Rig::follow(&graph.url, "t", Some(file));
    rig.handle.refresh().await.expect_err("a failed poll");
    assert_eq!(rig.in_force(), pairs(&[("hub/1", "r")]));
    assert!(rig.handle.status().from_disk);
}

/// Follows the embedded directory over HTTP.
#[tokio::test]
async fn the_embedded_directory_is_followed() {
    let server = Server::start().await;
    let root = Ca::root("r");
    let body = json!({"displayName": "x", "trustedCertificateAuthorities": [root.element(true)]});
    let mut expected = Vec::new();
    for _ in 0..3 {
        let (status, made) = server.post(A, &body).await;
        assert_eq!(status, 200, "{made}");
        expected.push((format!("hub/{}", made["id"].as_str().expect("an id")), "r".to_owned()));
    }
    let mut rig = Rig::follow(&server.url, ADMIN, None);
    rig.handle.refresh().await.expect("a good poll");
    let mut got = rig.in_force();
    got.sort();
    expected.sort();
    assert_eq!(got, expected);
    let id = expected[0].0.trim_start_matches("hub/");
    assert_eq!(server.delete(&format!("{A}/{id}")).await, 204);
    let changes = rig.handle.refresh().await.expect("a good poll");
    assert_eq!((changes.anchors_removed, changes.anchors_before), (1, 3));
    // A caller that may read only device configurations is rejected, and nothing changes.
    let rig = Rig::follow(&server.url, directory::READER, None);
    let error = rig.handle.refresh().await.expect_err("refused");
    assert!(error.to_string().contains("403"), "{error}");
}
