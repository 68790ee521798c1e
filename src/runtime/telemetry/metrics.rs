//! Metrics for a collector: OpenMetrics text becomes an OTLP request.
//!
//! # Design notes
//! A name at the collector is the name in `/metrics`, without the suffix `_total`.  Values are cumulative
//! since the start of the process.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::header::CONTENT_TYPE;
use hyper::{HeaderMap, Request};
use opentelemetry_http::{Bytes, HttpClient};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, InstrumentationScope, KeyValue, any_value::Value,
};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource as WireResource;
use opentelemetry_sdk::Resource;
use prost::Message as _;
use tokio::time::{MissedTickBehavior, interval};

/// Sends metrics to a collector.
pub(crate) struct Exporter {
    client: Box<dyn HttpClient>,
    endpoint: String,
    headers: HeaderMap,
    interval: Duration,
    resource: WireResource,
    start: SystemTime,
}

impl Exporter {
    /// Creates an exporter of cumulative values since `start`.
    pub fn new(
        client: Box<dyn HttpClient>,
        endpoint: String,
        headers: HeaderMap,
        interval: Duration,
        resource: &Resource,
        start: SystemTime,
    ) -> Self {
        let resource = wire_resource(resource);
        Self { client, endpoint, headers, interval, resource, start }
    }

    /// Sends what `read` returns in each interval.  Never returns.
    pub async fn run(&self, read: impl Fn() -> String + Send) {
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let metrics = convert(&read(), nanoseconds(self.start), nanoseconds(SystemTime::now()));
            let scope = InstrumentationScope {
                name: "anchorgate".to_owned(),
                ..InstrumentationScope::default()
            };
            let scope = ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() };
            let of_process = ResourceMetrics {
                resource: Some(self.resource.clone()),
                scope_metrics: vec![scope],
                ..ResourceMetrics::default()
            };
            let body = ExportMetricsServiceRequest { resource_metrics: vec![of_process] };
            let request = Request::post(&self.endpoint)
                .header(CONTENT_TYPE, "application/x-protobuf")
                .body(Bytes::from(body.encode_to_vec()));
            let Ok(mut request) = request else { continue };
            request.headers_mut().extend(self.headers.clone());
            // The client counts and logs failures.  The next request has the same totals.
            let _ = self.client.send_bytes(request).await;
        }
    }
}

/// Returns a resource in the form of a request.
pub(super) fn wire_resource(resource: &Resource) -> WireResource {
    let attributes =
        resource.iter().map(|(key, value)| attribute(key.as_str(), &value.as_str())).collect();
    WireResource { attributes, ..WireResource::default() }
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

/// Kind of a metric family.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Histogram,
    /// Also what has a kind that OTLP lacks.
    Gauge,
}

/// A metric family while its lines are read.
struct Family {
    name: String,
    description: String,
    kind: Kind,
    numbers: Vec<NumberDataPoint>,
    /// By labels.  The counts of the buckets are cumulative.
    histograms: BTreeMap<Vec<(String, String)>, HistogramDataPoint>,
}

/// Converts OpenMetrics text.  Lines that are not valid are left out.
fn convert(text: &str, start: u64, now: u64) -> Vec<Metric> {
    let mut families: Vec<Family> = Vec::new();
    let mut description = (String::new(), String::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap_or((help, ""));
            description = (name.to_owned(), help.to_owned());
            families.push(Family::new(name, help));
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap_or((kind, ""));
            if families.last().is_none_or(|family| family.name != name) {
                families.push(Family::new(name, &description.1));
            }
            if let Some(family) = families.last_mut() {
                family.kind = match kind {
                    "counter" => Kind::Counter,
                    "histogram" => Kind::Histogram,
                    _ => Kind::Gauge,
                };
            }
        } else if !line.starts_with('#')
            && let (Some(family), Some(sample)) = (families.last_mut(), Sample::parse(line))
        {
            family.add(sample, start, now);
        }
    }
    families.into_iter().filter_map(Family::finish).collect()
}

