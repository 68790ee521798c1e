//! The directory's database dies while the gateway runs.

use std::time::{Duration, Instant};

use anchorgate::domain::subject::SubjectField;

use super::postgres::Cluster;
use super::{Gateway, IN_FORCE};

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
