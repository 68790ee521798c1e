//! The serials of a list: exact, compact, and looked up without walking.
//!
//! A serial is an integer, so leading zeros do not count, and one of at most 8, 16 or 20 octets fits,
//! padded on the left, into a slot of that width, with the reason in one more octet.  While the list
//! is read, slots are piled by a few bits of their hash, small enough piles for the processor's cache;
//! at the end each pile is spread into buckets of about eight, one directory a pile.  A random serial
//! of 16 octets costs 17 octets and half a one of directory.
//!
//! # Why not sorted
//! To find one of eight needs no order, and putting ten million in order costs more than hashing the
//! list.  A bucket that grew large nevertheless (serials can be chosen so that hashes collide) is
//! sorted and searched by halves: nobody's list makes a look-up slow.

use std::collections::BTreeMap;

use crate::domain::trust::crl::reason::Reason;

/// Serials that fit no slot: negative ones, and ones above 20 octets (which RFC 5280 section 4.1.2.2
/// forbids).  They exist in old hierarchies, in small numbers; beyond this the list is refused.
pub const MAX_ODD_SERIALS: usize = 10_000;

/// A serial as its list spells it: the contents of a minimal INTEGER.
#[derive(Clone, Copy)]
enum Serial<'a> {
    /// Not negative, without leading zeros, at most 20 octets.
    Plain(&'a [u8]),
    Odd(&'a [u8]),
}

impl<'a> Serial<'a> {
    fn new(integer: &'a [u8]) -> Self {
        let magnitude = match integer {
            [0, rest @ ..] => rest,
            [first, ..] if first & 0x80 != 0 => return Self::Odd(integer),
            whole => whole,
        };
        if magnitude.len() <= 20 { Self::Plain(magnitude) } else { Self::Odd(integer) }
    }
}

/// What a list says of each serial of one certificate issuer.
#[derive(Debug, Default)]
pub struct Entries {
    short: Table<8>,
    medium: Table<16>,
    long: Table<20>,
    odd: BTreeMap<Box<[u8]>, Reason>,
}

impl Entries {
    /// Why `serial` (the contents of a minimal INTEGER) is listed; `None` when it is not.
    pub fn get(&self, serial: &[u8]) -> Option<Reason> {
        match Serial::new(serial) {
            Serial::Plain(s) if s.len() <= 8 => self.short.get(s),
            Serial::Plain(s) if s.len() <= 16 => self.medium.get(s),
            Serial::Plain(s) => self.long.get(s),
            Serial::Odd(s) => self.odd.get(s).copied(),
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.short.len() + self.medium.len() + self.long.len() + self.odd.len()
    }

    /// True when no serial is listed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Octets held.
    pub fn bytes(&self) -> usize {
        let odd: usize = self.odd.keys().map(|key| key.len() + 48).sum();
        self.short.bytes() + self.medium.bytes() + self.long.bytes() + odd
    }
}

/// Entries while a list is read.
#[derive(Default)]
pub(super) struct Filling {
    short: Piles<8>,
    medium: Piles<16>,
    long: Piles<20>,
    odd: BTreeMap<Box<[u8]>, Reason>,
}

impl Filling {
    /// Adds one entry.  `expected` tells, where room must be made, about how many are still to come,
    /// this one included.
    ///
    /// # Errors
    /// More than [`MAX_ODD_SERIALS`] serials that fit no slot.
    pub(super) fn add(
        &mut self,
        serial: &[u8],
        reason: Reason,
        expected: impl FnOnce() -> usize,
    ) -> Result<(), TooManyOdd> {
        match Serial::new(serial) {
            Serial::Plain(s) if s.len() <= 8 => self.short.add(Slot::new(s, reason), expected),
            Serial::Plain(s) if s.len() <= 16 => self.medium.add(Slot::new(s, reason), expected),
            Serial::Plain(s) => self.long.add(Slot::new(s, reason), expected),
            Serial::Odd(s) => {
                let kept = self.odd.entry(s.into()).or_insert(reason);
                *kept = (*kept).graver(reason);
                if self.odd.len() > MAX_ODD_SERIALS {
                    return Err(TooManyOdd);
                }
            }
        }
        Ok(())
    }

    /// Puts what was added in its place.  `between` is called between small portions of the work.
    pub(super) fn finish(self, between: &mut dyn FnMut()) -> Entries {
        Entries {
            short: self.short.finish(between),
            medium: self.medium.finish(between),
            long: self.long.finish(between),
            odd: self.odd,
        }
    }
}

/// More serials that fit no slot than [`MAX_ODD_SERIALS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooManyOdd;

/// One serial and why it is listed.
#[derive(Debug, Clone, Copy)]
struct Slot<const N: usize> {
    serial: [u8; N],
    reason: Reason,
}

impl<const N: usize> Slot<N> {
    const EMPTY: Self = Self { serial: [0; N], reason: Reason::Unspecified };

    fn new(digits: &[u8], reason: Reason) -> Self {
        let padded = || {
            let mut serial = [0; N];
            serial[N - digits.len()..].copy_from_slice(digits);
            serial
        };
        // Most are as long as their slot, and then this is no copy in memory.
        let serial = <[u8; N]>::try_from(digits).unwrap_or_else(|_| padded());
        Self { serial, reason }
    }

    /// Serials that differ anywhere have unlike hashes: the top bits choose the pile, the low ones the
    /// bucket.
    fn hash(&self) -> u64 {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&self.serial[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let (first, last) = (word(0), word(N - 8));
        match N {
            8 => fold(first ^ MIX[0], MIX[1]),
            16 => fold(first ^ MIX[0], last ^ MIX[1]),
            // Both ends, and the octets between them.
            _ => fold(fold(first ^ MIX[0], last ^ MIX[1]) ^ word(6), MIX[2]),
        }
    }

    fn pile(hash: u64, bits: u32) -> usize {
        usize::try_from(hash.checked_shr(64 - bits).unwrap_or(0)).unwrap_or(0)
    }

    fn bucket(hash: u64, buckets: usize) -> usize {
        usize::try_from((u128::from(hash & 0xffff_ffff) * buckets as u128) >> 32).unwrap_or(0)
    }
}

/// Odd numbers without pattern (digits of pi).
const MIX: [u64; 3] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7345, 0xa409_3822_299f_31d1];

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    // The low half and the high half: each bit of the product depends on bits of both.
    (product as u64) ^ ((product >> 64) as u64)
}

/// Slots in one pile: with as many again to spread them into, they fit a processor's own cache.
const PER_PILE: usize = 8192;
/// Slots in one bucket, on average.
const PER_BUCKET: usize = 8;
/// Slots that are looked through; more are sorted and searched.
const MAX_SCAN: usize = 64;

/// Slots as they come, piled by hash.
#[derive(Default)]
struct Piles<const N: usize> {
    piles: Vec<Vec<Slot<N>>>,
    bits: u32,
}

impl<const N: usize> Piles<N> {
    fn add(&mut self, slot: Slot<N>, expected: impl FnOnce() -> usize) {
        let at = Slot::<N>::pile(slot.hash(), self.bits);
        match self.piles.get_mut(at) {
            Some(pile) if pile.len() < pile.capacity() => pile.push(slot),
            _ => self.make_room(slot, expected()),
        }
    }

    #[cold]
    fn make_room(&mut self, slot: Slot<N>, expected: usize) {
        if self.piles.is_empty() {
            self.bits = (expected / PER_PILE).checked_ilog2().map_or(0, |bits| bits.min(12));
            self.piles.resize_with(1 << self.bits, Vec::new);
        }
        // The list may end early, and its entries may be larger: an announced length makes room in
        // the address space, and only entries that arrive fill it.
        let share = expected >> self.bits;
        let pile = &mut self.piles[Slot::<N>::pile(slot.hash(), self.bits)];
        pile.reserve_exact(share + share / 16 + 16);
        pile.push(slot);
    }

    fn finish(self, between: &mut dyn FnMut()) -> Table<N> {
        let mut scratch = Vec::new();
        let segments = self.piles.into_iter().map(|pile| {
            between();
            Segment::new(pile, &mut scratch)
        });
        Table { segments: segments.collect(), bits: self.bits }
    }
}

/// All slots of one width.
#[derive(Debug)]
struct Table<const N: usize> {
    segments: Box<[Segment<N>]>,
    bits: u32,
}

impl<const N: usize> Default for Table<N> {
    fn default() -> Self {
        Self { segments: Box::default(), bits: 0 }
    }
}

impl<const N: usize> Table<N> {
    fn get(&self, plain: &[u8]) -> Option<Reason> {
        let wanted = Slot::<N>::new(plain, Reason::Unspecified);
        let hash = wanted.hash();
        self.segments.get(Slot::<N>::pile(hash, self.bits))?.get(&wanted.serial, hash)
    }

    fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.slots.len()).sum()
    }

    fn bytes(&self) -> usize {
        let slots = size_of::<Slot<N>>() * self.len();
        let directories: usize = self.segments.iter().map(|s| s.directory.len() * 4).sum();
        slots + directories + size_of::<Segment<N>>() * self.segments.len()
    }
}

