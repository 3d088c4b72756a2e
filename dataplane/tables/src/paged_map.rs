//! A hash map in `Arc` pages: cheap to clone, and a change copies one page and the root.
//!
//! Extendible hashing: the root is a directory indexed by the top bits of the hash, each page holds up to
//! [`PAGE`] entries. When a page is full, only this page is split. The directory doubles first if it has a single slot for the
//! page. A lookup reads the directory, a page's tags (one byte of hash each), and as a rule one entry. Pages do not merge again: a
//! map that has shrunk keeps its directory.
//!
//! The hash has no seed, because keys are addresses that the cluster assigned. Keys that collide in all bits up to [`MAX_DEPTH`] are
//! in the page's overflow list, which is slow and correct.

use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use foldhash::quality::FixedState;
use heddle_wire::simd;

/// Entries in a page before it is split.
const PAGE: usize = 32;
/// The most bits of the hash that the directory uses.
const MAX_DEPTH: u32 = 22;

/// A page. A miss reads only its first cache line.
#[derive(Clone)]
#[repr(C, align(64))]
struct Page<K, V> {
    /// The tag of each entry; [`NO_TAG`] without one. The entries in use come first.
    tags: [u8; PAGE],
    overflow: Vec<(K, V)>,
    depth: u32,
    entries: [Option<(K, V)>; PAGE],
}

/// The tag of a free place.
const NO_TAG: u8 = 0;

enum Slot {
    Page(usize),
    Overflow(usize),
}

impl<K, V> Page<K, V> {
    const fn new(depth: u32) -> Self {
        Self {
            tags: [NO_TAG; PAGE],
            overflow: Vec::new(),
            depth,
            entries: [const { None }; PAGE],
        }
    }

    /// Returns the places of the entries with this tag, one bit each.
    #[inline]
    fn tagged(&self, tag: u8) -> u32 {
        simd::equal(&self.tags, tag)
    }

    /// Returns the number of entries in use, without the overflow.
    fn len(&self) -> usize {
        self.tagged(NO_TAG).trailing_zeros() as usize
    }

    fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        self.entries.iter().flatten().chain(&self.overflow)
    }

    fn push(&mut self, tag: u8, entry: (K, V)) {
        let slot = self.len();
        match self.entries.get_mut(slot) {
            Some(free) => {
                *free = Some(entry);
                self.tags[slot] = tag;
            }
            None => self.overflow.push(entry),
        }
    }

    /// Removes an entry. The last one takes its place.
    fn take(&mut self, slot: usize) -> Option<(K, V)> {
        let last = self.len().checked_sub(1)?;
        self.tags.swap(slot, last);
        self.tags[last] = NO_TAG;
        self.entries.swap(slot, last);
        self.entries[last].take()
    }
}

impl<K: Eq, V> Page<K, V> {
    /// Returns the entry of `key` among the places `tagged`.
    #[inline]
    fn find(&self, mut tagged: u32, key: &K) -> Option<Slot> {
        while tagged != 0 {
            let slot = tagged.trailing_zeros() as usize;
            if self.entries[slot % PAGE].as_ref().is_some_and(|(k, _)| k == key) {
                return Some(Slot::Page(slot));
            }
            tagged &= tagged - 1;
        }
        if self.overflow.is_empty() {
            return None;
        }
        self.overflow.iter().position(|(k, _)| k == key).map(Slot::Overflow)
    }

    #[inline]
    fn value(&self, tagged: u32, key: &K) -> Option<&V> {
        match self.find(tagged, key)? {
            Slot::Page(i) => self.entries.get(i)?.as_ref(),
            Slot::Overflow(i) => self.overflow.get(i),
        }
        .map(|(_, v)| v)
    }
}

/// A persistent hash map.
#[derive(Clone)]
pub struct PagedMap<K, V> {
    /// The directory, of length `1 << depth`.
    root: Arc<Vec<Arc<Page<K, V>>>>,
    depth: u32,
    len: usize,
    copied: u64,
}

impl<K: Clone + Eq + Hash, V: Clone> PagedMap<K, V> {
    /// Returns an empty map.
    #[must_use]
    pub fn new() -> Self {
        Self {
            root: Arc::new(vec![Arc::new(Page::new(0))]),
            depth: 0,
            len: 0,
            copied: 0,
        }
    }

