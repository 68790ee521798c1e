//! The directory in a database: for several replicas, over TLS, and dead.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anchorgate::cli::quickstart::pki::{Authority, Subject};
use anchorgate::store::{Collection, Database, Store, StoreError};
use anchorgate::trust::subject::SubjectField;

use super::hub::follower;
use super::postgres::Cluster;
use super::{Gateway, IN_FORCE, now};

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_database_of_the_directory_takes_no_trust_away() {
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
    // The gateway, which syncs from this directory, goes on with what it knows.
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
async fn a_database_is_spoken_to_over_tls_under_its_verified_name() {
    // A loopback address of this process's own, so that no other server has it.
    let [.., a, b] = std::process::id().to_be_bytes();
    let address = IpAddr::from(Ipv4Addr::new(127, 77, a, b));
    let [authority, stranger] =
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
        let (store, follower) = Store::connect(&database).await;
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
    for refused in [trusting(&stranger, "other.pem"), "sslmode=disable".to_owned()] {
        let count = count(refused.clone()).await;
        assert!(matches!(count, Err(StoreError::Unavailable(_))), "{refused}: {count:?}");
    }
}
