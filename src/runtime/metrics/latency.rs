//! A histogram of durations.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Upper bounds of the buckets in microseconds.  A signature takes tens of microseconds with ECDSA and a
/// millisecond with RSA, a handshake hundreds of microseconds and at most ten seconds.
const BOUNDS: [u64; 16] = [
    25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 10_000_000,
];
/// Parts that threads write to.
const SHARDS: usize = 4;

/// Counts durations by size.
#[derive(Clone)]
pub(crate) struct Latency(Arc<[Shard; SHARDS]>);

/// The counts of some threads, on cache lines of their own.
#[derive(Default)]
#[repr(align(128))]
struct Shard {
    counts: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

thread_local! {
    /// The shard of this thread.
    static SHARD: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Returns the shard of this thread, the next one at the first call.
fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    SHARD.get().unwrap_or_else(|| {
        let shard = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
        SHARD.set(Some(shard));
        shard
    })
}

impl Latency {
    /// Counts a duration.
    pub(crate) fn observe(&self, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| bound * 1_000 < nanoseconds);
        let shard = &self.0[shard()];
        shard.counts[bucket].fetch_add(1, Ordering::Relaxed);
        shard.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// The sum in seconds, and the counts of the buckets with their upper bounds.
    fn read(&self) -> (f64, Vec<(f64, u64)>) {
        let nanoseconds: u64 =
            self.0.iter().map(|shard| shard.nanoseconds.load(Ordering::Relaxed)).sum();
        let bounds = BOUNDS.iter().map(|bound| Duration::from_micros(*bound).as_secs_f64());
        let buckets = bounds.chain([f64::INFINITY]).enumerate().map(|(at, bound)| {
            let counts = self.0.iter().map(|shard| shard.counts[at].load(Ordering::Relaxed));
            (bound, counts.sum())
        });
        (Duration::from_nanos(nanoseconds).as_secs_f64(), buckets.collect())
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self(Arc::new(Default::default()))
    }
}

impl fmt::Debug for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Latency")
    }
}

impl TypedMetric for Latency {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Latency {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let (sum, buckets) = self.read();
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::{Registry, Unit};

    use super::*;

    #[test]
    fn counts_durations_of_several_threads_by_size() {
        let latency = Latency::default();
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    latency.observe(Duration::from_micros(25));
                    latency.observe(Duration::from_nanos(25_001));
                    latency.observe(Duration::from_secs(3_600));
                });
            }
        });
        let (mut registry, mut text) = (Registry::default(), String::new());
        registry.register_with_unit("work", "Work", Unit::Seconds, latency);
        encode(&mut text, &registry).expect("encoded");
        for line in [
            "# TYPE work_seconds histogram",
            "work_seconds_bucket{le=\"0.000025\"} 6",
            "work_seconds_bucket{le=\"0.00005\"} 12",
            "work_seconds_bucket{le=\"10.0\"} 12",
            "work_seconds_bucket{le=\"+Inf\"} 18",
            "work_seconds_count 18",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        }
        assert!(text.contains("work_seconds_sum 21600.0003"), "{text}");
    }
}