impl Family {
    fn new(name: &str, description: &str) -> Self {
        Self {
            name: name.to_owned(),
            description: description.to_owned(),
            kind: Kind::Gauge,
            numbers: Vec::new(),
            histograms: BTreeMap::new(),
        }
    }

    fn add(&mut self, sample: Sample, start: u64, now: u64) {
        let Some(suffix) = sample.name.strip_prefix(&self.name) else { return };
        if self.kind != Kind::Histogram {
            self.numbers.push(NumberDataPoint {
                attributes: attributes(&sample.labels),
                start_time_unix_nano: if self.kind == Kind::Counter { start } else { 0 },
                time_unix_nano: now,
                value: Some(number_data_point::Value::AsDouble(sample.value)),
                ..NumberDataPoint::default()
            });
            return;
        }
        let (bound, labels): (Vec<_>, Vec<_>) =
            sample.labels.into_iter().partition(|(name, _)| name == "le");
        let point = self.histograms.entry(labels.clone()).or_insert_with(|| HistogramDataPoint {
            attributes: attributes(&labels),
            start_time_unix_nano: start,
            time_unix_nano: now,
            ..HistogramDataPoint::default()
        });
        // Counts stay below 2^53, where they are exact.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let count = sample.value as u64;
        match (suffix, bound.first().and_then(|(_, bound)| bound.parse::<f64>().ok())) {
            ("_sum", _) => point.sum = Some(sample.value),
            ("_count", _) => point.count = count,
            ("_bucket", Some(bound)) => {
                point.bucket_counts.push(count);
                if bound.is_finite() {
                    point.explicit_bounds.push(bound);
                }
            }
            _ => {}
        }
    }

    fn finish(self) -> Option<Metric> {
        let temporality = AggregationTemporality::Cumulative.into();
        let data = match self.kind {
            Kind::Histogram if self.histograms.is_empty() => return None,
            Kind::Histogram => {
                let mut data_points: Vec<_> = self.histograms.into_values().collect();
                for point in &mut data_points {
                    let mut below = 0;
                    for count in &mut point.bucket_counts {
                        (below, *count) = (*count, count.saturating_sub(below));
                    }
                }
                Data::Histogram(Histogram { data_points, aggregation_temporality: temporality })
            }
            _ if self.numbers.is_empty() => return None,
            Kind::Counter => Data::Sum(Sum {
                data_points: self.numbers,
                aggregation_temporality: temporality,
                is_monotonic: true,
            }),
            Kind::Gauge => Data::Gauge(Gauge { data_points: self.numbers }),
        };
        Some(Metric {
            name: self.name,
            description: self.description,
            data: Some(data),
            ..Metric::default()
        })
    }
}

fn attributes(labels: &[(String, String)]) -> Vec<KeyValue> {
    labels.iter().map(|(name, value)| attribute(name, value)).collect()
}

/// One line of a metric.
#[derive(Debug, PartialEq)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Sample {
    fn parse(line: &str) -> Option<Self> {
        let end = line.find(['{', ' '])?;
        let (name, mut rest) = line.split_at(end);
        let mut labels = Vec::new();
        if let Some(after) = rest.strip_prefix('{') {
            rest = after;
            while !rest.starts_with('}') {
                let (label, after) = rest.split_once("=\"")?;
                let (value, after) = unescaped(after)?;
                labels.push((label.to_owned(), value));
                rest = after.strip_prefix(',').unwrap_or(after);
            }
            rest = &rest[1..];
        }
        let value = rest.trim_start().split(' ').next()?.parse().ok()?;
        Some(Self { name: name.to_owned(), labels, value })
    }
}

