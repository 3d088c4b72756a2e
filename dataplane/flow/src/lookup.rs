//! Looks up entries: bursts of keys together, and single tuples.
//!
//! A burst is looked up in passes, so that its cache misses overlap. The passes hash all keys and prefetch their buckets; probe
//! each bucket and prefetch the record of the entry with the right tag; do the same with the overflow buckets of the few keys that
//! need them; read the records. [`Index::find`] handles the remaining keys: two entries with one tag, or a writer at that moment.
//!
//! A software pipeline, in which each key is a few steps behind the previous one, was measured and is slower. A prefetch stalls
//! the instructions behind it when the core has as many outstanding loads as it can have, and a short loop lets the core issue
//! more of them than a loop that does all steps.

use arrayvec::ArrayVec;

use crate::bucket::{Entry, Index, ProbeResult};
use crate::encoding::KeyWords;
use crate::mmap::prefetch;
use crate::record::Record;
use crate::table::FlowTable;
use crate::types::{FlowKey, Hit, Millis, SlotId};

/// Keys that are looked up together. A longer burst is cut.
const BURST: usize = 64;

/// The state of one key's lookup.
#[derive(Clone, Copy)]
struct Probe {
    tag: u32,
    bucket: u32,
    found: ProbeResult,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            tag: 0,
            bucket: 0,
            found: ProbeResult::SEARCH,
        }
    }
}

impl FlowTable {
    /// Looks up a burst of keys. `out[n]` is the result for `keys[n]`. An expired entry is not found. Keys beyond the length of
    /// `out` are not looked up.
    pub fn lookup(&self, keys: &[FlowKey], now: Millis, out: &mut [Option<Hit>]) {
        for (keys, out) in keys.chunks(BURST).zip(out.chunks_mut(BURST)) {
            self.lookup_burst(keys, now, out);
        }
    }

    fn lookup_burst(&self, keys: &[FlowKey], now: Millis, out: &mut [Option<Hit>]) {
        let index = self.index();
        let records = self.records();
        let expect = |found: ProbeResult| {
            if let Some(record) = records.get(found.record()) {
                record.iter().for_each(prefetch);
            }
        };
        let mut probes = [Probe::default(); BURST];
        let probes = probes.get_mut(..keys.len().min(out.len())).unwrap_or_default();
        for (probe, key) in probes.iter_mut().zip(keys) {
            let (hash, bucket) = self.hash(&key.tuple, key.proto);
            prefetch(index.bucket(bucket).0);
            (probe.tag, probe.bucket) = (hash.tag(), bucket);
        }
        let mut further = ArrayVec::<_, BURST>::new();
        for (n, probe) in probes.iter_mut().enumerate() {
            probe.found = index.bucket(probe.bucket).probe(probe.tag);
            expect(probe.found);
            if probe.found == ProbeResult::SEARCH {
                index.prefetch_overflow(probe.bucket);
                further.push(n);
            }
        }
        for n in further {
            if let Some(probe) = probes.get_mut(n) {
                probe.found = index.probe_overflow(probe.bucket, probe.tag);
                expect(probe.found);
            }
        }
        for ((probe, key), out) in probes.iter().zip(keys).zip(out) {
            match records.get(probe.found.record()) {
                Some(lines) if Record(lines).read_into(probe.found, key, &self.limits, now, out) => {}
                None if probe.found == ProbeResult::MISS => *out = None,
                _ => *out = self.search(&index, *probe, key, now),
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn search(&self, index: &Index<'_>, probe: Probe, key: &FlowKey, now: Millis) -> Option<Hit> {
        let wanted = KeyWords::key(key);
        index.find(probe.bucket, probe.tag, |entry| {
            self.hit_at(self.record(entry.record())?, entry, &wanted, now)
        })
    }

    /// Returns the connection behind `entry`, if it is live and has the wanted key.
    #[inline(always)]
    pub(crate) fn hit_at(&self, record: Record<'_>, entry: Entry, wanted: &KeyWords, now: Millis) -> Option<Hit> {
        let direction = entry.direction();
        let (incarnation, view) = record.find(direction, wanted, &self.limits, now)?;
        Some(Hit {
            slot: SlotId::new(incarnation, entry.record(), direction),
            view,
        })
    }

    /// Finds a key with any origin, for a key that missed because of its origin.
    #[must_use]
    pub fn find_tuple(&self, key: &FlowKey, now: Millis) -> Option<Hit> {
        let (hash, bucket) = self.hash(&key.tuple, key.proto);
        let wanted = KeyWords::of_any_origin(key);
        self.index().find(bucket, hash.tag(), |entry| {
            self.hit_at(self.record(entry.record())?, entry, &wanted, now)
        })
    }
}
