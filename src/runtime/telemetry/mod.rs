//! Export of traces, logs and metrics to an OpenTelemetry collector (OTLP over HTTP).
//!
//! # Design notes
//! The variables of the OpenTelemetry specification configure it; without an endpoint it is off, and a span
//! then costs the load of one atomic.  Code marks its work with spans of the target `spans::TARGET` and
//! knows nothing of OpenTelemetry.
//!
//! Spans and log records pass through the bounded queues of the SDK, which drop what does not fit, so that a
//! slow or dead collector delays nothing.  Metrics are those of `/metrics`, read once in each interval.

mod log_channel;
pub mod metrics;
pub mod settings;
pub mod spans;

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_http::HttpClient;
use opentelemetry_otlp::{LogExporter, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry as Metrics;
use tokio::task::spawn_blocking;
use tracing::Metadata;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::{Layer, Registry};

use crate::runtime::telemetry::settings::{Settings, Signal};

pub use log_channel::{LogChannel, NotAccepted, SendError};

/// Longest wait for the queues at the end of the process.
const FLUSH: Duration = Duration::from_secs(2);

/// A layer of the log subscriber.
pub(crate) type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Export {
    signal: &'static str,
    result: &'static str,
}

static EXPORTS: LazyLock<Family<Export, Counter>> = LazyLock::new(Family::default);

/// Registers the metric of exports.
pub fn register(registry: &mut Metrics) {
    for signal in Signal::ALL {
        for result in ["delivered", "failed"] {
            let _ = EXPORTS.get_or_create(&Export { signal: signal.as_str(), result });
        }
    }
    registry.register(
        "telemetry_exports",
        "Requests to the OpenTelemetry collector, by signal and result: delivered, failed",
        EXPORTS.clone(),
    );
}

/// Counts a request to the collector.
pub fn count(signal: Signal, is_delivered: bool) {
    let result = if is_delivered { "delivered" } else { "failed" };
    EXPORTS.get_or_create(&Export { signal: signal.as_str(), result }).inc();
}

/// The running export.  By default it is off.
#[derive(Default)]
pub(crate) struct Telemetry {
    traces: Option<SdkTracerProvider>,
    logs: Option<SdkLoggerProvider>,
    metrics: Option<metrics::Exporter>,
    channel: Option<LogChannel>,
}

impl Telemetry {
    /// Starts the export.  `client` makes the HTTP client for a signal.
    ///
    /// # Errors
    /// A variable that the SDK reads is not valid.  The text names it.
    pub fn start<C>(settings: &Settings, client: impl Fn(Signal) -> C) -> Result<Self, String>
    where
        C: HttpClient + 'static,
    {
        let resource = resource(settings);
        let mut telemetry = Self::default();
        if let Some(endpoint) = settings.endpoint(Signal::Traces) {
            let exporter = SpanExporter::builder()
                .with_http()
                .with_http_client(client(Signal::Traces))
                .with_endpoint(endpoint)
                .build()
                .map_err(|error| error.to_string())?;
            let provider = SdkTracerProvider::builder()
                .with_batch_exporter(exporter)
                .with_resource(resource.clone())
                .build();
            telemetry.traces = Some(provider);
        }
        if let Some(endpoint) = settings.endpoint(Signal::Logs) {
            let exporter = LogExporter::builder()
                .with_http()
                .with_http_client(client(Signal::Logs))
                .with_endpoint(endpoint)
                .build()
                .map_err(|error| error.to_string())?;
            let provider = SdkLoggerProvider::builder()
                .with_batch_exporter(exporter)
                .with_resource(resource.clone())
                .build();
            telemetry.logs = Some(provider);
            telemetry.channel = Some(LogChannel::new(
                Arc::new(client(Signal::Logs)),
                endpoint.to_owned(),
                settings.log_headers.clone(),
                metrics::wire_resource(&resource),
            ));
        }
        if let Some(endpoint) = settings.endpoint(Signal::Metrics) {
            let client = Box::new(client(Signal::Metrics));
            telemetry.metrics = Some(metrics::Exporter::new(
                client,
                endpoint.to_owned(),
                settings.metric_headers.clone(),
                settings.metric_interval,
                &resource,
                SystemTime::now(),
            ));
        }
        Ok(telemetry)
    }

    /// Returns the channel for records that wait for the collector; `None` if logs are not exported.
    pub(crate) fn log_channel(&self) -> Option<LogChannel> {
        self.channel.clone()
    }

    /// Returns the layer that takes spans and log records, or `None` if neither is exported.
    pub(crate) fn layer(&self) -> Option<BoxedLayer> {
        let spans = self.traces.as_ref().map(|provider| {
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("anchorgate"))
                .with_location(false)
                .with_threads(false)
                .with_tracked_inactivity(false)
                .with_target(false)
                .with_filter(filter_fn(is_span))
        });
        let records = self.logs.as_ref().map(|provider| {
            OpenTelemetryTracingBridge::new(provider).with_filter(filter_fn(is_record))
        });
        match (spans, records) {
            (None, None) => None,
            (spans, records) => Some(Box::new(Layer::and_then(spans, records))),
        }
    }

    /// Exports the metrics that `read` returns, in OpenMetrics text, in each interval.  Never returns.
    pub(crate) async fn export_metrics(&self, read: impl Fn() -> String + Send) {
        match &self.metrics {
            Some(exporter) => exporter.run(read).await,
            None => std::future::pending().await,
        }
    }

    /// Sends what is queued and ends, within two seconds.
    pub async fn stop(self) {
        let Self { traces, logs, .. } = self;
        // The processors wait for their threads.
        let stopped = spawn_blocking(move || {
            let _ = traces.map(|traces| traces.shutdown_with_timeout(FLUSH));
            let _ = logs.map(|logs| logs.shutdown_with_timeout(FLUSH));
        });
        let _ = stopped.await;
    }
}

fn is_span(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target() == spans::TARGET
}

/// True for records of this program.  Those of libraries could be about the export itself.
fn is_record(metadata: &Metadata<'_>) -> bool {
    let is_ours = |root: &str| {
        let rest = metadata.target().strip_prefix(root);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    metadata.is_event()
        && *metadata.level() <= tracing::Level::INFO
        && (is_ours("anchorgate") || is_ours("audit"))
}

/// Describes this process.  `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` come first.
fn resource(settings: &Settings) -> Resource {
    let mut builder = Resource::builder();
    if !settings.names_service {
        builder = builder.with_service_name("anchorgate");
    }
    let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    builder.with_attribute(version).build()
}
