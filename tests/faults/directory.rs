//! A simulated directory, and a model of the data that a gateway must have in force after its responses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anchorgate::x509::time::Timestamp;
use reqwest::Request;
use reqwest::header::IF_NONE_MATCH;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::network::Reply;
use crate::pki::Pki;

/// Part of the anchors that one response may remove.
pub const MAX_REMOVAL: f64 = 0.5;
/// Time over which removals are added up.
pub const GUARD_WINDOW: Duration = Duration::from_secs(86_400);
/// Age at which unconfirmed data is withdrawn.
pub const MAX_AGE: Duration = Duration::from_secs(36 * 3600);

/// A fault of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Down,
    Error,
    Slow,
    /// Seconds of `Retry-After`.
    Throttled(u64),
    Truncated,
    Garbage,
    /// A lagging replica returns the version before the current one.
    Older,
    /// The list of configurations is empty.
    Empty,
    /// Delta links are no longer known.
    Forgotten,
}

/// The authorities of the one configuration.
pub type Listing = BTreeSet<usize>;

/// A directory with one configuration and its devices.
pub struct Directory {
    pub url: String,
    pki: Arc<Pki>,
    /// Versions of the configuration; the last one is current.
    pub listings: Vec<Listing>,
    /// Changes of devices: the account is enabled, or the device was removed.
    pub log: Vec<(usize, Option<bool>)>,
    pub fault: Option<Fault>,
    pub model: Model,
}

impl Directory {
    pub fn new(name: &str, pki: Arc<Pki>) -> Self {
        let log = (0..pki.devices.len()).map(|device| (device, Some(true))).collect();
        let url = format!("https://{name}.example");
        let listings = vec![Listing::from([0, 1, 2])];
        Self { url, pki, listings, log, fault: None, model: Model::default() }
    }

    pub fn listing(&self) -> &Listing {
        self.listings.last().expect("a version")
    }

    /// The current devices, and whether their accounts are enabled.
    pub fn devices(&self) -> BTreeMap<usize, bool> {
        let mut devices = BTreeMap::new();
        for (device, state) in &self.log {
            match state {
                Some(enabled) => devices.insert(*device, *enabled),
                None => devices.remove(device),
            };
        }
        devices
    }

    /// Answers a request, and notes the effect that the response must have.
    pub fn answer(&mut self, request: &Request, at: (Instant, Timestamp)) -> Reply {
        let is_devices = request.url().path().ends_with("/devices/delta");
        let reply = match self.fault {
            Some(Fault::Down) => Reply::Unreachable,
            Some(Fault::Error) => Reply::status(500),
            Some(Fault::Slow) => Reply::TimeOut,
            Some(Fault::Throttled(seconds)) => {
                Reply::status(429).with("retry-after", &seconds.to_string())
            }
            Some(Fault::Garbage) => Reply::ok(b"<html>maintenance</html>".to_vec()),
            _ if is_devices => self.answer_devices(request, at),
            _ => self.answer_listing(request, at),
        };
        let succeeded = reply.is_whole();
        if is_devices {
            self.model.devices_succeeded = Some(succeeded);
        } else {
            self.model.listing_succeeded = Some(succeeded);
        }
        reply
    }

