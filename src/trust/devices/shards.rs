//! A sorted set that is cheap to copy and to change: copies share shards until they differ.

use std::cmp::Ordering;
use std::sync::Arc;

/// Shards of a set.  With a million members a shard has about 250, and a change copies one shard.
pub(super) const SHARDS: usize = 4096;

/// A member of [`Shards`].
pub(super) trait Member: Copy + Ord {
    /// Determines the shard.  It comes first in the order of members and is evenly distributed.
    fn key(&self) -> [u8; 16];
}

/// Returns the shard of a key: its first twelve bits.
fn shard_of(first: u8, second: u8) -> usize {
    (usize::from(first) << 4) | usize::from(second >> 4)
}

/// A set of members, each once.
#[derive(Debug, Clone)]
pub(super) struct Shards<T> {
    shards: Arc<[Arc<[T]>]>,
}

impl<T: Member> Default for Shards<T> {
    fn default() -> Self {
        let empty: Arc<[T]> = Arc::default();
        Self { shards: vec![empty; SHARDS].into() }
    }
}

impl<T: Member> Shards<T> {
    /// Makes a set of `members`, in any order.
    pub(super) fn of(members: impl IntoIterator<Item = T>) -> Self {
        let mut shards = vec![Vec::new(); SHARDS];
        for member in members {
            let key = member.key();
            shards[shard_of(key[0], key[1])].push(member);
        }
        let sorted = |mut shard: Vec<T>| {
            shard.sort_unstable();
            shard.dedup();
            Arc::from(shard)
        };
        Self { shards: shards.into_iter().map(sorted).collect() }
    }

    /// Returns the members whose keys begin with `prefix`, in order.
    pub(super) fn beginning<const N: usize>(&self, prefix: &[u8; N]) -> &[T] {
        const { assert!(N >= 2 && N <= 16, "a prefix names its shard") }
        let shard = &self.shards[shard_of(prefix[0], prefix[1])];
        let side = |member: &T| member.key()[..N].cmp(&prefix[..]);
        let start = shard.partition_point(|member| side(member) == Ordering::Less);
        let length = shard[start..].partition_point(|member| side(member) == Ordering::Equal);
        &shard[start..start + length]
    }

    /// Returns this set without `removed` and with `added`.  Unchanged shards are shared; `changed` gets
    /// the others, before and after.
    pub(super) fn edited(
        &self,
        mut removed: Vec<T>,
        mut added: Vec<T>,
        mut changed: impl FnMut(&[T], &[T]),
    ) -> Self {
        removed.sort_unstable();
        added.sort_unstable();
        let (mut removed, mut added) = (&removed[..], &added[..]);
        let mut shards = self.shards.to_vec();
        // Members are ordered by key first, so that those of one shard are adjacent.
        while let Some(key) = removed.first().into_iter().chain(added.first()).map(T::key).min() {
            let at = shard_of(key[0], key[1]);
            let here = |member: &T| shard_of(member.key()[0], member.key()[1]) == at;
            let (out, rest_out) = removed.split_at(removed.partition_point(here));
            let (new, rest_new) = added.split_at(added.partition_point(here));
            let stays = |member: &&T| out.binary_search(member).is_err();
            let mut shard: Vec<T> = shards[at].iter().filter(stays).chain(new).copied().collect();
            // Two sorted runs: this sort merges them.
            shard.sort();
            shard.dedup();
            changed(&shards[at], &shard);
            shards[at] = shard.into();
            (removed, added) = (rest_out, rest_new);
        }
        Self { shards: shards.into() }
    }

    /// Returns every member, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    /// Returns every shard.
    pub(super) fn shards(&self) -> impl Iterator<Item = &[T]> {
        self.shards.iter().map(|shard| &shard[..])
    }

    /// Returns the shards in which two sets differ.
    pub(super) fn unshared<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = (&'a [T], &'a [T])> {
        let pairs = self.shards.iter().zip(other.shards.iter());
        pairs.filter(|(a, b)| !Arc::ptr_eq(a, b)).map(|(a, b)| (&a[..], &b[..]))
    }

    /// Returns true if both are the same copy.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shards, &other.shards)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    struct One([u8; 16]);

    impl Member for One {
        fn key(&self) -> [u8; 16] {
            self.0
        }
    }

    /// Few different members, so that edits overlap.
    fn one() -> impl Strategy<Value = One> {
        (0u8..4, 0u8..4, 0u8..3).prop_map(|(a, b, c)| {
            let mut key = [0; 16];
            (key[0], key[1], key[9]) = (a << 6, b << 4, c);
            One(key)
        })
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(
            first in prop::collection::vec(one(), 0..40),
            removed in prop::collection::vec(one(), 0..40),
            added in prop::collection::vec(one(), 0..40),
            asked in one(),
        ) {
            let mut model: BTreeSet<One> = first.iter().copied().collect();
            let before = Shards::of(first);
            let after = before.edited(removed.clone(), added.clone(), |_, _| {});
            prop_assert!(before.iter().eq(&model), "the former copy is unchanged");
            model.retain(|one| !removed.contains(one));
            model.extend(added);
            prop_assert!(after.iter().eq(&model));
            let begins = |one: &&One| one.0[..8] == asked.0[..8];
            let prefix: [u8; 8] = std::array::from_fn(|n| asked.0[n]);
            prop_assert!(after.beginning(&prefix).iter().eq(model.iter().filter(begins)));
        }
    }

    #[test]
    fn an_edit_copies_the_shards_it_touches() {
        let with = |first: u8| One(std::array::from_fn(|n| if n == 0 { first } else { 7 }));
        let before = Shards::of((0..=255).map(with));
        let mut calls = 0;
        let after = before.edited(vec![with(1)], vec![with(9)], |_, _| calls += 1);
        assert_eq!(
            (calls, before.unshared(&after).count()),
            (2, 2),
            "one member removed, one added"
        );
        assert!(!before.is_same(&after) && after.is_same(&after.clone()));
    }
}
