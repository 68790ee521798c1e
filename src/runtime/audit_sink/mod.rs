//! Sinks of audit records other than the log: standard output, a file, a syslog server, or a collector.
//!
//! # Design notes
//! Records pass through the bounded queue of `log_queue` to a thread that
//! writes, so that a slow or dead sink cannot hold a decision for longer than `AUDIT_PATIENCE`.  The
//! thread tries a failed write again until it succeeds.  Meanwhile the queue fills, and then records wait
//! or are dropped, as [`Config::when_full`] says.  The number of dropped records is itself a record.
//!
//! A sink replaces the log for audit records, and the filter of the log does not apply to it.

mod attempts;
mod chain;
mod file;
mod line;
mod otlp;
mod syslog;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use crate::runtime::audit::{self, Event, Outcome, Record, Sink};
use crate::runtime::log::{AUDIT_PATIENCE, AuditWhenFull, count_dropped};
use crate::runtime::log_queue::{LogQueue, MAX_BYTES};
use crate::runtime::telemetry::LogChannel;

pub use chain::{Chained, Fault, Verification};
pub use file::Rotation;
pub use syslog::Server;

use attempts::PAUSE;
use chain::Chain;
use file::RotatedFile;
use syslog::Syslog;

/// Longest wait for the queue at the end of the process.
const FLUSH: Duration = Duration::from_secs(1);

static QUEUE: OnceLock<Arc<LogQueue>> = OnceLock::new();

/// Destination of audit records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Target {
    /// The log, on standard error.
    #[default]
    Log,
    /// Standard output.
    Stdout,
    /// A file that is rotated.
    File(PathBuf, Rotation),
    /// A syslog server (RFC 5424).
    Syslog(Server),
    /// An OpenTelemetry collector.
    Otlp,
}

/// Settings of audit records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// Destination.
    pub target: Target,
    /// Handling of records while the sink is not writable.
    pub when_full: AuditWhenFull,
    /// Each record contains the hash of the one before it.
    pub hash_chain: bool,
}

/// The queue of an open sink.
struct Queued {
    queue: Arc<LogQueue>,
    patience: Duration,
}

/// Opens the sink of `config`.  Has no effect for [`Target::Log`] or if a sink is open.  `collector` is
/// used by [`Target::Otlp`].
///
/// # Errors
/// The file cannot be opened, there is no collector, or the thread cannot be started.
pub fn start(config: &Config, collector: Option<LogChannel>) -> io::Result<()> {
    let (out, last): (Box<dyn Write + Send>, _) = match &config.target {
        Target::Log => return Ok(()),
        Target::Stdout => (Box::new(Stdout), None),
        Target::File(path, rotation) => {
            let opened = RotatedFile::open(path.clone(), *rotation);
            let (file, last) = opened.map_err(|error| named(path, &error))?;
            (Box::new(file), last)
        }
        Target::Syslog(server) => (Box::new(Syslog::new(server.clone())), None),
        Target::Otlp => {
            let missing = "audit.sink: `otlp` needs a collector: set OTEL_EXPORTER_OTLP_ENDPOINT or \
                           OTEL_EXPORTER_OTLP_LOGS_ENDPOINT";
            let channel = collector.ok_or_else(|| io::Error::other(missing))?;
            (Box::new(otlp::sink(channel)), None)
        }
    };
    let chain = config.hash_chain.then(|| Chain::after(last.as_deref()));
    let patience = match config.when_full {
        AuditWhenFull::Block => AUDIT_PATIENCE,
        AuditWhenFull::Drop => Duration::ZERO,
    };
    let queue = Arc::new(LogQueue::new(MAX_BYTES));
    if QUEUE.set(Arc::clone(&queue)).is_ok() {
        queue.start(Lines { out, chain }, report)?;
        audit::set_sink(Box::new(Queued { queue, patience }));
    }
    Ok(())
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    let text = format!("audit.file: {} cannot be opened: {error}", path.display());
    io::Error::new(error.kind(), text)
}

impl Sink for Queued {
    fn write(&self, record: &Record<'_>, now: SystemTime) {
        if !self.queue.push(line::json(record, now), self.patience) {
            count_dropped("audit");
        }
    }
}

/// Waits until all records are written, at most a second.  Call it before the process ends.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(FLUSH);
    }
}

/// The record about dropped records.
fn report(dropped: u64) -> Vec<u8> {
    let detail = format!("{dropped} audit records were dropped: the sink was not writable");
    let record = Record {
        suppressed: Some(dropped),
        detail: Some(&detail),
        ..Record::new(Event::Audit, Outcome::Dropped)
    };
    line::json(&record, SystemTime::now())
}

/// Chains lines, and writes each of them whole.
struct Lines {
    out: Box<dyn Write + Send>,
    chain: Option<Chain>,
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &mut self.chain {
            Some(chain) => self.out.write_all(&chain.add(line)).map(|()| line.len()),
            None => self.out.write_all(line).map(|()| line.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Standard output.  A line that cannot be written, because the reader is gone, is counted as dropped.
struct Stdout;

impl Write for Stdout {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut out = io::stdout().lock();
        let mut rest = line;
        while !rest.is_empty() {
            match out.write(rest) {
                Ok(0) => return Ok(line.len()),
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(PAUSE);
                }
                Err(_) => {
                    count_dropped("audit");
                    return Ok(line.len());
                }
            }
        }
        let _ = out.flush();
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::audit::SCHEMA;
    use crate::x509::certificate::Fingerprint;
    use serde_json::{Map, Value};
    use std::collections::BTreeSet;

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
            expires: Some(1),
            generation: Some(7),
            connection: Some(3),
            address: Some(([192, 0, 2, 1], 443).into()),
            resumed: Some(false),
            suppressed: Some(1),
            ..Record::new(Event::Token, Outcome::Refused)
        }
    }

    #[test]
    fn a_line_has_every_field_of_the_schema() {
        let line = Chain::after(None).add(&line::json(&full("x"), SystemTime::now()));
        let record: Map<String, Value> = serde_json::from_slice(&line).expect("one JSON object");
        let schema: Value = serde_json::from_str(SCHEMA).expect("JSON");
        let properties = schema["properties"].as_object().expect("properties");
        let names = |map: &Map<String, Value>| map.keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(names(&record), names(properties));
        for (name, value) in &record {
            let is_of_type = match properties[name]["type"].as_str() {
                Some("integer") => value.is_u64(),
                Some("boolean") => value.is_boolean(),
                _ => value.is_string(),
            };
            assert!(is_of_type, "{name}: {value}");
        }
        let report: Value = serde_json::from_slice(&report(7)).expect("JSON");
        assert_eq!((&report["event"], &report["suppressed"]), (&"audit".into(), &7.into()));
    }

    #[test]
    fn foreign_text_is_bounded_and_stays_in_its_line() {
        let long = format!("\u{202e}\n{}", "y".repeat(15_000));
        let line = line::json(&full(&long), SystemTime::now());
        let text = String::from_utf8(line).expect("UTF-8");
        assert_eq!((text.lines().count(), text.ends_with('\n')), (1, true));
        assert!(text.len() < 8 * 1024 && !text.contains('\u{202e}'), "{} bytes", text.len());
    }
}