    fn answer_listing(&mut self, request: &Request, at: (Instant, Timestamp)) -> Reply {
        let current = self.listings.len() - 1;
        let (version, listing) = match self.fault {
            Some(Fault::Older) => (current.saturating_sub(1), None),
            Some(Fault::Empty) => (usize::MAX, Some(Listing::new())),
            _ => (current, None),
        };
        let listing = listing.unwrap_or_else(|| self.listings[version].clone());
        let etag = format!("\"{version}\"");
        let is_known =
            request.headers().get(IF_NONE_MATCH).is_some_and(|known| known == etag.as_str());
        if is_known && self.fault != Some(Fault::Truncated) {
            self.model.confirm(at);
            return Reply::status(304);
        }
        let authorities: Vec<Value> = listing
            .iter()
            .map(|index| {
                let authority = &self.pki.authorities[*index];
                json!({
                    "certificate": authority.base64, "isRootAuthority": true,
                    "certificateRevocationListUrl": authority.crl_url,
                })
            })
            .collect();
        let fleet = json!({
            "id": "fleet", "displayName": "fleet",
            "tlsClientAuthParameter": "tls_client_auth_subject_dn",
            "certificateAuthorities": authorities,
        });
        let value = if listing.is_empty() { vec![] } else { vec![fleet] };
        let body = json!({ "value": value }).to_string().into_bytes();
        if self.fault == Some(Fault::Truncated) {
            return Reply::Truncated(body);
        }
        self.model.receive(listing, at);
        Reply::ok(body).with("etag", &etag)
    }

    fn answer_devices(&mut self, request: &Request, at: (Instant, Timestamp)) -> Reply {
        let token = request.url().query_pairs().find(|(name, _)| name == "token");
        let since = token.and_then(|(_, token)| token.parse::<usize>().ok());
        if since.is_some() && self.fault == Some(Fault::Forgotten) {
            return Reply::status(410);
        }
        let object = |(device, state): &(usize, Option<bool>)| match state {
            None => json!({ "id": format!("o{device}"), "@removed": { "reason": "deleted" } }),
            Some(enabled) => json!({
                "id": format!("o{device}"), "accountEnabled": enabled,
                "physicalIds": [format!("[EXTID]:{}", self.pki.devices[*device].id)],
            }),
        };
        let objects: Vec<Value> = match since {
            Some(since) => self.log[since..].iter().map(object).collect(),
            None => self.devices().into_iter().map(|(d, on)| object(&(d, Some(on)))).collect(),
        };
        let link = format!("{}/beta/devices/delta?token={}", self.url, self.log.len());
        let body = json!({ "value": objects, "@odata.deltaLink": link }).to_string().into_bytes();
        if self.fault == Some(Fault::Truncated) {
            return Reply::Truncated(body);
        }
        let devices = self.devices();
        self.model.receive_devices(devices, at);
        Reply::ok(body)
    }
}

/// The data that must be in force after the responses so far.
#[derive(Default)]
pub struct Model {
    /// The configuration in force; `None` before the first one.
    pub listing: Option<Listing>,
    /// A response that waits for approval.
    pub held: Option<Listing>,
    /// The last response, while it is unknown what it was compared with.
    pub undecided: Option<Listing>,
    /// Until then the gateway may compare with versions that the model does not know.
    unknown_until: Option<Instant>,
    /// Earlier configurations, and the end of their time.
    history: Vec<(Listing, Instant)>,
    pub confirmed: Option<Confirmed>,
    /// True if `listing` is known to be in force; else at most its authorities are.
    pub is_exact: bool,
    pub devices: Option<BTreeMap<usize, bool>>,
    pub devices_confirmed: Option<Confirmed>,
    pub devices_changed: Option<Instant>,
    pub devices_are_exact: bool,
    /// The disk was full in this run of the gateway.
    pub was_full: bool,
    /// After a crash with a full disk, an earlier configuration may be in force.
    pub is_lost: bool,
    /// The same for devices, also after a change that came too late to be on disk.
    pub devices_are_lost: bool,
    /// Result of the last response.
    pub listing_succeeded: Option<bool>,
    pub devices_succeeded: Option<bool>,
}

/// A confirmation by the directory.
#[derive(Debug, Clone, Copy)]
pub struct Confirmed {
    pub at: Instant,
    pub wall: Timestamp,
    /// The age is less exact after a restart.
    pub slack: Duration,
}

impl Confirmed {
    fn now((at, wall): (Instant, Timestamp)) -> Self {
        Self { at, wall, slack: Duration::from_secs(2) }
    }
}

