//! The index: buckets of seven entries, each continued by overflow buckets where it is full.
//!
//! | word | contents |
//! |------|----------|
//! | 0    | lower half: number + 1 of the next overflow bucket, or 0; upper half: lock bit and version (of a first bucket only) |
//! | 1..8 | an entry: tag in the upper half, record * 2 + direction + 1 in the lower one; 0: free |
//!
//! # Ordering
//!
//! A thread that changes a chain holds the lock of its first bucket. A thread that takes two locks takes the lower number first.
//! An entry is stored with Release after its record was written, and loaded with Acquire. Entries never move, so a reader finds
//! every entry that was in its place before the search began. There is one exception: an empty overflow bucket leaves the chain
//! and joins another one, and a reader in it would continue in the other chain. The version detects this. It is raised before
//! the bucket is freed, and a miss counts only if the version is the same as before the search. All stores to the link of a freed
//! bucket are with Release, including the free list's, so a reader that follows such a link also reads the new version.

use crate::hash::Hash;
use crate::layout::BUCKET_ENTRIES;
use crate::mmap::{Line, prefetch};
use crate::simd::word_with_tag;
use crate::sync::{AtomicU64, Ordering, fence, relax};

const HEAD: usize = 0;
const LOCK: u64 = 1 << 32;
const VERSION_STEP: u64 = 1 << 33;
const NEXT: u64 = u32::MAX as u64;

/// The buckets that a reader follows before it checks the version.
const LONGEST_CHAIN: u32 = 64;

/// An entry of a bucket: a tag and the number of a record and direction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry(u64);

impl Entry {
    pub(crate) const fn new(hash: Hash, record: u32, direction: usize) -> Self {
        Self(((hash.tag() as u64) << 32) | (((record as u64) << 1 | direction as u64 & 1) + 1))
    }

    #[inline]
    const fn from_word(word: u64) -> Option<Self> {
        if word == 0 { None } else { Some(Self(word)) }
    }

    #[inline]
    pub(crate) const fn tag(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[inline]
    pub(crate) const fn record(self) -> u32 {
        (self.0 as u32).wrapping_sub(1) >> 1
    }

    #[inline]
    pub(crate) const fn direction(self) -> usize {
        ((self.0 as u32).wrapping_sub(1) & 1) as usize
    }
}

/// The result of probing one bucket for a tag, in half a word: the lower half of the entry with the tag, or one of the constants.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProbeResult(u32);

impl ProbeResult {
    /// No entry has the tag, and the chain ends here. No check of the version is needed, because an overflow bucket stays linked as
    /// long as it contains an entry.
    pub(crate) const MISS: Self = Self(u32::MAX);
    /// No entry of this bucket has the tag and the chain continues, or the entry with the tag was removed at that moment.
    pub(crate) const SEARCH: Self = Self(0);

    /// Returns the number of the entry's record; a number beyond all records if there is no entry.
    #[inline]
    pub(crate) const fn record(self) -> usize {
        (self.0.wrapping_sub(1) >> 1) as usize
    }

    #[inline]
    pub(crate) const fn direction(self) -> usize {
        (self.0.wrapping_sub(1) & 1) as usize
    }
}

/// A free place for an entry.
#[derive(Clone, Copy)]
pub(crate) struct EntrySlot<'a>(&'a AtomicU64);

impl PartialEq for EntrySlot<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl EntrySlot<'_> {
    /// Stores `entry`, so that readers find it.
    pub(crate) fn set(self, entry: Entry) {
        self.0.store(entry.0, Ordering::Release);
    }
}

/// A bucket, first or overflow.
#[derive(Clone, Copy)]
pub(crate) struct Bucket<'a>(pub(crate) &'a Line);

