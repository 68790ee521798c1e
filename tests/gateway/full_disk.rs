//! A disk that fills up under a running gateway, and is made room on.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anchorgate::trust::subject::SubjectField;

use super::{Gateway, IN_FORCE};

/// Set in the child process, whose files the limit is for.
const CHILD: &str = "ANCHORGATE_TEST_GATEWAY_FULL_DISK";

/// No file may be written past this; `unlimited` is a disk that has room.
fn files_end_at(bytes: &str) {
    let own = std::process::id().to_string();
    let limit = format!("--fsize={bytes}:");
    let done = Command::new("prlimit").args(["--pid", &own, &limit]).status().expect("prlimit");
    assert!(done.success());
}

#[test]
fn a_full_disk_takes_no_trust_away_and_is_over_when_there_is_room() {
    if std::env::var_os(CHILD).is_some() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(a_disk_fills_up());
        return;
    }
    // What is written past the limit is then an error, as on a full disk, and not the process's end.
    let ignoring = "trap '' XFSZ; exec \"$0\" \"$@\"";
    let status = Command::new("bash")
        .args(["-c", ignoring])
        .arg(std::env::current_exe().expect("this test"))
        .args(["--exact", "--nocapture"])
        .arg("full_disk::a_full_disk_takes_no_trust_away_and_is_over_when_there_is_room")
        .env(CHILD, "1")
        .stdout(Stdio::null())
        .status()
        .expect("a child");
    assert!(status.success());
}

async fn a_disk_fills_up() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    gateway.until_ready().await;
    let (domain, another) =
        (gateway.domain(SubjectField::SanDns), gateway.domain(SubjectField::SanUri));
    let (device, id) = (gateway.device(domain, 0), &domain.devices[0].subject_id);
    let mut open = gateway.connect(&device).await;
    let create = async || {
        let request = gateway.http.post(gateway.directory(""));
        let request = request.bearer_auth(&gateway.world.directory_token);
        let body = gateway.world.configuration(another);
        request.json(&body).send().await.expect("an answer")
    };

    files_end_at("4096");
    for _ in 0..3 {
        let refused = create().await;
        assert_eq!(refused.status(), 503);
        assert_eq!(refused.headers()["retry-after"], "5");
        // Whatever the directory answers now, the gateway that reads it goes on with what it knows.
        gateway.sync("quickstart").await;
        assert_eq!(open.token(id).await.expect("an answer").status, 200);
        let mut new = gateway.connect(&device).await;
        assert_eq!(new.token(id).await.expect("an answer").status, 200);
        assert_eq!(gateway.admin("/readyz").await.0, 200);
    }

    files_end_at("unlimited");
    let start = Instant::now();
    while create().await.status() != 201 {
        assert!(start.elapsed() < IN_FORCE, "the directory does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    gateway.wait_until_served(another).await;
    assert_eq!(open.token(id).await.expect("an answer").status, 200);
}
