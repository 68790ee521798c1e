//! Logging, and the type that keeps secrets out of logs.
//!
//! # Design notes
//! Log fields can contain foreign text, such as the `displayName` of a configuration.  The writer escapes
//! hidden characters of each finished line, so that no field of any event can forge a line or move the
//! cursor of a terminal.  Audit records are also bounded; see [`audit`].
//!
//! Logging never stops the service: lines pass through a bounded queue to a thread that writes, and lines
//! that do not fit are dropped and counted.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, IsTerminal as _};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tracing::Metadata;
use tracing_subscriber::fmt::{self as lines, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, registry, reload};
use zeroize::Zeroizing;

use crate::runtime::audit;
use crate::runtime::log_queue::{LogQueue, MAX_BYTES};
use crate::runtime::telemetry::BoxedLayer;
use crate::runtime::text::{Form, is_hidden, push_escaped};
use crate::x509::time::Timestamp;

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object per line, for log collectors.
    Json,
}

/// Handling of audit records while the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuditWhenFull {
    /// Drop the record and count it.
    #[default]
    Drop,
    /// Wait for room, at most `AUDIT_PATIENCE` and not again until lines were written.  Then drop the
    /// record and count it.
    Block,
}

/// Longest wait for room in the queue with [`AuditWhenFull::Block`].
pub(crate) const AUDIT_PATIENCE: Duration = Duration::from_secs(1);

/// Longest wait for the queue at the end of the process.
const FLUSH: Duration = Duration::from_secs(1);

type ReplaceFilter = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

static REPLACE_FILTER: OnceLock<ReplaceFilter> = OnceLock::new();

static QUEUE: OnceLock<Arc<LogQueue>> = OnceLock::new();

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

static DROPPED: LazyLock<Family<Kind, Counter>> = LazyLock::new(Family::default);

/// Counts a dropped line.
pub(super) fn count_dropped(kind: &'static str) {
    DROPPED.get_or_create(&Kind { kind }).inc();
}

/// Registers the metric of dropped lines.
pub fn register(registry: &mut Registry) {
    for kind in ["audit", "log"] {
        let _ = DROPPED.get_or_create(&Kind { kind });
    }
    registry.register(
        "log_dropped_lines",
        "Lines dropped because standard error or the audit sink was not writable, by kind: audit, log",
        DROPPED.clone(),
    );
}

/// Waits until all lines are written, at most a second.  Call it before the process ends.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(FLUSH);
    }
}

/// Starts logging to standard error.  `filter` consists of tracing directives, such as `info,audit=info`.
/// `telemetry` takes what is exported.  A second call has no effect.
///
/// # Errors
/// `filter` is not valid.
pub fn start(
    filter: &str,
    format: Format,
    audit_when_full: AuditWhenFull,
    telemetry: Option<BoxedLayer>,
) -> Result<(), String> {
    let filter = parse_filter(filter).map_err(|e| e.to_string())?;
    // A file or a collector has no use for colour codes, and NO_COLOR turns them off.
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = format == Format::Text && io::stderr().is_terminal() && !is_plain;
    let queue = Arc::new(LogQueue::new(MAX_BYTES));
    let writer = Lines { queue: Arc::clone(&queue), format, colours, audit_when_full };
    let (filter, handle) = reload::Layer::new(filter);
    let lines = lines::layer().with_ansi(colours).with_writer(writer);
    let lines = match format {
        Format::Text => lines.with_filter(filter).boxed(),
        Format::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    };
    // Tests start several gateways in one process; the first call wins.
    if registry().with(telemetry).with(lines).try_init().is_ok() {
        let _ = REPLACE_FILTER.set(Box::new(move |filter| handle.reload(filter)));
        let started =
            queue.start(CountErrors(io::stderr()), move |dropped| report(dropped, format));
        started.map_err(|error| format!("cannot start the log thread: {error}"))?;
        let _ = QUEUE.set(queue);
        // The default hook writes to standard error itself and could wait forever.
        std::panic::set_hook(Box::new(|panic| {
            let thread = std::thread::current();
            tracing::error!("thread `{}` panicked: {panic}", thread.name().unwrap_or("-"));
        }));
    }
    Ok(())
}

