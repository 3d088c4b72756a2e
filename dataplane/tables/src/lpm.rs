//! Longest prefix match over addresses of both families.
//!
//! A trie with a stride of eight bits, compressed as a tree bitmap: a node holds the runs of equal answers within its
//! 256 values and its children, both found by counting bits; at most four nodes are read for IPv4, sixteen for IPv6.
//! Nodes are `Arc`s and a change copies the nodes on its way. Answers are pushed down within a node, never into
//! children, so a short prefix costs as little to change as a long one.

use std::fmt;
use std::sync::Arc;

use arrayvec::ArrayVec;
use heddle_wire::Ip;

/// A network: an address without host bits and a length in bits of its family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    addr: Ip,
    len: u8,
}

impl Prefix {
    /// The network of `len` bits that `addr` lies in. Longer than the family has is as long as it has.
    #[must_use]
    pub fn new(addr: Ip, len: u8) -> Self {
        let len = len.min(if addr.is_v4() { 32 } else { 128 });
        let bits = u32::from(len) + if addr.is_v4() { 96 } else { 0 };
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        Self {
            addr: Ip::from_v6((u128::from_be_bytes(addr.octets()) & mask).to_be_bytes()),
            len,
        }
    }

    /// The network that holds `addr` alone.
    #[must_use]
    pub fn host(addr: Ip) -> Self {
        Self::new(addr, 128)
    }

    /// The first address.
    #[must_use]
    pub const fn addr(&self) -> Ip {
        self.addr
    }

    /// The length in bits of the family, at most 32 or 128.
    #[must_use]
    pub const fn len(&self) -> u8 {
        self.len
    }

    /// Whether this is the network of all addresses of its family.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the network is one of IPv4. (`::/96` and shorter hold the mapped range, but are IPv6.)
    #[must_use]
    pub fn is_v4(&self) -> bool {
        self.addr.is_v4()
    }

    /// The last address.
    #[must_use]
    pub fn last(&self) -> Ip {
        let host = u128::MAX
            .checked_shr(u32::from(self.len) + if self.is_v4() { 96 } else { 0 })
            .unwrap_or(0);
        Ip::from_v6((u128::from_be_bytes(self.addr.octets()) | host).to_be_bytes())
    }

    /// Whether `addr` is of the same family and lies in this network.
    #[must_use]
    pub fn contains(&self, addr: Ip) -> bool {
        self.is_v4() == addr.is_v4() && Self::new(addr, self.len).addr == self.addr
    }

    /// Whether `other` lies in this network (or is it).
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.len <= other.len && self.contains(other.addr)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// 256 bits.
#[derive(Clone, Copy, Default)]
struct Bits([u64; 4]);

impl Bits {
    const fn has(&self, i: u8) -> bool {
        self.0[(i >> 6) as usize] >> (i & 63) & 1 == 1
    }

    const fn set(&mut self, i: u8, on: bool) {
        let bit = 1u64 << (i & 63);
        if on {
            self.0[(i >> 6) as usize] |= bit;
        } else {
            self.0[(i >> 6) as usize] &= !bit;
        }
    }

    /// How many bits below `i` are set.
    fn rank(&self, i: u8) -> usize {
        let word = (i >> 6) as usize;
        let below: u32 = self.0[..word].iter().map(|w| w.count_ones()).sum();
        (below + (self.0[word] & ((1u64 << (i & 63)) - 1)).count_ones()) as usize
    }
}

/// A prefix within a node: its bits of this octet, how many of them count, and the answer.
type Local<V> = (u8, u8, V);

/// The way down reads the first cache line of each node, the answer the second one of the last node as a rule.
#[derive(Clone)]
#[repr(C, align(64))]
struct Node<V> {
    kids: Bits,
    children: Vec<Arc<Node<V>>>,
    /// Fills the line.
    _way_down: [u64; 1],
    /// Where a run of equal answers starts; bit 0 is always set when there is a prefix.
    starts: Bits,
    runs: Vec<Option<V>>,
    /// What the runs are made of, sorted by length; read by changes only.
    prefixes: Vec<Local<V>>,
}

impl<V: Copy + PartialEq> Node<V> {
    const fn new() -> Self {
        Self {
            kids: Bits([0; 4]),
            children: Vec::new(),
            _way_down: [0],
            starts: Bits([0; 4]),
            runs: Vec::new(),
            prefixes: Vec::new(),
        }
    }

