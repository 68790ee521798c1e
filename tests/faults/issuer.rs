//! A simulated CRL server, and a model of the lists that a gateway must have in force.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anchorgate::x509::time::Timestamp;
use reqwest::Request;
use reqwest::header::IF_NONE_MATCH;

use crate::network::Reply;
use crate::pki::{AUTHORITIES, Pki};

/// Validity of a list.
pub const VALIDITY: Duration = Duration::from_secs(12 * 3600);
/// Time after which the issuer publishes the next list.
pub const INTERVAL: Duration = Duration::from_secs(4 * 3600);

/// A fault of a CRL server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Down,
    Error,
    Slow,
    Garbage,
    Truncated,
    /// The list before the current one.
    Older,
    /// A list that another authority signed.
    Foreign,
    /// Nothing is published.
    Stale,
}

/// A published list.
#[derive(Clone)]
pub struct Published {
    pub number: u64,
    pub this_update: Timestamp,
    pub next_update: Timestamp,
    pub revoked: BTreeSet<u8>,
    der: Arc<Vec<u8>>,
}

/// The lists of one authority.
pub struct Lists {
    /// The last one is current.
    published: Vec<Published>,
    pub revoked: BTreeSet<u8>,
    /// The list that must be in force after the responses so far.
    pub model: Option<Published>,
    /// It is not known which list is in force, after a crash with a full disk.
    pub is_unknown: bool,
}

impl Lists {
    pub fn current(&self) -> &Published {
        self.published.last().expect("a list")
    }
}

/// The CRL server of one trust domain.
pub struct Issuer {
    pki: Arc<Pki>,
    pub lists: Vec<Lists>,
    pub fault: Option<Fault>,
}

impl Issuer {
    pub fn new(pki: Arc<Pki>, now: Timestamp) -> Self {
        let none = || Lists {
            published: Vec::new(),
            revoked: BTreeSet::new(),
            model: None,
            is_unknown: false,
        };
        let lists = (0..AUTHORITIES).map(|_| none()).collect();
        let mut issuer = Self { pki, lists, fault: None };
        (0..AUTHORITIES).for_each(|authority| issuer.publish(authority, now));
        issuer
    }

    /// Publishes the next list of an authority.
    pub fn publish(&mut self, authority: usize, now: Timestamp) {
        let lists = &mut self.lists[authority];
        let number = lists.published.last().map_or(1, |list| list.number + 1);
        let next_update = now.after(VALIDITY);
        let ca = &self.pki.authorities[authority].ca;
        let mut list = ca.list().this_update(now).next_update(Some(next_update)).number(number);
        for serial in &lists.revoked {
            list = list.revoke(&[*serial], None);
        }
        let (revoked, der) = (lists.revoked.clone(), Arc::new(list.sign()));
        lists.published.push(Published { number, this_update: now, next_update, revoked, der });
    }

    /// Publishes the lists that are due.
    pub fn publish_due(&mut self, now: Timestamp) {
        if self.fault == Some(Fault::Stale) {
            return;
        }
        for authority in 0..AUTHORITIES {
            if now.since(self.lists[authority].current().this_update) >= INTERVAL {
                self.publish(authority, now);
            }
        }
    }

    /// Answers a request, and notes the effect that the response must have.
    pub fn answer(&mut self, request: &Request, wall: Timestamp) -> Reply {
        let path = request.url().path();
        let index = path.trim_matches(|c: char| !c.is_ascii_digit()).parse::<usize>();
        let authority = index.expect("the path names an authority");
        let lists = &mut self.lists[authority];
        let of = match self.fault {
            Some(Fault::Down) => return Reply::Unreachable,
            Some(Fault::Error) => return Reply::status(500),
            Some(Fault::Slow) => return Reply::TimeOut,
            Some(Fault::Garbage) => return Reply::ok(b"<html>maintenance</html>".to_vec()),
            Some(Fault::Older) => lists.published.len().saturating_sub(2),
            _ => lists.published.len() - 1,
        };
        let list = lists.published[of].clone();
        match self.fault {
            Some(Fault::Truncated) => return Reply::Truncated(list.der.to_vec()),
            Some(Fault::Foreign) => {
                let other = (authority + 1) % AUTHORITIES;
                return Reply::ok(self.lists[other].current().der.to_vec());
            }
            _ => {}
        }
        let etag = format!("\"{}\"", list.number);
        if lists.is_unknown && self.fault != Some(Fault::Older) && list.this_update <= wall {
            // It is the newest list, so that it is in force after this response.
            (lists.model, lists.is_unknown) = (Some(list.clone()), false);
        }
        if request.headers().get(IF_NONE_MATCH).is_some_and(|known| known == etag.as_str()) {
            return Reply::status(304);
        }
        let reply = Reply::ok(list.der.to_vec()).with("etag", &etag);
        let in_force = lists.model.as_ref();
        // A list of the future and one that is older than the one in force are rejected.
        let is_older = in_force.is_some_and(|old| list.number < old.number);
        if !lists.is_unknown && !is_older && list.this_update <= wall {
            lists.model = Some(list);
        }
        reply
    }
}
