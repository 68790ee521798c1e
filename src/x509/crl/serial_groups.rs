//! Unordered slots, grouped by the top bits of their hash while a list is read.

use crate::x509::crl::table::{Segment, Slot, Table};

/// Smallest size of a group once there are several, in slots.  A group and the copy that is
/// distributed into buckets fit together into the second-level cache of a core.
const SLOTS_PER_GROUP: usize = 16 * 1024;
/// Largest number of groups, as a power of two.
const MAX_BITS: u32 = 12;
/// Slots that are moved to their group together.
const SLOTS_PER_BATCH: usize = 15;

/// Slots grouped by hash.
///
/// The write positions of all groups exceed the first-level cache, and each is on a page of its
/// own.  Slots are therefore collected in batches, which are close together, and a group is written
/// a few cache lines at a time.
#[derive(Default)]
pub(super) struct SerialGroups<const N: usize> {
    batches: Vec<Batch<N>>,
    groups: Vec<Vec<Slot<N>>>,
    /// Initial capacity of each group, once there are several.
    capacity: usize,
    bits: u32,
}

/// Slots to be moved to a group next.
#[derive(Clone)]
struct Batch<const N: usize> {
    slots: [Slot<N>; SLOTS_PER_BATCH],
    len: u8,
}

impl<const N: usize> SerialGroups<N> {
    /// Adds one slot.  `progress` returns how far the list is read, and is called when memory must
    /// be reserved.
    #[inline(always)]
    pub(super) fn add(&mut self, slot: Slot<N>, progress: impl Fn() -> Progress) {
        if self.batches.is_empty() {
            self.reset(0, 0);
        }
        if let Some(index) = self.push(slot) {
            self.flush_full_group(index, progress());
        }
    }

    fn reset(&mut self, bits: u32, capacity: usize) {
        *self = Self {
            batches: vec![Batch { slots: [Slot::EMPTY; SLOTS_PER_BATCH], len: 0 }; 1 << bits],
            groups: vec![Vec::new(); 1 << bits],
            capacity,
            bits,
        };
    }

    /// Adds one slot to its batch.  Returns the index of the group if its batch is full and the
    /// group has no capacity for it.
    ///
    /// Inlined, so that the slot is stored from registers.  A copy in memory would stall the store.
    #[inline(always)]
    fn push(&mut self, slot: Slot<N>) -> Option<usize> {
        let index = Slot::<N>::group(slot.hash(), self.bits);
        let batch = &mut self.batches[index];
        batch.slots[usize::from(batch.len)] = slot;
        batch.len += 1;
        if usize::from(batch.len) == SLOTS_PER_BATCH {
            let group = &mut self.groups[index];
            if group.capacity() - group.len() < SLOTS_PER_BATCH {
                return Some(index);
            }
            group.extend_from_slice(&batch.slots);
            batch.len = 0;
        }
        None
    }

    /// Moves a full batch to its group after reserving memory, or splits the only group into
    /// several.
    #[cold]
    fn flush_full_group(&mut self, index: usize, progress: Progress) {
        let group = &mut self.groups[index];
        if self.bits > 0 {
            // The length in the header reserves address space.  Only entries that arrive use
            // memory.
            let more = group.len() / 8 + SLOTS_PER_BATCH;
            group.reserve_exact(if group.is_empty() { self.capacity } else { more });
        } else {
            // Most lists are small, and so are the parts of a list of many certificate issuers.
            let total = progress.estimate_total(group.len());
            let bits = (total / SLOTS_PER_GROUP).checked_ilog2().unwrap_or(0).min(MAX_BITS);
            if bits > 0 && group.len() >= SLOTS_PER_GROUP {
                return self.split(bits, total);
            }
            group.reserve(SLOTS_PER_BATCH);
        }
        let batch = &mut self.batches[index];
        group.extend_from_slice(&batch.slots);
        batch.len = 0;
    }

    /// Splits the only group into `2^bits` groups for `total` slots.
    fn split(&mut self, bits: u32, total: usize) {
        let (whole, batch) = (self.groups.swap_remove(0), self.batches.swap_remove(0));
        let expected = total >> bits;
        self.reset(bits, expected + expected / 16 + 2 * SLOTS_PER_BATCH);
        for &slot in whole.iter().chain(&batch.slots) {
            if let Some(index) = self.push(slot) {
                self.flush_full_group(index, Progress { read: 1, of: 1 });
            }
        }
    }

    /// Builds the lookup table.  `between` is called between small portions of the work.
    pub(super) fn finish(self, between: &mut dyn FnMut()) -> Table<N> {
        let mut scratch = Vec::new();
        let segments = self.groups.into_iter().zip(&self.batches).map(|(mut group, batch)| {
            between();
            let rest = &batch.slots[..usize::from(batch.len)];
            group.reserve_exact(rest.len());
            group.extend_from_slice(rest);
            Segment::new(group, &mut scratch)
        });
        Table::new(segments.collect(), self.bits)
    }
}

/// Bytes of entries read so far, and in total by the header of the list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    pub(super) read: u64,
    pub(super) of: u64,
}

impl Progress {
    /// Extrapolates the number of entries from `count` so far.
    fn estimate_total(self, count: usize) -> usize {
        let total = count as u128 * u128::from(self.of) / u128::from(self.read.max(1));
        usize::try_from(total).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x509::crl::reason::Reason;

    const COUNT: u64 = 150_000;

    fn serial(n: u64) -> [u8; 8] {
        ((1 << 63) + n).to_be_bytes()
    }

    fn table(of: u64, mut between: impl FnMut()) -> Table<8> {
        let mut groups = SerialGroups::<8>::default();
        for n in 0..COUNT {
            groups
                .add(Slot::new(&serial(n), Reason::Unspecified), || Progress { read: 20 * n, of });
        }
        groups.finish(&mut between)
    }

    #[test]
    fn a_large_set_is_finished_in_portions() {
        let mut portions = 0;
        let table = table(20 * COUNT, || portions += 1);
        assert!((0..COUNT).all(|n| table.get(&serial(n)).is_some()));
        assert_eq!(table.len() as u64, COUNT, "nothing of another group");
        assert!(portions * 2 * SLOTS_PER_GROUP as u64 >= COUNT, "{portions}");
    }

    #[test]
    fn all_serials_are_found_when_the_total_is_wrong() {
        for of in [0, 1, 60 * SLOTS_PER_GROUP as u64, 1 << 32] {
            let table = table(of, || {});
            assert_eq!(table.len() as u64, COUNT, "{of}");
            assert!((0..COUNT).all(|n| table.get(&serial(n)).is_some()), "{of}");
            assert!((COUNT..2 * COUNT).all(|n| table.get(&serial(n)).is_none()), "{of}");
        }
    }
}