    /// Returns the number of entries.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns true if the map is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    fn hash(key: &K) -> u64 {
        FixedState::with_seed(0).hash_one(key)
    }

    /// Returns the tag: the lowest bits of the hash. The directory uses the top bits.
    #[inline]
    const fn tag(hash: u64) -> u8 {
        let tag = hash as u8;
        if tag == NO_TAG { 1 } else { tag }
    }

    #[inline]
    const fn bucket(hash: u64, depth: u32) -> usize {
        // In two steps, because at depth 0 a single shift would be by 64 bits, which overflows.
        ((hash >> 1) >> (63 - depth)) as usize
    }

    /// Returns the value of `key`.
    #[inline]
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        let (page, tag) = self.page(key);
        page.value(page.tagged(tag), key)
    }

    #[inline]
    fn page(&self, key: &K) -> (&Page<K, V>, u8) {
        let hash = Self::hash(key);
        (&self.root[Self::bucket(hash, self.depth)], Self::tag(hash))
    }

    fn root_mut(&mut self) -> &mut Vec<Arc<Page<K, V>>> {
        if Arc::get_mut(&mut self.root).is_none() {
            self.copied += 1;
        }
        Arc::make_mut(&mut self.root)
    }

    /// Replaces the page behind `bucket` (in all its directory slots) by the result of `edit`.
    fn edit<R>(&mut self, bucket: usize, edit: impl FnOnce(&mut Page<K, V>) -> R) -> R {
        let depth = self.depth;
        self.root_mut();
        let root = Arc::make_mut(&mut self.root);
        let span = 1usize << (depth - root[bucket].depth);
        let first = bucket & !(span - 1);
        if Arc::strong_count(&root[first]) > span {
            self.copied += 1;
        }
        if span == 1 {
            return edit(Arc::make_mut(&mut root[first]));
        }
        // Several slots of the directory share the page. It is removed from all of them, so that `make_mut` copies it only if a
        // snapshot shares it.
        let blank = Arc::new(Page::new(0));
        let mut page = std::mem::replace(&mut root[first], Arc::clone(&blank));
        root[first + 1..first + span].fill(blank);
        let result = edit(Arc::make_mut(&mut page));
        root[first..first + span].fill(page);
        result
    }

    /// Sets the value of `key` and returns the previous one.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let hash = Self::hash(&key);
        let tag = Self::tag(hash);
        loop {
            let bucket = Self::bucket(hash, self.depth);
            let page = self.root.get(bucket)?;
            if let Some(slot) = page.find(page.tagged(tag), &key) {
                return self.edit(bucket, |page| match slot {
                    Slot::Page(i) => page.entries[i].replace((key, value)).map(|(_, before)| before),
                    Slot::Overflow(i) => Some(std::mem::replace(&mut page.overflow[i].1, value)),
                });
            }
            if page.len() < PAGE || page.depth >= MAX_DEPTH {
                self.len += 1;
                self.edit(bucket, |page| page.push(tag, (key, value)));
                return None;
            }
            self.split(bucket);
        }
    }

    /// Sets the value of `key` and returns true if it changed. Copies nothing if it is equal.
    pub fn set(&mut self, key: K, value: V) -> bool
    where
        V: PartialEq,
    {
        if self.get(&key) == Some(&value) {
            return false;
        }
        self.insert(key, value);
        true
    }

    /// Removes `key` and returns its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let hash = Self::hash(key);
        let bucket = Self::bucket(hash, self.depth);
        let page = self.root.get(bucket)?;
        let slot = page.find(page.tagged(Self::tag(hash)), key)?;
        self.len -= 1;
        self.edit(bucket, |page| match slot {
            Slot::Overflow(i) => Some(page.overflow.swap_remove(i).1),
            Slot::Page(i) => {
                let removed = page.take(i);
                if let Some((k, v)) = page.overflow.pop() {
                    let tag = Self::tag(Self::hash(&k));
                    page.push(tag, (k, v));
                }
                removed.map(|(_, v)| v)
            }
        })
    }

    /// Splits the page behind `bucket` in two. Doubles the directory first if the page has its full depth.
    fn split(&mut self, bucket: usize) {
        let mut bucket = bucket;
        if self.root[bucket].depth == self.depth {
            let doubled = self.root.iter().flat_map(|p| [Arc::clone(p), Arc::clone(p)]).collect();
            self.root = Arc::new(doubled);
            self.copied += 1;
            self.depth += 1;
            bucket *= 2;
        }
        let depth = self.depth;
        self.root_mut();
        let root = Arc::make_mut(&mut self.root);
        let page = Arc::clone(&root[bucket]);
        let half_depth = page.depth + 1;
        let span = 1usize << (depth - page.depth);
        let first = bucket & !(span - 1);
        let (mut low, mut high) = (Page::new(half_depth), Page::new(half_depth));
        for (k, v) in page.iter() {
            let hash = Self::hash(k);
            let half = if Self::bucket(hash, half_depth) & 1 == 0 {
                &mut low
            } else {
                &mut high
            };
            half.push(Self::tag(hash), (k.clone(), v.clone()));
        }
        self.copied += 1;
        root[first..first + span / 2].fill(Arc::new(low));
        root[first + span / 2..first + span].fill(Arc::new(high));
    }

    fn pages(&self) -> impl Iterator<Item = &Arc<Page<K, V>>> {
        let depth = self.depth;
        self.root
            .iter()
            .enumerate()
            .filter(move |(i, p)| i & ((1usize << (depth - p.depth)) - 1) == 0)
            .map(|(_, p)| p)
    }

    /// Iterates over all entries, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.pages().flat_map(|p| p.iter()).map(|(k, v)| (k, v))
    }

    /// Returns the number of pages (roots included) copied or split since the last call, and resets it.
    pub fn take_copied(&mut self) -> u64 {
        std::mem::take(&mut self.copied)
    }

    /// Returns the number of pages.
    #[must_use]
    pub fn page_count(&self) -> usize {
        self.pages().count()
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Default for PagedMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Clone + Eq + Hash + fmt::Debug, V: Clone + fmt::Debug> fmt::Debug for PagedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn one_change_among_thousands_copies_one_page_and_the_root() {
        let mut map = PagedMap::new();
        for i in 0..10_000u32 {
            map.insert(i, i);
        }
        let old = map.clone();
        map.take_copied();
        map.insert(77, 1);
        assert_eq!(map.take_copied(), 2);
        assert_eq!((old.get(&77), map.get(&77)), (Some(&77), Some(&1)));
        map.remove(&77);
        assert_eq!(map.take_copied(), 0);
        assert_eq!((map.len(), old.len()), (9_999, 10_000));
        assert!(map.page_count() > 10_000 / PAGE);
    }

    /// A key whose hash is always the same.
    #[derive(Clone, PartialEq, Eq, Debug)]
    struct Colliding(u32);
    impl Hash for Colliding {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            state.write_u8(1);
        }
    }

    #[test]
    fn keys_that_collide_in_every_bit_are_kept_in_the_overflow() {
        let mut map = PagedMap::new();
        for i in 0..100 {
            assert_eq!(map.insert(Colliding(i), i), None);
        }
        for i in (0..100).step_by(3) {
            assert_eq!(map.remove(&Colliding(i)), Some(i));
        }
        for i in 0..100 {
            assert_eq!(map.get(&Colliding(i)).copied(), (i % 3 != 0).then_some(i));
        }
    }

    proptest! {
        #[test]
        fn behaves_like_a_hash_map_with_snapshots(
            ops in prop::collection::vec((0u16..600, any::<u8>(), 0u8..8), 0..2000),
        ) {
            let mut naive: HashMap<u16, u8> = HashMap::new();
            let mut paged: PagedMap<u16, u8> = PagedMap::new();
            let mut held = Vec::new();
            for (key, value, op) in ops {
                match op {
                    0 => held.push((naive.clone(), paged.clone())),
                    1..=2 => prop_assert_eq!(paged.remove(&key), naive.remove(&key)),
                    _ => prop_assert_eq!(paged.insert(key, value), naive.insert(key, value)),
                }
            }
            held.push((naive, paged));
            for (naive, paged) in held {
                prop_assert_eq!(naive.len(), paged.len());
                prop_assert_eq!(paged.iter().count(), naive.len());
                for key in 0..600 {
                    prop_assert_eq!(paged.get(&key), naive.get(&key));
                }
            }
        }
    }
}
