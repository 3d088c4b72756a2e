//! Inserts a connection: both directions at once, or neither.
//!
//! The cost of an insert is its cache misses. So it prefetches both buckets first, writes the record meanwhile, and takes the two
//! locks last. The connection becomes live as the last step under the locks. Until then no lookup finds the record, and it can be
//! freed as it is if one of the tuples is in the table already.

use heddle_ids::EndpointId;
use thiserror::Error;

use crate::bucket::{Entry, ProbeResult};
use crate::charge::Charge;
use crate::encoding::KeyWords;
use crate::hash::Hash;
use crate::mmap::prefetch;
use crate::record::Record;
use crate::state::ConnState;
use crate::stats::Refusal;
use crate::sync::Ordering;
use crate::table::FlowTable;
use crate::types::{FlowKey, Hit, Millis, NewFlow, SlotId};

/// Records that an insert into a full table checks, for expired ones and for one that it may displace. Few, so that a flood of
/// new connections does not cost more when the table is full.
const LAST_RESORT: u32 = 24;

/// The reason for which a connection was not inserted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum InsertError {
    /// Another worker inserted the connection first. This is its entry.
    #[error("the connection is in the table already, as {:?}: use that entry", .0.slot)]
    Exists(Hit),
    /// The tuple belongs to a connection from another origin.
    #[error("the tuple is in the table with origin {}: judge it again and move the key", .0.view.origin)]
    OtherOrigin(Hit),
    /// The reply's tuple belongs to another connection.
    #[error("the answer's tuple belongs to another connection: choose another source port")]
    ReverseTaken,
    /// No room, and none of the entries that were looked at has expired or may be displaced.
    #[error("the flow table is full: raise its capacity or shorten its timeouts")]
    Full,
    /// The endpoint, or the group that it is a member of, has opened as many connections as it may.
    #[error("endpoint {} or its namespace has used up its quota of connections", .0.0)]
    Quota(EndpointId),
    /// Clients of this source prefix outside of this node have opened as many connections as they may.
    #[error("the clients of this /24 or /64 outside of this node have used up their share of connections")]
    SourceQuota,
    /// The payer has used up its share of the source ports to this masqueraded destination.
    #[error("the opener has used up its share of the source ports that are masqueraded to this destination")]
    PortShare,
    /// A direction's rewrite is not the other's key reversed, or the protocols differ: a defect of the caller.
    #[error("the two directions do not belong to one connection: each one's rewrite must be the other's key reversed")]
    NotAPair,
}

/// The hash and the bucket of one direction's entry.
#[derive(Clone, Copy)]
struct End {
    hash: Hash,
    bucket: u32,
}

/// A record that was written and is not in the index yet.
#[derive(Clone, Copy)]
struct UnlinkedRecord<'a> {
    number: u32,
    record: Record<'a>,
    incarnation: u32,
}

/// An obstacle to an insert, temporary or final.
#[derive(Clone, Copy)]
enum Obstacle {
    Expired(SlotId),
    Full,
    Error(InsertError),
}

