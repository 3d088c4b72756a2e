//! Finding entries: bursts of keys side by side, and single tuples.
//!
//! A burst goes through three passes, so that its cache misses overlap: hash all keys and ask for their buckets; glance at each
//! bucket and ask for the record of the entry with the right tag; read the records. The first two have no branch that
//! depends on the data but the last one of a glance. What a glance cannot settle (an overflow bucket, two entries with
//! one tag) is left to [`Index::find`].

use heddle_wire::Proto;
use heddle_wire::rewrite::Tuple;

use crate::bucket::{Entry, Glance, Index};
use crate::memory::prefetch;
use crate::record::Record;
use crate::table::FlowTable;
use crate::types::{FlowKey, Hit, Millis, SlotNo};
use crate::words::Wanted;

/// Keys that are looked up side by side; a longer burst is cut.
const BURST: usize = 64;

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
        let mut hashes = [(0u32, 0u32); BURST];
        for (key, slot) in keys.iter().zip(&mut hashes) {
            let (hash, bucket) = self.hash(&key.tuple, key.proto);
            prefetch(index.bucket(bucket).0);
            *slot = (hash.tag(), bucket);
        }
        let mut glances = [Glance::Miss; BURST];
        for (&(tag, bucket), glance) in hashes.iter().zip(&mut glances).take(keys.len()) {
            *glance = index.bucket(bucket).glance(tag);
            if let Glance::Candidate(entry) = glance
                && let Some(record) = records.get(entry.record() as usize)
            {
                record.iter().for_each(prefetch);
            }
        }
        for (((key, out), hash), glance) in keys.iter().zip(out).zip(&hashes).zip(glances) {
            // One place writes what nearly all keys find: a hit that met others on its way would be copied once more.
            match glance {
                Glance::Miss => {
                    *out = None;
                    continue;
                }
                Glance::Candidate(entry) => {
                    if let Some(lines) = records.get(entry.record() as usize)
                        && let Some(hit) = self.hit_at(Record(lines), entry, &Wanted::key(key), now)
                    {
                        *out = Some(hit);
                        continue;
                    }
                }
                Glance::Search => {}
            }
            *out = self.search(&index, *hash, key, now);
        }
    }

    #[cold]
    #[inline(never)]
    fn search(&self, index: &Index<'_>, (tag, bucket): (u32, u32), key: &FlowKey, now: Millis) -> Option<Hit> {
        let wanted = Wanted::key(key);
        index.find(bucket, tag, |entry| {
            self.hit_at(self.record(entry.record())?, entry, &wanted, now)
        })
    }

    /// What stands at `entry`, if it is live and is meant.
    #[inline(always)]
    pub(crate) fn hit_at(&self, record: Record<'_>, entry: Entry, wanted: &Wanted, now: Millis) -> Option<Hit> {
        let direction = entry.direction();
        let (incarnation, view) = record.find(direction, wanted, &self.limits, now)?;
        Some(Hit {
            slot: SlotNo::new(incarnation, entry.record(), direction),
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
