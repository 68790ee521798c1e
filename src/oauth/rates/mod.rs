//! Rate limits of token requests.
//!
//! # Design notes
//! The limit of an address applies before a request is read.  All others apply after it was
//! authorized and before it is signed: only the holder of a certificate's key can use up the
//! device's tokens.  A request that one limit refuses takes no token of another, so that a device
//! above its own limit leaves the limits of its client and configuration to others.
//!
//! Each process counts for itself.  Behind a balancer with N replicas a limit is at most N times the
//! configured one.

mod buckets;
pub(super) mod metrics;

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use crate::oauth::rates::buckets::Rate;
use crate::oauth::rates::buckets::{Buckets, Taken};
pub use crate::oauth::rates::metrics::Limit;
use crate::oauth::rates::metrics::RateMetrics;
use crate::trust::configurations::ConfigurationId;
use crate::trust::subject::SubjectId;

/// Rate limits of token requests.  `None` does not limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimits {
    /// Requests from one IPv4 address or IPv6 network, whatever their result.
    pub address: Option<Rate>,
    /// Length in bits of the prefix that counts as one IPv6 address.
    pub ipv6_prefix: u8,
    /// Tokens for one subject ID of a configuration.
    pub subject: Option<Rate>,
    /// Tokens for one `client_id`.
    pub client: Option<Rate>,
    /// Tokens for all devices or applications of one configuration.
    pub configuration: Option<Rate>,
    /// Buckets of each kind that are kept.
    pub entries: usize,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            address: None,
            ipv6_prefix: 64,
            subject: None,
            client: None,
            configuration: None,
            entries: 131_072,
        }
    }
}

/// A request beyond a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limited {
    /// The limit.
    pub limit: Limit,
    /// Time until the bucket has a token.
    pub wait: Duration,
}

/// Whom a token is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holder<'a> {
    pub configuration: &'a ConfigurationId,
    pub subject: Option<&'a SubjectId>,
    pub client_id: &'a str,
}

/// The buckets of one gateway.
pub(super) struct Rates {
    start: Instant,
    limits: RateLimits,
    address: Option<Arc<Buckets>>,
    subject: Option<Arc<Buckets>>,
    client: Option<Arc<Buckets>>,
    configuration: Option<Arc<Buckets>>,
    metrics: RateMetrics,
}

impl Rates {
    pub(super) fn new(limits: &RateLimits, metrics: RateMetrics) -> Self {
        let buckets =
            |rate: Option<Rate>| rate.map(|rate| Arc::new(Buckets::new(rate, limits.entries)));
        Self {
            start: Instant::now(),
            limits: limits.clone(),
            address: buckets(limits.address),
            subject: buckets(limits.subject),
            client: buckets(limits.client),
            configuration: buckets(limits.configuration),
            metrics,
        }
    }

    /// Returns the buckets for other limits.  A limit that stays the same keeps its state.
    pub(super) fn with_limits(&self, limits: &RateLimits) -> Self {
        let new = Self::new(limits, self.metrics.clone());
        let is_same_size = limits.entries == self.limits.entries;
        let kept = |is_same: bool, old: &Option<Arc<Buckets>>, new: Option<Arc<Buckets>>| {
            if is_same && is_same_size { old.clone() } else { new }
        };
        let is_same_network = limits.ipv6_prefix == self.limits.ipv6_prefix;
        let before = &self.limits;
        Self {
            start: self.start,
            address: kept(
                is_same_network && before.address == limits.address,
                &self.address,
                new.address,
            ),
            subject: kept(before.subject == limits.subject, &self.subject, new.subject),
            client: kept(before.client == limits.client, &self.client, new.client),
            configuration: kept(
                before.configuration == limits.configuration,
                &self.configuration,
                new.configuration,
            ),
            ..new
        }
    }

    /// Returns the time of now for the other functions.
    pub(super) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Counts a request from `address`.
    pub(super) fn count_address(&self, address: IpAddr, now: Duration) -> Result<(), Limited> {
        let network = || network(address, self.limits.ipv6_prefix);
        self.take(Limit::Address, self.address.as_deref(), network, now).map(|_| ())
    }

    /// Counts a token.  If a limit refuses it, no other limit has counted it.
    pub(super) fn count_token(&self, holder: Holder<'_>, now: Duration) -> Result<(), Limited> {
        let Holder { configuration, subject, client_id } = holder;
        let subject_buckets = self.subject.as_deref().filter(|_| subject.is_some());
        let subject = || (configuration.as_str(), subject.map(|s| (s.field(), s.as_str())));
        let of_subject = self.take(Limit::Subject, subject_buckets, subject, now)?;
        let of_client = self
            .take(Limit::Client, self.client.as_deref(), || client_id, now)
            .inspect_err(|_| give_back(self.subject.as_deref(), of_subject))?;
        self.take(
            Limit::Configuration,
            self.configuration.as_deref(),
            || configuration.as_str(),
            now,
        )
        .inspect_err(|_| {
            give_back(self.client.as_deref(), of_client);
            give_back(self.subject.as_deref(), of_subject);
        })?;
        Ok(())
    }

    fn take<K: Hash>(
        &self,
        limit: Limit,
        buckets: Option<&Buckets>,
        key: impl FnOnce() -> K,
        now: Duration,
    ) -> Result<Option<Taken>, Limited> {
        let Some(buckets) = buckets else { return Ok(None) };
        match buckets.take(key(), now) {
            Ok(taken) => {
                if taken.displaced {
                    self.metrics.displaced(limit);
                }
                Ok(Some(taken))
            }
            Err(wait) => {
                self.metrics.limited(limit);
                Err(Limited { limit, wait })
            }
        }
    }
}

