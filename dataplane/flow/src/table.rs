//! The table: finding, inserting, changing and removing connections.

use std::fs::File;

use heddle_wire::rewrite::Tuple;
use heddle_wire::{Proto, TcpFlags};
use thiserror::Error;

use crate::affinity::AffinityTable;
use crate::bucket::{Bucket, Entry, Index, Locked, Sight};
use crate::config::Config;
use crate::freelist::FreeList;
use crate::hash::{Hash, Seed};
use crate::layout::{Geometry, RECORD_LINES, header};
use crate::memory::{Line, Memory, prefetch};
use crate::record::{Contents, Counters, Record, Route};
use crate::state::{Life, Limits, Timeouts};
use crate::stats::{Counts, Stats};
use crate::sync::Ordering;
use crate::types::{FlowKey, FlowView, Hit, Millis, NewFlow, Origin, SlotNo, StartNo};
use crate::words::Wanted;
use crate::{EndpointNo, Generation};

/// Records that an insert into a full table looks at for expired ones.
const LAST_RESORT: u32 = 64;

/// Why a connection was not inserted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum InsertError {
    /// Another worker was faster: its entry is the connection's.
    #[error("the connection is in the table already, as {:?}: use that entry", .0.slot)]
    Exists(Hit),
    /// The tuple belongs to a connection whose packets come in elsewhere.
    #[error("the tuple is in the table with origin {}: judge it again and move the key", .0.view.origin)]
    OtherOrigin(Hit),
    /// The answer's tuple belongs to another connection.
    #[error("the answer's tuple belongs to another connection: choose another source port")]
    ReverseTaken,
    /// No room, and nothing in sight has expired.
    #[error("the flow table is full: raise its capacity or shorten its timeouts")]
    Full,
    /// The endpoint has opened as many connections as it may.
    #[error("endpoint {} has used up its quota of connections", .0.0)]
    Quota(EndpointNo),
    /// A direction's rewrite is not the other's key reversed, or the protocols differ: a mistake of the caller.
    #[error("the two directions do not belong to one connection: each one's rewrite must be the other's key reversed")]
    NotAPair,
}

/// One connection, as `heddle flows` and sweeps see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connection {
    /// The forward direction's slot; `peer()` is the reverse one's.
    pub slot: SlotNo,
    /// The keys of the forward and the reverse direction.
    pub keys: [FlowKey; 2],
    /// What is known of both.
    pub views: [FlowView; 2],
    /// Packets and bytes of both.
    pub counters: [Counters; 2],
    /// When it was inserted.
    pub inserted_at: Millis,
}

/// The flow table.
pub struct FlowTable {
    memory: Memory,
    geometry: Geometry,
    seed: Seed,
    start: StartNo,
    timeouts: Timeouts,
    pub(crate) limits: Limits,
    pub(crate) counts: Counts,
    affinities: AffinityTable,
    /// The file behind `memory`, locked while it is open.
    lock: Option<File>,
}

impl FlowTable {
    /// An empty table on the heap, gone with its last owner.
    #[must_use]
    pub fn anonymous(config: &Config) -> Self {
        let geometry = Geometry::new(config.capacity);
        let seed = config.seed.map_or_else(Seed::random, Seed::from_words);
        let memory = Memory::anonymous(geometry.lines(), config.huge_pages);
        Self::over(memory, geometry, seed, StartNo(1), config)
    }

    /// A table over memory that holds one, or zeroes.
    pub(crate) fn over(memory: Memory, geometry: Geometry, seed: Seed, start: StartNo, config: &Config) -> Self {
        let counts = Counts::new(config.quota);
        Self {
            memory,
            geometry,
            seed,
            start,
            timeouts: config.timeouts,
            limits: Limits::of(&config.timeouts),
            counts,
            affinities: AffinityTable::new(config.affinities, seed),
            lock: None,
        }
    }

    /// Holds the lock on the table's file until the table is dropped.
    pub(crate) fn keep_locked(&mut self, file: File) {
        self.lock = Some(file);
    }

    /// The number of this start; an entry of another is stale.
    #[must_use]
    pub fn start(&self) -> StartNo {
        self.start
    }

    /// Where clients of Services with session affinity went last.
    #[must_use]
    pub fn affinities(&self) -> &AffinityTable {
        &self.affinities
    }

    /// When silent connections expire.
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

