//! Durations of publications, and of changes from their arrival until they are in force.
//!
//! # Design notes
//! A source notes the arrival of a change right before it sends the update to the publisher, which receives
//! updates in the same order.  So the arrivals need no place in the updates, which are values without a
//! time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::registry::{Registry, Unit};

use crate::runtime::metrics::latency::Latency;

/// Arrivals that are kept: more than updates fit between the sources and the publisher.
const MAX_ARRIVALS: usize = 1_024;

/// Durations of publications and changes.
#[derive(Debug, Clone, Default)]
pub struct TrustTimes {
    publish: Latency,
    change: Latency,
    arrivals: Arc<Mutex<VecDeque<Instant>>>,
}

impl TrustTimes {
    /// Creates the metrics in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let times = Self::default();
        registry.register_with_unit(
            "trust_publish_duration",
            "Time to build and publish the state in force",
            Unit::Seconds,
            times.publish.clone(),
        );
        registry.register_with_unit(
            "trust_change_duration",
            "Time from the arrival of a change of trust until it is in force",
            Unit::Seconds,
            times.change.clone(),
        );
        times
    }

    /// Notes that the content of the next update arrived at `at`.  Call it right before the update is sent.
    pub fn arrived(&self, at: Instant) {
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        if arrivals.len() < MAX_ARRIVALS {
            arrivals.push_back(at);
        }
    }

    /// Adds a publication.
    pub fn published(&self, took: Duration) {
        self.publish.observe(took);
    }

    /// Notes that the next `updates` are in force, or changed nothing.
    pub fn in_force(&self, updates: usize, is_change: bool) {
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        let count = updates.min(arrivals.len());
        for at in arrivals.drain(..count).filter(|_| is_change) {
            self.change.observe(at.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn measures_changes_in_the_order_of_their_arrival() {
        let (mut registry, mut text) = (Registry::default(), String::new());
        let times = TrustTimes::register(&mut registry);
        let long_ago = Instant::now().checked_sub(Duration::from_secs(60)).expect("after the boot");
        times.arrived(long_ago);
        times.arrived(Instant::now());
        times.arrived(long_ago);
        times.in_force(1, true);
        times.in_force(1, false);
        times.published(Duration::from_micros(1));
        encode(&mut text, &registry).expect("encoded");
        for line in [
            "trust_change_duration_seconds_bucket{le=\"10.0\"} 0",
            "trust_change_duration_seconds_count 1",
            "trust_publish_duration_seconds_bucket{le=\"0.000025\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        }
        times.in_force(5, true);
        assert!(times.arrivals.lock().expect("not poisoned").is_empty());
        (0..2 * MAX_ARRIVALS).for_each(|_| times.arrived(long_ago));
        assert_eq!(times.arrivals.lock().expect("not poisoned").len(), MAX_ARRIVALS);
    }
}