impl FlowTable {
    /// Inserts both directions of a connection, or neither. Returns the slots of the forward and the reverse one.
    ///
    /// The connection has `forward`'s endpoints and generations; hits of `reverse` return them swapped. It is charged to its
    /// opener (the direction without the flag `REPLY`), or to the other side with the flag `RESPONDER_PAYS`; with the flag
    /// `OUTSIDE` to the source prefix of that side. A tuple is in the table once, whatever its origin.
    ///
    /// # Errors
    /// [`InsertError`] with the obstacle. The table is then unchanged, except that expired entries may have been removed, and
    /// in a full table one entry displaced.
    pub fn insert(&self, forward: &NewFlow, reverse: &NewFlow, now: Millis) -> Result<(SlotId, SlotId), InsertError> {
        // Prefetch first: in a loop over many connections, the next one's lines are requested while this one waits.
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
                    self.make_room(now, LAST_RESORT);
                }
                Err(Obstacle::Full) => {
                    self.counts.refused_full.fetch_add(1, Ordering::Relaxed);
                    return Err(InsertError::Full);
                }
                Err(Obstacle::Error(error)) => {
                    if matches!(
                        error,
                        InsertError::Quota(_) | InsertError::SourceQuota | InsertError::PortShare
                    ) {
                        self.counts.refused_quota.fetch_add(1, Ordering::Relaxed);
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Returns the hash and the bucket of a direction's entry, and prefetches the bucket.
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
    ) -> Result<(SlotId, SlotId), Obstacle> {
        let (forward, reverse) = flows;
        let charge = Charge::of(forward, reverse);
        // Write the record while the buckets' cache lines are loaded.
        let written = self.write_record(forward, reverse, charge, now);
        let linked = self.link(flows, ends, written.as_ref().map_err(|obstacle| *obstacle), now);
        match (linked, written) {
            (
                Ok(()),
                Ok(UnlinkedRecord {
                    number, incarnation, ..
                }),
            ) => {
                self.counts.inserted.fetch_add(1, Ordering::Relaxed);
                let slot = SlotId::new(incarnation, number, 0);
                Ok((slot, slot.peer()))
            }
            (Err(obstacle), Ok(written)) => {
                self.free_records().push(written.number, written.record.link());
                self.counts.withdraw(charge);
                Err(obstacle)
            }
            (Err(obstacle), Err(_)) | (Ok(()), Err(obstacle)) => Err(obstacle),
        }
    }

    /// Writes a record with all of the connection except its life. No lookup finds it, and it can be freed as it is.
    #[inline(always)]
    fn write_record(
        &self,
        forward: &NewFlow,
        reverse: &NewFlow,
        charge: Charge,
        now: Millis,
    ) -> Result<UnlinkedRecord<'_>, Obstacle> {
        self.counts.charge(charge).map_err(|refusal| match refusal {
            Refusal::Reserve => Obstacle::Full,
            Refusal::Quota => Obstacle::Error(InsertError::Quota(charge.payer.endpoint())),
            Refusal::Prefix => Obstacle::Error(InsertError::SourceQuota),
            Refusal::Ports => Obstacle::Error(InsertError::PortShare),
        })?;
        let free = self.free_records().pop(|n| self.record_link(n));
        let Some((number, record)) = free.and_then(|n| Some((n, self.record(n)?))) else {
            self.counts.withdraw(charge);
            return Err(Obstacle::Full);
        };
        if let Some(next) = self.free_records().peek().and_then(|n| self.record(n)) {
            next.0.iter().for_each(prefetch);
        }
        let incarnation = record.write().fill(forward, reverse, self.epoch(), now);
        Ok(UnlinkedRecord {
            number,
            record,
            incarnation,
        })
    }

    /// Links both directions into their buckets and then makes the connection live, so that both are found from the same moment on.
    #[inline(always)]
    fn link(
        &self,
        flows: (&NewFlow, &NewFlow),
        ends: (End, End),
        written: Result<&UnlinkedRecord<'_>, Obstacle>,
        now: Millis,
    ) -> Result<(), Obstacle> {
        let index = self.index();
        let locked = index.lock(ends.0.bucket, ends.1.bucket);
        let nothing_with = |end: End| index.bucket(end.bucket).probe(end.hash.tag()) == ProbeResult::MISS;
        if !(nothing_with(ends.0) & nothing_with(ends.1)) {
            self.check_duplicates(flows, ends, now)?;
        }
        let written = written?;
        let more = || self.take_overflow_bucket();
        let place = locked.free_slot(ends.0.bucket, None, more).ok_or(Obstacle::Full)?;
        let taken = (ends.0.bucket == ends.1.bucket).then_some(place);
        let reverse_place = locked.free_slot(ends.1.bucket, taken, more).ok_or(Obstacle::Full)?;
        place.set(Entry::new(ends.0.hash, written.number, 0));
        reverse_place.set(Entry::new(ends.1.hash, written.number, 1));
        let (forward, _) = flows;
        let conn = ConnState::opening(forward.key.proto, forward.flags);
        written.record.activate(written.incarnation, conn);
        Ok(())
    }

    /// Returns an error if a tuple is in the table already. The buckets are locked.
    #[cold]
    fn check_duplicates(
        &self,
        (forward, reverse): (&NewFlow, &NewFlow),
        ends: (End, End),
        now: Millis,
    ) -> Result<(), Obstacle> {
        if let Some(hit) = self.find_existing(&forward.key, ends.0, now)? {
            let same = hit.view.origin == forward.key.origin;
            return Err(Obstacle::Error(if same {
                InsertError::Exists(hit)
            } else {
                InsertError::OtherOrigin(hit)
            }));
        }
        match self.find_existing(&reverse.key, ends.1, now)? {
            Some(_) => Err(Obstacle::Error(InsertError::ReverseTaken)),
            None => Ok(()),
        }
    }

    /// Returns the live entry with this tuple. An expired entry is an obstacle that can be removed.
    fn find_existing(&self, key: &FlowKey, end: End, now: Millis) -> Result<Option<Hit>, Obstacle> {
        let beginning_of_time = Millis(0);
        let wanted = KeyWords::of_any_origin(key);
        let check = |entry: Entry, now| self.hit_at(self.record(entry.record())?, entry, &wanted, now);
        let hit = self
            .index()
            .find(end.bucket, end.hash.tag(), |e| Some((e, check(e, beginning_of_time)?)));
        match hit {
            Some((entry, hit)) if check(entry, now).is_none() => Err(Obstacle::Expired(hit.slot)),
            hit => Ok(hit.map(|(_, hit)| hit)),
        }
    }
}
