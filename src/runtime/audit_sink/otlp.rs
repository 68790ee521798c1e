//! Audit records as OTLP log records.
//!
//! # Design notes
//! The thread of the sink sends, so that it may wait for the collector.  Records that are already in the
//! queue share a request.  A request that the collector does not accept is sent again, so a record may
//! arrive twice, and is not lost.

use std::io::{self, Write};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use prost::Message as _;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::runtime::audit_sink::attempts::until_done;
use crate::runtime::telemetry::LogChannel;

/// Records of one request.
const BATCH: usize = 512;

/// Sends whole lines to a collector.
pub(super) struct Otlp {
    channel: LogChannel,
    records: Vec<LogRecord>,
}

impl Otlp {
    pub(super) fn new(channel: LogChannel) -> Self {
        Self { channel, records: Vec::new() }
    }

    fn send(&mut self) {
        if self.records.is_empty() {
            return;
        }
        let scope = InstrumentationScope { name: "audit".to_owned(), ..Default::default() };
        let logs = ScopeLogs {
            scope: Some(scope),
            log_records: std::mem::take(&mut self.records),
            ..ScopeLogs::default()
        };
        let of_process = ResourceLogs {
            resource: Some(self.channel.resource().clone()),
            scope_logs: vec![logs],
            ..ResourceLogs::default()
        };
        let request = ExportLogsServiceRequest { resource_logs: vec![of_process] };
        let body = request.encode_to_vec();
        until_done(|| self.channel.send(body.clone()).map_err(io::Error::other));
    }
}

impl Write for Otlp {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.records.push(record(line));
        if self.records.len() >= BATCH {
            self.send();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send();
        Ok(())
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
}
