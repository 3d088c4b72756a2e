//! Finding entries: bursts of keys side by side, and single tuples.
//!
//! A burst goes through passes, so that its cache misses overlap: hash all keys and ask for their buckets; glance at each bucket
//! and ask for the record of the entry with the right tag; the same for the overflow buckets of the few whose first bucket does
//! not settle it; read the records. What is left (two entries with one tag, a writer at that very moment) is
//! [`Index::find`]'s.
//!
//! Whole passes and no pipeline in which each key is a few steps behind another: that was tried, and waits more. A prefetch
//! holds up the instructions behind it once as many lines are on their way as the core can ask for, and a short loop has
//! more of them in view than one that does everything.

use arrayvec::ArrayVec;
use heddle_wire::Proto;
use heddle_wire::rewrite::Tuple;

use crate::bucket::{Entry, Index, Sight};
use crate::memory::prefetch;
use crate::record::Record;
use crate::table::FlowTable;
use crate::types::{FlowKey, Hit, Millis, SlotId};
use crate::words::Wanted;

/// Keys that are looked up side by side; a longer burst is cut.
const BURST: usize = 64;

/// How far the lookup of one key has come.
#[derive(Clone, Copy)]
struct Way {
    tag: u32,
    bucket: u32,
    sight: Sight,
}

impl Default for Way {
    fn default() -> Self {
        Self {
            tag: 0,
            bucket: 0,
            sight: Sight::SEARCH,
        }
    }
}

impl FlowTable {
    /// Looks up a burst of keys. `out[n]` is what was found for `keys[n]`; an expired entry is not found.
    /// Keys beyond the length of `out` are not looked up.
    pub fn lookup(&self, keys: &[FlowKey], now: Millis, out: &mut [Option<Hit>]) {
        for (keys, out) in keys.chunks(BURST).zip(out.chunks_mut(BURST)) {
            self.lookup_burst(keys, now, out);
        }
    }

    fn lookup_burst(&self, keys: &[FlowKey], now: Millis, out: &mut [Option<Hit>]) {
        let index = self.index();
        let records = self.records();
        let expect = |sight: Sight| {
            if let Some(record) = records.get(sight.record()) {
                record.iter().for_each(prefetch);
            }
        };
        let mut ways = [Way::default(); BURST];
        let ways = ways.get_mut(..keys.len().min(out.len())).unwrap_or_default();
        for (way, key) in ways.iter_mut().zip(keys) {
            let (hash, bucket) = self.hash(&key.tuple, key.proto);
            prefetch(index.bucket(bucket).0);
            (way.tag, way.bucket) = (hash.tag(), bucket);
        }
        let mut further = ArrayVec::<_, BURST>::new();
        for (n, way) in ways.iter_mut().enumerate() {
            way.sight = index.bucket(way.bucket).glance(way.tag);
            expect(way.sight);
            if way.sight == Sight::SEARCH {
                index.expect_next(way.bucket);
                further.push(n);
            }
        }
        for n in further {
            if let Some(way) = ways.get_mut(n) {
                way.sight = index.glance_beyond(way.bucket, way.tag);
                expect(way.sight);
            }
        }
        for ((way, key), out) in ways.iter().zip(keys).zip(out) {
            match records.get(way.sight.record()) {
                Some(lines) if Record(lines).deliver(way.sight, key, &self.limits, now, out) => {}
                None if way.sight == Sight::MISS => *out = None,
                _ => *out = self.search(&index, *way, key, now),
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn search(&self, index: &Index<'_>, way: Way, key: &FlowKey, now: Millis) -> Option<Hit> {
        let wanted = Wanted::key(key);
        index.find(way.bucket, way.tag, |entry| {
            self.hit_at(self.record(entry.record())?, entry, &wanted, now)
        })
    }

    /// What stands at `entry`, if it is live and is meant.
    #[inline(always)]
    pub(crate) fn hit_at(&self, record: Record<'_>, entry: Entry, wanted: &Wanted, now: Millis) -> Option<Hit> {
        let direction = entry.direction();
        let (incarnation, view) = record.find(direction, wanted, &self.limits, now)?;
        Some(Hit {
            slot: SlotId::new(incarnation, entry.record(), direction),
            view,
        })
    }

    /// Asks the processor for what an insert of a connection with this tuple will wait for. No effect but on time.
    #[inline]
    pub fn expect(&self, tuple: &Tuple, proto: Proto) {
        let (_, bucket) = self.hash(tuple, proto);
        prefetch(self.index().bucket(bucket).0);
    }

    /// Finds a tuple wherever it comes in: for a key that misses because its packets came from elsewhere.
    #[must_use]
    pub fn find_tuple(&self, tuple: &Tuple, proto: Proto, now: Millis) -> Option<Hit> {
        let (hash, bucket) = self.hash(tuple, proto);
        let wanted = Wanted::tuple(tuple, proto);
        self.index().find(bucket, hash.tag(), |entry| {
            self.hit_at(self.record(entry.record())?, entry, &wanted, now)
        })
    }
}