fn give_back(buckets: Option<&Buckets>, taken: Option<Taken>) {
    if let (Some(buckets), Some(taken)) = (buckets, taken) {
        buckets.give_back(taken);
    }
}

impl Limited {
    /// Returns the seconds of `Retry-After`: the wait, and up to half of it more, at least one
    /// second, chosen by `random`, so that clients that were refused together do not return
    /// together.
    pub(super) fn retry_after(&self, random: u32) -> u64 {
        let seconds = u64::from(self.wait.subsec_nanos() > 0) + self.wait.as_secs();
        let spread = (seconds / 2).max(1) + 1;
        seconds.max(1) + u64::from(random) % spread
    }
}

/// Returns the first address of the network that counts as one address.
fn network(address: IpAddr, ipv6_prefix: u8) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(ipv6_prefix.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::subject::SubjectField;
    use proptest::prelude::*;

    const NOW: Duration = Duration::from_secs(100);

    fn rate(tokens: u32) -> Option<Rate> {
        Some(Rate { tokens, per: Duration::from_secs(60) })
    }

    fn rates(limits: &RateLimits) -> Rates {
        Rates::new(limits, RateMetrics::default())
    }

    fn subject(name: &str) -> SubjectId {
        SubjectId::parse(SubjectField::SanDns, name).expect("a subject")
    }

    /// Requests tokens until one is refused; returns their number and the limit.
    fn tokens(rates: &Rates, configuration: &str, name: &str, client: &str) -> (u32, Limit) {
        let (configuration, subject) = (configuration.into(), subject(name));
        let holder =
            Holder { configuration: &configuration, subject: Some(&subject), client_id: client };
        for granted in 0.. {
            if let Err(limited) = rates.count_token(holder, NOW) {
                return (granted, limited.limit);
            }
        }
        unreachable!()
    }

    #[test]
    fn limits_subjects_clients_and_configurations_apart() {
        let rates = rates(&RateLimits {
            subject: rate(2),
            client: rate(5),
            configuration: rate(6),
            ..RateLimits::default()
        });
        assert_eq!(tokens(&rates, "c", "a.example", "fleet"), (2, Limit::Subject));
        // The refused request of `a` took nothing from its client.
        assert_eq!(tokens(&rates, "c", "b.example", "fleet"), (2, Limit::Subject));
        assert_eq!(tokens(&rates, "c", "c.example", "fleet"), (1, Limit::Client));
        // And that of the client nothing from the subject.
        assert_eq!(tokens(&rates, "c", "c.example", "other"), (1, Limit::Subject));
        assert_eq!(tokens(&rates, "c", "d.example", "other"), (0, Limit::Configuration));
        // The same name in another configuration is another subject.
        assert_eq!(tokens(&rates, "c2", "a.example", "third"), (2, Limit::Subject));
    }

    #[test]
    fn counts_the_requests_of_an_address_or_network() {
        let rates = rates(&RateLimits { address: rate(2), ..RateLimits::default() });
        let count = |text: &str| rates.count_address(text.parse().expect("an address"), NOW);
        for address in ["2001:db8::1", "2001:db8::ffff:2"] {
            assert_eq!(count(address), Ok(()));
        }
        let limited = count("2001:db8::3").expect_err("the third of the network");
        assert_eq!(limited, Limited { limit: Limit::Address, wait: Duration::from_secs(30) });
        assert_eq!(count("2001:db8:0:1::1"), Ok(()));
        for address in ["192.0.2.1", "::ffff:192.0.2.1"] {
            assert_eq!(count(address), Ok(()));
        }
        assert!(count("192.0.2.1").is_err());
        assert_eq!(count("192.0.2.2"), Ok(()));
    }

    #[test]
    fn without_limits_everything_is_granted() {
        let rates = rates(&RateLimits::default());
        let configuration = "c".into();
        let holder = Holder { configuration: &configuration, subject: None, client_id: "app" };
        assert!((0..1_000).all(|_| rates.count_token(holder, NOW).is_ok()));
        assert!((0..1_000).all(|_| rates.count_address([127, 0, 0, 1].into(), NOW).is_ok()));
    }

    proptest! {
        #[test]
        fn retry_after_is_never_early_and_at_most_half_longer(
            milliseconds in 1..10_000_000u64,
            random in any::<u32>(),
        ) {
            let wait = Duration::from_millis(milliseconds);
            let seconds = Limited { limit: Limit::Client, wait }.retry_after(random);
            prop_assert!(Duration::from_secs(seconds) >= wait);
            prop_assert!(seconds <= (milliseconds.div_ceil(1_000) * 3).div_ceil(2) + 1);
        }

        #[test]
        fn a_network_contains_its_address(bits in any::<u128>(), prefix in 0..=128u8) {
            let address = IpAddr::V6(Ipv6Addr::from_bits(bits));
            prop_assume!(address.to_canonical().is_ipv6());
            let IpAddr::V6(network) = network(address, prefix) else { panic!("IPv6") };
            let kept = 128 - u32::from(prefix);
            let top = |bits: u128| bits.checked_shr(kept).unwrap_or(0);
            prop_assert_eq!(top(network.to_bits()), top(bits));
            prop_assert_eq!(network.to_bits().trailing_zeros() >= kept.min(128), true);
        }
    }
}
