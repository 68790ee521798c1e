//! Audit records: one type, one emitter, one documented schema.
//!
//! A record is one log event with the target `TARGET` and level INFO, or one line of a `Sink`.  In the
//! JSON log format and in sinks, each record is one line that satisfies [`SCHEMA`]; `anchorgate audit-schema` prints the schema.
//!
//! # Design notes
//! Every text field is foreign until proven otherwise, so `Record::emit` passes all of them through
//! [`clean`]: at most 256 characters each, hidden characters escaped.  A record never contains a token,
//! an assertion or a key.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::SystemTime;

use tracing::info;

use crate::runtime::activity::{ACTIVITY, Refused};
use crate::runtime::text::{MAX_CHARACTERS, clean, distinct};
use crate::x509::certificate::Fingerprint;
use crate::x509::time::Timestamp;

/// The tracing target of audit records.
pub(crate) const TARGET: &str = "audit";

/// Version of the record format.  It grows when a field changes its meaning or is removed, not when
/// one is added.
pub(crate) const SCHEMA_VERSION: u64 = 1;

/// The JSON Schema (draft 2020-12) of a record in the JSON log format.
pub const SCHEMA: &str = include_str!("audit.schema.json");

/// A destination of records in place of the log.
pub(crate) trait Sink: Send + Sync {
    /// Accepts a record that was made at `now`.  Waits for a bounded time at most.
    fn write(&self, record: &Record<'_>, now: SystemTime);
}

static SINK: OnceLock<Box<dyn Sink>> = OnceLock::new();

/// Sends all further records to `sink`, once in a process.
pub(crate) fn set_sink(sink: Box<dyn Sink>) {
    let _ = SINK.set(sink);
}

/// The kind of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A TLS handshake that was refused.
    Handshake,
    /// A token request.
    Token,
    /// An open connection that was closed because its certificate is no longer good.
    Close,
    /// An action on the admin plane.
    Admin,
    /// A change of the embedded directory, or an attempt.
    Directory,
    /// A change of the trust that a directory distributes.
    Trust,
    /// The state of the sink of these records.
    Audit,
}

impl Event {
    #[cfg(test)]
    const ALL: [Self; 7] = [
        Self::Handshake,
        Self::Token,
        Self::Close,
        Self::Admin,
        Self::Directory,
        Self::Trust,
        Self::Audit,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Token => "token",
            Self::Close => "close",
            Self::Admin => "admin",
            Self::Directory => "directory",
            Self::Trust => "trust",
            Self::Audit => "audit",
        }
    }
}

/// The result of the decision or the change that a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A token was issued.
    Issued,
    /// The caller may perform the action.
    Admitted,
    /// An object or the trust in force was changed.
    Changed,
    /// A change that was held back is applied because an operator approved it.
    Approved,
    /// The connection was closed.
    Closed,
    /// The request was refused.
    Refused,
    /// Records were dropped.
    Dropped,
}

impl Outcome {
    #[cfg(test)]
    const ALL: [Self; 7] = [
        Self::Issued,
        Self::Admitted,
        Self::Changed,
        Self::Approved,
        Self::Closed,
        Self::Refused,
        Self::Dropped,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Admitted => "admitted",
            Self::Changed => "changed",
            Self::Approved => "approved",
            Self::Closed => "closed",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
        }
    }
}

/// One TCP connection, for the records of everything that happens on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Number of the connection since the start of the process.
    pub number: u64,
    /// Address of the peer.
    pub address: SocketAddr,
}

tokio::task_local! {
    /// The connection that the current task handshakes with.  Records without a connection of their own
    /// carry this one: rustls calls the certificate verifier without saying for which connection.
    pub(crate) static CONNECTION: Connection;
}

/// One audit record.  Fields that do not apply are `None` and are left out of the output.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// The kind of the record.
    pub event: Event,
    /// The result.
    pub outcome: Outcome,
    /// The operation: `create`, `update`, `delete`, `change`, `approve`, or a path of the admin plane.
    pub action: Option<&'a str>,
    /// Refusal code of the judge; see the table of refusal codes in the README.
    pub refusal: Option<&'a str>,
    /// Error code of the OAuth response (RFC 6749 section 5.2).
    pub error: Option<&'a str>,
    /// Human-readable explanation.
    pub detail: Option<&'a str>,
    /// Name of the authenticated caller: of an admin token, or of a caller of the directory.
    pub actor: Option<&'a str>,
    /// Issuer of that caller's token, or `token` for a token of the configuration.
    pub actor_issuer: Option<&'a str>,
    /// The permission that the caller lacks.
    pub permission: Option<&'a str>,
    /// Type of the object.
    pub object_type: Option<&'a str>,
    /// Identifier of the object.
    pub object: Option<&'a str>,
    /// Name of the `[[graph]]` source.
    pub source: Option<&'a str>,
    /// `client_id` of the request.
    pub client_id: Option<&'a str>,
    /// Identifier of the trust configuration that decided.
    pub configuration: Option<&'a str>,
    /// Subject ID of the verified device or application; the certificate's subject name where none
    /// was verified.
    pub subject: Option<&'a str>,
    /// Serial number of the leaf certificate, hexadecimal.
    pub serial: Option<&'a str>,
    /// SHA-256 of the leaf certificate.
    pub certificate: Option<Fingerprint>,
    /// `aud` of the token.
    pub audience: Option<&'a str>,
    /// `scope` of the token.
    pub scope: Option<&'a str>,
    /// `jti` of the token.
    pub jti: Option<&'a str>,
    /// `exp` of the token, seconds since 1970.
    pub expires: Option<i64>,
    /// Generation of the snapshot that decided.
    pub generation: Option<u64>,
    /// The connection; `CONNECTION` where this is `None`.
    pub connection: Option<u64>,
    /// Address of the peer; `CONNECTION` where this is `None`.
    pub address: Option<SocketAddr>,
    /// The TLS session was resumed.
    pub resumed: Option<bool>,
    /// Number of events that this record summarizes.
    pub suppressed: Option<u64>,
}

