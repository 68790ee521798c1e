//! Audit records as OTLP log records.
//!
//! # Design notes
//! The thread of the sink sends, so that it may wait for the collector.  Records that are already in the
//! queue share a request.  A request that the collector does not accept is sent again, so a record may
//! arrive twice.  Sending again does not help against a request that is too large or not valid for the
//! collector: it is divided until one record is left.  That record is lost and counted if the collector
//! accepts an empty request.  If it does not, the fault is not in the record: a proxy, or a wrong address.

use std::io::{self, Write};

use hyper::StatusCode;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::runtime::audit_sink::attempts::until_done;
use crate::runtime::log::count_dropped;
use crate::runtime::log_queue::Lost;
use crate::runtime::telemetry::{LogChannel, NotAccepted, SendError};

/// Records of one request.
const BATCH: usize = 512;
/// Encoded bytes of records after which a request is sent.  Proxies often allow 1 MiB.
const BATCH_BYTES: usize = 256 * 1024;

/// Sends whole lines to a collector.
pub(super) struct Otlp<S> {
    /// Sends an encoded request.  Returns the number of records that the collector rejects.
    send: S,
    resource: Resource,
    records: Vec<LogRecord>,
    bytes: usize,
    lost: usize,
}

/// Returns the sink that sends through `channel`.
pub(super) fn sink(channel: LogChannel) -> impl Write + Send {
    let resource = channel.resource().clone();
    Otlp::new(resource, move |body| channel.send(body))
}

impl<S: FnMut(Vec<u8>) -> Result<u64, SendError>> Otlp<S> {
    fn new(resource: Resource, send: S) -> Self {
        Self { send, resource, records: Vec::new(), bytes: 0, lost: 0 }
    }

    fn send(&mut self) {
        self.bytes = 0;
        let mut batches = vec![std::mem::take(&mut self.records)];
        while let Some(mut batch) = batches.pop() {
            if batch.is_empty() {
                continue;
            }
            match self.deliver(&batch) {
                Delivery::Accepted { rejected } => self.lose(rejected),
                Delivery::Refused if batch.len() == 1 => self.lose(1),
                Delivery::Refused => {
                    let rest = batch.split_off(batch.len() / 2);
                    batches.extend([rest, batch]);
                }
            }
        }
    }

    /// Sends a batch until the collector accepts it, or refuses it for what it contains.
    fn deliver(&mut self, batch: &[LogRecord]) -> Delivery {
        let request = self.request(batch.to_vec()).encode_to_vec();
        let empty = self.request(Vec::new()).encode_to_vec();
        let mut delivery = Delivery::Refused;
        until_done(|| {
            delivery = match (self.send)(request.clone()) {
                Ok(rejected) => {
                    let rejected = usize::try_from(rejected).unwrap_or(usize::MAX);
                    Delivery::Accepted { rejected: rejected.min(batch.len()) }
                }
                Err(SendError::NotAccepted(NotAccepted(status))) if is_final(status) => {
                    if batch.len() == 1 {
                        (self.send)(empty.clone()).map_err(io::Error::other)?;
                    }
                    Delivery::Refused
                }
                Err(error) => return Err(io::Error::other(error)),
            };
            Ok(())
        });
        delivery
    }

    fn lose(&mut self, records: usize) {
        self.lost += records;
        for _ in 0..records {
            count_dropped("audit");
        }
    }

    fn request(&self, log_records: Vec<LogRecord>) -> ExportLogsServiceRequest {
        let scope = InstrumentationScope { name: "audit".to_owned(), ..Default::default() };
        let logs = ScopeLogs { scope: Some(scope), log_records, ..ScopeLogs::default() };
        let of_process = ResourceLogs {
            resource: Some(self.resource.clone()),
            scope_logs: vec![logs],
            ..ResourceLogs::default()
        };
        ExportLogsServiceRequest { resource_logs: vec![of_process] }
    }
}

/// The collector's decision about a request.
enum Delivery {
    /// Accepted, except so many of its records.
    Accepted { rejected: usize },
    /// Refused for its size or content.
    Refused,
}

/// True for answers about the request itself, which sending it again does not change.  Others, such as
/// 401 and 404, end when an operator or the collector recovers.
fn is_final(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE)
}

impl<S: FnMut(Vec<u8>) -> Result<u64, SendError>> Write for Otlp<S> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let record = record(line);
        self.bytes += record.encoded_len();
        self.records.push(record);
        if self.records.len() >= BATCH || self.bytes >= BATCH_BYTES {
            self.send();
        }
        Ok(line.len())
    }

    /// The error of lost records is [`Lost`].
    fn flush(&mut self) -> io::Result<()> {
        self.send();
        match std::mem::take(&mut self.lost) {
            0 => Ok(()),
            lost => Err(io::Error::other(Lost(lost))),
        }
    }
}