impl<'a> Bucket<'a> {
    fn head(&self) -> &'a AtomicU64 {
        &self.0.0[HEAD]
    }

    /// Returns the word in which the free list keeps its link.
    pub(crate) fn link(&self) -> &'a AtomicU64 {
        self.head()
    }

    fn slots(&self) -> &'a [AtomicU64] {
        &self.0.0[1..=BUCKET_ENTRIES]
    }

    /// Returns the entries at this moment.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> + 'a {
        self.slots()
            .iter()
            .filter_map(|p| Entry::from_word(p.load(Ordering::Acquire)))
    }

    /// Probes only this bucket, in one branch-free pass. A burst spends most of its time here.
    #[inline(always)]
    pub(crate) fn probe(&self, tag: u32) -> ProbeResult {
        let (place, head) = word_with_tag(self.0, tag);
        match self.0.0.get(place) {
            Some(word) => ProbeResult(word.load(Ordering::Acquire) as u32),
            None if head & NEXT == 0 => ProbeResult::MISS,
            None => ProbeResult::SEARCH,
        }
    }

    #[inline]
    pub(crate) fn next(&self) -> Option<u32> {
        (self.head().load(Ordering::Acquire) as u32).checked_sub(1)
    }

    #[inline]
    fn version(&self) -> u64 {
        self.head().load(Ordering::Acquire) & !(LOCK | NEXT)
    }

    /// Returns a free place other than `taken`.
    #[inline(always)]
    fn free_slot(&self, taken: Option<EntrySlot<'a>>) -> Option<EntrySlot<'a>> {
        // No entry has the tag 0, and a free place is 0.
        let (first, _) = word_with_tag(self.0, 0);
        let place = EntrySlot(self.0.0.get(first)?);
        if Some(place) != taken {
            return Some(place);
        }
        let rest = self.0.0.get(first + 1..)?;
        rest.iter().find(|p| p.load(Ordering::Relaxed) == 0).map(EntrySlot)
    }

    /// Empties the bucket. Only valid while no other thread uses the table.
    pub(crate) fn reset(&self) {
        for word in &self.0.0 {
            word.store(0, Ordering::Relaxed);
        }
    }
}

/// All buckets of a table.
#[derive(Clone, Copy)]
pub(crate) struct Index<'a> {
    pub(crate) first: &'a [Line],
    pub(crate) overflow: &'a [Line],
}

impl<'a> Index<'a> {
    #[inline]
    pub(crate) fn bucket(&self, n: u32) -> Bucket<'a> {
        Bucket(&self.first[n as usize])
    }

    fn overflow(&self, n: u32) -> Option<Bucket<'a>> {
        self.overflow.get(n as usize).map(Bucket)
    }

    /// Prefetches the overflow bucket behind a first one.
    #[cold]
    pub(crate) fn prefetch_overflow(&self, bucket: u32) {
        if let Some(next) = self.bucket(bucket).next().and_then(|n| self.overflow(n)) {
            prefetch(next.0);
        }
    }

    /// Probes the overflow bucket behind a first one. [`ProbeResult::SEARCH`] if the entry is not in it.
    pub(crate) fn probe_overflow(&self, bucket: u32, tag: u32) -> ProbeResult {
        let next = self.bucket(bucket).next().and_then(|n| self.overflow(n));
        match next.map_or(ProbeResult::SEARCH, |next| next.probe(tag)) {
            ProbeResult::MISS => ProbeResult::SEARCH,
            found => found,
        }
    }

    /// Returns the first result of `check` among the entries with this tag. The caller may hold the lock, but need not.
    ///
    /// Plan: follow the chain; if no entry passes `check`, compare the version, and search again if it has changed.
    #[inline]
    pub(crate) fn find<T>(&self, bucket: u32, tag: u32, mut check: impl FnMut(Entry) -> Option<T>) -> Option<T> {
        let first = self.bucket(bucket);
        let mut round = 0;
        loop {
            let version = first.version();
            let mut chain = Some(first);
            let mut length = 0;
            while let Some(bucket) = chain {
                for entry in bucket.entries().filter(|e| e.tag() == tag) {
                    if let Some(found) = check(entry) {
                        return Some(found);
                    }
                }
                length += 1;
                chain = if length < LONGEST_CHAIN {
                    bucket.next().and_then(|n| self.overflow(n))
                } else {
                    None
                };
            }
            fence(Ordering::Acquire);
            if first.head().load(Ordering::Relaxed) & !(LOCK | NEXT) == version {
                return None;
            }
            relax(round);
            round += 1;
        }
    }

    /// Locks one or two buckets, the lower number first.
    #[inline(always)]
    pub(crate) fn lock(&self, a: u32, b: u32) -> Locked<'a> {
        let (low, high) = (a.min(b), a.max(b));
        let low = self.bucket(low);
        let high = (a != b).then(|| self.bucket(high));
        acquire(low);
        if let Some(high) = high {
            acquire(high);
        }
        Locked {
            index: *self,
            low,
            high,
        }
    }
}

