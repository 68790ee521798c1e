//! Slots while a list is read: piled by a few bits of their hash, in no order.

use crate::x509::crl::table::{Segment, Slot, Table};

/// Slots in one pile, at least, once there are two: with as many again to spread them into, they fit a
/// processor's own cache.
const PER_PILE: usize = 16 * 1024;
/// Piles of one list are at most two to the power of this.
const MAX_BITS: u32 = 12;
/// Slots that go to their pile together.
const PER_BATCH: usize = 15;

/// Slots as they come, piled by hash.
///
/// The ends of all piles are more than a processor's first cache holds, and each is on a page of its
/// own.  So slots are gathered in batches first, which are close together, and a pile is written a few
/// cache lines at a time.
#[derive(Default)]
pub(super) struct Piles<const N: usize> {
    batches: Vec<Batch<N>>,
    piles: Vec<Vec<Slot<N>>>,
    /// What each is given, once there are several.
    room: usize,
    bits: u32,
}

/// What goes to a pile next.
#[derive(Clone)]
struct Batch<const N: usize> {
    slots: [Slot<N>; PER_BATCH],
    len: u8,
}

impl<const N: usize> Piles<N> {
    /// Adds one.  `progress` tells, where room must be made, how far the list is read.
    #[inline(always)]
    pub(super) fn add(&mut self, slot: Slot<N>, progress: impl Fn() -> Progress) {
        if self.batches.is_empty() {
            self.begin(0, 0);
        }
        if let Some(at) = self.put(slot) {
            self.make_room(at, progress());
        }
    }

    fn begin(&mut self, bits: u32, room: usize) {
        *self = Self {
            batches: vec![Batch { slots: [Slot::EMPTY; PER_BATCH], len: 0 }; 1 << bits],
            piles: vec![Vec::new(); 1 << bits],
            room,
            bits,
        };
    }

    /// Tells the pile that has no room for its batch.  Inlined, so that the slot goes from registers to
    /// its place: made up in memory, it would have to be waited for.
    #[inline(always)]
    fn put(&mut self, slot: Slot<N>) -> Option<usize> {
        let at = Slot::<N>::pile(slot.hash(), self.bits);
        let batch = &mut self.batches[at];
        batch.slots[usize::from(batch.len)] = slot;
        batch.len += 1;
        if usize::from(batch.len) == PER_BATCH {
            let pile = &mut self.piles[at];
            if pile.capacity() - pile.len() < PER_BATCH {
                return Some(at);
            }
            pile.extend_from_slice(&batch.slots);
            batch.len = 0;
        }
        None
    }

    #[cold]
    fn make_room(&mut self, at: usize, progress: Progress) {
        let pile = &mut self.piles[at];
        if self.bits > 0 {
            // What is announced makes room in the address space; only entries that arrive fill it.
            let grown = pile.len() / 8 + PER_BATCH;
            pile.reserve_exact(if pile.is_empty() { self.room } else { grown });
        } else {
            // Most lists are small, and so are most parts of one list for many certificate issuers.
            let total = progress.total(pile.len());
            let bits = (total / PER_PILE).checked_ilog2().unwrap_or(0).min(MAX_BITS);
            if bits > 0 && pile.len() >= PER_PILE {
                return self.split(bits, total);
            }
            pile.reserve(PER_BATCH);
        }
        let batch = &mut self.batches[at];
        pile.extend_from_slice(&batch.slots);
        batch.len = 0;
    }

    /// Makes of the one pile as many as `total` slots need.
    fn split(&mut self, bits: u32, total: usize) {
        let (whole, batch) = (self.piles.swap_remove(0), self.batches.swap_remove(0));
        let share = total >> bits;
        self.begin(bits, share + share / 16 + 2 * PER_BATCH);
        for &slot in whole.iter().chain(&batch.slots) {
            if let Some(at) = self.put(slot) {
                self.make_room(at, Progress { read: 1, of: 1 });
            }
        }
    }

    /// Puts what was added in its place.  `between` is called between small portions of the work.
    pub(super) fn finish(self, between: &mut dyn FnMut()) -> Table<N> {
        let mut scratch = Vec::new();
        let segments = self.piles.into_iter().zip(&self.batches).map(|(mut pile, batch)| {
            between();
            let rest = &batch.slots[..usize::from(batch.len)];
            pile.reserve_exact(rest.len());
            pile.extend_from_slice(rest);
            Segment::new(pile, &mut scratch)
        });
        Table::new(segments.collect(), self.bits)
    }
}

/// Octets of entries that are read, of all that the list announces.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    pub(super) read: u64,
    pub(super) of: u64,
}

impl Progress {
    /// What `count` so far will come to, if it goes on like that.
    fn total(self, count: usize) -> usize {
        let total = count as u128 * u128::from(self.of) / u128::from(self.read.max(1));
        usize::try_from(total).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x509::crl::reason::Reason;

    const COUNT: u64 = 150_000;

    fn digits(n: u64) -> [u8; 8] {
        ((1 << 63) + n).to_be_bytes()
    }

    fn pile(of: u64, mut portion: impl FnMut()) -> Table<8> {
        let mut piles = Piles::<8>::default();
        for n in 0..COUNT {
            piles.add(Slot::new(&digits(n), Reason::Unspecified), || Progress { read: 20 * n, of });
        }
        piles.finish(&mut portion)
    }

    #[test]
    fn a_large_set_is_finished_in_portions() {
        let mut portions = 0;
        let table = pile(20 * COUNT, || portions += 1);
        assert!((0..COUNT).all(|n| table.get(&digits(n)).is_some()));
        assert_eq!(table.len() as u64, COUNT, "nothing of another pile");
        assert!(portions * 2 * PER_PILE as u64 >= COUNT, "{portions}");
    }

    #[test]
    fn what_is_announced_too_low_or_too_high_is_kept() {
        for of in [0, 1, 60 * PER_PILE as u64, 1 << 32] {
            let table = pile(of, || {});
            assert_eq!(table.len() as u64, COUNT, "{of}");
            assert!((0..COUNT).all(|n| table.get(&digits(n)).is_some()), "{of}");
            assert!((COUNT..2 * COUNT).all(|n| table.get(&digits(n)).is_none()), "{of}");
        }
    }
}
