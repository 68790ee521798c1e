//! Places where operators see a gateway: the health listener, the status page, commands, and the collector of
//! telemetry.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anchorgate::cli::quickstart::pki::pem;
use anchorgate::cli::quickstart::world::{Ports, World};
use anchorgate::runtime::text::is_hidden;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
use prost::Message;
use reqwest::header::CONTENT_SECURITY_POLICY;
use reqwest::{Client, Method};
use serde_json::json;

use crate::foreign_text::{hostile, object, server};
use crate::gateway::{Gateway, IN_FORCE};
use crate::support::crl_maker::Ca;

fn with_health(text: &str) -> String {
    text.replace("[health]\nlisten = \"off\"", "[health]\nlisten = \"127.0.0.1:0\"")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_at_the_health_listener_learns_no_text_and_performs_no_action() {
    // The directory answers every request with a hostile error.
    let error = json!({"error": {"code": hostile(), "message": hostile()}});
    let url = server(400, Vec::new(), error);
    let gateway = Gateway::start(&[], |text| {
        let own = text.lines().find(|line| line.starts_with("url = ")).expect("a directory");
        with_health(&text).replace(own, &format!("url = \"{url}\""))
    })
    .await;
    let address = gateway.app.addresses.health.expect("configured");
    let client = Client::new();
    let ask = async |method: Method, path: &str| {
        let url = format!("http://{address}{path}");
        let request = client.request(method, url).bearer_auth(&gateway.world.admin_token);
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a text"))
    };
    for path in
        ["/trust/sync", "/crl/refresh", "/keys/rotate", "/config/reload", "/verify", "/explain"]
    {
        assert_eq!(ask(Method::POST, path).await.0, 404, "{path}");
    }
    for path in ["/", "/status", "/status.json", "/config", "/keys", "/crl"] {
        assert_eq!(ask(Method::GET, path).await.0, 404, "{path}");
    }
    // Wait until the error of the directory is known.
    let start = Instant::now();
    loop {
        let admin = format!("http://{}/status.json", gateway.app.addresses.admin);
        let status = client.get(admin).send().await.expect("an answer").text().await;
        if status.expect("a text").contains("INFO audit") {
            break;
        }
        assert!(start.elapsed() < IN_FORCE, "the directory is not asked");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for path in ["/livez", "/readyz", "/startupz", "/metrics"] {
        let (_, text) = ask(Method::GET, path).await;
        assert!(!text.contains("INFO audit") && !text.contains("yyyy"), "{path}: {text}");
        assert!(!text.chars().any(|c| c != '\n' && is_hidden(c)), "{path}: {text}");
        for secret in [&gateway.world.admin_token, &gateway.world.directory_token] {
            assert!(!text.contains(&**secret), "{path}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_page_and_explain_show_foreign_text_harmlessly() {
    let gateway = Gateway::start(&[], |text| text).await;
    let script = format!("</pre><script>alert('x')</script>{}", hostile());
    let chain = pem("CERTIFICATE", Ca::root(&script).issue(&script, &[4], &[]).der());
    let admin = format!("http://{}", gateway.app.addresses.admin);
    let client = Client::new();
    let page = client.get(format!("{admin}/status")).send().await.expect("an answer");
    let page = page.text().await.expect("a text");
    let token = page.split("name=\"token\" value=\"").nth(1).expect("a form");
    let token = token.split('"').next().expect("an end");
    let form = [("token", token), ("chain", &*chain)];
    let request = client.post(format!("{admin}/explain")).header("origin", &admin).form(&form);
    let answer = request.send().await.expect("an answer");
    let policy = answer.headers()[CONTENT_SECURITY_POLICY].to_str().expect("text").to_owned();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    let page = answer.text().await.expect("a text");
    assert!(page.contains("&lt;script") && !page.contains("<script"), "{page}");
    assert!(!page.contains(&"y".repeat(257)), "{page}");
    assert!(!page.chars().any(|c| !matches!(c, '\n' | '\r') && is_hidden(c)), "{page}");

    let file = gateway.world.dir.join("hostile.pem");
    std::fs::write(&file, chain).expect("written");
    for json in [&[][..], &["--json"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_anchorgate"));
        command.args(["explain", "--admin", &admin, "--chain"]).arg(&file).args(json);
        command.env("ANCHORGATE_ADMIN_TOKEN", &gateway.world.admin_token);
        let run = tokio::task::spawn_blocking(move || command.output().expect("it runs"));
        let output = run.await.expect("no panic");
        let text = String::from_utf8([output.stdout, output.stderr].concat()).expect("UTF-8");
        assert!(text.contains("INFO audit"), "{text}");
        assert!(!text.chars().any(|c| c != '\n' && is_hidden(c)), "{text}");
        assert!(!text.lines().any(|line| line.trim_start().starts_with("2026-11-28T00")), "{text}");
        assert!(!json.is_empty() || !text.contains(&"y".repeat(257)), "{text}");
    }
}

/// Bodies that a collector received, with their paths.
type Received = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// Starts a collector, and returns its URL.
fn collector(received: &Received) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let received = Arc::clone(received);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, received) = (stream.expect("a connection"), Arc::clone(&received));
            std::thread::spawn(move || receive(stream, &received));
        }
    });
    url
}

fn receive(mut stream: TcpStream, received: &Received) -> Option<()> {
    loop {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).ok()?;
            head.extend(byte);
        }
        let head = String::from_utf8(head).ok()?.to_ascii_lowercase();
        let path = head.split(' ').nth(1)?.to_owned();
        let length = head.split("content-length: ").nth(1)?.split('\r').next()?.parse().ok()?;
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        received.lock().expect("whole").push((path, body));
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()?;
    }
}

