//! Repairs a table that a killed process left in any state.
//!
//! No other thread uses the table yet. A killed process may leave a locked bucket, a record with an odd sequence, a record that is
//! linked by one direction or none, a bucket entry whose record is free, or a record or overflow bucket that is in no chain and no
//! free list. So the index and the free lists are rebuilt from the whole records, which frees everything else. If a takeover is
//! killed, the next one repeats it.

use crate::bucket::{Bucket, Entry};
use crate::file::REBUILDING;
use crate::layout::header;
use crate::record::Record;
use crate::sync::Ordering;
use crate::table::FlowTable;

/// The result of a repair.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Repaired {
    pub(crate) kept: u32,
    pub(crate) torn: u32,
    pub(crate) orphans: u32,
}

/// The state of a record that a repair finds.
enum RecordState {
    Whole,
    Free,
    Torn,
    Orphan,
}

impl FlowTable {
    /// Rebuilds the index, the free lists and the counts from the whole records.
    pub(crate) fn repair(&self) -> Repaired {
        let rebuilding = &self.line(header::FIXED).0[REBUILDING];
        // If the last takeover was killed here, the index is not valid, but it has already freed the records that are not whole.
        let trust_index = rebuilding.load(Ordering::Acquire) == 0;
        let mut repaired = Repaired::default();
        let mut whole = Vec::new();
        let mark = self.free_records().mark();
        for (number, record) in (0..mark).filter_map(|n| Some((n, self.record(n)?))) {
            match self.examine(number, record, trust_index) {
                RecordState::Whole => whole.push(number),
                RecordState::Free => {}
                RecordState::Torn => {
                    repaired.torn += 1;
                    record.reset();
                }
                RecordState::Orphan => {
                    repaired.orphans += 1;
                    record.reset();
                }
            }
        }
        rebuilding.store(1, Ordering::Release);
        self.clear_index();
        for &number in &whole {
            if self.relink(number) {
                repaired.kept += 1;
            } else {
                repaired.orphans += 1;
            }
        }
        self.free_unused(&whole);
        rebuilding.store(0, Ordering::Release);
        repaired
    }

    /// Returns the state of a record. `trust_index` is false if the index is not valid.
    fn examine(&self, number: u32, record: Record<'_>, trust_index: bool) -> RecordState {
        if record.is_torn() {
            return RecordState::Torn;
        }
        if !record.conn_state().1.is_live() {
            return RecordState::Free;
        }
        let contents = record.read();
        if contents.view(0).and(contents.view(1)).is_none() {
            return RecordState::Torn;
        }
        let linked = |direction| {
            let (hash, bucket) = self.hash(&contents.tuple(direction), contents.proto());
            let entry = Entry::new(hash, number, direction);
            self.index()
                .find(bucket, hash.tag(), |e| (e == entry).then_some(()))
                .is_some()
        };
        if trust_index && !(linked(0) && linked(1)) {
            RecordState::Orphan
        } else {
            RecordState::Whole
        }
    }

    fn clear_index(&self) {
        let index = self.index();
        index
            .first
            .iter()
            .chain(index.overflow)
            .for_each(|line| Bucket(line).reset());
        self.free_overflow().reset(0);
    }

    /// Links both directions into the index. If there is no room, frees the record and returns false.
    fn relink(&self, number: u32) -> bool {
        let Some(record) = self.record(number) else {
            return false;
        };
        let contents = record.read();
        let [(h0, b0), (h1, b1)] = [0, 1].map(|d| self.hash(&contents.tuple(d), contents.proto()));
        let locked = self.index().lock(b0, b1);
        let Some(place) = locked.free_slot(b0, None, || self.take_overflow_bucket()) else {
            record.reset();
            return false;
        };
        let taken = (b0 == b1).then_some(place);
        let Some(other) = locked.free_slot(b1, taken, || self.take_overflow_bucket()) else {
            record.reset();
            return false;
        };
        place.set(Entry::new(h0, number, 0));
        other.set(Entry::new(h1, number, 1));
        self.counts.charge_taken_over(contents.charge());
        true
    }

    /// Rebuilds the free list: records beyond the last whole one count as never used, and free ones before it are pushed.
    fn free_unused(&self, whole: &[u32]) {
        let list = self.free_records();
        list.reset(whole.last().map_or(0, |last| last + 1));
        let is_live = |record: &Record<'_>| record.conn_state().1.is_live();
        // The lowest is pushed last, so that it is used first.
        for (number, record) in (0..list.mark()).rev().filter_map(|n| Some((n, self.record(n)?))) {
            if !is_live(&record) {
                list.push(number, record.link());
            }
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