impl Record<'_> {
    /// A record with no other fields.
    pub const fn new(event: Event, outcome: Outcome) -> Self {
        Self {
            event,
            outcome,
            action: None,
            refusal: None,
            error: None,
            detail: None,
            actor: None,
            actor_issuer: None,
            permission: None,
            object_type: None,
            object: None,
            source: None,
            client_id: None,
            configuration: None,
            subject: None,
            serial: None,
            certificate: None,
            audience: None,
            scope: None,
            jti: None,
            expires: None,
            generation: None,
            connection: None,
            address: None,
            resumed: None,
            suppressed: None,
        }
    }

    /// Writes the record to the sink, or to the log if none is set, and counts it as activity.
    pub(crate) fn emit(&self) {
        let current = CONNECTION.try_with(|connection| *connection).ok();
        let connection = self.connection.or(current.map(|current| current.number));
        let address = self.address.or(current.map(|current| current.address));
        let now = SystemTime::now();
        self.count(address, now.into());
        if let Some(sink) = SINK.get() {
            sink.write(&Record { connection, address, ..self.clone() }, now);
            return;
        }
        info!(
            target: TARGET,
            schema = SCHEMA_VERSION,
            event = self.event.as_str(),
            outcome = self.outcome.as_str(),
            action = cleaned(self.action).as_deref(),
            refusal = cleaned(self.refusal).as_deref(),
            error = cleaned(self.error).as_deref(),
            detail = cleaned(self.detail).as_deref(),
            actor = cleaned(self.actor).as_deref(),
            actor_issuer = cleaned(self.actor_issuer).as_deref(),
            permission = cleaned(self.permission).as_deref(),
            object_type = cleaned(self.object_type).as_deref(),
            object = identity(self.object).as_deref(),
            source = cleaned(self.source).as_deref(),
            client_id = identity(self.client_id).as_deref(),
            configuration = cleaned(self.configuration).as_deref(),
            subject = identity(self.subject).as_deref(),
            serial = cleaned(self.serial).as_deref(),
            certificate = self.certificate.map(tracing::field::display),
            audience = cleaned(self.audience).as_deref(),
            scope = cleaned(self.scope).as_deref(),
            jti = cleaned(self.jti).as_deref(),
            expires = self.expires,
            generation = self.generation,
            connection,
            address = address.map(tracing::field::display),
            resumed = self.resumed,
            suppressed = self.suppressed,
        );
    }
}

impl Record<'_> {
    /// Counts a handshake or a token request as activity.
    fn count(&self, address: Option<SocketAddr>, now: Timestamp) {
        if !matches!(self.event, Event::Handshake | Event::Token) {
            return;
        }
        match (self.outcome, self.suppressed) {
            (Outcome::Issued, _) => ACTIVITY.issued(now),
            (Outcome::Refused, Some(number)) => ACTIVITY.suppressed(number, now),
            (Outcome::Refused, None) => ACTIVITY.refused(self.refused(address, now)),
            _ => {}
        }
    }

    fn refused(&self, address: Option<SocketAddr>, at: Timestamp) -> Refused {
        let bounded = |text| cleaned(text).unwrap_or_default().into_owned();
        Refused {
            at,
            event: self.event.as_str(),
            code: bounded(self.refusal.or(self.error)),
            detail: bounded(self.detail),
            subject: identity(self.subject).unwrap_or_default().into_owned(),
            client_id: identity(self.client_id).unwrap_or_default().into_owned(),
            certificate: self.certificate.map_or_else(String::new, |hash| hash.to_string()),
            address: address.map_or_else(String::new, |address| address.ip().to_string()),
        }
    }
}

fn cleaned(text: Option<&str>) -> Option<Cow<'_, str>> {
    text.map(|text| clean(text, MAX_CHARACTERS))
}

/// Bounds a text that identifies a party, so that it can still be told apart from others.
fn identity(text: Option<&str>) -> Option<Cow<'_, str>> {
    text.map(|text| distinct(text, MAX_CHARACTERS))
}

#[cfg(test)]
#[path = "test_audit.rs"]
mod tests;