    #[inline]
    fn answer(&self, octet: u8) -> Option<V> {
        if self.runs.is_empty() {
            return None;
        }
        let run = self.starts.rank(octet) + usize::from(self.starts.has(octet));
        self.runs.get(run.wrapping_sub(1)).copied().flatten()
    }

    #[inline]
    fn child(&self, octet: u8) -> Option<&Arc<Self>> {
        if self.kids.has(octet) {
            self.children.get(self.kids.rank(octet))
        } else {
            None
        }
    }

    /// Makes the runs anew from the prefixes.
    fn push_down(&mut self) {
        let mut answers = [None; 256];
        for &(bits, len, value) in &self.prefixes {
            let span = 256usize >> len;
            answers[usize::from(bits)..usize::from(bits) + span].fill(Some(value));
        }
        self.starts = Bits::default();
        self.runs.clear();
        if self.prefixes.is_empty() {
            return;
        }
        let mut before = None;
        for (octet, answer) in (0u8..=255).zip(answers) {
            if octet == 0 || answer != before {
                self.starts.set(octet, true);
                self.runs.push(answer);
                before = answer;
            }
        }
    }

    fn is_blank(&self) -> bool {
        self.prefixes.is_empty() && self.children.is_empty()
    }
}

/// A table of prefixes with a value each.
#[derive(Clone)]
pub struct Lpm<V> {
    v4: Arc<Node<V>>,
    v6: Arc<Node<V>>,
    len: usize,
    copied: u64,
}

impl<V: Copy + PartialEq> Lpm<V> {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self {
            v4: Arc::new(Node::new()),
            v6: Arc::new(Node::new()),
            len: 0,
            copied: 0,
        }
    }

    /// Prefixes in the table.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of the longest prefix that holds `addr`.
    #[inline]
    #[must_use]
    pub fn lookup(&self, addr: Ip) -> Option<V> {
        let octets = addr.octets();
        let (mut node, octets) = if addr.is_v4() {
            (&self.v4, &octets[12..])
        } else {
            (&self.v6, &octets[..])
        };
        let mut way = ArrayVec::<(&Node<V>, u8), 16>::new();
        for &octet in octets {
            if way.try_push((node, octet)).is_err() {
                break;
            }
            match node.child(octet) {
                Some(child) => node = child,
                None => break,
            }
        }
        way.iter().rev().find_map(|(node, octet)| node.answer(*octet))
    }

    /// The value of exactly this prefix.
    #[must_use]
    pub fn get(&self, prefix: Prefix) -> Option<V> {
        let octets = prefix.addr.octets();
        let (mut node, mut octets) = if prefix.is_v4() {
            (&self.v4, &octets[12..])
        } else {
            (&self.v6, &octets[..])
        };
        let mut len = prefix.len;
        while len > 8 {
            let (&octet, rest) = octets.split_first()?;
            node = node.child(octet)?;
            (octets, len) = (rest, len - 8);
        }
        let octet = *octets.first()?;
        node.prefixes
            .iter()
            .find(|(bits, l, _)| (*bits, *l) == (octet, len))
            .map(|(_, _, v)| *v)
    }

    /// Adds or replaces a prefix and gives back its value before. Copies nothing if that is the same.
    pub fn insert(&mut self, prefix: Prefix, value: V) -> Option<V> {
        if self.get(prefix) == Some(value) {
            return Some(value);
        }
        let before = self.change(prefix, Some(value));
        self.len += usize::from(before.is_none());
        before
    }

    /// Takes a prefix out.
    pub fn remove(&mut self, prefix: Prefix) -> Option<V> {
        let before = self.change(prefix, None);
        self.len -= usize::from(before.is_some());
        before
    }

    fn change(&mut self, prefix: Prefix, value: Option<V>) -> Option<V> {
        let octets = prefix.addr.octets();
        let (root, octets) = if prefix.is_v4() {
            (&mut self.v4, &octets[12..])
        } else {
            (&mut self.v6, &octets[..])
        };
        Self::change_in(root, octets, prefix.len, value, &mut self.copied)
    }

