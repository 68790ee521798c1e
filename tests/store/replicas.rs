//! What the database of several replicas adds to the store's contract.

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

use crate::directory::{ADMIN, Ca, D, M, Server, answer, device, template};
use crate::postgres::Cluster;
use crate::{C, LONG, Place, TOLD, open};

#[tokio::test(flavor = "multi_thread")]
async fn a_write_through_one_replica_is_told_to_the_readers_of_another() {
    let place = Place::database().await;
    let (one, other) = (place.open().await, place.open().await);
    let mut heard = other.changes();
    let (mut changes, mut times) = (BTreeSet::new(), Vec::new());
    for n in 0..20 {
        let before = Instant::now();
        let version = one.insert(C, &n.to_string(), vec![n], None).await.expect("stored");
        timeout(TOLD, heard.wait_for(|last| last.of(C) >= version))
            .await
            .expect("told")
            .expect("open");
        times.push(before.elapsed());
        assert_eq!(other.get(C, &n.to_string()).await.expect("there").version, version);
        changes.insert(version);
    }
    assert_eq!(changes.len(), 20);
    // A busy machine may be late now and then, not as a rule.
    times.sort_unstable();
    assert!(times[10] < Duration::from_secs(1), "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_at_once_make_the_tables_once() {
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

/// The server is set to answer before it writes; the store must not be.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_database_loses_nothing_that_was_answered() {
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
async fn a_dead_database_is_503_and_comes_back_by_itself() {
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
        // "Unchanged" is not known any longer, and so is not answered.
        unchanged(),
        unchanged().header("prefer", "wait=5"),
    ] {
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "5");
        let error: Value = response.json().await.expect("JSON");
        assert_eq!(error["error"]["code"], "ServiceUnavailable");
        assert!(!error.to_string().contains("sock"), "what is inside is not told: {error}");
    }

    cluster.resume();
    // Assumed to have changed while nobody listened: whoever waits looks again.
    timeout(LONG, changes.changed()).await.expect("it comes back").expect("open");
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
    timeout(LONG, changes.changed()).await.expect("it comes").expect("open");
    assert_eq!(store.count(C).await.ok(), Some(0));
}

/// The listening connection alone is cut, as an idle one is by a firewall that says so.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_while_nobody_listens_is_not_missed() {
    let place = Place::database().await;
    let (one, other) = (place.open().await, place.open().await);
    let mut heard = other.changes();
    let options: PgConnectOptions = place.text().parse().expect("a URL");
    let mut operator = options.connect().await.expect("a connection");
    for n in 0..5 {
        // Of this test's database only: other tests share the server.
        query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid() \
             AND (query LIKE 'LISTEN%' OR query LIKE '%FROM directory_collection')",
        )
        .execute(&mut operator)
        .await
        .expect("cut");
        // The store that writes is cut off too, and is back soon.
        let version = loop {
            match one.insert(C, &n.to_string(), vec![], None).await {
                Ok(version) => break version,
                Err(StoreError::Unavailable(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        };
        timeout(LONG, heard.wait_for(|last| last.of(C) >= version))
            .await
            .expect("told")
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
        assert!(whole, "the stored list is nobody's: {stored:?}");
    }
}

/// What one replica has told, another goes on from; and a reader that waits there hears of a change here.
#[tokio::test(flavor = "multi_thread")]
async fn readers_of_devices_go_on_at_another_replica() {
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
    let (_, changed) = timeout(TOLD, waiting).await.expect("told").expect("answered");
    assert_eq!(changed["value"][0]["id"], json!(ids[1]));
    assert_eq!(changed["value"][0]["accountEnabled"], false);
    assert_eq!(one.delete(&path).await, 204);
    let (_, gone) = answer(waits(&changed)).await;
    assert_eq!(gone["value"], json!([{"id": ids[1], "@removed": {"reason": "deleted"}}]));
}
