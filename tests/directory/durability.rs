//! A full disk.

use std::process::{Command, Stdio};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Ca, M, Server, ca_params, configuration};

/// A child process serves a directory whose file may not grow past a limit, as on a full disk.
#[test]
fn a_full_disk_is_said_and_loses_nothing() {
    const CHILD: &str = "ANCHORGATE_TEST_FULL_DISK";
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if std::env::var_os(CHILD).is_some() {
        runtime.block_on(async {
            let server = Server::start().await;
            let mut large = ca_params("large");
            let filler = rcgen::CustomExtension::from_oid_content(
                &[1, 3, 6, 1, 4, 1, 99999, 1],
                [&[4, 0x82, 0x1b, 0x58][..], &[0; 7000]].concat(),
            );
            large.custom_extensions = vec![filler];
            let body = configuration("large", json!([Ca::self_signed(large).element(true)]));
            let mut made = Vec::new();
            let refused = loop {
                let response = server.ask(Method::POST, M).json(&body).send().await;
                let response = response.expect("an answer");
                if response.status() != 201 {
                    break response;
                }
                made.push(response.json::<Value>().await.expect("JSON")["id"].clone());
                assert!(made.len() < 100_000, "the limit does not hold");
            };
            assert_eq!(
                (refused.status().as_u16(), &refused.headers()["retry-after"]),
                (503, &"5".parse().expect("a header"))
            );
            assert!(!made.is_empty());
            for id in &made {
                let path = format!("{M}/{}", id.as_str().expect("an id"));
                assert_eq!(server.get(&path).await.0, 200, "{id} was answered and is lost");
            }
        });
        return;
    }
    let limited = "trap '' XFSZ; ulimit -f 4096; exec \"$0\" \"$@\"";
    let status = Command::new("bash")
        .args(["-c", limited])
        .arg(std::env::current_exe().expect("this test"))
        .args(["--exact", "durability::a_full_disk_is_said_and_loses_nothing", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::null())
        .status()
        .expect("a child");
    assert!(status.success());
}
