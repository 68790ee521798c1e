//! Guarantees of the database that several replicas share.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anchorgate::store::StoreError;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, query};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::directory::{ADMIN, Ca, D, M, Server, answer, device, template};
use crate::support::postgres::Cluster;
use crate::{C, LONG, NOTIFIED, Place, open};

#[tokio::test(flavor = "multi_thread")]
async fn a_write_notifies_the_readers_of_other_replicas() {
    let place = Place::database().await;
    let (one, other) = (place.open().await, place.open().await);
    let mut changes_seen = other.changes();
    let (mut changes, mut times) = (BTreeSet::new(), Vec::new());
    for n in 0..20 {
        let before = Instant::now();
        let version = one.insert(C, &n.to_string(), vec![n], None).await.expect("stored");
        timeout(NOTIFIED, changes_seen.wait_for(|last| last.of(C) >= version))
            .await
            .expect("a notification")
            .expect("open");
        times.push(before.elapsed());
        assert_eq!(other.get(C, &n.to_string()).await.expect("there").version, version);
        changes.insert(version);
    }
    assert_eq!(changes.len(), 20);
    // The median bounds the delay; single outliers are allowed on a busy machine.
    times.sort_unstable();
    assert!(times[10] < Duration::from_secs(1), "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_starts_create_the_tables_once() {
    let place = Place::database().await;
    let mut starts = JoinSet::new();
    for n in 0..6 {
        let text = place.text();
        starts.spawn(async move {
            let store = open(&text).await;
            store.insert(C, &n.to_string(), vec![], None).await.map(|_| store)
        });
    }
    for store in starts.join_all().await {
        assert_eq!(store.expect("stored").count(C).await.ok(), Some(6));
    }
}

/// The server's default is to acknowledge before it writes; the store must override that.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_crash_loses_no_acknowledged_write() {
    let cluster = Arc::new(Cluster::start("-c synchronous_commit=off -c wal_writer_delay=10s"));
    let url = cluster.database().await;
    let store = open(&url).await;
    for n in 0..50 {
        store.insert(C, &format!("{n:02}"), vec![], None).await.expect("stored");
    }
    cluster.crash();
    cluster.resume();
    let store = open(&url).await;
    assert_eq!(store.count(C).await.ok(), Some(50));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_database_is_503_until_it_returns() {
    let cluster = Arc::new(Cluster::start(""));
    let store = open(&cluster.database().await).await;
    let server = Server::on(store.clone()).await;
    let id = server.configuration("fleet", json!([Ca::root("root").element(true)])).await;
    let path = format!("{M}/{id}");
    let list = server.ask(Method::GET, M).send().await.expect("an answer");
    let tag = list.headers()["etag"].to_str().expect("text").to_owned();
    let unchanged = || server.ask(Method::GET, M).header("if-none-match", &tag);
    assert_eq!(unchanged().send().await.expect("an answer").status(), 304);
    let mut changes = store.changes();
    changes.mark_unchanged();

    cluster.crash();
    for request in [
        server.ask(Method::GET, M),
        server.ask(Method::GET, &path),
        server.ask(Method::PATCH, &path).json(&json!({"displayName": "lost"})),
        server.ask(Method::DELETE, &path),
        // "Unchanged" cannot be known without the database.
        unchanged(),
        unchanged().header("prefer", "wait=5"),
    ] {
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "5");
        let error: Value = response.json().await.expect("JSON");
        assert_eq!(error["error"]["code"], "ServiceUnavailable");
        assert!(!error.to_string().contains("sock"), "the error exposes internals: {error}");
    }

    cluster.resume();
    // Changes are assumed during the outage: waiting readers read again.
    timeout(LONG, changes.changed()).await.expect("the database returns").expect("an open channel");
    let (status, found) = server.get(&path).await;
    assert_eq!((status, &found["displayName"]), (200, &json!("fleet")));
    assert_eq!(server.patch(&path, &json!({"displayName": "new"})).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_starts_without_its_database() {
    let cluster = Arc::new(Cluster::start(""));
    let url = cluster.database().await;
    cluster.crash();
    let store = open(&url).await;
    assert!(matches!(store.count(C).await, Err(StoreError::Unavailable(_))));
    let mut changes = store.changes();
    cluster.resume();
    timeout(LONG, changes.changed()).await.expect("the database returns").expect("an open channel");
    assert_eq!(store.count(C).await.ok(), Some(0));
}

/// Only the listening connection is cut, like an idle one by a firewall.
#[tokio::test(flavor = "multi_thread")]
async fn changes_during_a_lost_connection_are_not_missed() {
    let place = Place::database().await;
    let (one, other) = (place.open().await, place.open().await);
    let mut changes_seen = other.changes();
    let options: PgConnectOptions = place.text().parse().expect("a URL");
    let mut operator = options.connect().await.expect("a connection");
    for n in 0..5 {
        // Only connections to this test's database: other tests share the server.
        query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid() \
             AND (query LIKE 'LISTEN%' OR query LIKE '%FROM directory_collection')",
        )
        .execute(&mut operator)
        .await
        .expect("cut");
        // The writing store is cut as well and reconnects soon.
        let version = loop {
            match one.insert(C, &n.to_string(), vec![], None).await {
                Ok(version) => break version,
                Err(StoreError::Unavailable(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        };
        timeout(LONG, changes_seen.wait_for(|last| last.of(C) >= version))
            .await
            .expect("a notification")
            .expect("open");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_through_two_replicas_leave_one_whole_list() {
    let place = Place::database().await;
    let servers = [
        Arc::new(Server::on(place.open().await).await),
        Arc::new(Server::on(place.open().await).await),
    ];
    let id = servers[0].configuration("fleet", json!([])).await;
    let path = format!("{M}/{id}");
    let tag = servers[1].get(&path).await.1["@odata.etag"].as_str().expect("a tag").to_owned();
    let lists: Vec<Vec<Ca>> =
        (0..6).map(|n| (0..3).map(|m| Ca::root(&format!("root {n} {m}"))).collect()).collect();
    let element = |ca: &Ca| ca.element(true);
    for conditional in [true, false] {
        let mut patches = JoinSet::new();
        for (n, list) in lists.iter().enumerate() {
            let (server, path, tag) = (Arc::clone(&servers[n % 2]), path.clone(), tag.clone());
            let body =
                json!({"certificateAuthorities": list.iter().map(element).collect::<Vec<_>>()});
            patches.spawn(async move {
                let request = server.ask(Method::PATCH, &path).json(&body);
                let request = if conditional { request.header("if-match", tag) } else { request };
                answer(request).await.0
            });
        }
        let statuses = patches.join_all().await;
        let done = statuses.iter().filter(|status| **status == 200).count();
        let stale = statuses.iter().filter(|status| **status == 412).count();
        let expected = if conditional { (1, 5) } else { (6, 0) };
        assert_eq!((done, stale), expected, "{statuses:?}");
        let stored = servers[1].get(&path).await.1;
        let stored: Vec<&str> = stored["certificateAuthorities"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|authority| authority["certificate"].as_str())
            .collect();
        let whole =
            lists.iter().any(|list| stored == list.iter().map(Ca::base64).collect::<Vec<_>>());
        assert!(whole, "the stored list is a mixture: {stored:?}");
    }
}

/// A reader continues at another replica with the same token, and long polls see changes of all replicas.
#[tokio::test(flavor = "multi_thread")]
async fn device_readers_continue_at_another_replica() {
    let place = Place::database().await;
    let one = Server::on(place.open().await).await;
    let other = Server::on(place.open().await).await;
    let of = template(&one, None).await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(device(&one, &of, &format!("urn:device:{n}")).await);
    }
    let (_, first) = one.get(&format!("{D}/delta?$select=accountEnabled&$top=3")).await;
    let follow = |page: &Value, member: &str| {
        let link = page[member].as_str().expect("a link").replace(&one.url, &other.url);
        other.client.get(link).bearer_auth(ADMIN)
    };
    let (status, last) = answer(follow(&first, "@odata.nextLink")).await;
    assert_eq!((status, last["value"].as_array().map(Vec::len)), (200, Some(2)), "{last}");
    let waits = |page: &Value| {
        let mut page = page.clone();
        page["@odata.deltaLink"] =
            page["@odata.deltaLink"].as_str().expect("a link").replace(&other.url, &one.url).into();
        follow(&page, "@odata.deltaLink").header("prefer", "wait=20")
    };
    let waiting = tokio::spawn(answer(waits(&last)));
    let path = format!("{D}/{}", ids[1]);
    assert_eq!(one.patch(&path, &json!({"accountEnabled": false})).await.0, 204);
    let (_, changed) = timeout(NOTIFIED, waiting).await.expect("a notification").expect("answered");
    assert_eq!(changed["value"][0]["id"], json!(ids[1]));
    assert_eq!(changed["value"][0]["accountEnabled"], false);
    assert_eq!(one.delete(&path).await, 204);
    let (_, gone) = answer(waits(&changed)).await;
    assert_eq!(gone["value"], json!([{"id": ids[1], "@removed": {"reason": "deleted"}}]));
}
