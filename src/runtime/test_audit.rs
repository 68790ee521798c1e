use super::*;
use crate::runtime::text::is_hidden;
use serde_json::{Map, Value};
use std::io;
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic while logging").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        let bytes = self.0.lock().expect("no panic while logging").clone();
        String::from_utf8(bytes).expect("UTF-8")
    }
}

fn json_line(record: &Record<'_>) -> String {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, || record.emit());
    log.text()
}

fn text_line(record: &Record<'_>) -> String {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || record.emit());
    log.text()
}

fn schema() -> Value {
    serde_json::from_str(SCHEMA).expect("the schema is JSON")
}

/// A record in which every text field is `text`.
fn full(text: &str) -> Record<'_> {
    let text = Some(text);
    Record {
        action: text,
        refusal: text,
        error: text,
        detail: text,
        actor: text,
        actor_issuer: text,
        permission: text,
        object_type: text,
        object: text,
        source: text,
        client_id: text,
        configuration: text,
        subject: text,
        serial: text,
        certificate: Some(Fingerprint([0xab; 32])),
        audience: text,
        scope: text,
        jti: text,
        expires: Some(1_800_000_000),
        generation: Some(7),
        connection: Some(3),
        address: Some(([192, 0, 2, 1], 443).into()),
        resumed: Some(false),
        suppressed: Some(1),
        ..Record::new(Event::Token, Outcome::Refused)
    }
}

/// Checks the subset of JSON Schema that `audit.schema.json` uses.
fn check(schema: &Value, line: &str) {
    let record: Map<String, Value> = serde_json::from_str(line).expect("one JSON object");
    let properties = schema["properties"].as_object().expect("properties");
    for name in schema["required"].as_array().expect("required") {
        assert!(record.contains_key(name.as_str().expect("a name")), "{name} in {line}");
    }
    for (name, value) in &record {
        let Some(property) = properties.get(name) else { panic!("no property {name}: {line}") };
        let is_of_type = match property["type"].as_str().expect("a type") {
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "boolean" => value.is_boolean(),
            "object" => value.is_object(),
            other => panic!("{name}: type {other} is not checked here"),
        };
        assert!(is_of_type, "{name}: {value}");
        if let Some(allowed) = property["enum"].as_array() {
            assert!(allowed.contains(value), "{name}: {value}");
        }
        if let Some(constant) = property.get("const") {
            assert_eq!(constant, value, "{name}");
        }
        if let Some(longest) = property["maxLength"].as_u64() {
            let length = value.as_str().expect("a string").chars().count();
            assert!(length as u64 <= longest, "{name}: {length} characters");
        }
        for keyword in property.as_object().expect("a schema").keys() {
            let known = ["type", "enum", "const", "maxLength", "description", "format"];
            assert!(known.contains(&&**keyword), "{name}: {keyword} is not checked here");
        }
    }
}

#[test]
fn records_satisfy_the_schema_and_fill_every_property() {
    let schema = schema();
    let line = json_line(&full("x"));
    check(&schema, &line);
    let record: Map<String, Value> = serde_json::from_str(&line).expect("JSON");
    let properties = schema["properties"].as_object().expect("properties");
    // Only files of `audit_sink` have a chain.
    let missing: Vec<_> = properties
        .keys()
        .filter(|name| *name != "previous" && !record.contains_key(*name))
        .collect();
    assert!(missing.is_empty(), "documented and never emitted: {missing:?}");
    assert_eq!(schema["properties"]["schema"]["const"], SCHEMA_VERSION);
    for event in Event::ALL {
        check(&schema, &json_line(&Record::new(event, Outcome::Changed)));
    }
    for outcome in Outcome::ALL {
        check(&schema, &json_line(&Record::new(Event::Trust, outcome)));
    }
    let count = |name: &str| schema["properties"][name]["enum"].as_array().map(Vec::len);
    assert_eq!(count("event"), Some(Event::ALL.len()));
    assert_eq!(count("outcome"), Some(Outcome::ALL.len()));
}

#[test]
fn foreign_text_is_bounded_and_escaped_in_every_field_and_format() {
    let forged = format!(
        "x\" outcome=\"issued\"\n{{\"outcome\":\"issued\"}}\x1b[2J\u{202e}\u{200b}{}",
        "y".repeat(15_000)
    );
    let record = full(&forged);
    let json = json_line(&record);
    check(&schema(), &json);
    for line in [json, text_line(&record)] {
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(!line.trim_end().chars().any(is_hidden), "{line}");
        assert!(line.len() < 8 * 1024, "{} bytes", line.len());
    }
}

#[tokio::test]
async fn records_of_a_handshake_carry_its_connection() {
    let connection = Connection { number: 9, address: ([192, 0, 2, 7], 1234).into() };
    let line = CONNECTION
        .scope(connection, async { json_line(&Record::new(Event::Handshake, Outcome::Refused)) })
        .await;
    let record: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(record["connection"], 9);
    assert_eq!(record["address"], "192.0.2.7:1234");
}

#[test]
fn a_refusal_is_kept_with_bounded_texts_without_hidden_characters() {
    let long = format!("\u{202e}{}", "x".repeat(10_000));
    let record = Record { refusal: None, error: Some("invalid_scope"), ..full(&long) };
    let refused = record.refused(record.address, Timestamp(7));
    assert_eq!((refused.event, &*refused.code), ("token", "invalid_scope"));
    assert_eq!((&*refused.address, refused.at), ("192.0.2.1", Timestamp(7)));
    for text in [&refused.detail, &refused.subject, &refused.client_id] {
        assert_eq!(text.chars().count(), MAX_CHARACTERS);
        assert!(text.starts_with("\\u{202e}x"), "{text}");
    }
}
