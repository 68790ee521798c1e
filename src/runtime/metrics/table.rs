//! Series by labels from a closed set, found without a lock.

use std::fmt;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher, Hash};
use std::sync::{Arc, OnceLock};

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Series of one table.  A table is for labels of fixed sets, whose combinations are fewer.
const CAPACITY: usize = 512;

/// The metrics of one family by their labels.  Series are added and never removed.
pub struct Table<L, M> {
    slots: Arc<[OnceLock<(L, M)>]>,
    /// Counts what has no slot.  It is not exposed.
    rest: Arc<M>,
}

impl<L: Copy + Eq + Hash, M: Default> Table<L, M> {
    /// Returns the metric with `labels`, and adds it if it does not exist.
    pub fn get(&self, labels: L) -> &M {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(labels);
        let start = usize::try_from(hash % CAPACITY as u64).unwrap_or_default();
        let slots = self.slots[start..].iter().chain(&self.slots[..start]);
        for slot in slots {
            let (found, metric) = slot.get_or_init(|| (labels, M::default()));
            if *found == labels {
                return metric;
            }
        }
        &self.rest
    }
}

impl<L, M> Table<L, M> {
    /// Returns the series that exist.
    pub fn iter(&self) -> impl Iterator<Item = &(L, M)> {
        self.slots.iter().filter_map(OnceLock::get)
    }
}

impl<L, M: Default> Default for Table<L, M> {
    fn default() -> Self {
        let slots = (0..CAPACITY).map(|_| OnceLock::new()).collect();
        Self { slots, rest: Arc::default() }
    }
}

impl<L, M> Clone for Table<L, M> {
    fn clone(&self) -> Self {
        Self { slots: Arc::clone(&self.slots), rest: Arc::clone(&self.rest) }
    }
}

impl<L, M> fmt::Debug for Table<L, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({})", self.iter().count())
    }
}

impl<L, M: TypedMetric> TypedMetric for Table<L, M> {
    const TYPE: MetricType = M::TYPE;
}

impl<L: EncodeLabelSet, M: EncodeMetric + TypedMetric> EncodeMetric for Table<L, M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (labels, metric) in self.iter() {
            metric.encode(encoder.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }

    fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use prometheus_client::encoding::text::encode;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::registry::Registry;

    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
    struct Labels {
        number: u32,
    }

    #[test]
    fn counts_of_several_threads_are_complete() {
        let table = Table::<Labels, Counter>::default();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..4_000 {
                        table.get(Labels { number: n % 100 }).inc();
                    }
                });
            }
        });
        assert_eq!(table.iter().count(), 100);
        assert!(table.iter().all(|(_, counter)| counter.get() == 160));
        let (mut registry, mut text) = (Registry::default(), String::new());
        registry.register("things", "Things", table);
        encode(&mut text, &registry).expect("encoded");
        assert!(text.contains("things_total{number=\"7\"} 160\n"), "{text}");
    }

    #[test]
    fn a_full_table_stays_bounded_and_keeps_its_series() {
        let table = Table::<Labels, Counter>::default();
        for number in 0..2_000 {
            table.get(Labels { number }).inc();
        }
        assert_eq!(table.iter().count(), CAPACITY);
        table.get(Labels { number: 0 }).inc();
        assert_eq!(table.get(Labels { number: 0 }).get(), 2);
        assert_eq!(table.rest.get(), 2_000 - CAPACITY as u64);
    }
}