/// Replaces the filter.  Has no effect before [`start`].
///
/// # Errors
/// `filter` is not valid.
pub(crate) fn set_filter(filter: &str) -> Result<(), String> {
    let filter = parse_filter(filter).map_err(|error| error.to_string())?;
    match REPLACE_FILTER.get() {
        Some(replace) => replace(filter).map_err(|error| error.to_string()),
        None => Ok(()),
    }
}

/// True for tracing directives that [`start`] accepts.
pub(crate) fn is_filter(filter: &str) -> bool {
    parse_filter(filter).is_ok()
}

/// Warnings of the protocol libraries report mistakes of peers.  Strangers can cause them in any number, and
/// they do not name the peer.  The listeners count and log what matters, with its address.
const QUIET: &str = "h2=error,hyper=error,rustls=error,tokio_rustls=error";

/// Parses tracing directives.  A directive for a protocol library replaces the one in [`QUIET`].
fn parse_filter(filter: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    // Checked alone first, so that an error is about the operator's text.
    EnvFilter::try_new(filter)?;
    EnvFilter::try_new(format!("{QUIET},{filter}"))
}

/// Makes the line that reports dropped lines.
fn report(dropped: u64, format: Format) -> Vec<u8> {
    let now = Timestamp::from(SystemTime::now());
    let message = format!("{dropped} log lines were dropped: standard error was not writable");
    match format {
        Format::Text => format!("{now}  WARN anchorgate: {message}\n").into_bytes(),
        Format::Json => {
            let line = serde_json::json!({
                "timestamp": now.to_string(), "level": "WARN", "message": message,
                "target": "anchorgate::runtime::log",
            });
            format!("{line}\n").into_bytes()
        }
    }
}

/// Writers of lines into the queue.
struct Lines {
    queue: Arc<LogQueue>,
    format: Format,
    colours: bool,
    audit_when_full: AuditWhenFull,
}

impl Lines {
    fn writer(&self, is_audit: bool) -> LineWriter<QueueWriter<'_>> {
        let patience = match self.audit_when_full {
            AuditWhenFull::Block if is_audit => AUDIT_PATIENCE,
            _ => Duration::ZERO,
        };
        let out = QueueWriter { queue: &self.queue, patience, is_audit };
        LineWriter { out, format: self.format, colours: self.colours }
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = LineWriter<QueueWriter<'a>>;

