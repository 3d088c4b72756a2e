//! A trie with a stride of eight bits over the octets of one family's addresses, compressed as a tree bitmap: a node holds
//! the runs of equal answers within its 256 values and its children, both found by counting bits.
//!
//! Nodes are `Arc`s, and a change copies the nodes on its path. Answers are pushed down within a node and never into children, so
//! a change of a short prefix costs as little as of a long one.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrayvec::ArrayVec;

/// A set of octets, in 256 bits.
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

    /// Returns the values that are set, in order.
    fn iter(self) -> impl Iterator<Item = u8> {
        (0u8..4).zip(self.0).flat_map(|(word, mut bits)| {
            std::iter::from_fn(move || {
                let low = bits.trailing_zeros() as u8;
                bits &= bits.wrapping_sub(1);
                (low < 64).then_some(word << 6 | low)
            })
        })
    }

    /// Returns the union.
    fn or(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    /// Returns the successors of the values.
    fn next(self) -> Self {
        let [a, b, c, d] = self.0;
        Self([a << 1, b << 1 | a >> 63, c << 1 | b >> 63, d << 1 | c >> 63])
    }

    /// Returns the number of bits below `i` that are set.
    fn rank(&self, i: u8) -> usize {
        let word = (i >> 6) as usize;
        let below: u32 = self.0[..word].iter().map(|w| w.count_ones()).sum();
        (below + (self.0[word] & ((1u64 << (i & 63)) - 1)).count_ones()) as usize
    }
}

/// A prefix within a node: its bits of this octet, its length in this octet, and the answer.
type Local<V> = (u8, u8, V);

/// A node. A lookup reads the first cache line of each node on its path, and usually the second one of the last node for the answer.
#[derive(Clone)]
#[repr(C, align(64))]
struct Node<V> {
    kids: Bits,
    children: Vec<Arc<Node<V>>>,
    /// Pads the cache line.
    _way_down: [u64; 1],
    /// The starts of the runs of equal answers. Bit 0 is always set if there is a prefix.
    starts: Bits,
    runs: Vec<Option<V>>,
    /// The prefixes that the runs are computed from, sorted by length. Only changes read them.
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

    /// Recomputes the runs from the prefixes.
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

    /// Calls `visit` with the answers within this node and its children, as (first of the two octets, answer), without the answers
    /// of shorter prefixes. Stops if `visit` breaks.
    fn visit_below(&self, mut visit: impl FnMut(u16, Option<V>) -> ControlFlow<()>) -> ControlFlow<()> {
        // The answer can only change at these values.
        let mut edges = self.starts.or(self.kids).or(self.kids.next());
        edges.set(0, true);
        for octet in edges.iter() {
            let (high, own) = (u16::from(octet) << 8, self.answer(octet));
            match self.child(octet).filter(|child| !child.runs.is_empty()) {
                Some(child) => {
                    for (low, run) in child.starts.iter().zip(&child.runs) {
                        visit(high | u16::from(low), run.or(own))?;
                    }
                }
                None => visit(high, own)?,
            }
        }
        ControlFlow::Continue(())
    }

    fn is_blank(&self) -> bool {
        self.prefixes.is_empty() && self.children.is_empty()
    }
}

/// A trie of prefixes with a value each.
#[derive(Clone)]
pub(super) struct Trie<V>(Arc<Node<V>>);

impl<V: Copy + PartialEq> Trie<V> {
    pub(super) fn new() -> Self {
        Self(Arc::new(Node::new()))
    }

    /// Returns the value of the longest prefix that contains an address with these octets. If only the first octets are given, it
    /// considers only prefixes that are no longer than those.
    pub(super) fn lookup(&self, octets: &[u8]) -> Option<V> {
        let mut node = &self.0;
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

    /// Calls `visit` with the answers for the next two octets after `octets`, as (first of them, answer), only of prefixes longer than
    /// `octets`. Stops if `visit` breaks.
    pub(super) fn visit_below(&self, octets: &[u8], visit: impl FnMut(u16, Option<V>) -> ControlFlow<()>) {
        let node = octets.iter().try_fold(&self.0, |node, octet| node.child(*octet));
        if let Some(node) = node {
            let _either_way = node.visit_below(visit);
        }
    }

    /// Returns the value of exactly this prefix.
    pub(super) fn get(&self, mut octets: &[u8], mut len: u8) -> Option<V> {
        let mut node = &self.0;
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

    /// Sets or removes a prefix and returns its previous value. Counts the nodes that it copies.
    pub(super) fn change(&mut self, octets: &[u8], len: u8, value: Option<V>, copied: &mut u64) -> Option<V> {
        Self::change_in(&mut self.0, octets, len, value, copied)
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
}
