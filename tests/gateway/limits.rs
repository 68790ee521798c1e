//! Limits of the operating system: open files and memory.

use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anchorgate::cli::quickstart::world::Ports;
use anchorgate::trust::subject::SubjectField;
use tokio::time::sleep;

use super::restart::{Instance, hub};
use super::{Gateway, IN_FORCE};

impl Gateway {
    /// The metrics of another gateway.
    pub(super) async fn metrics_of(&self, instance: &Instance) -> String {
        let url = format!("http://{}/metrics", instance.admin);
        let answer = self.http.get(url).send().await.expect("the admin plane answers");
        answer.text().await.expect("a text")
    }
}

/// Starts a process that may open 256 files; the soft limit is lower.
fn with_few_files(instance: &mut Instance) {
    let gateway = instance.command();
    let mut command = Command::new("bash");
    let script = "ulimit -Sn 40; ulimit -Hn 256; exec \"$0\" \"$@\"";
    command.args(["-c", script]).arg(gateway.get_program()).args(gateway.get_args());
    instance.process = Some(command.stderr(Stdio::null()).spawn().expect("the program runs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_leave_files_for_syncs_and_operators() {
    let hub = hub().await;
    let ports = Ports::free().expect("ports");
    let mut instance = Instance::new(&hub.world, "files", ports, "");
    with_few_files(&mut instance);
    instance.until_ready(true).await;
    // Held open: as many as there are files on each listener, some of them handshakes that stop.
    let mut held = Vec::new();
    for address in [ports.token, ports.public] {
        for _ in 0..256 {
            held.push(TcpStream::connect(address).expect("the kernel's queue has room"));
        }
    }
    sleep(Duration::from_millis(500)).await;
    let files = format!("/proc/{}/fd", instance.process.as_ref().expect("started").id());
    let open = std::fs::read_dir(files).expect("a process").count();
    assert!((40..=192 + 32).contains(&open), "{open} files are open");
    // A new trust configuration arrives, and operators are served.
    hub.create(hub.domain(SubjectField::SanUri)).await;
    let start = Instant::now();
    while !hub.metrics_of(&instance).await.contains("anchorgate_trust_configurations 2") {
        assert!(start.elapsed() < IN_FORCE, "the sync has stopped");
        sleep(Duration::from_millis(50)).await;
    }
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_memory_new_connections_are_refused_and_operators_are_served() {
    let hub = hub().await;
    let ports = Ports::free().expect("ports");
    // Less than the program needs.
    let keys = "memory_limit = 33554432";
    let mut instance = Instance::new(&hub.world, "memory", ports, keys);
    instance.start().await;
    let domain = hub.domain(SubjectField::SanDns);
    assert!(hub.device(domain, 0).connect(ports.token).await.is_err(), "memory is short");
    let metrics = hub.metrics_of(&instance).await;
    let refused = "anchorgate_connections_not_kept_total{listener=\"token\",reason=\"memory\"} 1";
    assert!(metrics.contains(refused), "{metrics}");
    assert!(metrics.contains("anchorgate_memory_limit_bytes 33554432"), "{metrics}");
    instance.stop().await;
}
