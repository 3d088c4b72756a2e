//! The layout of the memory, in lines from its start.

use crate::mmap::{LINE_BYTES, LINE_WORDS};

/// The layout version. It is raised with every change of the meaning of the words.
pub(crate) const LAYOUT_VERSION: u64 = 5;

/// The least capacity.
pub(crate) const MIN_CAPACITY: u32 = 2;
/// The greatest capacity: a record number has 28 bits.
pub(crate) const MAX_CAPACITY: u32 = 1 << 28;

/// File sizes are multiples of this, the size of a large page on x86-64 and arm64, because hugetlbfs requires it.
pub(crate) const FILE_UNIT: usize = 2 << 20;

/// Lines of a record.
pub(crate) const RECORD_LINES: usize = 3;

/// Entries of a bucket.
pub(crate) const BUCKET_ENTRIES: usize = LINE_WORDS - 1;

/// The mean number of entries in a bucket of a full table. With four, one bucket in twenty would have an overflow bucket, which costs
/// lookups and inserts of every tenth connection one more cache miss.
const LOAD: u32 = 3;

/// The number of buckets for each overflow bucket. A full table needs one for every eighty.
const OVERFLOW_SHARE: u32 = 8;

/// Lines of the header.
pub(crate) mod header {
    /// Magic, layout version, capacity and so on: see the words below.
    pub(crate) const FIXED: usize = 0;
    /// The hash's key.
    pub(crate) const SEED: usize = 1;
    /// The free list of records.
    pub(crate) const RECORDS: usize = 2;
    /// The free list of overflow buckets.
    pub(crate) const OVERFLOW: usize = 3;
    /// The record at which expiry continues.
    pub(crate) const CURSOR: usize = 4;
    /// The number of header lines.
    pub(crate) const LINES: usize = 8;
}

/// The sizes of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Geometry {
    pub(crate) capacity: u32,
    pub(crate) buckets: u32,
    pub(crate) overflow: u32,
    /// Sets of clients of Services with session affinity.
    pub(crate) affinity_sets: u32,
}

/// The lines of a set, in which the entry of one client and Service may be.
pub(crate) const AFFINITY_WAYS: usize = if cfg!(loom) { 2 } else { 8 };

impl Geometry {
    /// Returns the sizes of a table for that many connections and clients with session affinity.
    pub(crate) fn new(capacity: u32, affinities: u32) -> Self {
        let capacity = capacity.clamp(MIN_CAPACITY, MAX_CAPACITY);
        let buckets = (capacity * 2).div_ceil(LOAD);
        // The smaller a table, the less even are its buckets. So it has some overflow buckets more.
        Self {
            capacity,
            buckets,
            overflow: buckets.div_ceil(OVERFLOW_SHARE) + if cfg!(loom) { 1 } else { 8 },
            affinity_sets: affinities.div_ceil(AFFINITY_WAYS as u32),
        }
    }

    #[inline]
    pub(crate) const fn bucket(&self, n: u32) -> usize {
        header::LINES + n as usize
    }

    #[inline]
    pub(crate) const fn overflow(&self, n: u32) -> usize {
        header::LINES + self.buckets as usize + n as usize
    }

    #[inline]
    pub(crate) const fn record(&self, n: u32) -> usize {
        header::LINES + (self.buckets + self.overflow) as usize + n as usize * RECORD_LINES
    }

    #[inline]
    pub(crate) const fn affinities(&self) -> usize {
        self.record(self.capacity)
    }

    pub(crate) const fn lines(&self) -> usize {
        self.affinities() + self.affinity_sets as usize * AFFINITY_WAYS
    }

    /// Returns the size of the table's file in bytes.
    pub(crate) const fn file_bytes(&self) -> usize {
        (self.lines() * LINE_BYTES).next_multiple_of(FILE_UNIT)
    }
}
