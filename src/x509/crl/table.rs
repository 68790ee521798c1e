//! Hash table of serials of one width, in buckets.

use crate::x509::crl::reason::Reason;

/// Average number of slots in a bucket.
const SLOTS_PER_BUCKET: usize = 8;
/// Largest bucket that is scanned.  Larger ones are sorted and bisected.
const MAX_SCAN: usize = 64;

/// All slots of one width.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    segments: Box<[Segment<N>]>,
    bits: u32,
}

impl<const N: usize> Default for Table<N> {
    fn default() -> Self {
        Self { segments: Box::default(), bits: 0 }
    }
}

impl<const N: usize> Table<N> {
    /// Creates a table of `2^bits` segments, indexed by the top `bits` of the hash.
    pub(super) fn new(segments: Box<[Segment<N>]>, bits: u32) -> Self {
        Self { segments, bits }
    }

    /// Returns the most severe reason listed for the serial with this magnitude.
    pub(super) fn get(&self, magnitude: &[u8]) -> Option<Reason> {
        let wanted = Slot::<N>::new(magnitude, Reason::Unspecified);
        let hash = wanted.hash();
        self.segments.get(Slot::<N>::group(hash, self.bits))?.get(&wanted.serial, hash)
    }

    /// Returns the number of slots.
    pub(super) fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.slots.len()).sum()
    }

    /// Returns the memory used, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let slots = size_of::<Slot<N>>() * self.len();
        let directories: usize = self.segments.iter().map(|s| s.directory.len() * 4).sum();
        slots + directories + size_of::<Segment<N>>() * self.segments.len()
    }
}

/// Slots of one group, distributed into buckets.
#[derive(Debug)]
pub(super) struct Segment<const N: usize> {
    slots: Box<[Slot<N>]>,
    /// Index in `slots` at which each bucket starts, and the number of slots at the end.
    directory: Box<[u32]>,
}

impl<const N: usize> Segment<N> {
    /// Distributes `group` into buckets in the memory of `scratch`, and leaves the memory of
    /// `group` in `scratch` for the next segment.
    pub(super) fn new(group: Vec<Slot<N>>, scratch: &mut Vec<Slot<N>>) -> Self {
        let buckets = group.len().div_ceil(SLOTS_PER_BUCKET);
        let bucket = |slot: &Slot<N>| Slot::<N>::bucket(slot.hash(), buckets);
        let mut directory = vec![0u32; buckets + 1];
        for slot in &group {
            directory[bucket(slot) + 1] += 1;
        }
        for at in 1..directory.len() {
            directory[at] += directory[at - 1];
        }
        scratch.resize(group.len(), Slot::EMPTY);
        let mut next = directory.clone();
        for slot in &group {
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
        let slots = std::mem::replace(scratch, group);
        Self { slots: slots.into(), directory: directory.into() }
    }

    /// Returns the most severe reason listed for `serial`.
    fn get(&self, serial: &[u8; N], hash: u64) -> Option<Reason> {
        let bucket = Slot::<N>::bucket(hash, self.directory.len() - 1);
        let &[begin, end] = self.directory.get(bucket..bucket + 2)? else { return None };
        let slots = &self.slots[begin as usize..end as usize];
        if slots.len() > MAX_SCAN {
            let first = slots.partition_point(|slot| slot.serial < *serial);
            return slots.get(first).filter(|s| s.serial == *serial).map(|slot| slot.reason);
        }
        let found = slots.iter().filter(|slot| slot.serial == *serial).map(|slot| slot.reason);
        found.reduce(Reason::more_severe)
    }
}

/// One serial and the reason for which it is listed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot<const N: usize> {
    serial: [u8; N],
    reason: Reason,
}

impl<const N: usize> Slot<N> {
    pub(super) const EMPTY: Self = Self { serial: [0; N], reason: Reason::Unspecified };

    /// `magnitude` is the serial without leading zeros, at most N bytes.
    pub(super) fn new(magnitude: &[u8], reason: Reason) -> Self {
        let padded = || {
            let mut serial = [0; N];
            serial[N - magnitude.len()..].copy_from_slice(magnitude);
            serial
        };
        // Most serials fill their slot.  Then this does not copy through memory.
        let serial = <[u8; N]>::try_from(magnitude).unwrap_or_else(|_| padded());
        Self { serial, reason }
    }

    /// Hashes all bytes of the serial.  The top bits select the group, the low 32 bits the bucket.
    pub(super) fn hash(&self) -> u64 {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&self.serial[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let (first, last) = (word(0), word(N - 8));
        match N {
            8 => fold(first ^ MIX[0], MIX[1]),
            16 => fold(first ^ MIX[0], last ^ MIX[1]),
            // Both ends, and the bytes between them.
            _ => fold(fold(first ^ MIX[0], last ^ MIX[1]) ^ word(6), MIX[2]),
        }
    }

    /// Returns the index of the group, one of `2^bits`.
    pub(super) fn group(hash: u64, bits: u32) -> usize {
        usize::try_from(hash.checked_shr(64 - bits).unwrap_or(0)).unwrap_or(0)
    }

    fn bucket(hash: u64, buckets: usize) -> usize {
        usize::try_from((u128::from(hash & 0xffff_ffff) * buckets as u128) >> 32).unwrap_or(0)
    }
}

/// Numbers without a pattern (digits of pi).
const MIX: [u64; 3] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7345, 0xa409_3822_299f_31d1];

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    // Each bit of the product depends on bits of both factors, in its low half or its high half.
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(numbers: impl Iterator<Item = u64>) -> Segment<8> {
        let slot = |n: u64| Slot::new(&n.to_be_bytes(), Reason::Unspecified);
        Segment::new(numbers.map(slot).collect(), &mut Vec::new())
    }

    fn lists(segment: &Segment<8>, number: u64) -> bool {
        let wanted = Slot::<8>::new(&number.to_be_bytes(), Reason::Unspecified);
        segment.get(&wanted.serial, wanted.hash()).is_some()
    }

    fn largest_bucket(segment: &Segment<8>) -> Option<u32> {
        segment.directory.windows(2).map(|ends| ends[1] - ends[0]).max()
    }

    #[test]
    fn consecutive_serials_are_found_and_distributed() {
        let segment = segment((0..20_000).map(|n| 2 * n));
        assert!((0..20_000).all(|n| lists(&segment, 2 * n)));
        assert!((0..20_000).all(|n| !lists(&segment, 2 * n + 1)));
        assert!(largest_bucket(&segment) < Some(40), "{:?}", largest_bucket(&segment));
    }

    #[test]
    fn colliding_serials_are_sorted_and_found() {
        // 200 serials of one bucket, found by trial, as an attacker who knows the hash could.
        let hash = |n: &u64| Slot::<8>::new(&n.to_be_bytes(), Reason::Unspecified).hash();
        let chosen: Vec<u64> =
            (0..).filter(|n| hash(n) & 0xffff_ffff < 1 << 24).take(200).collect();
        let segment = segment(chosen.iter().copied());
        assert!(largest_bucket(&segment) > Some(MAX_SCAN as u32), "{:?}", largest_bucket(&segment));
        assert!(chosen.iter().all(|n| lists(&segment, *n)));
        assert!(chosen.iter().all(|n| !lists(&segment, n ^ 1) || chosen.contains(&(n ^ 1))));
    }
}