    fn change_in(node: &mut Arc<Node<V>>, octets: &[u8], len: u8, value: Option<V>, copied: &mut u64) -> Option<V> {
        let (&octet, rest) = octets.split_first()?;
        if value.is_none() && len > 8 && node.child(octet).is_none() {
            return None;
        }
        if Arc::get_mut(node).is_none() {
            *copied += 1;
        }
        let node = Arc::make_mut(node);
        if len > 8 {
            let at = node.kids.rank(octet);
            if !node.kids.has(octet) {
                node.kids.set(octet, true);
                node.children.insert(at, Arc::new(Node::new()));
            }
            let before = Self::change_in(&mut node.children[at], rest, len - 8, value, copied);
            if node.children[at].is_blank() {
                node.children.remove(at);
                node.kids.set(octet, false);
            }
            return before;
        }
        let found = node
            .prefixes
            .iter()
            .position(|(bits, l, _)| (*bits, *l) == (octet, len));
        let before = found.map(|i| node.prefixes.remove(i).2);
        if let Some(value) = value {
            let at = node.prefixes.partition_point(|(_, l, _)| *l <= len);
            node.prefixes.insert(at, (octet, len, value));
        }
        if before != value {
            node.push_down();
        }
        before
    }

    /// How many nodes were copied since the last call.
    pub fn take_copied(&mut self) -> u64 {
        std::mem::take(&mut self.copied)
    }
}

impl<V: Copy + PartialEq> Default for Lpm<V> {
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
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::net::IpAddr;

    fn ip(s: &str) -> Ip {
        Ip::from(s.parse::<IpAddr>().unwrap())
    }

    fn p(s: &str) -> Prefix {
        let (a, l) = s.split_once('/').unwrap();
        Prefix::new(ip(a), l.parse().unwrap())
    }

    #[test]
    fn prefixes_know_their_addresses() {
        assert_eq!(p("10.1.2.3/8").to_string(), "10.0.0.0/8");
        assert_eq!(p("10.1.2.3/8").last(), ip("10.255.255.255"));
        assert_eq!(p("0.0.0.0/0").last(), ip("255.255.255.255"));
        assert_eq!(p("fd00::1/64").last(), ip("fd00::ffff:ffff:ffff:ffff"));
        assert!(p("0.0.0.0/0").contains(ip("1.2.3.4")));
        assert!(!p("::/0").contains(ip("1.2.3.4")));
        assert!(!p("0.0.0.0/0").contains(ip("fd00::1")));
        assert!(p("10.0.0.0/8").covers(&p("10.1.0.0/16")));
        assert!(!p("10.1.0.0/16").covers(&p("10.0.0.0/8")));
        assert_eq!(p("::/0").last(), ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
    }

    #[test]
    fn a_change_copies_its_path_only() {
        let mut lpm = Lpm::new();
        for i in 0..=255u8 {
            lpm.insert(Prefix::new(Ip::from_v4([10, i, 0, 0]), 24), u32::from(i));
        }
        let old = lpm.clone();
        lpm.take_copied();
        lpm.insert(p("10.7.0.0/24"), 9999);
        assert_eq!(lpm.take_copied(), 3);
        assert_eq!(
            (old.lookup(ip("10.7.0.1")), lpm.lookup(ip("10.7.0.1"))),
            (Some(7), Some(9999))
        );
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

    proptest! {
        #[test]
        fn agrees_with_a_search_of_all_prefixes(
            ops in prop::collection::vec((any_prefix(), prop::option::weighted(0.7, 0u32..5)), 0..60),
            asked in prop::collection::vec(any_prefix(), 0..60),
        ) {
            let mut naive: BTreeMap<Prefix, u32> = BTreeMap::new();
            let mut lpm = Lpm::new();
            for (prefix, value) in ops {
                match value {
                    Some(v) => prop_assert_eq!(lpm.insert(prefix, v), naive.insert(prefix, v)),
                    None => prop_assert_eq!(lpm.remove(prefix), naive.remove(&prefix)),
                }
            }
            prop_assert_eq!(lpm.len(), naive.len());
            for p in &asked {
                prop_assert_eq!(lpm.get(*p), naive.get(p).copied());
            }
            for a in asked.iter().flat_map(|p| [p.addr(), p.last()]) {
                let longest = naive.iter().filter(|(p, _)| p.contains(a)).max_by_key(|(p, _)| p.len());
                prop_assert_eq!(lpm.lookup(a), longest.map(|(_, v)| *v));
            }
        }
    }
}
