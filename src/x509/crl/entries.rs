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

use crate::x509::crl::reason::Reason;
use crate::x509::crl::serial_groups::{Piles, Progress};
use crate::x509::crl::table::{Slot, Table};

/// Serials that fit no slot: negative ones, and ones above 20 octets (which RFC 5280 section 4.1.2.2
/// forbids).  They exist in old hierarchies, in small numbers; with more, for all its certificate
/// issuers together, a list is refused.
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
    /// Adds one entry; true when its serial fits no slot and was not there.  `progress` tells, where
    /// room must be made, how far the list is read.
    #[inline]
    pub(super) fn add(
        &mut self,
        serial: &[u8],
        reason: Reason,
        progress: impl Fn() -> Progress,
    ) -> bool {
        match Serial::new(serial) {
            Serial::Plain(s) if s.len() <= 8 => self.short.add(Slot::new(s, reason), progress),
            Serial::Plain(s) if s.len() <= 16 => self.medium.add(Slot::new(s, reason), progress),
            Serial::Plain(s) => self.long.add(Slot::new(s, reason), progress),
            Serial::Odd(s) => {
                let before = self.odd.len();
                let kept = self.odd.entry(s.into()).or_insert(reason);
                *kept = (*kept).graver(reason);
                return self.odd.len() > before;
            }
        }
        false
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_serial_has_its_place() {
        let serials: [&[u8]; 9] = [
            &[0],
            &[1],
            &[0x7f; 8],
            &[0, 0x80, 0, 0, 0, 0, 0, 0, 0],
            &[1; 9],
            &[1; 16],
            &[1; 20],
            &[1; 21],
            &[0x80],
        ];
        let mut filling = Filling::default();
        for serial in &serials[1..] {
            let progress = || Progress { read: 1, of: 1 };
            let is_odd = filling.add(serial, Reason::KeyCompromise, progress);
            assert_eq!(is_odd, serial.len() == 21 || serial[0] == 0x80, "{serial:?}");
        }
        let entries = filling.finish(&mut || {});
        assert_eq!(entries.len(), 8);
        assert_eq!(entries.get(serials[0]), None);
        for serial in &serials[1..] {
            assert_eq!(entries.get(serial), Some(Reason::KeyCompromise), "{serial:?}");
        }
    }

    #[test]
    fn nothing_is_listed_in_nothing() {
        assert_eq!(Entries::default().get(&[1]), None);
        assert!(Filling::default().finish(&mut || {}).is_empty());
    }
}
