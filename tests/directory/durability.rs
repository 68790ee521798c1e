//! Full disks and disconnected callers.

use std::pin::pin;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anchorgate::directory::Directory;
use anchorgate::store::{Collection, Store};
use futures_util::poll;
use hyper::Request;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::directory::{ADMIN, Ca, M, Server, ca_params, config, configuration};

/// A child process serves a directory whose file cannot grow past a limit, like on a full disk.
#[test]
fn a_full_disk_is_503_and_loses_nothing() {
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
                assert_eq!(server.get(&path).await.0, 200, "{id} was acknowledged and is lost");
            }
        });
        return;
    }
    let limited = "trap '' XFSZ; ulimit -f 4096; exec \"$0\" \"$@\"";
    let status = Command::new("bash")
        .args(["-c", limited])
        .arg(std::env::current_exe().expect("this test"))
        .args(["--exact", "durability::a_full_disk_is_503_and_loses_nothing", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::null())
        .status()
        .expect("a child");
    assert!(status.success());
}

/// A change is in the audit log even if the caller did not wait for the response.
#[tokio::test]
async fn a_change_is_audited_if_the_caller_disconnects() {
    // The subscriber is global: with one per thread, callsites may be cached as disabled.
    tracing_subscriber::fmt().with_ansi(false).with_writer(|| Log).init();
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&folder.path().join("directory.redb")).await.expect("a store");
    let served = Directory::new(config(), store.clone()).at("https://hub.example");
    let body = configuration("fleet", json!([])).to_string();
    let request = Request::post(M).header("authorization", format!("Bearer {ADMIN}"));
    let mut changes = store.changes();
    {
        let answer = pin!(served.handle(request.body(body).expect("a request")));
        assert!(poll!(answer).is_pending(), "the write is still running");
    }
    const KIND: Collection = Collection::MutualTlsOauthConfigurations;
    changes.wait_for(|now| now.of(KIND) > 0).await.expect("open");
    let stored = store.list(KIND, None, 1).await.expect("a list");
    let line = format!(
        "action=\"create\" actor=\"admin\" actor_issuer=\"token\" \
         object_type=\"mutualTlsOauthConfiguration\" object=\"{}\"",
        stored[0].id
    );
    let logged = async {
        while !Log::text().contains(&line) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), logged).await.expect("audited");
}

/// The log of this process.
struct Log;

static LOGGED: Mutex<Vec<u8>> = Mutex::new(Vec::new());

impl Log {
    fn text() -> String {
        String::from_utf8_lossy(&LOGGED.lock().expect("no panic")).into_owned()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOGGED.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
