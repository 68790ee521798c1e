//! Audit records in every sink of a running process: complete, without secrets, and never in the way.

use std::fs::{self, File};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anchorgate::cli::quickstart::world::Ports;
use anchorgate::trust::subject::SubjectField;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message as _;

use super::restart::Instance;
use super::telemetry::{Received, collector};
use super::{Gateway, IN_FORCE};

/// A process that follows the gateway of the test, with a sink.
async fn start(gateway: &Gateway, name: &str, audit: &str, stdout: Stdio) -> (Instance, Ports) {
    start_with_collector(gateway, name, audit, stdout, "").await
}

/// Like [`start`], with the URL of a collector of logs; empty for none.
async fn start_with_collector(
    gateway: &Gateway,
    name: &str,
    audit: &str,
    stdout: Stdio,
    collector: &str,
) -> (Instance, Ports) {
    let ports = Ports::free().expect("ports");
    let mut instance = Instance::new(&gateway.world, name, ports, "");
    let file = gateway.world.dir.join(format!("{name}.toml"));
    let text = fs::read_to_string(&file).expect("written");
    fs::write(&file, format!("{text}\n[audit]\n{audit}\n")).expect("written");
    let mut command = instance.command();
    command.env("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", collector);
    instance.process = Some(command.stdout(stdout).spawn().expect("the program runs"));
    instance.until_ready(true).await;
    (instance, ports)
}

/// Requests a token of the process.
async fn token(gateway: &Gateway, ports: Ports) -> String {
    let domain = gateway.domain(SubjectField::SanDns);
    let device = gateway.device(domain, 0);
    let mut connection = device.connect(ports.token).await.expect("connected");
    let answer = connection.token(&domain.devices[0].subject_id).await.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body["access_token"].as_str().expect("a token").to_owned()
}

