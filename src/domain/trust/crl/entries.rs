//! The serials of a list: exact, compact, and looked up without walking.
//!
//! A serial is an integer, so leading zeros do not count, and one of at most 8, 16 or 20 octets fits,
//! padded on the left, into a slot of that width.  Slots are sorted and carry the reason in one more
//! octet; a directory over the range of the serials leads to the few that share a bucket.  Random
//! serials of 16 octets cost 17 octets and at most one of directory.

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

    /// How many serials are listed.
    pub fn len(&self) -> usize {
        self.short.slots.len() + self.medium.slots.len() + self.long.slots.len() + self.odd.len()
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
    short: Vec<Slot<8>>,
    medium: Vec<Slot<16>>,
    long: Vec<Slot<20>>,
    odd: BTreeMap<Box<[u8]>, Reason>,
}

impl Filling {
    /// Adds one entry.  `remaining` octets of entries follow this one of `size` octets: what to make
    /// room for when room is needed, so that a large list grows neither by doubling nor by crumbs.
    ///
    /// # Errors
    /// More than [`MAX_ODD_SERIALS`] serials that fit no slot.
    pub(super) fn add(
        &mut self,
        serial: &[u8],
        reason: Reason,
        size: usize,
        remaining: u64,
    ) -> Result<(), TooManyOdd> {
        match Serial::new(serial) {
            Serial::Plain(s) if s.len() <= 8 => push(&mut self.short, s, reason, size, remaining),
            Serial::Plain(s) if s.len() <= 16 => push(&mut self.medium, s, reason, size, remaining),
            Serial::Plain(s) => push(&mut self.long, s, reason, size, remaining),
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

    /// Sorts what was added.
    pub(super) fn finish(self) -> Entries {
        Entries {
            short: Table::new(self.short),
            medium: Table::new(self.medium),
            long: Table::new(self.long),
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

fn push<const N: usize>(
    slots: &mut Vec<Slot<N>>,
    digits: &[u8],
    reason: Reason,
    size: usize,
    remaining: u64,
) {
    if slots.len() == slots.capacity() {
        // The rest of the list at this entry's size, in steps, so that neither one small entry nor a
        // length that the download never delivers reserves much that is not used.
        let rest = usize::try_from(remaining).unwrap_or(usize::MAX) / size.max(1) + 1;
        slots.reserve_exact(rest.min(slots.len().max(1024)));
    }
    let mut serial = [0; N];
    serial[N - digits.len()..].copy_from_slice(digits);
    slots.push(Slot { serial, reason });
}

/// Sorted slots of one width, with a directory.
#[derive(Debug)]
struct Table<const N: usize> {
    slots: Vec<Slot<N>>,
    /// Leading digits of the smallest serial.
    base: u128,
    /// A serial's bucket is its distance from `base` without this many low bits.
    shift: u32,
    /// Where each bucket begins in `slots`, and at last their number.
    directory: Box<[u32]>,
}

impl<const N: usize> Default for Table<N> {
    fn default() -> Self {
        Self { slots: Vec::new(), base: 0, shift: 0, directory: Box::default() }
    }
}

/// Slots that one bucket should have.
const PER_BUCKET: usize = 8;

impl<const N: usize> Table<N> {
    fn new(mut slots: Vec<Slot<N>>) -> Self {
        slots.sort_unstable_by(|a, b| {
            a.serial.cmp(&b.serial).then_with(|| a.reason.rank().cmp(&b.reason.rank()))
        });
        // Listed twice: the graver reason, which sorts first, stays.
        slots.dedup_by(|later, kept| later.serial == kept.serial);
        slots.shrink_to_fit();
        let (Some(first), Some(last)) = (slots.first(), slots.last()) else {
            return Self::default();
        };
        let base = digits(&first.serial);
        let range = digits(&last.serial) - base;
        let wanted = (slots.len() / PER_BUCKET).max(1) as u128;
        // The fewest low bits to drop so that the range has at most twice the wanted buckets.
        let shift = (128 - range.leading_zeros()).saturating_sub(wanted.ilog2() + 1);
        let buckets = usize::try_from(range >> shift).unwrap_or(usize::MAX) + 1;
        let mut directory = Vec::with_capacity(buckets + 1);
        for (index, slot) in (0u32..).zip(&slots) {
            let bucket = bucket(digits(&slot.serial) - base, shift);
            while directory.len() <= bucket {
                directory.push(index);
            }
        }
        directory.push(u32::try_from(slots.len()).unwrap_or(u32::MAX));
        Self { slots, base, shift, directory: directory.into() }
    }

    fn get(&self, plain: &[u8]) -> Option<Reason> {
        let mut serial = [0; N];
        serial[N - plain.len()..].copy_from_slice(plain);
        let bucket = bucket(digits(&serial).checked_sub(self.base)?, self.shift);
        let &begin = self.directory.get(bucket)?;
        let &end = self.directory.get(bucket.checked_add(1)?)?;
        // Serials that cluster fill few buckets; the search keeps even one bucket of all logarithmic.
        let slots = &self.slots[begin as usize..end as usize];
        let found = slots.binary_search_by(|slot| slot.serial.cmp(&serial)).ok()?;
        Some(slots[found].reason)
    }

    fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot<N>>() + self.directory.len() * 4
    }
}

/// The leading digits of a serial, at most 16 octets, as a number.
fn digits<const N: usize>(serial: &[u8; N]) -> u128 {
    let leading = &serial[..N.min(16)];
    let mut padded = [0; 16];
    padded[16 - leading.len()..].copy_from_slice(leading);
    u128::from_be_bytes(padded)
}

fn bucket(distance: u128, shift: u32) -> usize {
    usize::try_from(distance.checked_shr(shift).unwrap_or(0)).unwrap_or(usize::MAX)
}
