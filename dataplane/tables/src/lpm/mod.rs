//! Longest prefix match over addresses of both families.
//!
//! Each family has a trie, which the changes are made in. For IPv4 there is also a flat copy of the trie's answers, in which a
//! lookup takes two reads with addresses that are known early. Everything is in `Arc` pages and nodes, and a change copies the ones that it touches.

mod trie;
mod v4_flat;

use std::fmt;

use heddle_wire::Ip;

use self::trie::Trie;
use self::v4_flat::V4Flat;
use crate::Prefix;

/// A table of prefixes with a value each.
#[derive(Clone)]
pub struct Lpm<V> {
    v4: Trie<V>,
    v6: Trie<V>,
    flat: V4Flat<V>,
    len: usize,
    copied: u64,
}

/// Returns an IPv4 address as an integer.
#[inline]
const fn bits(addr: Ip) -> u32 {
    u32::from_be_bytes(addr.v4_octets())
}

impl<V: Copy + PartialEq + Default> Lpm<V> {
    /// Returns an empty table.
    #[must_use]
    pub fn new() -> Self {
        Self {
            v4: Trie::new(),
            v6: Trie::new(),
            flat: V4Flat::new(),
            len: 0,
            copied: 0,
        }
    }

    /// Returns the number of prefixes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns true if the table has no prefix.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the value of the longest prefix that contains `addr`, or the default if none does.
    #[inline]
    #[must_use]
    pub fn lookup(&self, addr: Ip) -> V {
        if addr.is_v4() {
            self.flat.lookup(bits(addr)).unwrap_or_else(|| self.lookup_deep(addr))
        } else {
            self.v6.lookup(&addr.octets()).unwrap_or_default()
        }
    }

    #[cold]
    fn lookup_deep(&self, addr: Ip) -> V {
        self.v4.lookup(&addr.v4_octets()).unwrap_or_default()
    }

    /// Returns the value of exactly this prefix.
    #[must_use]
    pub fn get(&self, prefix: Prefix) -> Option<V> {
        let octets = prefix.addr().octets();
        if prefix.is_v4() {
            self.v4.get(&octets[12..], prefix.len())
        } else {
            self.v6.get(&octets, prefix.len())
        }
    }

    /// Adds or replaces a prefix and returns its previous value. Copies nothing if the value is the same.
    pub fn insert(&mut self, prefix: Prefix, value: V) -> Option<V> {
        if self.get(prefix) == Some(value) {
            return Some(value);
        }
        let before = self.change(prefix, Some(value));
        self.len += usize::from(before.is_none());
        before
    }

    /// Removes a prefix and returns its value.
    pub fn remove(&mut self, prefix: Prefix) -> Option<V> {
        let before = self.change(prefix, None);
        self.len -= usize::from(before.is_some());
        before
    }

    fn change(&mut self, prefix: Prefix, value: Option<V>) -> Option<V> {
        let (octets, len) = (prefix.addr().octets(), prefix.len());
        if !prefix.is_v4() {
            return self.v6.change(&octets, len, value, &mut self.copied);
        }
        let before = self.v4.change(&octets[12..], len, value, &mut self.copied);
        if before != value {
            self.flat.renew(&self.v4, bits(prefix.addr()), len);
        }
        before
    }

    /// Returns the number of nodes and pages copied since the last call, and resets it.
    pub fn take_copied(&mut self) -> u64 {
        std::mem::take(&mut self.copied) + self.flat.take_copied()
    }
}