/// Reads a label value up to its closing quotation mark, and returns the rest.
fn unescaped(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    loop {
        match characters.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            (_, other) => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::family::Family as Labelled;
    use prometheus_client::metrics::gauge::Gauge as Level;
    use prometheus_client::metrics::histogram::Histogram as Times;
    use prometheus_client::registry::Registry;
    use proptest::prelude::*;

    use super::*;

    fn text(registry: &Registry) -> String {
        let mut text = String::new();
        encode(&mut text, registry).expect("encoded");
        text
    }

    fn labels(attributes: &[KeyValue]) -> Vec<(&str, &str)> {
        let value = |pair: &KeyValue| match &pair.value.as_ref().expect("a value").value {
            Some(Value::StringValue(text)) => text.clone(),
            other => panic!("{other:?}"),
        };
        attributes.iter().map(|pair| (pair.key.as_str(), &*value(pair).leak())).collect()
    }

    #[test]
    fn each_kind_of_metric_keeps_its_values() {
        let mut registry = Registry::with_prefix("anchorgate");
        let tokens = Labelled::<Vec<(String, String)>, Counter>::default();
        tokens.get_or_create(&vec![("result".to_owned(), "issued".to_owned())]).inc_by(3);
        registry.register("tokens", "Decisions", tokens);
        let open = Level::<i64>::default();
        open.set(-2);
        registry.register("open", "Open", open);
        let times = Times::new([0.1, 1.0]);
        for seconds in [0.05, 0.06, 0.5, 7.0] {
            times.observe(seconds);
        }
        registry.register("request_seconds", "Times", times);
        let metrics = convert(&text(&registry), 5, 9);
        let [tokens, open, times] = &metrics[..] else { panic!("{metrics:?}") };

        assert_eq!((&*tokens.name, &*tokens.description), ("anchorgate_tokens", "Decisions."));
        let Some(Data::Sum(sum)) = &tokens.data else { panic!("{tokens:?}") };
        assert!(sum.is_monotonic);
        let point = &sum.data_points[0];
        assert_eq!(point.value, Some(number_data_point::Value::AsDouble(3.0)));
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (5, 9));
        assert_eq!(labels(&point.attributes), [("result", "issued")]);

        let Some(Data::Gauge(gauge)) = &open.data else { panic!("{open:?}") };
        assert_eq!(gauge.data_points[0].value, Some(number_data_point::Value::AsDouble(-2.0)));

        let Some(Data::Histogram(histogram)) = &times.data else { panic!("{times:?}") };
        let point = &histogram.data_points[0];
        assert_eq!(point.bucket_counts, [2, 1, 1]);
        assert_eq!(point.explicit_bounds, [0.1, 1.0]);
        assert_eq!((point.count, point.sum), (4, Some(7.61)));
    }

    #[test]
    fn leaves_out_what_is_not_valid() {
        let text = "# HELP a A\n# TYPE a counter\na_total{b=\"1} 2\na_total x\nother 1\na_total 4\n# EOF\n";
        let metrics = convert(text, 0, 0);
        let [Metric { data: Some(Data::Sum(sum)), .. }] = &metrics[..] else {
            panic!("{metrics:?}")
        };
        assert_eq!(sum.data_points.len(), 1);
    }

    proptest! {
        #[test]
        fn label_values_are_read_as_they_were_written(value in any::<String>()) {
            let mut registry = Registry::default();
            let family = Labelled::<Vec<(String, String)>, Counter>::default();
            family.get_or_create(&vec![("name".to_owned(), value.clone())]).inc();
            registry.register("a", "A", family);
            // A line feed is the one control character that the format escapes.
            prop_assume!(!value.contains(['\r', '\u{b}', '\u{c}', '\u{85}', '\u{2028}', '\u{2029}']));
            let metrics = convert(&text(&registry), 0, 0);
            let Some(Data::Sum(sum)) = &metrics[0].data else { panic!("{metrics:?}") };
            prop_assert_eq!(labels(&sum.data_points[0].attributes), [("name", value.as_str())]);
        }

        #[test]
        fn any_text_is_converted(text in "([#a-z_{}\"=\\\\ 0-9\n]|# TYPE a histogram\n){0,80}") {
            let _ = convert(&text, 0, 0);
        }
    }
}