#[inline(always)]
fn acquire(bucket: Bucket<'_>) {
    if !try_acquire(bucket) {
        wait_for(bucket);
    }
}

#[inline(always)]
fn try_acquire(bucket: Bucket<'_>) -> bool {
    let free = bucket.head().load(Ordering::Relaxed) & !LOCK;
    let taken = bucket
        .head()
        .compare_exchange(free, free | LOCK, Ordering::Acquire, Ordering::Relaxed);
    taken.is_ok()
}

#[cold]
fn wait_for(bucket: Bucket<'_>) {
    let mut round = 0;
    while !try_acquire(bucket) {
        relax(round);
        round += 1;
    }
}

#[inline(always)]
fn release(bucket: Bucket<'_>) {
    let head = bucket.head().load(Ordering::Relaxed);
    bucket.head().store(head & !LOCK, Ordering::Release);
}

/// One or two locked buckets.
pub(crate) struct Locked<'a> {
    index: Index<'a>,
    low: Bucket<'a>,
    high: Option<Bucket<'a>>,
}

impl<'a> Locked<'a> {
    /// Returns a free place other than `taken` in the chain of `bucket`, which must be locked. `more` allocates an overflow bucket.
    #[inline(always)]
    pub(crate) fn free_slot(
        &self,
        bucket: u32,
        taken: Option<EntrySlot<'a>>,
        more: impl FnOnce() -> Option<u32>,
    ) -> Option<EntrySlot<'a>> {
        let first = self.index.bucket(bucket);
        match first.free_slot(taken) {
            Some(place) => Some(place),
            None => self.free_slot_in_overflow(first, taken, more),
        }
    }

    #[cold]
    fn free_slot_in_overflow(
        &self,
        mut last: Bucket<'a>,
        taken: Option<EntrySlot<'a>>,
        more: impl FnOnce() -> Option<u32>,
    ) -> Option<EntrySlot<'a>> {
        while let Some(next) = last.next().and_then(|n| self.index.overflow(n)) {
            last = next;
            if let Some(place) = last.free_slot(taken) {
                return Some(place);
            }
        }
        let number = more()?;
        let fresh = self.index.overflow(number)?;
        // Release: a reader that is still in this bucket, from the chain that it left, then reads that chain's new version too.
        fresh.head().store(0, Ordering::Release);
        let head = last.head().load(Ordering::Relaxed);
        last.head()
            .store(head & !NEXT | u64::from(number + 1), Ordering::Release);
        fresh.slots().first().map(EntrySlot)
    }

    /// Removes an entry from the chain of `bucket`, which must be locked. `back` frees an overflow bucket that is empty then.
    ///
    /// Plan: find the entry and its bucket's predecessor; clear it; if it was the last one of an overflow bucket, unlink that
    /// bucket, raise the version, and only then free the bucket.
    pub(crate) fn unlink(&self, bucket: u32, entry: Entry, back: impl FnOnce(u32)) {
        let first = self.index.bucket(bucket);
        let mut before = first;
        let mut number = None;
        let mut at = first;
        loop {
            if let Some(place) = at.slots().iter().find(|p| p.load(Ordering::Relaxed) == entry.0) {
                place.store(0, Ordering::Release);
                break;
            }
            match at.next().and_then(|n| Some((n, self.index.overflow(n)?))) {
                Some((n, next)) => {
                    before = at;
                    number = Some(n);
                    at = next;
                }
                None => return,
            }
        }
        let Some(number) = number else { return };
        if at.entries().next().is_some() {
            return;
        }
        let next = at.head().load(Ordering::Relaxed) & NEXT;
        let head = before.head().load(Ordering::Relaxed);
        before.head().store(head & !NEXT | next, Ordering::Release);
        let head = first.head().load(Ordering::Relaxed);
        first.head().store(head.wrapping_add(VERSION_STEP), Ordering::Release);
        back(number);
    }
}

impl Drop for Locked<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(high) = self.high {
            release(high);
        }
        release(self.low);
    }
}
