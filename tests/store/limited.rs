//! Databases with few connections, few rights, without writes, and behind poolers.

use std::time::{Duration, Instant};

use anchorgate::store::{Store, StoreError};
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use tokio::time::sleep;

use crate::support::postgres::{Cluster, database};
use crate::{C, LONG, open};

/// The reason for which the store cannot be used.
async fn reason(store: &Store) -> String {
    match store.count(C).await {
        Err(StoreError::Unavailable(why)) => why,
        other => panic!("{other:?}"),
    }
}

async fn until_available(store: &Store) {
    let start = Instant::now();
    while store.count(C).await.is_err() {
        assert!(start.elapsed() < LONG, "{}", reason(store).await);
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_waits_for_a_connection_for_a_short_time_only() {
    let cluster = Cluster::start("-c max_connections=6 -c superuser_reserved_connections=0");
    let url = cluster.database().await;
    let store = open(&url).await;
    until_available(&store).await;
    let options: PgConnectOptions = url.parse().expect("a URL");
    let mut others = Vec::new();
    while let Ok(connection) = options.connect().await {
        others.push(connection);
    }
    // The pool has one connection at most, and the others of the server are in use.
    let operations = (0..8).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            let start = Instant::now();
            let result = store.insert(C, &n.to_string(), vec![n], None).await;
            assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
            result
        })
    });
    for operation in operations.collect::<Vec<_>>() {
        match operation.await.expect("no panic") {
            Ok(_) | Err(StoreError::Unavailable(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    drop(others);
    until_available(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_rights_are_reported_with_the_sql_that_grants_them() {
    let cluster = Cluster::shared();
    let url = cluster.database().await;
    let user = format!("app_{}", url.split(['/', '?']).nth(3).expect("a name"));
    let create = format!("CREATE ROLE {user} LOGIN");
    Cluster::execute(&url, &[&create, "REVOKE CREATE ON SCHEMA public FROM PUBLIC"]).await;
    let as_user = url.replace("user=hub", &format!("user={user}"));

    let store = open(&as_user).await;
    let why = reason(&store).await;
    let grant = format!("GRANT USAGE, CREATE ON SCHEMA public TO {user};");
    assert!(why.contains(&grant), "{why}");

    // The owner creates the tables; then rights on them suffice.
    until_available(&open(&url).await).await;
    let store = open(&as_user).await;
    let why = reason(&store).await;
    let grant = format!("ON ALL TABLES IN SCHEMA public TO {user};");
    assert!(why.contains(&grant) && why.contains("directory_object"), "{why}");
    let grant = format!("GRANT SELECT, INSERT, UPDATE, DELETE {grant}");
    Cluster::execute(&url, &[&grant]).await;
    until_available(&store).await;
    store.insert(C, "a", vec![1], None).await.expect("stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_server_serves_reads_and_refuses_writes() {
    let cluster = Cluster::start("");
    let url = cluster.database().await;
    let store = open(&url).await;
    store.insert(C, "a", vec![1], None).await.expect("stored");
    drop(store);
    cluster.restart_as_standby();
    let store = open(&url).await;
    until_available(&store).await;
    assert_eq!(store.get(C, "a").await.expect("there").body, [1]);
    let refused = store.insert(C, "b", vec![1], None).await;
    assert!(matches!(refused, Err(StoreError::ReadOnly)), "{refused:?}");
    assert_eq!(store.count(C).await.ok(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_set_read_only_serves_reads_and_refuses_writes() {
    let cluster = Cluster::shared();
    let url = cluster.database().await;
    let store = open(&url).await;
    store.insert(C, "a", vec![1], None).await.expect("stored");
    drop(store);
    let name = url.trim_start_matches("postgres:///").split('?').next().expect("a name");
    let set =
        |value: &str| format!("ALTER DATABASE {name} SET default_transaction_read_only = {value}");
    Cluster::execute(&url, &[&set("on")]).await;
    let store = open(&url).await;
    until_available(&store).await;
    assert_eq!(store.get(C, "a").await.expect("there").body, [1]);
    for refused in [
        store.insert(C, "b", vec![1], None).await.map(drop),
        store.replace(C, "a", 1, vec![1]).await.map(drop),
        store.remove(C, "a", None).await,
    ] {
        assert!(matches!(refused, Err(StoreError::ReadOnly)), "{refused:?}");
    }
    let why = StoreError::ReadOnly.to_string();
    assert!(why.contains("default_transaction_read_only"), "{why}");
    assert_eq!(store.count(C).await.ok(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_is_used_in_session_mode_and_rejected_in_transaction_mode() {
    let cluster = Cluster::shared();
    let url = cluster.database().await;
    let (_pooler, pooled) = cluster.pooler(&url, "session");
    let (one, other) = (open(&pooled).await, open(&url).await);
    until_available(&one).await;
    let mut changes = one.changes();
    let version = other.insert(C, "a", vec![1], None).await.expect("stored");
    let seen = changes.wait_for(|last| last.of(C) >= version);
    tokio::time::timeout(crate::NOTIFIED, seen).await.expect("notified").expect("open");

    let (_pooler, pooled) = cluster.pooler(&url, "transaction");
    let error = match Store::connect(&database(&pooled)).await {
        Ok((store, _)) => panic!("not rejected, but: {}", reason(&store).await),
        Err(error) => error.to_string(),
    };
    assert!(error.contains("pooler in session mode"), "{error}");
}