/// One pile, spread into buckets.
#[derive(Debug)]
struct Segment<const N: usize> {
    slots: Box<[Slot<N>]>,
    /// Where each bucket begins in `slots`, and at last their number.
    directory: Box<[u32]>,
}

impl<const N: usize> Segment<N> {
    fn new(pile: Vec<Slot<N>>, scratch: &mut Vec<Slot<N>>) -> Self {
        let buckets = pile.len().div_ceil(PER_BUCKET);
        let bucket = |slot: &Slot<N>| Slot::<N>::bucket(slot.hash(), buckets);
        let mut directory = vec![0u32; buckets + 1];
        for slot in &pile {
            directory[bucket(slot) + 1] += 1;
        }
        for at in 1..directory.len() {
            directory[at] += directory[at - 1];
        }
        scratch.resize(pile.len(), Slot::EMPTY);
        let mut next = directory.clone();
        for slot in &pile {
            let at = &mut next[bucket(slot)];
            scratch[*at as usize] = *slot;
            *at += 1;
        }
        for ends in directory.windows(2) {
            let bucket = &mut scratch[ends[0] as usize..ends[1] as usize];
            if bucket.len() > MAX_SCAN {
                bucket.sort_unstable_by_key(|slot| (slot.serial, slot.reason.rank()));
            }
        }
        // Where the pile was, the next one is spread.
        let slots = std::mem::replace(scratch, pile);
        Self { slots: slots.into(), directory: directory.into() }
    }