    fn make_writer(&'a self) -> Self::Writer {
        self.writer(false)
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Self::Writer {
        self.writer(metadata.target() == audit::TARGET)
    }
}

/// Counts the lines that an output does not accept: a full disk, or a pipe without a reader.
struct CountErrors<W>(W);

impl<W: io::Write> io::Write for CountErrors<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let again = [io::ErrorKind::Interrupted, io::ErrorKind::WouldBlock];
        let written = self.0.write(line);
        written.inspect_err(|error| {
            if !again.contains(&error.kind()) {
                count_dropped("log");
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Adds lines to the queue.  Never fails: tracing-subscriber would report an error on standard error.
struct QueueWriter<'a> {
    queue: &'a LogQueue,
    patience: Duration,
    is_audit: bool,
}

impl io::Write for QueueWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !self.queue.push(line.to_vec(), self.patience) {
            let kind = if self.is_audit { "audit" } else { "log" };
            count_dropped(kind);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Escapes hidden characters of lines.  tracing-subscriber writes each line with one call.
struct LineWriter<W> {
    out: W,
    format: Format,
    colours: bool,
}

impl<W: io::Write> io::Write for LineWriter<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let body = text.strip_suffix('\n').unwrap_or(&text);
        let mut escaped = escape(body, self.format, self.colours).into_owned();
        if body.len() < text.len() {
            escaped.push('\n');
        }
        self.out.write_all(escaped.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Escapes the hidden characters of a line: `\u{202e}` in text, `\u202e` in JSON.  With `colours`, the
/// sequences that set colours stay.
fn escape(line: &str, format: Format, colours: bool) -> Cow<'_, str> {
    if !line.chars().any(is_hidden) {
        return Cow::Borrowed(line);
    }
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        if colours && let Some(length) = colour_sequence(rest) {
            out.push_str(&rest[..length]);
            rest = &rest[length..];
            continue;
        }
        match format {
            _ if !is_hidden(c) => out.push(c),
            Format::Text => push_escaped(&mut out, c, Form::Text),
            // Hidden characters occur in JSON inside strings only.
            Format::Json => push_escaped(&mut out, c, Form::Json),
        }
        rest = after;
    }
    Cow::Owned(out)
}

/// Length of the sequence at the start of `text` that selects a colour or style (ECMA-48 SGR).
fn colour_sequence(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\x1b[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    parameters[end..].starts_with('m').then_some("\x1b[".len() + end + "m".len())
}

/// A value that is never printed, and is overwritten when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(Zeroizing::new(secret.into()))
    }

    /// Returns the secret.  Send it to its recipient only, and never write it elsewhere.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn peers_cannot_fill_the_log_through_protocol_libraries() {
        let enabled = |filter: &str| {
            let filter = parse_filter(filter).expect("a filter");
            let subscriber = tracing_subscriber::fmt().with_env_filter(filter).finish();
            tracing::subscriber::with_default(subscriber, || {
                [
                    tracing::enabled!(target: "h2::proto::streams::recv", tracing::Level::WARN),
                    tracing::enabled!(target: "rustls::conn", tracing::Level::WARN),
                    tracing::enabled!(target: "h2::codec", tracing::Level::ERROR),
                    tracing::enabled!(target: "anchorgate", tracing::Level::INFO),
                ]
            })
        };
        assert_eq!(enabled("info"), [false, false, true, true]);
        assert_eq!(enabled("debug,audit=info"), [false, false, true, true]);
        assert_eq!(enabled("info,h2=warn"), [true, false, true, true]);
        assert!(!is_filter("info,h2=loud"));
    }

    #[test]
    fn debug_does_not_print_a_secret() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret");
    }

    #[test]
    fn rejects_an_invalid_filter() {
        assert!(start("info,=", Format::Text, AuditWhenFull::Drop, None).is_err());
    }

    #[test]
    fn escapes_hidden_characters_of_a_line() {
        let written = |line: &str, format, colours| {
            let mut writer = LineWriter { out: Vec::new(), format, colours };
            writer.write_all(line.as_bytes()).expect("written");
            String::from_utf8(writer.out).expect("UTF-8")
        };
        let text = |line| written(line, Format::Text, false);
        assert_eq!(text("INFO plain ä\n"), "INFO plain ä\n");
        assert_eq!(text("a\nINFO forged\u{202e}\n"), "a\\u{a}INFO forged\\u{202e}\n");
        assert_eq!(text("\x1b[31mred\n"), "\\u{1b}[31mred\n");
        let terminal = |line| written(line, Format::Text, true);
        assert_eq!(terminal("\x1b[2mdim\x1b[0m\x1b[2Jx\n"), "\x1b[2mdim\x1b[0m\\u{1b}[2Jx\n");
        let json = written("{\"a\":\"\u{202e}\u{7f}\u{e0041}\"}\n", Format::Json, false);
        assert_eq!(json, "{\"a\":\"\\u202e\\u007f\\udb40\\udc41\"}\n");
        let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(value["a"], "\u{202e}\u{7f}\u{e0041}");
    }

    #[test]
    fn a_foreign_text_cannot_forge_a_line() {
        use std::sync::{Arc, Mutex};

        #[derive(Clone, Default)]
        struct Shared(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Shared {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().expect("no panic").extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let shared = Shared::default();
        let out = shared.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || LineWriter {
                out: out.clone(),
                format: Format::Text,
                colours: false,
            })
            .finish();
        let name = "fleet\n2026-11-21T08:00:00Z  INFO audit: outcome=\"issued\"";
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(configuration = %name, "not in force: {name}");
        });
        let log = String::from_utf8(shared.0.lock().expect("no panic").clone()).expect("UTF-8");
        assert_eq!(log.lines().count(), 1, "{log}");
    }
}
