//! The flow table: finds, inserts, changes and removes connections.

use std::fs::File;

use heddle_ids::{EndpointId, Epoch, Generation};
use heddle_wire::rewrite::Tuple;
use heddle_wire::{Proto, TcpFlags};

use crate::affinity::AffinityTable;
use crate::bucket::{Bucket, Entry, Index, Locked};
use crate::config::Config;
use crate::freelist::FreeList;
use crate::hash::{Hash, Seed};
use crate::layout::{Geometry, RECORD_LINES, header};
use crate::mmap::{Line, Memory, prefetch};
use crate::record::{Contents, Counters, Record, Route};
use crate::state::{ConnState, Limits, Timeouts};
use crate::stats::{Counts, GroupId, Stats};
use crate::sync::Ordering;
use crate::types::{FlowKey, FlowView, Millis, Origin, SlotId};

/// A connection, for `heddle flows` and sweeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connection {
    /// The forward direction's slot. `peer()` is the reverse one's.
    pub slot: SlotId,
    /// The keys of the forward and the reverse direction.
    pub keys: [FlowKey; 2],
    /// The views of both directions.
    pub views: [FlowView; 2],
    /// The packets and bytes of both directions.
    pub counters: [Counters; 2],
    /// The time of its insertion.
    pub inserted_at: Millis,
}

/// The flow table.
pub struct FlowTable {
    memory: Memory,
    geometry: Geometry,
    seed: Seed,
    epoch: Epoch,
    timeouts: Timeouts,
    pub(crate) limits: Limits,
    pub(crate) counts: Counts,
    /// The file behind `memory`, locked while it is open.
    lock: Option<File>,
}

impl FlowTable {
    /// Makes an empty table in memory, which is freed with its last owner.
    #[must_use]
    pub fn anonymous(config: &Config) -> Self {
        let geometry = config.geometry();
        let seed = config.seed.map_or_else(Seed::random, Seed::from_words);
        let memory = Memory::anonymous(geometry.lines(), config.huge_pages);
        Self::over(memory, geometry, seed, Epoch::FIRST, config)
    }

    /// Makes a table over memory that contains one, or zeros.
    pub(crate) fn over(memory: Memory, geometry: Geometry, seed: Seed, epoch: Epoch, config: &Config) -> Self {
        let counts = Counts::new(config.quotas, geometry.capacity);
        Self {
            memory,
            geometry,
            seed,
            epoch,
            timeouts: config.timeouts,
            limits: Limits::of(&config.timeouts),
            counts,
            lock: None,
        }
    }

    /// Holds the lock on the table's file until the table is dropped.
    pub(crate) fn keep_locked(&mut self, file: File) {
        self.lock = Some(file);
    }

