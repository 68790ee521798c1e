//! Metrics of the TLS listeners.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use rustls::{ProtocolVersion, ServerConnection, SignatureScheme};

use crate::http::connections::Reason;
use crate::runtime::metrics::JudgeTimes;
use crate::runtime::metrics::latency::Latency;
use crate::runtime::metrics::table::Table;
use crate::runtime::tolerated::Tolerated;
use crate::tls::saturation::Saturation;
use crate::tls::strangers::Strangers;
use crate::trust::judge::devices::UnverifiedChain;
use crate::trust::refusal::Code;
use crate::x509::certificate::TOLERATED;
use crate::x509::time::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    listener: &'static str,
    result: &'static str,
    code: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Listener {
    listener: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Group {
    listener: &'static str,
    group: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Version {
    listener: &'static str,
    version: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    listener: &'static str,
    kind: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Signature {
    signature: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NotKept {
    listener: &'static str,
    reason: &'static str,
}

/// Handshakes by outcome and open connections, by listener.
#[derive(Clone, Default)]
pub struct Metrics {
    handshakes: Table<Outcome, Counter>,
    durations: Table<Kind, Latency>,
    versions: Table<Version, Counter>,
    groups: Table<Group, Counter>,
    signatures: Table<Signature, Counter>,
    not_kept: Table<NotKept, Counter>,
    connections: Table<Listener, Gauge<i64, AtomicI64>>,
    floods: Table<Listener, Counter>,
    closed_after_ticket: Table<Listener, Counter>,
    tickets_withheld: Table<Listener, Counter>,
    certificate_start: Gauge,
    certificate_end: Gauge,
    pub(super) saturation: Arc<Saturation>,
    /// Durations of the judge's decisions.
    pub(super) judging: JudgeTimes,
    /// Tolerated encodings of accepted certificates.
    tolerated: Tolerated,
    /// Bounds the audit records of refused strangers.
    pub(super) strangers: Strangers,
}

impl Metrics {
    /// Creates the metrics in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "handshakes",
            "TLS handshakes by listener, result (full, resumed, refused, failed) and code: the \
             refusal code, or the reason of a failure",
            metrics.handshakes.clone(),
        );
        registry.register_with_unit(
            "handshake_duration",
            "Time from the acceptance of a connection to the end of its completed handshake, by listener and \
             kind (full, known, resumed)",
            Unit::Seconds,
            metrics.durations.clone(),
        );
        registry.register(
            "handshake_versions",
            "Completed TLS handshakes by listener and protocol version",
            metrics.versions.clone(),
        );
        registry.register(
            "handshake_groups",
            "Completed TLS handshakes by listener and key exchange group",
            metrics.groups.clone(),
        );
        registry.register(
            "handshake_signatures",
            "Signatures of client keys that were verified in TLS handshakes, by scheme",
            metrics.signatures.clone(),
        );
        registry.register(
            "connections_not_kept",
            "Connections that were refused or closed in favour of others, by listener and reason \
             (silent, idle, busy, address, certificate, stopping, memory)",
            metrics.not_kept.clone(),
        );
        registry.register(
            "connections",
            "Open connections by listener",
            metrics.connections.clone(),
        );
        registry.register(
            "http2_floods",
            "Connections closed because the peer sent HTTP/2 control frames in place of requests, by listener",
            metrics.floods.clone(),
        );
        registry.register(
            "closed_after_ticket",
            "Connections that the client closed within five seconds after a TLS 1.3 session ticket, without \
             a request, or that it ended with an alert, by listener",
            metrics.closed_after_ticket.clone(),
        );
        metrics.tolerated.register(
            registry,
            (
                "tolerated_certificates",
                "Certificates with an encoding that is tolerated, in accepted chains whose signatures were \
                 verified for the first time, by encoding",
            ),
            &TOLERATED,
        );
        registry.register(
            "tickets_withheld",
            "TLS 1.3 handshakes without a session ticket because the client may not be able to read one, by \
             listener",
            metrics.tickets_withheld.clone(),
        );
        registry.register(
            "audit_suppressed_records",
            "Refused handshakes of strangers without an audit record of their own",
            metrics.strangers.suppressed.clone(),
        );
        registry.register(
            "server_certificate_not_before_timestamp_seconds",
            "Start of the validity of the server's certificate, seconds since 1970",
            metrics.certificate_start.clone(),
        );
        registry.register(
            "server_certificate_not_after_timestamp_seconds",
            "End of the validity of the server's certificate, seconds since 1970",
            metrics.certificate_end.clone(),
        );
        registry.register_collector(Box::new(Arc::clone(&metrics.saturation)));
        metrics
    }

    /// Adds the durations of the judge's decisions in handshakes to `judging`.
    #[must_use]
    pub(crate) fn with_judge_times(self, judging: JudgeTimes) -> Self {
        Self { judging, ..self }
    }

    /// Sets the validity of the server's certificate.
    pub fn certificate(&self, not_before: Timestamp, not_after: Timestamp) {
        self.certificate_start.set(not_before.0);
        self.certificate_end.set(not_after.0);
    }

    /// Counts the tolerated encodings in the chain of a completed handshake.  Call it when signatures of the
    /// chain were verified for the first time: a device that returns brings nothing new.
    pub(super) fn tolerated(&self, chain: &UnverifiedChain) {
        for certificate in chain.certificates() {
            let encodings = certificate.tolerated();
            self.tolerated.count("certificate", &certificate.issuer, &encodings);
        }
    }

    /// Counts a handshake of the token listener in which the client certificate was refused.
    pub(super) fn refused(&self, code: Code) {
        self.handshake("token", "refused", code.as_str());
    }

    /// Counts a completed handshake.  `kind` is `full`, `known` or `resumed`.
    pub(super) fn completed(&self, listener: &'static str, kind: &'static str, took: Duration) {
        self.handshake(listener, if kind == "resumed" { kind } else { "full" }, "");
        self.durations.get(Kind { listener, kind }).observe(took);
    }

    /// Counts what a completed handshake agreed on.
    pub(super) fn negotiated(&self, listener: &'static str, tls: &ServerConnection) {
        let version = match tls.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "1.3",
            Some(ProtocolVersion::TLSv1_2) => "1.2",
            _ => "other",
        };
        self.versions.get(Version { listener, version }).inc();
        if let Some(group) = tls.negotiated_key_exchange_group() {
            let group = group.name().as_str().unwrap_or("other");
            self.groups.get(Group { listener, group }).inc();
        }
    }

    /// Counts a verified signature of a client's key.
    pub(super) fn signature(&self, scheme: SignatureScheme) {
        let signature = scheme.as_str().unwrap_or("other");
        self.signatures.get(Signature { signature }).inc();
    }

    pub(super) fn failed(&self, listener: &'static str, why: &'static str) {
        self.handshake(listener, "failed", why);
    }

    /// Exposes the counters of a listener from its start.
    pub(super) fn start(&self, listener: &'static str) {
        let _ = self.floods.get(Listener { listener });
        let _ = self.closed_after_ticket.get(Listener { listener });
        let _ = self.tickets_withheld.get(Listener { listener });
    }

    pub(super) fn flooded(&self, listener: &'static str) {
        self.floods.get(Listener { listener }).inc();
    }

    pub(super) fn closed_after_ticket(&self, listener: &'static str) {
        self.closed_after_ticket.get(Listener { listener }).inc();
    }

    pub(super) fn ticket_withheld(&self, listener: &'static str) {
        self.tickets_withheld.get(Listener { listener }).inc();
    }

    /// Returns the number of connections that were closed after their ticket, and of tickets withheld.
    #[cfg(test)]
    pub(super) fn count_tickets(&self, listener: &'static str) -> [u64; 2] {
        [&self.closed_after_ticket, &self.tickets_withheld]
            .map(|table| table.get(Listener { listener }).get())
    }

    fn handshake(&self, listener: &'static str, result: &'static str, code: &'static str) {
        self.handshakes.get(Outcome { listener, result, code }).inc();
    }

    /// Returns an observer that counts the connections that `listener` does not keep.
    pub(super) fn not_kept(&self, listener: &'static str) -> impl Fn(Reason) + use<> {
        let not_kept = self.not_kept.clone();
        // Exposes the counters from the start.
        for reason in [Reason::Silent, Reason::Stopping].map(Reason::as_str) {
            let _ = not_kept.get(NotKept { listener, reason });
        }
        move |reason| {
            not_kept.get(NotKept { listener, reason: reason.as_str() }).inc();
        }
    }

    /// Returns the number of connections that the stop of the process cut: those that ended before
    /// their request was answered, and those that are still open.
    pub fn cut(&self) -> u64 {
        let listeners = ["token", "public", "directory", "admin"];
        let of = |listener| {
            let reason = Reason::Stopping.as_str();
            let cut = self.not_kept.get(NotKept { listener, reason }).get();
            let open = self.connections.get(Listener { listener }).get();
            cut + u64::try_from(open).unwrap_or(0)
        };
        listeners.into_iter().map(of).sum()
    }

    /// Counts a connection as open until the guard is dropped.
    pub(super) fn open(&self, listener: &'static str) -> OpenGuard {
        let gauge = self.connections.get(Listener { listener }).clone();
        gauge.inc();
        OpenGuard { gauge }
    }
}

pub(super) struct OpenGuard {
    gauge: Gauge<i64, AtomicI64>,
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}