impl Model {
    fn confirm(&mut self, at: (Instant, Timestamp)) {
        self.confirmed = Some(Confirmed::now(at));
        self.held = None;
    }

    /// Applies the rule of the guard to a complete list.
    fn receive(&mut self, new: Listing, at: (Instant, Timestamp)) {
        if !self.is_exact && self.listing.is_some() {
            self.undecided = Some(new);
            return;
        }
        let old = self.listing.clone().unwrap_or_default();
        self.history.retain(|(_, end)| end.elapsed() < GUARD_WINDOW);
        let changed = old != new;
        let is_suspicious = changed
            && (is_suspicious(&old, &new, old.len())
                || self.history.iter().any(|(earlier, _)| is_suspicious(earlier, &new, old.len())));
        if is_suspicious {
            self.held = Some(new);
        } else if changed && self.unknown_until.is_some_and(|end| at.0 < end) {
            self.is_exact = false;
            self.undecided = Some(new);
        } else {
            self.accept(&new, at);
        }
    }

    fn accept(&mut self, new: &Listing, at: (Instant, Timestamp)) {
        if let Some(old) = self.listing.replace(new.clone()).filter(|old| old != new) {
            self.history.push((old, at.0));
        }
        (self.is_exact, self.is_lost) = (true, false);
        self.confirm(at);
    }

    /// Decides the last response by what the gateway did with it.
    pub fn decide(&mut self, is_held: bool, at: (Instant, Timestamp)) {
        let Some(new) = self.undecided.take() else { return };
        if is_held {
            self.held = Some(new);
        } else {
            self.listing = None;
            self.history.clear();
            self.unknown_until = Some(at.0 + GUARD_WINDOW);
            self.accept(&new, at);
        }
    }

    /// The operator approved the held response.
    pub fn approve(&mut self, at: (Instant, Timestamp)) {
        if let Some(new) = self.held.take() {
            self.history.clear();
            (self.listing, self.unknown_until) = (None, None);
            self.accept(&new, at);
        }
    }

    fn receive_devices(&mut self, devices: BTreeMap<usize, bool>, at: (Instant, Timestamp)) {
        if self.devices.as_ref() != Some(&devices) {
            self.devices_changed = Some(at.0);
        }
        self.devices = Some(devices);
        (self.devices_are_exact, self.devices_are_lost) = (true, false);
        self.devices_confirmed = Some(Confirmed::now(at));
    }

    /// The gateway restarted and lost what is not on disk.
    pub fn restarted(&mut self, at: (Instant, Timestamp), clock_jumped: bool) {
        (self.held, self.undecided) = (None, None);
        self.history.clear();
        (self.listing_succeeded, self.devices_succeeded) = (None, None);
        let recent = Duration::from_secs(3);
        let was_full = std::mem::take(&mut self.was_full);
        self.is_lost |= was_full;
        self.devices_are_lost |=
            was_full || self.devices_changed.is_some_and(|at| at.elapsed() <= recent);
        self.is_exact &= !self.is_lost;
        self.devices_are_exact &= !self.devices_are_lost;
        for confirmed in [&mut self.confirmed, &mut self.devices_confirmed].into_iter().flatten() {
            // Confirmations without a change are saved every ten minutes.
            let slack = Duration::from_secs(700);
            let slack = if clock_jumped || was_full { MAX_AGE } else { slack };
            // An earlier restart may have lost a confirmation that no later one replaced.
            confirmed.slack = confirmed.slack.max(slack);
            confirmed.at = at.0 - at.1.since(confirmed.wall).min(2 * MAX_AGE);
        }
    }
}

/// True if too much of `old` is missing in `new`, where `in_force` anchors are in force.
fn is_suspicious(old: &Listing, new: &Listing, in_force: usize) -> bool {
    let (removed, before) = (old.difference(new).count(), old.len().max(in_force));
    removed > 0 && (removed == before || removed as f64 > MAX_REMOVAL * before as f64)
}