    /// Returns the epoch of this start; an entry of another epoch is stale.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Returns the table of session affinities.
    #[must_use]
    pub fn affinities(&self) -> AffinityTable<'_> {
        let g = &self.geometry;
        let lines = self.memory.lines().get(g.affinities()..g.lines());
        AffinityTable::new(lines.unwrap_or_default(), &self.seed)
    }

    /// Returns the timeouts of idle connections.
    #[must_use]
    pub fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    #[inline]
    pub(crate) fn line(&self, n: usize) -> &Line {
        &self.memory.lines()[n]
    }

    #[inline]
    pub(crate) fn index(&self) -> Index<'_> {
        let (lines, g) = (self.memory.lines(), &self.geometry);
        Index {
            first: &lines[g.bucket(0)..g.overflow(0)],
            overflow: &lines[g.overflow(0)..g.record(0)],
        }
    }

    /// Returns a record; `None` for a number beyond all records.
    #[inline]
    pub(crate) fn record(&self, n: u32) -> Option<Record<'_>> {
        self.records().get(n as usize).map(Record)
    }

    /// Returns all records.
    #[inline]
    pub(crate) fn records(&self) -> &[[Line; RECORD_LINES]] {
        self.memory.lines()[self.geometry.record(0)..self.geometry.affinities()]
            .as_chunks()
            .0
    }

    pub(crate) fn free_records(&self) -> FreeList<'_> {
        FreeList::new(self.line(header::RECORDS), self.geometry.capacity)
    }

    pub(crate) fn free_overflow(&self) -> FreeList<'_> {
        FreeList::new(self.line(header::OVERFLOW), self.geometry.overflow)
    }

    #[inline]
    pub(crate) fn hash(&self, tuple: &Tuple, proto: Proto) -> (Hash, u32) {
        let hash = Hash::of(&self.seed, tuple, proto);
        (hash, hash.bucket(self.geometry.buckets))
    }

    /// Returns a number that depends on a connection and on the table's secret key: nobody outside can choose connections
    /// with a certain one.
    #[must_use]
    pub fn secret_hash(&self, tuple: &Tuple, proto: Proto) -> u64 {
        Hash::of(&self.seed, tuple, proto).mixed()
    }

    pub(crate) fn take_overflow_bucket(&self) -> Option<u32> {
        self.free_overflow().pop(|n| self.overflow_link(n))
    }

    fn overflow_link(&self, n: u32) -> &crate::sync::AtomicU64 {
        Bucket(self.line(self.geometry.overflow(n))).link()
    }

    pub(crate) fn record_link(&self, n: u32) -> &crate::sync::AtomicU64 {
        Record::link_of(&self.memory.lines()[self.geometry.record(n)..])
    }

    /// Counts a packet of this direction: updates the time, the counters, and by `flags` the state of TCP. Returns false if the
    /// connection was removed.
    #[inline(always)]
    pub fn touch(&self, slot: SlotId, now: Millis, bytes: u32, flags: TcpFlags) -> bool {
        self.record(slot.record())
            .is_some_and(|r| r.touch(slot.incarnation(), slot.direction(), now, bytes, flags))
    }

    /// Makes both directions current after a revalidation: under these generations (of the given direction's endpoints, in its
    /// order) and in this start. Returns false if the connection was removed.
    pub fn revalidate(&self, slot: SlotId, generations: [Generation; 2]) -> bool {
        self.change(slot, |w| w.set_generations(slot.direction(), generations, self.epoch))
            .is_some()
    }

    /// Does the same as [`Self::revalidate`], and sets a new route. The translation stays. Returns false if the connection was removed.
    pub fn reroute(&self, slot: SlotId, route: &Route) -> bool {
        let moved = self.change(slot, |w| {
            let before = w.charge();
            w.set_route(slot.direction(), route, self.epoch);
            (before, w.charge())
        });
        if let Some((before, after)) = moved {
            self.counts.recharge(before, after);
        }
        moved.is_some()
    }

    /// Lowers the MSS of this direction to the one that its receiver has announced. Returns false if the connection was removed.
    pub fn limit_mss(&self, slot: SlotId, announced: u16) -> bool {
        self.change(slot, |w| w.limit_mss(slot.direction(), announced))
            .is_some()
    }

    /// Sets the origin of this direction's packets. Returns false if the connection was removed.
    pub fn move_origin(&self, slot: SlotId, origin: Origin) -> bool {
        self.change(slot, |w| w.set_origin(slot.direction(), origin)).is_some()
    }

    fn change<T>(&self, slot: SlotId, with: impl FnOnce(&crate::record::RecordWriter<'_>) -> T) -> Option<T> {
        let writing = self.record(slot.record())?.write();
        let (incarnation, conn) = writing.conn_state();
        (incarnation == slot.incarnation() && conn.is_live()).then(|| with(&writing))
    }

    /// Reads an entry again. Returns `None` if the connection was removed.
    #[must_use]
    pub fn view(&self, slot: SlotId) -> Option<FlowView> {
        self.contents(slot)?.view(slot.direction())
    }

    /// Returns the packets and bytes of this direction; `None` if the connection was removed.
    #[must_use]
    pub fn counters(&self, slot: SlotId) -> Option<Counters> {
        let counters = self
            .record(slot.record())?
            .counters(slot.incarnation(), slot.direction());
        self.contents(slot).map(|_| counters)
    }

    fn contents(&self, slot: SlotId) -> Option<Contents> {
        let contents = self.record(slot.record())?.read();
        (contents.incarnation == slot.incarnation() && contents.conn.is_live()).then_some(contents)
    }

    /// Removes both directions of a connection. Returns false if it was removed already.
    pub fn remove(&self, slot: SlotId) -> bool {
        self.remove_when(slot, |_, _| true)
    }

    pub(crate) fn remove_if_expired(&self, slot: SlotId, now: Millis) -> bool {
        let removed = self.remove_when(slot, |conn, last_seen| conn.is_expired(&self.limits, last_seen, now));
        if removed {
            self.counts.expired.fetch_add(1, Ordering::Relaxed);
        }
        removed
    }

    /// Makes room in a full table: looks at the next `budget` records and removes the expired ones. If there are none, it removes
    /// one entry whose handshake is not complete. Entries with a complete handshake stay.
    pub(crate) fn make_room(&self, now: Millis, budget: u32) {
        let mut displaceable = None;
        let mut removed = 0;
        self.next_records(budget, |number, record| {
            let (incarnation, conn) = record.conn_state();
            let slot = SlotId::new(incarnation, number, 0);
            if conn.is_live() && conn.is_expired(&self.limits, record.last_seen(incarnation), now) {
                removed += u32::from(self.remove_if_expired(slot, now));
            } else if conn.is_live() && conn.is_displaceable() && displaceable.is_none() {
                displaceable = Some(slot);
            }
        });
        if removed == 0
            && let Some(slot) = displaceable
            && self.remove_when(slot, |conn, _| conn.is_displaceable())
        {
            self.counts.displaced.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Calls `see` with the next `budget` records, which follow the records of the last call.
    fn next_records(&self, budget: u32, mut see: impl FnMut(u32, Record<'_>)) {
        let mark = self.free_records().mark();
        if mark == 0 {
            return;
        }
        let budget = budget.min(mark);
        let cursor = self.line(header::CURSOR).0[0].fetch_add(u64::from(budget), Ordering::Relaxed);
        for step in 0..u64::from(budget) {
            let number = (cursor.wrapping_add(step) % u64::from(mark)) as u32;
            if let Some(record) = self.record(number) {
                see(number, record);
            }
        }
    }

    fn remove_when(&self, slot: SlotId, condition: impl Fn(ConnState, Millis) -> bool) -> bool {
        let Some((record, contents)) = self.record(slot.record()).zip(self.contents(slot)) else {
            return false;
        };
        // The tuples of an incarnation never change, so these are the right buckets even before they are locked.
        let [(h0, b0), (h1, b1)] = [0, 1].map(|d| self.hash(&contents.tuple(d), contents.proto()));
        let index = self.index();
        prefetch(index.bucket(b0).0);
        prefetch(index.bucket(b1).0);
        let locked: Locked<'_> = index.lock(b0, b1);
        let charge = {
            let writing = record.write();
            let (incarnation, conn) = writing.conn_state();
            if incarnation != slot.incarnation() || !conn.is_live() || !condition(conn, writing.last_seen()) {
                return false;
            }
            let charge = writing.charge();
            writing.clear();
            charge
        };
        let back = |n: u32| self.free_overflow().push(n, self.overflow_link(n));
        locked.unlink(b0, Entry::new(h0, slot.record(), 0), back);
        locked.unlink(b1, Entry::new(h1, slot.record(), 1), back);
        self.free_records().push(slot.record(), record.link());
        drop(locked);
        self.counts.discharge(charge);
        true
    }

    /// Checks the next `budget` records and removes expired connections. Returns their number.
    pub fn expire(&self, now: Millis, budget: u32) -> u32 {
        let mut removed = 0;
        self.next_records(budget, |number, record| {
            let (incarnation, conn) = record.conn_state();
            if conn.is_live() && conn.is_expired(&self.limits, record.last_seen(incarnation), now) {
                removed += u32::from(self.remove_if_expired(SlotId::new(incarnation, number, 0), now));
            }
        });
        removed
    }

    /// Makes a pod a member of a group: its connections count against the group's quota too. Call it before the pod's first packet.
    /// An endpoint without a call is a member of group 0.
    pub fn set_group(&self, endpoint: EndpointId, group: GroupId) {
        self.counts.set_group(endpoint, group);
    }

    /// Returns the number of connections that the endpoint has opened.
    #[must_use]
    pub fn opened_by(&self, endpoint: EndpointId) -> u32 {
        self.counts.opened_by(endpoint)
    }

    /// Returns the counts at this moment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.counts.stats(&self.geometry)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod oracle;
#[cfg(test)]
#[cfg(not(loom))]
mod quota_tests;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