    /// The gravest reason that `serial` is listed for.
    fn get(&self, serial: &[u8; N], hash: u64) -> Option<Reason> {
        let bucket = Slot::<N>::bucket(hash, self.directory.len() - 1);
        let &[begin, end] = self.directory.get(bucket..bucket + 2)? else { return None };
        let slots = &self.slots[begin as usize..end as usize];
        if slots.len() > MAX_SCAN {
            let first = slots.partition_point(|slot| slot.serial < *serial);
            return slots.get(first).filter(|s| s.serial == *serial).map(|slot| slot.reason);
        }
        let found = slots.iter().filter(|slot| slot.serial == *serial).map(|slot| slot.reason);
        found.reduce(Reason::graver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(serials: impl Iterator<Item = u64>) -> Entries {
        let mut filling = Filling::default();
        for serial in serials {
            let serial = [&[0], &serial.to_be_bytes()[..]].concat();
            filling.add(&serial, Reason::Unspecified, || 1).expect("room");
        }
        filling.finish(&mut || {})
    }

    fn lists(entries: &Entries, serial: u64) -> bool {
        entries.get(&[&[0], &serial.to_be_bytes()[..]].concat()).is_some()
    }

    #[test]
    fn serials_in_a_row_are_found_and_spread() {
        // A width of its own: top bit set, so that no leading octet is lost.
        let first = 1 << 63;
        let entries = entries((0..20_000).map(|n| first + 2 * n));
        assert!((0..20_000).all(|n| lists(&entries, first + 2 * n)));
        assert!((0..20_000).all(|n| !lists(&entries, first + 2 * n + 1)));
        let fullest = entries
            .short
            .segments
            .iter()
            .flat_map(|segment| segment.directory.windows(2).map(|ends| ends[1] - ends[0]))
            .max();
        assert!(fullest < Some(40), "{fullest:?}");
    }

    #[test]
    fn colliding_serials_are_sorted_and_found() {
        // Found by trial: 200 serials of one bucket, as somebody could who knows the hash.
        let chosen: Vec<u64> = (0..)
            .map(|n: u64| (1 << 63) + n)
            .filter(|n| {
                Slot::<8>::new(&n.to_be_bytes(), Reason::Unspecified).hash() & 0xffff_ffff < 1 << 24
            })
            .take(200)
            .collect();
        let entries = entries(chosen.iter().copied());
        let fullest = entries.short.segments[0]
            .directory
            .windows(2)
            .map(|ends| (ends[1] - ends[0]) as usize)
            .max();
        assert!(fullest > Some(MAX_SCAN), "{fullest:?}");
        assert!(chosen.iter().all(|n| lists(&entries, *n)));
        assert!(chosen.iter().all(|n| !lists(&entries, n ^ 1) || chosen.contains(&(n ^ 1))));
    }

    #[test]
    fn a_large_set_is_finished_in_portions() {
        const COUNT: usize = 100_000;
        let serial = |n: usize| [&[0], &((1 << 63) + n as u64).to_be_bytes()[..]].concat();
        let mut filling = Filling::default();
        for n in 0..COUNT {
            filling.add(&serial(n), Reason::Unspecified, || COUNT).expect("room");
        }
        let mut portions = 0;
        let entries = filling.finish(&mut || portions += 1);
        assert!((0..COUNT).all(|n| entries.get(&serial(n)).is_some()));
        assert_eq!(entries.len(), COUNT, "nothing of another pile");
        assert!(portions * 2 * PER_PILE >= COUNT, "{portions}");
    }

    #[test]
    fn nothing_is_listed_in_nothing() {
        assert!(!lists(&Entries::default(), 1));
        assert!(Filling::default().finish(&mut || {}).is_empty());
    }
}
