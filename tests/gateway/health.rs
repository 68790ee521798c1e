//! The health listener: probes and metrics, independent of the other listeners.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::catch_unwind;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use anchorgate::trust::subject::SubjectField;
use tokio::task::{block_in_place, spawn_blocking};

use super::{Gateway, IN_FORCE};

/// Longest wait for an answer.  It is not measured; a listener that does not answer exceeds any.
const ANSWER: Duration = Duration::from_secs(60);
/// Connections that have sent nothing, of which the health listener keeps half.
const SILENT: usize = 128;
/// Connections that read nothing.
const HANGING: usize = 100;

fn with_health(text: &str) -> String {
    text.replace("[health]\nlisten = \"off\"", "[health]\nlisten = \"127.0.0.1:0\"")
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(ANSWER)).expect("a time limit");
    stream
}

/// The whole response to a probe.
fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = connect(address);
    let request = format!("GET {path} HTTP/1.0\r\nHost: pod.example\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_probes_and_metrics_and_nothing_else() {
    let gateway = Gateway::start(&[], |text| with_health(&text)).await;
    gateway.until_ready().await;
    // The problem of a file is a text that only the admin plane shows.
    let file = gateway.world.dir.join("anchorgate.toml");
    std::fs::write(&file, "spelt = 1").expect("written");
    let (code, text) = gateway.program("config reload").await;
    assert_eq!(code, Some(1), "{text}");
    assert!(gateway.admin("/readyz").await.1.contains("spelt"));
    let address = gateway.app.addresses.health.expect("configured");
    for (method, path, status, expected) in [
        ("GET", "/livez", 200, "live\n"),
        ("GET", "/startupz", 200, "started\n"),
        ("GET", "/readyz", 200, r#"{"degraded":["configuration"],"missing":[],"ready":true}"#),
        ("GET", "/metrics", 200, "anchorgate_trust_generation"),
        ("GET", "/status.json", 404, "no such path"),
        ("POST", "/trust/sync", 404, "no such path"),
        ("POST", "/keys/rotate", 404, "no such path"),
        ("POST", "/readyz", 405, ""),
    ] {
        let method = method.parse().expect("a method");
        let request = gateway.http.request(method, format!("http://{address}{path}"));
        let answer = request.header("Host", "pod.example").send().await.expect("an answer");
        assert_eq!(answer.status(), status, "{path}");
        let text = answer.text().await.expect("a text");
        assert!(text.contains(expected), "{path}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_start_is_complete_with_the_first_trust_and_stays_so() {
    // A directory that does not answer.
    let gateway = Gateway::start(&[], |text| {
        let (head, tail) = text.split_once("url = \"http://127.0.0.1:").expect("a directory");
        let (_, tail) = tail.split_once('"').expect("the end of the URL");
        with_health(&format!("{head}url = \"http://127.0.0.1:1\"{tail}"))
    })
    .await;
    let address = gateway.app.addresses.health.expect("configured");
    let probe = |path| block_in_place(|| get(address, path));
    assert!(probe("/startupz").starts_with("HTTP/1.0 503"), "{}", probe("/startupz"));
    assert!(probe("/livez").starts_with("HTTP/1.0 200"));
    let start = Instant::now();
    while !probe("/readyz").contains("directory quickstart: the last poll failed") {
        assert!(start.elapsed() < IN_FORCE, "not degraded: {}", probe("/readyz"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(probe("/readyz").starts_with("HTTP/1.0 503"));
    let (code, text) = gateway.program("ready").await;
    let warning =
        "warning: directory quickstart: the last poll failed; see `anchorgate trust show`";
    assert!(code == Some(1) && text.contains(warning), "{text}");
    assert!(probe("/startupz").starts_with("HTTP/1.0 503"), "no trust is in force");
    // The right directory.
    let file = gateway.world.dir.join("anchorgate.toml");
    let text = std::fs::read_to_string(&file).expect("written");
    let right = format!("url = \"http://{}\"", gateway.world.ports.directory_http);
    let text = text.replace("url = \"http://127.0.0.1:1\"", &right);
    std::fs::write(&file, text).expect("written");
    let (code, text) = gateway.program("config reload").await;
    assert_eq!(code, Some(0), "{text}");
    let start = Instant::now();
    while !probe("/startupz").starts_with("HTTP/1.0 200") {
        assert!(start.elapsed() < IN_FORCE, "not started: {}", probe("/readyz"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A second gateway of the machine starts with the settings that it had before the listener existed.
#[tokio::test(flavor = "multi_thread")]
async fn a_default_address_that_is_in_use_does_not_stop_the_start() {
    // If this fails, another process uses the address, which serves as well.
    let _held = TcpListener::bind("0.0.0.0:8081");
    let gateway =
        Gateway::start(&[], |text| text.replace("[health]\nlisten = \"off\"", "[health]")).await;
    gateway.until_ready().await;
    assert_eq!(gateway.app.addresses.health, None);
}

/// Its startup probe would otherwise kill a hub.
#[tokio::test(flavor = "multi_thread")]
async fn the_start_of_a_hub_waits_for_no_trust() {
    let hub = Gateway::start(&[], |text| with_health(&super::hub::hub(&text))).await;
    hub.until_ready().await;
    let address = hub.app.addresses.health.expect("configured");
    let probed = block_in_place(|| get(address, "/startupz"));
    assert!(probed.starts_with("HTTP/1.0 200"), "{probed}");
}

/// Threads of the runtime in the next test.
const WORKERS: usize = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_are_answered_while_every_thread_of_the_token_plane_is_busy() {
    let gateway = Gateway::start(&[], |text| with_health(&text)).await;
    gateway.until_ready().await;
    let address = gateway.app.addresses.health.expect("configured");
    // Each of these tasks occupies a thread, as a long computation would, until it is released.
    let state = Arc::new((Mutex::new((0, false)), Condvar::new()));
    for _ in 0..WORKERS {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let (lock, changed) = &*state;
            let mut busy = lock.lock().expect("not poisoned");
            busy.0 += 1;
            changed.notify_all();
            while !busy.1 {
                busy = changed.wait(busy).expect("not poisoned");
            }
        });
    }
    let (lock, changed) = &*state;
    {
        let mut busy = lock.lock().expect("not poisoned");
        while busy.0 < WORKERS {
            busy = changed.wait(busy).expect("not poisoned");
        }
    }
    // The thread of the test is not one of the runtime's.
    let paths = ["/livez", "/startupz", "/readyz", "/metrics"];
    // The tasks are released in any case: the runtime waits for them.
    let answers = catch_unwind(|| paths.map(|path| get(address, path)));
    lock.lock().expect("not poisoned").1 = true;
    changed.notify_all();
    for answer in answers.expect("answered while the threads are busy") {
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    }
}

/// Sends requests for metrics until the connection takes no more, and reads nothing.
fn hang(address: SocketAddr) -> TcpStream {
    let mut stream = connect(address);
    stream.set_nonblocking(true).expect("a flag");
    let requests = b"GET /metrics HTTP/1.1\r\nHost: pod.example\r\n\r\n".repeat(50);
    for _ in 0..1_000 {
        if stream.write(&requests).is_err() {
            break;
        }
    }
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_peers_hanging_scrapers_and_a_thousand_probes_delay_neither_probes_nor_devices() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| with_health(&text)).await;
    gateway.until_ready().await;
    let address = gateway.app.addresses.health.expect("configured");
    let domain = gateway.domain(SubjectField::SanDns);
    let id = &domain.devices[0].subject_id;
    let mut device = gateway.connect(&gateway.device(domain, 0)).await;
    // A connection that has made a request may be idle for longer than the scrapers take.
    assert_eq!(device.token(id).await.expect("an answer").status, 200);
    let held = spawn_blocking(move || {
        let silent: Vec<_> = (0..SILENT).map(|_| connect(address)).collect();
        assert!(get(address, "/readyz").starts_with("HTTP/1.0 200"));
        let hanging: Vec<_> = (0..HANGING).map(|_| hang(address)).collect();
        assert!(get(address, "/metrics").contains("anchorgate_connections"));
        (silent, hanging)
    });
    let held = held.await.expect("answered");
    assert_eq!(device.token(id).await.expect("an answer").status, 200);
    let probes = (0..4).map(|_| {
        spawn_blocking(move || {
            for _ in 0..250 {
                let answer = get(address, "/readyz");
                assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
            }
        })
    });
    let probes: Vec<_> = probes.collect();
    assert_eq!(device.token(id).await.expect("an answer").status, 200);
    for probe in probes {
        probe.await.expect("all answered");
    }
    let mut fresh = gateway.connect(&gateway.device(domain, 1)).await;
    let id = &domain.devices[1].subject_id;
    assert_eq!(fresh.token(id).await.expect("an answer").status, 200);
    drop(held);
    assert!(gateway.app.stop().await, "the stop was not clean");
}