/// Reads `sink` until it has a record about an issued token.
async fn until_issued(mut sink: impl FnMut() -> String) -> String {
    let start = Instant::now();
    loop {
        let text = sink();
        if text.contains("\"outcome\":\"issued\"") {
            return text;
        }
        assert!(start.elapsed() < IN_FORCE, "no record of the token: {text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Fails if `text` has a secret of the gateway, of the device, or the token.
fn assert_has_no_secret(gateway: &Gateway, text: &str, token: &str) {
    let body = |pem: &str| -> String { pem.lines().filter(|l| !l.starts_with("---")).collect() };
    let device = body(&gateway.domain(SubjectField::SanDns).devices[0].identity.key_pem);
    let world = &gateway.world;
    for secret in [token, &device, &world.directory_token, &world.admin_token] {
        assert!(secret.len() >= 40 && !text.contains(&secret[secret.len() - 40..]), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sink_has_the_records_and_no_secret() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    let udp = UdpSocket::bind("127.0.0.1:0").expect("bound");
    udp.set_nonblocking(true).expect("set");
    let path = |name: &str| gateway.world.dir.join(name);
    let (stdout, file) = (path("stdout.ndjson"), path("file.ndjson"));
    let server = udp.local_addr().expect("an address");
    let mut received = String::new();
    let mut datagrams = || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(length) = udp.recv(&mut buffer) {
            received.push_str(&String::from_utf8_lossy(&buffer[..length]));
            received.push('\n');
        }
        received.clone()
    };
    for (name, audit) in [
        ("to-stdout", "sink = \"stdout\"".to_owned()),
        ("to-file", "sink = \"file\"\nfile = \"file.ndjson\"".to_owned()),
        ("to-syslog", format!("sink = \"syslog\"\nsyslog = \"udp://{server}\"")),
    ] {
        let out = match name {
            "to-stdout" => File::create(&stdout).expect("created").into(),
            _ => Stdio::null(),
        };
        let (mut instance, ports) = start(&gateway, name, &audit, out).await;
        let token = token(&gateway, ports).await;
        let text = match name {
            "to-stdout" => until_issued(|| read(&stdout)).await,
            "to-file" => until_issued(|| read(&file)).await,
            _ => until_issued(&mut datagrams).await,
        };
        assert_has_no_secret(&gateway, &text, &token);
        let line = text.lines().find(|line| line.contains("\"issued\"")).expect("a record");
        let record = &line[line.find('{').expect("an object")..];
        let record: serde_json::Value = serde_json::from_str(record).expect("JSON");
        assert_eq!((&record["target"], &record["event"]), (&"audit".into(), &"token".into()));
        assert_eq!(name == "to-syslog", line.starts_with("<110>1 "), "{line}");
        instance.stop().await;
    }
}

/// The bodies of the audit records that a collector received, one a line.
fn audit_records(received: &Received) -> String {
    let requests = received.lock().expect("whole").get("/v1/logs").cloned().unwrap_or_default();
    let mut lines = String::new();
    for request in requests {
        let request = ExportLogsServiceRequest::decode(&request[..]).expect("a message");
        let scopes = request.resource_logs.into_iter().flat_map(|resource| resource.scope_logs);
        let audits = scopes.filter(|scope| scope.scope.as_ref().is_some_and(|s| s.name == "audit"));
        for record in audits.flat_map(|scope| scope.log_records) {
            if let Some(Value::StringValue(body)) = record.body.and_then(|body| body.value) {
                lines += &format!("{body}\n{:?}\n", record.attributes);
            }
        }
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_has_the_records_and_no_secret_and_the_log_has_none() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    let received = Received::default();
    let url = collector(&received).await + "/v1/logs";
    let log = gateway.world.dir.join("to-otlp.stdout");
    let out = File::create(&log).expect("created").into();
    let (mut instance, ports) =
        start_with_collector(&gateway, "to-otlp", "sink = \"otlp\"", out, &url).await;
    let token = token(&gateway, ports).await;
    let text = until_issued(|| audit_records(&received)).await;
    assert_has_no_secret(&gateway, &text, &token);
    let line = text.lines().find(|line| line.contains("\"issued\"")).expect("a record");
    let record: serde_json::Value = serde_json::from_str(line).expect("JSON");
    assert_eq!((&record["target"], &record["event"]), (&"audit".into(), &"token".into()));
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_served_while_the_collector_is_dead() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    let closed = TcpListener::bind("127.0.0.1:0").expect("bound").local_addr().expect("bound");
    let (url, audit) =
        (format!("http://{closed}/v1/logs"), "sink = \"otlp\"\nwhen_full = \"block\"");
    let (mut instance, ports) =
        start_with_collector(&gateway, "dead", audit, Stdio::null(), &url).await;
    for _ in 0..20 {
        token(&gateway, ports).await;
    }
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_survives_a_restart_and_shows_a_changed_record() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    let file: PathBuf = gateway.world.dir.join("chain.ndjson");
    let audit = "sink = \"file\"\nfile = \"chain.ndjson\"\nhash_chain = true\nsync = \"always\"";
    for name in ["first", "second"] {
        let (mut instance, ports) = start(&gateway, name, audit, Stdio::null()).await;
        token(&gateway, ports).await;
        let count = if name == "first" { 1 } else { 2 };
        let begin = Instant::now();
        while read(&file).matches("\"outcome\":\"issued\"").count() < count {
            assert!(begin.elapsed() < IN_FORCE, "{}", read(&file));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        instance.stop().await;
    }
    let verify = format!("audit verify {}", file.display());
    let (code, text) = gateway.program(&verify).await;
    assert!(code == Some(0) && text.contains("the start of the chain"), "{text}");
    let (code, text) = gateway.program(&format!("{verify} --last 00")).await;
    assert!(code == Some(1) && text.contains("FAULT"), "{text}");
    let changed = read(&file).replacen("\"outcome\":\"issued\"", "\"outcome\":\"closed\"", 1);
    fs::write(&file, changed).expect("written");
    let (code, text) = gateway.program(&verify).await;
    assert!(code == Some(1) && text.contains("a line was changed"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_served_while_the_sink_is_dead() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    let closed = TcpListener::bind("127.0.0.1:0").expect("bound").local_addr().expect("bound");
    for policy in ["drop-and-count", "block"] {
        let audit =
            format!("sink = \"syslog\"\nsyslog = \"tcp://{closed}\"\nwhen_full = \"{policy}\"");
        let (mut instance, ports) = start(&gateway, policy, &audit, Stdio::null()).await;
        for _ in 0..20 {
            token(&gateway, ports).await;
        }
        instance.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_opened_is_an_error_at_the_start() {
    let gateway = Gateway::start(&[], |text| text).await;
    let ports = Ports::free().expect("ports");
    let instance = Instance::new(&gateway.world, "unwritable", ports, "");
    let file = gateway.world.dir.join("unwritable.toml");
    let text = fs::read_to_string(&file).expect("written");
    let audit = "[audit]\nsink = \"file\"\nfile = \"/proc/version/audit.ndjson\"";
    fs::write(&file, format!("{text}\n{audit}\n")).expect("written");
    let output = instance.command().stderr(Stdio::piped()).output().expect("the program ends");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("audit.file: /proc/version/audit.ndjson"), "{text}");
}
