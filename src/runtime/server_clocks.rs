//! Comparison of the system clock with the `Date` headers of directories and CRL servers.
//!
//! A difference is shown and changes no decision: either clock can be the wrong one, and a CRL server can
//! be malicious.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use tracing::{info, warn};

use crate::runtime::health::Ready;
use crate::x509::time::Timestamp;

/// Smallest difference that is shown.  A response can be in transit for some seconds.
const LIMIT: Duration = Duration::from_secs(60);
/// Time after which a difference that was not seen again is no longer shown.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// CRL servers whose difference is remembered.  Certificates can name many.
const MAX_CRL_SERVERS: usize = 64;
/// Servers that a warning names.
const MAX_NAMED: usize = 3;
/// Key of the warning in `/readyz`.
const PART: &str = "server_clocks";

/// The servers whose clocks differ from the system clock.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServerClocks(Arc<Mutex<BTreeMap<(Kind, String), Difference>>>);

/// Kinds of servers.  Devices choose the CRL servers of their certificates, so that these do not hide
/// what a directory's clock shows: directories come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The operator names it.
    Directory,
    /// A directory or a certificate names it.
    CrlServer,
}

/// A difference of clocks.
#[derive(Debug, Clone, Copy)]
struct Difference {
    /// Seconds that the system clock is ahead of the server's; negative if it is behind.
    ahead: i64,
    seen: Timestamp,
}

impl ServerClocks {
    /// Compares `now` with the time `sent` at which `server` sent a response.
    pub(crate) fn observe(&self, kind: Kind, server: &str, sent: Timestamp, now: Timestamp) {
        let ahead = now.0.saturating_sub(sent.0);
        // Each statement leaves the map consistent, so a poisoned lock is usable.
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let server = (kind, server.to_owned());
        if ahead.unsigned_abs() <= LIMIT.as_secs() {
            servers.remove(&server);
            return;
        }
        let crl_servers = || servers.keys().filter(|(kind, _)| *kind == Kind::CrlServer).count();
        let is_kept = kind == Kind::Directory
            || servers.contains_key(&server)
            || crl_servers() < MAX_CRL_SERVERS;
        if is_kept {
            servers.insert(server, Difference { ahead, seen: now });
        }
    }

    /// The servers that differ at `now`, with the seconds that the system clock is ahead of them:
    /// directories first, and the largest difference first.
    fn differing(&self, now: Timestamp) -> Vec<(String, i64)> {
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        servers.retain(|_, difference| now.since(difference.seen) < MAX_AGE);
        let mut differing: Vec<_> =
            servers.iter().map(|(server, difference)| (server, difference.ahead)).collect();
        differing.sort_by_key(|((kind, _), ahead)| (*kind, Reverse(ahead.unsigned_abs())));
        differing.into_iter().map(|((_, server), ahead)| (server.clone(), ahead)).collect()
    }
}

/// Shows differences in the log, in readiness and as a metric.
pub(crate) struct ClockReport {
    clocks: ServerClocks,
    offset: Gauge,
    was_different: bool,
}

impl ClockReport {
    /// Registers the metric.
    pub fn register(clocks: ServerClocks, registry: &mut Registry) -> Self {
        let offset = Gauge::default();
        registry.register_with_unit(
            "clock_offset",
            "Largest difference of the system clock from the Date of a directory, or of a CRL server if no \
             directory differs; negative if the system clock is behind, 0 if the difference is at most a \
             minute",
            Unit::Seconds,
            offset.clone(),
        );
        Self { clocks, offset, was_different: false }
    }

    /// Shows the differences at `now`.  The log has only changes.
    pub fn update(&mut self, ready: &Ready, now: Timestamp) {
        let differing = self.clocks.differing(now);
        self.offset.set(differing.first().map_or(0, |(_, ahead)| *ahead));
        let problem = describe(&differing);
        match &problem {
            Some(problem) if !self.was_different => {
                warn!("system clock differs from that of servers: {problem}");
            }
            None if self.was_different => info!("system clock agrees with that of servers again"),
            _ => {}
        }
        self.was_different = problem.is_some();
        ready.warn(PART, problem);
    }
}

fn describe(differing: &[(String, i64)]) -> Option<String> {
    if differing.is_empty() {
        return None;
    }
    let mut text = "the system clock is ".to_owned();
    for (n, (server, ahead)) in differing.iter().take(MAX_NAMED).enumerate() {
        let separator = if n == 0 { "" } else { ", " };
        let side = if *ahead > 0 { "ahead of" } else { "behind" };
        let seconds = ahead.unsigned_abs();
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}{seconds} s {side} `{server}`");
    }
    let more = differing.len().saturating_sub(MAX_NAMED);
    if more > 0 {
        let _ = write!(text, " and {more} more");
    }
    let limit = LIMIT.as_secs();
    let _ =
        write!(text, " (at most {limit} s are expected): check the time synchronization of both");
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000);

    fn sent(seconds: i64) -> Timestamp {
        Timestamp(NOW.0 + seconds)
    }

    #[test]
    fn a_difference_of_more_than_a_minute_is_shown_until_it_ends() {
        let (clocks, ready, mut registry) =
            (ServerClocks::default(), Ready::default(), Registry::default());
        let mut report = ClockReport::register(clocks.clone(), &mut registry);
        let mut shown = |now| {
            report.update(&ready, now);
            (ready.warnings().get(PART).cloned().unwrap_or_default(), report.offset.get())
        };
        for seconds in [-60, 0, 60] {
            clocks.observe(Kind::CrlServer, "graph.example", sent(seconds), NOW);
            assert_eq!(shown(NOW), (String::new(), 0), "{seconds}");
        }
        clocks.observe(Kind::CrlServer, "graph.example", sent(61), NOW);
        let (text, offset) = shown(NOW);
        assert!(text.starts_with("the system clock is 61 s behind `graph.example` ("), "{text}");
        assert_eq!(offset, -61);
        clocks.observe(Kind::CrlServer, "pki.example", sent(-3_600), NOW);
        let (text, offset) = shown(NOW);
        assert!(text.contains("3600 s ahead of `pki.example`, 61 s behind"), "{text}");
        assert_eq!(offset, 3_600);
        clocks.observe(Kind::CrlServer, "pki.example", NOW, NOW);
        clocks.observe(Kind::CrlServer, "graph.example", NOW, NOW);
        assert_eq!(shown(NOW), (String::new(), 0));
    }

    #[test]
    fn a_difference_that_is_not_seen_again_ends_after_a_day() {
        let clocks = ServerClocks::default();
        clocks.observe(Kind::CrlServer, "pki.example", sent(100), NOW);
        let day = NOW.after(MAX_AGE);
        assert_eq!(clocks.differing(Timestamp(day.0 - 1)).len(), 1);
        assert_eq!(clocks.differing(day), []);
    }

    #[test]
    fn crl_servers_are_bounded_and_hide_no_directory() {
        let clocks = ServerClocks::default();
        for n in 0..1_000 {
            clocks.observe(Kind::CrlServer, &format!("{n}.example"), sent(-100 - n), NOW);
        }
        clocks.observe(Kind::Directory, "graph.example", sent(-61), NOW);
        let differing = clocks.differing(NOW);
        assert_eq!(differing.len(), MAX_CRL_SERVERS + 1);
        let text = describe(&differing).expect("a warning");
        assert!(text.contains("61 s ahead of `graph.example`, "), "the directory is first: {text}");
        assert!(text.contains(" and 62 more ("), "{text}");
    }
}
