//! One audit record as one line of JSON, with the fields of the JSON log format.

use std::time::SystemTime;

use serde_json::{Map, Value};

use crate::runtime::audit::{Record, SCHEMA_VERSION, TARGET};
use crate::runtime::audit_sink::attempts::timestamp;
use crate::runtime::text::{MAX_CHARACTERS, clean, distinct};

/// Returns the line, with its end.
pub(super) fn json(record: &Record<'_>, now: SystemTime) -> Vec<u8> {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value);
        }
    };
    let text = |text: Option<&str>| text.map(|text| clean(text, MAX_CHARACTERS).into());
    put("timestamp", Some(timestamp(now).into()));
    put("level", Some("INFO".into()));
    put("target", Some(TARGET.into()));
    put("schema", Some(SCHEMA_VERSION.into()));
    put("event", Some(record.event.as_str().into()));
    put("outcome", Some(record.outcome.as_str().into()));
    for (name, value) in [
        ("action", record.action),
        ("refusal", record.refusal),
        ("error", record.error),
        ("detail", record.detail),
        ("actor", record.actor),
        ("actor_issuer", record.actor_issuer),
        ("permission", record.permission),
        ("object_type", record.object_type),
        ("source", record.source),
        ("configuration", record.configuration),
        ("serial", record.serial),
        ("audience", record.audience),
        ("scope", record.scope),
        ("jti", record.jti),
    ] {
        put(name, text(value));
    }
    let identity = |text: &str| distinct(text, MAX_CHARACTERS).into();
    put("object", record.object.map(identity));
    put("client_id", record.client_id.map(identity));
    put("subject", record.subject.map(identity));
    put("certificate", record.certificate.map(|hash| hash.to_string().into()));
    put("address", record.address.map(|address| address.to_string().into()));
    put("expires", record.expires.map(Value::from));
    put("generation", record.generation.map(Value::from));
    put("connection", record.connection.map(Value::from));
    put("resumed", record.resumed.map(Value::from));
    put("suppressed", record.suppressed.map(Value::from));
    let mut line = Value::Object(fields).to_string().into_bytes();
    line.push(b'\n');
    line
}
