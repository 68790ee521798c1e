//! A disk that becomes full under a running gateway and is then freed.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anchorgate::trust::subject::SubjectField;

use super::{Gateway, IN_FORCE};

/// Set in the child process, whose files are limited.
const CHILD: &str = "ANCHORGATE_TEST_GATEWAY_FULL_DISK";

/// Limits the size of files; `unlimited` removes the limit.
fn limit_file_size(bytes: &str) {
    let own = std::process::id().to_string();
    let limit = format!("--fsize={bytes}:");
    let done = Command::new("prlimit").args(["--pid", &own, &limit]).status().expect("prlimit");
    assert!(done.success());
}

#[test]
fn a_full_disk_removes_no_trust_and_the_directory_recovers() {
    if std::env::var_os(CHILD).is_some() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(fill_the_disk());
        return;
    }
    // With SIGXFSZ ignored, writing past the limit is an error, like on a full disk.
    let ignoring = "trap '' XFSZ; exec \"$0\" \"$@\"";
    let status = Command::new("bash")
        .args(["-c", ignoring])
        .arg(std::env::current_exe().expect("this test"))
        .args(["--exact", "--nocapture"])
        .arg("full_disk::a_full_disk_removes_no_trust_and_the_directory_recovers")
        .env(CHILD, "1")
        .stdout(Stdio::null())
        .status()
        .expect("a child");
    assert!(status.success());
}

async fn fill_the_disk() {
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

    limit_file_size("4096");
    for _ in 0..3 {
        let refused = create().await;
        assert_eq!(refused.status(), 503);
        assert_eq!(refused.headers()["retry-after"], "5");
        // The gateway continues with the state in force.
        gateway.sync("quickstart").await;
        assert_eq!(open.token(id).await.expect("an answer").status, 200);
        let mut new = gateway.connect(&device).await;
        assert_eq!(new.token(id).await.expect("an answer").status, 200);
        assert_eq!(gateway.admin("/readyz").await.0, 200);
    }

    limit_file_size("unlimited");
    let start = Instant::now();
    while create().await.status() != 201 {
        assert!(start.elapsed() < IN_FORCE, "the directory does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    gateway.wait_until_served(another).await;
    assert_eq!(open.token(id).await.expect("an answer").status, 200);
}
