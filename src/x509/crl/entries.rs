//! Set of the serials in a list: exact, compact, with lookups of bounded cost.
//!
//! A serial is an integer, so leading zeros do not count.  A serial of at most 8, 16 or 20 bytes is
//! stored in a slot of that width, padded on the left, with one more byte for the reason.  While
//! the list is read, slots are grouped by a few bits of their hash.  A group fits into the
//! processor's cache.  At the end each group is distributed into buckets of about eight slots, with
//! one directory per group.  A random serial of 16 bytes takes 17 bytes, plus half a byte of
//! directory.
//!
//! # Design notes
//! Finding one of eight slots needs no order, and sorting ten million serials takes longer than
//! hashing the list.  An attacker can choose serials whose hashes collide.  A bucket that becomes
//! large is therefore sorted and searched by bisection, so that no list makes lookups slow.

use std::collections::BTreeMap;

use crate::x509::crl::reason::Reason;
use crate::x509::crl::serial_groups::{Progress, SerialGroups};
use crate::x509::crl::table::{Slot, Table};

/// Largest number of irregular serials in a list, over all its certificate issuers.  RFC 5280
/// section 4.1.2.2 forbids serials that are negative or longer than 20 bytes, but old hierarchies
/// have a few.
pub(super) const MAX_IRREGULAR_SERIALS: usize = 10_000;

/// Serial number, from the contents of a minimal INTEGER.
#[derive(Clone, Copy)]
enum Serial<'a> {
    /// Magnitude of at most 20 bytes, without leading zeros.
    Regular(&'a [u8]),
    /// Negative, or longer than 20 bytes.
    Irregular(&'a [u8]),
}

impl<'a> Serial<'a> {
    fn new(integer: &'a [u8]) -> Self {
        let magnitude = match integer {
            [0, rest @ ..] => rest,
            [first, ..] if first & 0x80 != 0 => return Self::Irregular(integer),
            whole => whole,
        };
        if magnitude.len() <= 20 { Self::Regular(magnitude) } else { Self::Irregular(integer) }
    }
}

/// Listed serials of one certificate issuer, with their reasons.
#[derive(Debug, Default)]
pub(super) struct Entries {
    short: Table<8>,
    medium: Table<16>,
    long: Table<20>,
    irregular: BTreeMap<Box<[u8]>, Reason>,
}

impl Entries {
    /// Returns the reason for which `serial` (the contents of a minimal INTEGER) is listed.
    pub(super) fn get(&self, serial: &[u8]) -> Option<Reason> {
        match Serial::new(serial) {
            Serial::Regular(s) if s.len() <= 8 => self.short.get(s),
            Serial::Regular(s) if s.len() <= 16 => self.medium.get(s),
            Serial::Regular(s) => self.long.get(s),
            Serial::Irregular(s) => self.irregular.get(s).copied(),
        }
    }

    /// Returns the number of entries.
    pub(super) fn len(&self) -> usize {
        self.short.len() + self.medium.len() + self.long.len() + self.irregular.len()
    }

    /// Returns the memory used, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let irregular: usize = self.irregular.keys().map(|key| key.len() + 48).sum();
        self.short.bytes() + self.medium.bytes() + self.long.bytes() + irregular
    }
}

/// Builder of [`Entries`] while a list is read.
#[derive(Default)]
pub(super) struct EntriesBuilder {
    short: SerialGroups<8>,
    medium: SerialGroups<16>,
    long: SerialGroups<20>,
    irregular: BTreeMap<Box<[u8]>, Reason>,
}

impl EntriesBuilder {
    /// Adds one entry.  Returns true if its serial is irregular and new.  `progress` returns how
    /// far the list is read, and is called when memory must be reserved.
    #[inline]
    pub(super) fn add(
        &mut self,
        serial: &[u8],
        reason: Reason,
        progress: impl Fn() -> Progress,
    ) -> bool {
        match Serial::new(serial) {
            Serial::Regular(s) if s.len() <= 8 => self.short.add(Slot::new(s, reason), progress),
            Serial::Regular(s) if s.len() <= 16 => self.medium.add(Slot::new(s, reason), progress),
            Serial::Regular(s) => self.long.add(Slot::new(s, reason), progress),
            Serial::Irregular(s) => {
                let before = self.irregular.len();
                let stored = self.irregular.entry(s.into()).or_insert(reason);
                *stored = (*stored).more_severe(reason);
                return self.irregular.len() > before;
            }
        }
        false
    }

    /// Builds the lookup tables.  `between` is called between small portions of the work.
    pub(super) fn finish(self, between: &mut dyn FnMut()) -> Entries {
        Entries {
            short: self.short.finish(between),
            medium: self.medium.finish(between),
            long: self.long.finish(between),
            irregular: self.irregular,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_of_every_length_are_found() {
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
        let mut builder = EntriesBuilder::default();
        for serial in &serials[1..] {
            let progress = || Progress { read: 1, of: 1 };
            let is_irregular = builder.add(serial, Reason::KeyCompromise, progress);
            assert_eq!(is_irregular, serial.len() == 21 || serial[0] == 0x80, "{serial:?}");
        }
        let entries = builder.finish(&mut || {});
        assert_eq!(entries.len(), 8);
        assert_eq!(entries.get(serials[0]), None);
        for serial in &serials[1..] {
            assert_eq!(entries.get(serial), Some(Reason::KeyCompromise), "{serial:?}");
        }
    }

    #[test]
    fn an_empty_set_contains_no_serial() {
        assert_eq!(Entries::default().get(&[1]), None);
        assert_eq!(EntriesBuilder::default().finish(&mut || {}).len(), 0);
    }
}