impl<V: Copy + PartialEq + Default> Default for Lpm<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V> fmt::Debug for Lpm<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lpm of {} prefixes", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix::tests::{ip, p};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_change_copies_its_path_only() {
        let mut lpm = Lpm::new();
        for i in 0..=255u8 {
            lpm.insert(Prefix::new(Ip::from_v4([10, i, 0, 0]), 24), u32::from(i));
        }
        let old = lpm.clone();
        lpm.take_copied();
        lpm.insert(p("10.7.0.0/24"), 9999);
        // Three nodes, and a root and a page of blocks.
        assert_eq!(lpm.take_copied(), 5);
        assert_eq!((old.lookup(ip("10.7.0.1")), lpm.lookup(ip("10.7.0.1"))), (7, 9999));
    }

    #[test]
    fn many_answers_in_one_range_are_given_too() {
        let mut lpm = Lpm::new();
        lpm.insert(p("10.7.0.0/16"), 5);
        let net = |i: u8| Prefix::new(Ip::from_v4([10, 7, i, 128]), 25);
        for i in 0..=255u8 {
            lpm.insert(net(i), 1000 + u32::from(i));
            let (in_it, beside) = (Ip::from_v4([10, 7, i, 255]), Ip::from_v4([10, 7, i, 127]));
            assert_eq!((lpm.lookup(in_it), lpm.lookup(beside)), (1000 + u32::from(i), 5));
        }
        for i in 0..=255u8 {
            lpm.remove(net(i));
            let next = Ip::from_v4([10, 7, i.saturating_add(1), 255]);
            assert_eq!(
                (lpm.lookup(Ip::from_v4([10, 7, i, 255])), lpm.lookup(next)),
                match i {
                    255 => (5, 5),
                    _ => (5, 1001 + u32::from(i)),
                }
            );
        }
    }

    fn any_prefix() -> impl Strategy<Value = Prefix> {
        // Few distinct octets, so that prefixes nest and collide.
        let octet = prop::sample::select(vec![0u8, 1, 127, 128, 255]);
        let v4 = (prop::array::uniform4(octet.clone()), 0u8..=32).prop_map(|(o, l)| Prefix::new(Ip::from_v4(o), l));
        let v6 = (prop::array::uniform4(octet), 0u8..=128).prop_map(|(o, l)| {
            let mut a = [0u8; 16];
            a[0] = 0xfd;
            a[1..5].copy_from_slice(&o);
            a[15] = o[0];
            Prefix::new(Ip::from_v6(a), l)
        });
        prop_oneof![v4, v6]
    }

    /// Prefixes of two ranges of 16 bits, so that there are more of them than a block holds.
    fn crowded_prefix() -> impl Strategy<Value = Prefix> {
        (0u8..2, any::<u8>(), any::<u8>(), 14u8..=32)
            .prop_map(|(b, c, d, l)| Prefix::new(Ip::from_v4([10, b, c, d]), l))
    }

    type Change = (Prefix, Option<u32>);

    fn agrees(changes: Vec<Change>, asked: &[Prefix]) -> Result<(), TestCaseError> {
        let mut naive: BTreeMap<Prefix, u32> = BTreeMap::new();
        let mut lpm = Lpm::new();
        for (prefix, value) in changes {
            match value {
                Some(v) => prop_assert_eq!(lpm.insert(prefix, v), naive.insert(prefix, v)),
                None => prop_assert_eq!(lpm.remove(prefix), naive.remove(&prefix)),
            }
        }
        prop_assert_eq!(lpm.len(), naive.len());
        for p in asked {
            prop_assert_eq!(lpm.get(*p), naive.get(p).copied());
        }
        for a in asked.iter().flat_map(|p| [p.addr(), p.last()]) {
            let longest = naive.iter().filter(|(p, _)| p.contains(a)).max_by_key(|(p, _)| p.len());
            prop_assert_eq!(lpm.lookup(a), longest.map_or(0, |(_, v)| *v));
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn agrees_with_a_search_of_all_prefixes(
            changes in prop::collection::vec((any_prefix(), prop::option::weighted(0.7, 0u32..5)), 0..60),
            asked in prop::collection::vec(any_prefix(), 0..60),
        ) {
            agrees(changes, &asked)?;
        }

        #[test]
        fn agrees_where_prefixes_are_crowded(
            mut changes in prop::collection::vec((crowded_prefix(), prop::option::weighted(0.8, 0u32..5)), 0..60),
            asked in prop::collection::vec(crowded_prefix(), 0..60),
            removed in 0usize..60,
        ) {
            let mut asked = asked;
            asked.extend(changes.iter().map(|(p, _)| *p));
            // Fewer again.
            changes.extend(asked.iter().rev().take(removed).map(|p| (*p, None)).collect::<Vec<_>>());
            agrees(changes, &asked)?;
        }
    }
}