/// A process that is killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything that a gateway exports, once a text of its directory is among it.
fn exported(status: u16, answer: serde_json::Value) -> (World, Vec<String>) {
    let folder = tempfile::tempdir().expect("a folder");
    let ports = Ports::free().expect("ports");
    let world = World::create(&folder.path().join("world"), ports, SystemTime::now().into());
    let world = world.expect("a world");
    let file = world.dir.join("anchorgate.toml");
    let settings = std::fs::read_to_string(&file).expect("written");
    let own = format!("url = \"http://{}\"", ports.directory_http);
    let url = server(status, Vec::new(), answer);
    std::fs::write(&file, settings.replace(&own, &format!("url = \"{url}\""))).expect("written");
    let received = Received::default();
    let mut command = Command::new(env!("CARGO_BIN_EXE_anchorgate"));
    command.args(["run", "--config"]).arg(&file).stderr(Stdio::null());
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector(&received));
    command.env("OTEL_BLRP_SCHEDULE_DELAY", "100").env("OTEL_BSP_SCHEDULE_DELAY", "100");
    let _process = Process(command.spawn().expect("the program runs"));
    let start = Instant::now();
    loop {
        let all = received.lock().expect("whole").clone();
        let of = |(path, body): (String, Vec<u8>)| match &*path {
            "/v1/logs" => texts_of_logs(Message::decode(&body[..]).expect("logs")),
            "/v1/traces" => texts_of_spans(Message::decode(&body[..]).expect("spans")),
            _ => Vec::new(),
        };
        let texts: Vec<_> = all.into_iter().flat_map(of).collect();
        if texts.iter().any(|text| text.contains("INFO audit")) {
            return (world, texts);
        }
        assert!(start.elapsed() < IN_FORCE, "no foreign text is exported: {texts:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_collector_gets_foreign_text_without_hidden_characters_and_no_secret() {
    let error = json!({"error": {"code": hostile(), "message": hostile()}});
    for (status, answer) in [(200, json!({"value": [object()]})), (400, error)] {
        let (world, texts) = exported(status, answer);
        for text in texts {
            assert!(!text.chars().any(is_hidden), "{text:?}");
            assert!(!text.contains(&"y".repeat(257)), "{text:?}");
            for secret in [&world.admin_token, &world.directory_token] {
                assert!(!text.contains(&**secret), "{text:?}");
            }
        }
    }
}

/// The texts of log records.
fn texts_of_logs(request: ExportLogsServiceRequest) -> Vec<String> {
    let scopes = request.resource_logs.into_iter().flat_map(|resource| resource.scope_logs);
    let mut texts = Vec::new();
    for record in scopes.flat_map(|scope| scope.log_records) {
        collect(record.body, &mut texts);
        record.attributes.into_iter().for_each(|pair| collect(pair.value, &mut texts));
    }
    texts
}

/// The texts of spans.
fn texts_of_spans(request: ExportTraceServiceRequest) -> Vec<String> {
    let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    let mut texts = Vec::new();
    for span in scopes.flat_map(|scope| scope.spans) {
        texts.push(span.name);
        span.attributes.into_iter().for_each(|pair| collect(pair.value, &mut texts));
    }
    texts
}

fn collect(value: Option<AnyValue>, into: &mut Vec<String>) {
    match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => into.push(text),
        Some(any_value::Value::ArrayValue(array)) => {
            array.values.into_iter().for_each(|value| collect(Some(value), into));
        }
        Some(any_value::Value::KvlistValue(list)) => {
            list.values.into_iter().for_each(|pair| collect(pair.value, into));
        }
        _ => {}
    }
}
