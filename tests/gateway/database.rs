//! The directory in a database: replicas, TLS, and failures.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anchorgate::cli::quickstart::pki::{Authority, Subject};
use anchorgate::store::{Collection, Database, Store, StoreError};
use anchorgate::trust::subject::SubjectField;

use super::hub::follower;
use super::{Gateway, IN_FORCE, now};
use crate::support::postgres::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_database_removes_no_trust() {
    let cluster = Cluster::start("");
    let url = cluster.database().await;
    let in_database = format!("[directory]\ndatabase_url = \"{url}\"");
    let edit = |text: String| text.replace("[directory]", &in_database);
    let gateway = Gateway::start(&[SubjectField::SanDns], edit).await;
    let domain = gateway.domain(SubjectField::SanDns);
    let id = &domain.devices[0].subject_id;
    let list = || {
        gateway.http.get(gateway.directory("")).bearer_auth(&gateway.world.directory_token).send()
    };
    gateway.until_ready().await;

    cluster.crash();
    let answer = list().await.expect("an answer");
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    // The gateway follows this directory and continues with the state in force.
    let mut connection = gateway.connect(&gateway.device(domain, 0)).await;
    assert_eq!(connection.token(id).await.expect("an answer").status, 200);
    assert_eq!(gateway.admin("/readyz").await.0, 200);

    cluster.resume();
    let start = Instant::now();
    while list().await.expect("an answer").status() != 200 {
        assert!(start.elapsed() < IN_FORCE, "the directory does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let another = gateway.domain(SubjectField::SanEmail);
    gateway.create(another).await;
    gateway.wait_until_served(another).await;
}

/// The role in the URL is replaced by another one, as a rotated password is.
#[tokio::test(flavor = "multi_thread")]
async fn rotated_credentials_of_a_database_are_read_again() {
    let cluster = Cluster::start("");
    let url = cluster.database().await;
    Cluster::execute(&url, &["CREATE ROLE old SUPERUSER LOGIN", "CREATE ROLE new SUPERUSER LOGIN"])
        .await;
    let of = |role: &str| url.replace("user=hub", &format!("user={role}"));
    let in_database = "[directory]\ndatabase_url_file = \"database\"";
    let edit = |text: String| text.replace("[directory]", in_database);
    let gateway = Gateway::start_with(&[SubjectField::SanDns], edit, |world| {
        std::fs::write(world.dir.join("database"), of("old")).expect("written");
    })
    .await;
    let status = async || {
        let list = gateway.http.get(gateway.directory(""));
        let list = list.bearer_auth(&gateway.world.directory_token).send();
        list.await.expect("an answer").status()
    };
    assert_eq!(status().await, 200);
    let file = gateway.world.dir.join("database");

    // Another database needs a restart.
    std::fs::write(&file, url.replace("postgres:///", "postgres:///other_")).expect("written");
    let (code, text) = gateway.program("config reload").await;
    assert!(code == Some(1) && text.contains("only the credentials of"), "{text}");

    std::fs::write(&file, of("new")).expect("written");
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'old'";
    Cluster::execute(&url, &["ALTER ROLE old NOLOGIN", end]).await;
    let start = Instant::now();
    while status().await != 200 {
        assert!(start.elapsed() < IN_FORCE, "the new credentials are not used");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let users = "DO $$ BEGIN ASSERT (SELECT count(*) FROM pg_stat_activity WHERE usename = 'new') > 0; \
                 END $$";
    Cluster::execute(&url, &[users]).await;
    assert!(!gateway.admin("/readyz").await.1.contains("a restart is needed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_at_one_replica_reaches_the_gateways_of_the_other_at_once() {
    let cluster = Cluster::shared();
    let in_database = format!("[directory]\ndatabase_url = \"{}\"", cluster.database().await);
    let replica = || Gateway::start(&[], |text| text.replace("[directory]", &in_database));
    let (one, other) = (replica().await, replica().await);
    let gateway = follower(&other.world, "every = \"1h\"\nwait = \"60s\"").await;
    gateway.reached("hub").await;
    one.create(one.domain(SubjectField::SanDns)).await;
    // The least time between two polls is a second; polling alone would take an hour.
    let took = gateway.configurations(1).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    gateway.served(one.domain(SubjectField::SanDns)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn database_connections_verify_the_server_name() {
    // A loopback address derived from the process id, so that no other server uses it.
    let [.., a, b] = std::process::id().to_be_bytes();
    let address = IpAddr::from(Ipv4Addr::new(127, 77, a, b));
    let [authority, untrusted] =
        ["DB CA", "Other CA"].map(|name| Authority::root(name, now()).expect("a root"));
    let subject = Subject { common_name: "db".into(), ip: vec![address], ..Subject::default() };
    let server = authority.server(&subject, now()).expect("a certificate");
    let cluster = Cluster::start_over_tls(address, &server.chain_pem, &server.key_pem);
    let local = cluster.database().await;
    let name = local.strip_prefix("postgres:///").and_then(|rest| rest.split_once('?'));
    let (name, _) = name.expect("a name");

    let dir = tempfile::tempdir().expect("a directory");
    let count = async |parameters: String| {
        let url = format!("postgres://hub@{address}/{name}?{parameters}");
        let database = Database::parse(&url).expect("a database");
        let (store, follower) = Store::connect(&database).await.expect("an address");
        let follower = tokio::spawn(follower.run());
        let count = store.count(Collection::Devices).await;
        follower.abort();
        count
    };
    let trusting = |authority: &Authority, file: &str| {
        let file = dir.path().join(file);
        std::fs::write(&file, authority.certificate_pem()).expect("written");
        format!("sslmode=verify-full&sslrootcert={}", file.display())
    };
    assert!(matches!(count(trusting(&authority, "ca.pem")).await, Ok(0)));
    for refused in [trusting(&untrusted, "other.pem"), "sslmode=disable".to_owned()] {
        let count = count(refused.clone()).await;
        assert!(matches!(count, Err(StoreError::Unavailable(_))), "{refused}: {count:?}");
    }
}
