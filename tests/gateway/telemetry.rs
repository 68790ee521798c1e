//! Traces, logs and metrics at an OpenTelemetry collector, from a process and a third-party client.

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anchorgate::cli::quickstart::world::Ports;
use anchorgate::trust::subject::SubjectField;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::IN_FORCE;
use super::restart::{Instance, hub};

/// Bodies that were received, by path.
pub(super) type Received = Arc<Mutex<HashMap<String, Vec<Vec<u8>>>>>;

/// Starts a collector, and returns its URL.
pub(super) async fn collector(received: &Received) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let received = Arc::clone(received);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(receive(stream, Arc::clone(&received)));
        }
    });
    url
}

async fn receive(mut stream: TcpStream, received: Received) -> Option<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).ok()?.to_ascii_lowercase();
        let path = head.split(' ').nth(1)?.to_owned();
        let length = head.split("content-length: ").nth(1)?.split('\r').next()?.parse().ok()?;
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        received.lock().expect("whole").entry(path).or_default().push(body);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await.ok()?;
    }
}

/// Waits until `find` returns a value for what arrived at `path`.
async fn until<M, T>(received: &Received, path: &str, find: impl Fn(&[M]) -> Option<T>) -> T
where
    M: prost::Message + Default,
{
    let start = Instant::now();
    loop {
        let bodies = received.lock().expect("whole").get(path).cloned().unwrap_or_default();
        let messages: Vec<M> =
            bodies.iter().map(|body| M::decode(&body[..]).expect("a message")).collect();
        if let Some(found) = find(&messages) {
            return found;
        }
        assert!(start.elapsed() < IN_FORCE, "{path}: not received");
        sleep(Duration::from_millis(50)).await;
    }
}

fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let pair = attributes.iter().find(|pair| pair.key == key)?;
    match pair.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::BoolValue(is) => Some(is.to_string()),
        _ => None,
    }
}

fn spans(requests: &[ExportTraceServiceRequest]) -> Vec<Span> {
    let of_resource = requests.iter().flat_map(|request| &request.resource_spans);
    let of_scope = of_resource.flat_map(|resource| &resource.scope_spans);
    of_scope.flat_map(|scope| scope.spans.clone()).collect()
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_a_trace_with_its_audit_record_and_metrics() {
    let received = Received::default();
    let url = collector(&received).await;
    let hub = hub().await;
    let ports = Ports::free().expect("ports");
    let mut instance = Instance::new(&hub.world, "telemetry", ports, "");
    let mut command = instance.command();
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &url).env("OTEL_BSP_SCHEDULE_DELAY", "100");
    command.env("OTEL_METRIC_EXPORT_INTERVAL", "1000").env("OTEL_SERVICE_NAME", "gate-7");
    instance.process = Some(command.spawn().expect("the program runs"));
    instance.until_ready(true).await;

    let domain = hub.domain(SubjectField::SanDns);
    let (file, identity) = (|name| hub.world.dir.join(name), &domain.devices[0].identity);
    std::fs::write(file("device.pem"), &identity.chain_pem).expect("written");
    std::fs::write(file("device.key"), &identity.key_pem).expect("written");
    let form = format!("grant_type=client_credentials&client_id={}", domain.devices[0].subject_id);
    let done = Command::new("curl")
        .args(["-sSk", "--cert"])
        .arg(file("device.pem"))
        .arg("--key")
        .arg(file("device.key"))
        .args(["-H", &format!("traceparent: 00-{TRACE}-{PARENT}-01"), "-d", &form])
        .arg(format!("https://localhost:{}/oauth2/token", ports.token.port()))
        .output()
        .expect("curl");
    let answer = String::from_utf8_lossy(&done.stdout);
    assert!(answer.contains("access_token"), "{answer} {}", String::from_utf8_lossy(&done.stderr));

    let trace = until(&received, "/v1/traces", |requests: &[ExportTraceServiceRequest]| {
        let named = |name: &str| spans(requests).into_iter().find(|span| span.name == name);
        Some((named("POST token")?, named("sign")?, named("TLS handshake")?, requests[0].clone()))
    });
    let (request, sign, handshake, export) = trace.await;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(
        (hex(&request.trace_id), hex(&request.parent_span_id)),
        (TRACE.into(), PARENT.into())
    );
    assert_eq!(attribute(&request.attributes, "http.response.status_code").as_deref(), Some("200"));
    assert_eq!((&sign.trace_id, &sign.parent_span_id), (&request.trace_id, &request.span_id));
    assert_eq!(attribute(&handshake.attributes, "tls.protocol.version").as_deref(), Some("1.3"));
    assert_eq!(attribute(&handshake.attributes, "tls.resumed").as_deref(), Some("false"));
    let resource = export.resource_spans[0].resource.as_ref().expect("a resource");
    assert_eq!(attribute(&resource.attributes, "service.name").as_deref(), Some("gate-7"));

    // The directory is told about the trace of its follower's request.
    until(&received, "/v1/traces", |requests: &[ExportTraceServiceRequest]| {
        spans(requests).into_iter().find(|span| span.name == "directory request")
    })
    .await;

    let record = until(&received, "/v1/logs", |requests: &[ExportLogsServiceRequest]| {
        let of_resource = requests.iter().flat_map(|request| &request.resource_logs);
        let of_scope = of_resource.flat_map(|resource| &resource.scope_logs);
        let mut records = of_scope.flat_map(|scope| scope.log_records.clone());
        records.find(|record| hex(&record.trace_id) == TRACE)
    });
    let record = record.await;
    assert_eq!(record.span_id, request.span_id);
    assert!(!format!("{record:?}").contains("eyJ"), "a token is in {record:?}");

    until(&received, "/v1/metrics", |requests: &[ExportMetricsServiceRequest]| {
        let of_resource = requests.iter().flat_map(|request| &request.resource_metrics);
        let of_scope = of_resource.flat_map(|resource| &resource.scope_metrics);
        let metrics: Vec<_> = of_scope.flat_map(|scope| &scope.metrics).collect();
        let has = |name: &str| metrics.iter().any(|metric| metric.name == name);
        (has("anchorgate_telemetry_exports") && has("anchorgate_token_requests")).then_some(())
    })
    .await;
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_collector_delays_no_token_and_no_stop() {
    // Connections are accepted by the kernel and never answered.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("an address"));
    let hub = hub().await;
    let ports = Ports::free().expect("ports");
    let mut instance = Instance::new(&hub.world, "silent-collector", ports, "");
    let mut command = instance.command();
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &url).env("OTEL_BSP_MAX_QUEUE_SIZE", "8");
    command.env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4");
    instance.process = Some(command.spawn().expect("the program runs"));
    instance.until_ready(true).await;
    let domain = hub.domain(SubjectField::SanDns);
    let device = hub.device(domain, 0);
    let mut connection = device.connect(ports.token).await.expect("a connection");
    for _ in 0..50 {
        let answer = connection.token(&domain.devices[0].subject_id).await.expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    drop(connection);
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protocol_that_is_not_supported_is_an_error_at_the_start() {
    let hub = hub().await;
    let instance = Instance::new(&hub.world, "grpc", Ports::free().expect("ports"), "");
    let mut command = instance.command();
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317");
    command.env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc").stderr(Stdio::piped());
    let done = command.output().expect("the program runs");
    let error = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(78), "{error}");
    assert!(error.contains("OTEL_EXPORTER_OTLP_PROTOCOL: `grpc` is not supported"), "{error}");
}