    /// `None` for a number that names none.
    #[inline]
    pub(crate) fn record(&self, n: u32) -> Option<Record<'_>> {
        let lines = self.memory.lines().get(self.geometry.record(n)..)?;
        lines.first_chunk::<RECORD_LINES>().map(Record)
    }

    /// All records.
    #[inline]
    pub(crate) fn records(&self) -> &[[Line; RECORD_LINES]] {
        self.memory.lines()[self.geometry.record(0)..].as_chunks().0
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

    /// Inserts both directions of a connection, or neither. Returns the slots of the forward and the reverse one.
    ///
    /// The connection's endpoints and generations are those of `forward`; `reverse` is delivered with them swapped. The
    /// quota that it uses is that of the opener: of `forward`'s first endpoint, or of its second if `forward` is the reply.
    /// A tuple is in the table once, whatever its origin.
    ///
    /// # Errors
    /// [`InsertError`] says what stands in the way; the table is then unchanged but for entries that had expired.
    pub fn insert(&self, forward: &NewFlow, reverse: &NewFlow, now: Millis) -> Result<(SlotNo, SlotNo), InsertError> {
        // First of all, what the insert will wait for: so a loop over many has asked for the next one's while it waits.
        let ends = (self.end(forward), self.end(reverse));
        if forward.key.proto != reverse.key.proto
            || forward.rewrite.to.reversed() != reverse.key.tuple
            || reverse.rewrite.to.reversed() != forward.key.tuple
        {
            return Err(InsertError::NotAPair);
        }
        if forward.key.tuple == reverse.key.tuple {
            return Err(InsertError::ReverseTaken);
        }
        let mut swept = false;
        loop {
            match self.try_insert((forward, reverse), ends, now) {
                Ok(slots) => return Ok(slots),
                Err(Obstacle::Expired(slot)) => {
                    self.remove_if_expired(slot, now);
                }
                Err(Obstacle::Full) if !swept => {
                    swept = true;
                    self.expire(now, LAST_RESORT);
                }
                Err(Obstacle::Full) => {
                    self.counts.refused_full.fetch_add(1, Ordering::Relaxed);
                    return Err(InsertError::Full);
                }
                Err(Obstacle::Error(error)) => {
                    if matches!(error, InsertError::Quota(_)) {
                        self.counts.refused_quota.fetch_add(1, Ordering::Relaxed);
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Where a direction's entry belongs; its bucket is asked for.
    #[inline(always)]
    fn end(&self, flow: &NewFlow) -> End {
        let (hash, bucket) = self.hash(&flow.key.tuple, flow.key.proto);
        prefetch(self.index().bucket(bucket).0);
        End { hash, bucket }
    }

    #[inline(always)]
    fn try_insert(
        &self,
        flows: (&NewFlow, &NewFlow),
        ends: (End, End),
        now: Millis,
    ) -> Result<(SlotNo, SlotNo), Obstacle> {
        let (forward, reverse) = flows;
        let charged = forward.endpoints[usize::from(forward.flags.contains(crate::FlowFlags::REPLY))];
        // While the buckets are on their way.
        let written = self.write_record(forward, reverse, charged, now);
        let linked = self.link(flows, ends, written.as_ref().map_err(|obstacle| *obstacle), now);
        match (linked, written) {
            (
                Ok(()),
                Ok(Written {
                    number, incarnation, ..
                }),
            ) => {
                self.counts.inserted.fetch_add(1, Ordering::Relaxed);
                let slot = SlotNo::new(incarnation, number, 0);
                Ok((slot, slot.peer()))
            }
            (Err(obstacle), Ok(written)) => {
                self.free_records().push(written.number, written.record.link());
                self.counts.withdraw(charged);
                Err(obstacle)
            }
            (Err(obstacle), Err(_)) | (Ok(()), Err(obstacle)) => Err(obstacle),
        }
    }

    /// A record with all of the connection in it but its life: nobody finds it, and it can be given back as it is.
    #[inline(always)]
    fn write_record(
        &self,
        forward: &NewFlow,
        reverse: &NewFlow,
        charged: EndpointNo,
        now: Millis,
    ) -> Result<Written<'_>, Obstacle> {
        if !self.counts.charge(charged) {
            return Err(Obstacle::Error(InsertError::Quota(charged)));
        }
        let free = self.free_records().pop(|n| self.record_link(n));
        let Some((number, record)) = free.and_then(|n| Some((n, self.record(n)?))) else {
            self.counts.withdraw(charged);
            return Err(Obstacle::Full);
        };
        if let Some(next) = self.free_records().peek().and_then(|n| self.record(n)) {
            next.0.iter().for_each(prefetch);
        }
        let incarnation = record.write().fill(forward, reverse, self.start, now);
        Ok(Written {
            number,
            record,
            incarnation,
        })
    }

    /// Puts both directions into their buckets and then lets the connection live, so that both are found from one moment on.
    #[inline(always)]
    fn link(
        &self,
        flows: (&NewFlow, &NewFlow),
        ends: (End, End),
        written: Result<&Written<'_>, Obstacle>,
        now: Millis,
    ) -> Result<(), Obstacle> {
        let index = self.index();
        let locked = index.lock(ends.0.bucket, ends.1.bucket);
        let nothing_with = |end: End| index.bucket(end.bucket).glance(end.hash.tag()) == Sight::MISS;
        if !(nothing_with(ends.0) & nothing_with(ends.1)) {
            self.nothing_in_the_way(flows, ends, now)?;
        }
        let written = written?;
        let more = || self.more_overflow();
        let place = locked.vacancy(ends.0.bucket, None, more).ok_or(Obstacle::Full)?;
        let taken = (ends.0.bucket == ends.1.bucket).then_some(place);
        let reverse_place = locked.vacancy(ends.1.bucket, taken, more).ok_or(Obstacle::Full)?;
        place.set(Entry::new(ends.0.hash, written.number, 0));
        reverse_place.set(Entry::new(ends.1.hash, written.number, 1));
        let (forward, _) = flows;
        let life = Life::begin(forward.key.proto, forward.flags);
        written.record.enliven(written.incarnation, life);
        Ok(())
    }

    /// Whether the tuples are in the table already; their buckets are locked.
    #[cold]
    fn nothing_in_the_way(
        &self,
        (forward, reverse): (&NewFlow, &NewFlow),
        ends: (End, End),
        now: Millis,
    ) -> Result<(), Obstacle> {
        if let Some(hit) = self.standing(&forward.key, ends.0, now)? {
            let same = hit.view.origin == forward.key.origin;
            return Err(Obstacle::Error(if same {
                InsertError::Exists(hit)
            } else {
                InsertError::OtherOrigin(hit)
            }));
        }
        match self.standing(&reverse.key, ends.1, now)? {
            Some(_) => Err(Obstacle::Error(InsertError::ReverseTaken)),
            None => Ok(()),
        }
    }

    /// The live entry with this tuple; an expired one is an obstacle that can be removed.
    fn standing(&self, key: &FlowKey, end: End, now: Millis) -> Result<Option<Hit>, Obstacle> {
        let beginning_of_time = Millis(0);
        let wanted = Wanted::tuple(&key.tuple, key.proto);
        let check = |entry: Entry, now| self.hit_at(self.record(entry.record())?, entry, &wanted, now);
        let hit = self
            .index()
            .find(end.bucket, end.hash.tag(), |e| Some((e, check(e, beginning_of_time)?)));
        match hit {
            Some((entry, hit)) if check(entry, now).is_none() => Err(Obstacle::Expired(hit.slot)),
            hit => Ok(hit.map(|(_, hit)| hit)),
        }
    }

    pub(crate) fn more_overflow(&self) -> Option<u32> {
        self.free_overflow().pop(|n| self.overflow_link(n))
    }

    fn overflow_link(&self, n: u32) -> &crate::sync::AtomicU64 {
        Bucket(self.line(self.geometry.overflow(n))).link()
    }

    fn record_link(&self, n: u32) -> &crate::sync::AtomicU64 {
        Record::link_of(&self.memory.lines()[self.geometry.record(n)..])
    }

    /// Notes a packet of this direction: time, counters, and with `flags` how far TCP has come. `false` if the connection
    /// is gone.
    #[inline(always)]
    pub fn touch(&self, slot: SlotNo, now: Millis, bytes: u32, flags: TcpFlags) -> bool {
        self.record(slot.record())
            .is_some_and(|r| r.touch(slot.incarnation(), slot.direction(), now, bytes, flags))
    }

    /// The connection was judged again and may go on: both directions are current under these generations (of the named
    /// direction's endpoints, in its order) and in this start. `false` if it is gone.
    pub fn revalidate(&self, slot: SlotNo, generations: [Generation; 2]) -> bool {
        self.change(slot, |w| w.set_generations(slot.direction(), generations, self.start))
            .is_some()
    }

    /// As [`Self::revalidate`], and the way has changed; the translation stays. `false` if the connection is gone.
    pub fn reroute(&self, slot: SlotNo, route: &Route) -> bool {
        let moved = self.change(slot, |w| {
            let before = w.charged();
            w.set_route(slot.direction(), route, self.start);
            (before, w.charged())
        });
        if let Some((before, after)) = moved {
            self.counts.recharge(before, after);
        }
        moved.is_some()
    }

    /// From now on the packets of this direction come in at `origin`. `false` if the connection is gone.
    pub fn move_origin(&self, slot: SlotNo, origin: Origin) -> bool {
        self.change(slot, |w| w.set_origin(slot.direction(), origin)).is_some()
    }

    fn change<T>(&self, slot: SlotNo, with: impl FnOnce(&crate::record::Writing<'_>) -> T) -> Option<T> {
        let writing = self.record(slot.record())?.write();
        let (incarnation, life) = writing.life();
        (incarnation == slot.incarnation() && life.is_live()).then(|| with(&writing))
    }

    /// Reads an entry again. `None` if it is gone.
    #[must_use]
    pub fn view(&self, slot: SlotNo) -> Option<FlowView> {
        self.contents(slot)?.view(slot.direction())
    }

    /// Packets and bytes of this direction. `None` if the connection is gone.
    #[must_use]
    pub fn counters(&self, slot: SlotNo) -> Option<Counters> {
        let counters = self
            .record(slot.record())?
            .counters(slot.incarnation(), slot.direction());
        self.contents(slot).map(|_| counters)
    }

    fn contents(&self, slot: SlotNo) -> Option<Contents> {
        let contents = self.record(slot.record())?.read();
        (contents.incarnation == slot.incarnation() && contents.life.is_live()).then_some(contents)
    }

    /// Removes a connection, both directions. `false` if it was gone.
    pub fn remove(&self, slot: SlotNo) -> bool {
        self.remove_when(slot, |_, _| true)
    }

    fn remove_if_expired(&self, slot: SlotNo, now: Millis) -> bool {
        let removed = self.remove_when(slot, |life, last_seen| life.is_expired(&self.limits, last_seen, now));
        if removed {
            self.counts.expired.fetch_add(1, Ordering::Relaxed);
        }
        removed
    }

    fn remove_when(&self, slot: SlotNo, condition: impl Fn(Life, Millis) -> bool) -> bool {
        let Some((record, contents)) = self.record(slot.record()).zip(self.contents(slot)) else {
            return false;
        };
        // The tuples of an incarnation never change, so these are the buckets whatever happens before they are locked.
        let [(h0, b0), (h1, b1)] = [0, 1].map(|d| self.hash(&contents.tuple(d), contents.proto()));
        let index = self.index();
        prefetch(index.bucket(b0).0);
        prefetch(index.bucket(b1).0);
        let locked: Locked<'_> = index.lock(b0, b1);
        let charged = {
            let writing = record.write();
            let (incarnation, life) = writing.life();
            if incarnation != slot.incarnation() || !life.is_live() || !condition(life, writing.last_seen()) {
                return false;
            }
            let charged = writing.charged();
            writing.clear();
            charged
        };
        let back = |n: u32| self.free_overflow().push(n, self.overflow_link(n));
        locked.unlink(b0, Entry::new(h0, slot.record(), 0), back);
        locked.unlink(b1, Entry::new(h1, slot.record(), 1), back);
        self.free_records().push(slot.record(), record.link());
        drop(locked);
        self.counts.discharge(charged);
        true
    }

    /// Looks at the next `budget` records and removes what has expired. Returns how many connections that were.
    pub fn expire(&self, now: Millis, budget: u32) -> u32 {
        let mark = self.free_records().mark();
        if mark == 0 {
            return 0;
        }
        let budget = budget.min(mark);
        let cursor = self.line(header::CURSOR).0[0].fetch_add(u64::from(budget), Ordering::Relaxed);
        let mut removed = 0;
        for step in 0..u64::from(budget) {
            let number = (cursor.wrapping_add(step) % u64::from(mark)) as u32;
            let Some(record) = self.record(number) else { continue };
            let (incarnation, life) = record.life();
            if life.is_live() && life.is_expired(&self.limits, record.last_seen(incarnation), now) {
                removed += u32::from(self.remove_if_expired(SlotNo::new(incarnation, number, 0), now));
            }
        }
        removed
    }

    /// Connections that the endpoint has opened.
    #[must_use]
    pub fn opened_by(&self, endpoint: EndpointNo) -> u32 {
        self.counts.opened_by(endpoint)
    }

    /// Counts at this moment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.counts.stats(&self.geometry)
    }
}

/// Where one direction's entry belongs.
#[derive(Clone, Copy)]
struct End {
    hash: Hash,
    bucket: u32,
}

/// A record that was written and is not linked yet.
#[derive(Clone, Copy)]
struct Written<'a> {
    number: u32,
    record: Record<'a>,
    incarnation: u32,
}

/// What keeps an insert from being done, for now or for good.
#[derive(Clone, Copy)]
enum Obstacle {
    Expired(SlotNo),
    Full,
    Error(InsertError),
}

#[cfg(test)]
#[cfg(not(loom))]
mod model;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