/// The record of a line: its body is the line, and its attributes are the fields of the schema.
fn record(line: &[u8]) -> LogRecord {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let fields: Map<String, Value> = serde_json::from_slice(line).unwrap_or_default();
    let text = |value: String| AnyValue { value: Some(any_value::Value::StringValue(value)) };
    let time = fields.get("timestamp").and_then(Value::as_str);
    let time = time.and_then(|time| OffsetDateTime::parse(time, &Rfc3339).ok());
    let time = time.map_or(0, |time| time.unix_timestamp_nanos().try_into().unwrap_or(0));
    let attribute = |(key, value): (String, Value)| {
        let value = match value {
            Value::String(value) => any_value::Value::StringValue(value),
            Value::Bool(value) => any_value::Value::BoolValue(value),
            Value::Number(number) => {
                any_value::Value::IntValue(number.as_i64().unwrap_or(i64::MAX))
            }
            other => any_value::Value::StringValue(other.to_string()),
        };
        KeyValue { key, value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
    };
    LogRecord {
        time_unix_nano: time,
        observed_time_unix_nano: time,
        severity_number: SeverityNumber::Info.into(),
        severity_text: "INFO".to_owned(),
        body: Some(text(String::from_utf8_lossy(line).into_owned())),
        attributes: fields.into_iter().map(attribute).collect(),
        ..LogRecord::default()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::runtime::audit::{Event, Outcome, Record};
    use crate::runtime::audit_sink::line;

    #[test]
    fn a_record_has_the_time_and_the_fields_of_its_line() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(1_800_000_000_123_456);
        let detail = Some("a \"quoted\" detail");
        let fields =
            Record { detail, generation: Some(7), ..Record::new(Event::Token, Outcome::Refused) };
        let record = record(&line::json(&fields, at));
        assert_eq!(record.time_unix_nano, 1_800_000_000_123_456_000);
        let value = |key: &str| {
            let pair = record.attributes.iter().find(|pair| pair.key == key);
            pair.and_then(|pair| pair.value.clone()?.value)
        };
        assert_eq!(
            value("detail"),
            Some(any_value::Value::StringValue("a \"quoted\" detail".into()))
        );
        assert_eq!(value("generation"), Some(any_value::Value::IntValue(7)));
        let Some(any_value::Value::StringValue(body)) = record.body.and_then(|body| body.value)
        else {
            panic!("a body");
        };
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(body["outcome"], "refused");
    }

    fn bodies(request: &[u8]) -> Vec<String> {
        let request = ExportLogsServiceRequest::decode(request).expect("a request");
        let scopes = request.resource_logs.into_iter().flat_map(|logs| logs.scope_logs);
        let bodies = scopes.flat_map(|scope| scope.log_records).map(|record| record.body);
        bodies.map(|body| format!("{:?}", body.and_then(|body| body.value))).collect()
    }

    fn lost(flushed: io::Result<()>) -> usize {
        let Err(error) = flushed else { return 0 };
        error.get_ref().and_then(|e| e.downcast_ref::<Lost>()).expect("a number").0
    }

    #[test]
    fn a_record_that_the_collector_refuses_is_lost_alone() {
        let accepted = RefCell::new(Vec::new());
        let refuse = |status| Err(SendError::NotAccepted(NotAccepted(status)));
        let mut otlp = Otlp::new(Resource::default(), |body: Vec<u8>| {
            let bodies = bodies(&body);
            match bodies.iter().any(|body| body.contains("bad")) {
                true if bodies.len() > 2 => refuse(StatusCode::PAYLOAD_TOO_LARGE),
                true => refuse(StatusCode::BAD_REQUEST),
                false => {
                    accepted.borrow_mut().extend(bodies);
                    Ok(0)
                }
            }
        });
        for n in 0..7 {
            let line = if n == 4 { "bad\n".to_owned() } else { format!("good {n}\n") };
            otlp.write_all(line.as_bytes()).expect("taken");
        }
        assert_eq!(lost(otlp.flush()), 1);
        assert_eq!(lost(otlp.flush()), 0);
        let accepted = accepted.borrow();
        assert_eq!(accepted.len(), 6, "{accepted:?}");
        assert!(accepted.is_sorted(), "in their order: {accepted:?}");
    }

    #[test]
    fn requests_are_bounded_in_records_and_bytes_and_sent_again() {
        let (sizes, mut failures) = (RefCell::new(Vec::new()), 1);
        let mut otlp = Otlp::new(Resource::default(), |body: Vec<u8>| {
            if failures > 0 {
                failures -= 1;
                return Err(SendError::NotAccepted(NotAccepted(StatusCode::UNAUTHORIZED)));
            }
            sizes.borrow_mut().push((bodies(&body).len(), body.len()));
            Ok(0)
        });
        for _ in 0..BATCH {
            otlp.write_all(b"short\n").expect("taken");
        }
        assert_eq!(sizes.borrow().len(), 1, "sent without a flush");
        for _ in 0..20 {
            otlp.write_all("x".repeat(50_000).as_bytes()).expect("taken");
        }
        assert_eq!(lost(otlp.flush()), 0);
        let sizes = sizes.borrow();
        assert_eq!(sizes.iter().map(|(records, _)| records).sum::<usize>(), BATCH + 20);
        assert!(sizes.iter().all(|(_, bytes)| *bytes < BATCH_BYTES + 60_000), "{sizes:?}");
    }

    #[test]
    fn records_of_a_partial_success_are_lost() {
        for (rejected, expected) in [(0, 0), (1, 1), (2, 2), (u64::MAX, 2)] {
            let mut otlp = Otlp::new(Resource::default(), |_| Ok(rejected));
            otlp.write_all(b"line\n").expect("taken");
            otlp.write_all(b"line\n").expect("taken");
            assert_eq!(lost(otlp.flush()), expected);
        }
    }

    #[test]
    fn nothing_is_lost_while_a_proxy_refuses_everything() {
        // The batch, its first record, and the empty request after it.
        let (accepted, mut refusals) = (RefCell::new(0), 3);
        let mut otlp = Otlp::new(Resource::default(), |body: Vec<u8>| {
            if refusals > 0 {
                refusals -= 1;
                return Err(SendError::NotAccepted(NotAccepted(StatusCode::BAD_REQUEST)));
            }
            *accepted.borrow_mut() += bodies(&body).len();
            Ok(0)
        });
        for _ in 0..3 {
            otlp.write_all(b"line\n").expect("taken");
        }
        assert_eq!(lost(otlp.flush()), 0);
        assert_eq!(*accepted.borrow(), 3);
    }
}
