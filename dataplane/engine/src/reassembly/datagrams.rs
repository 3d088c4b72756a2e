//! The table of datagrams with at least one received fragment.
//!
//! An entry is found by its [`DatagramKey`] through a hash table with chained buckets. It is removed when its time is over,
//! when all fragments were received, when its port is closed, or when another datagram needs the room.
//!
//! Each port has a share of the table. An entry is in up to three lists, so that no step searches for it:
//!
//! - of two lists for the whole table, in the order in which their time ends: datagrams without their first fragment, and all
//!   others;
//! - the list of its share, in the order in which a fragment was received last;
//! - if it has held fragments, a second list of its share, in the order in which the first one was held.

use std::hash::{BuildHasher, RandomState};

use heddle_flow::{FlowKey, Millis};
use heddle_port::{BURST, Packet, PortId};

use super::datagram::{Datagram, Later, State, Ticket};
use super::held::{HeldPackets, HeldQueue};
use super::list::{Links, List, NONE};
use super::part::{DatagramKey, Part};
use super::ranking::Ranking;
use super::spans::Fits;
use super::{FragmentConfig, FragmentTotals};
use crate::ingress::Ingress;
use crate::reason::DropReason;

/// The table of one worker's datagrams.
#[derive(Debug)]
pub(crate) struct Datagrams {
    config: FragmentConfig,
    datagrams: Box<[Datagram]>,
    /// The links of `waiting` and `known`.
    links: Links,
    /// Datagrams without their first fragment, the one with the earliest end first.
    waiting: List,
    /// All other datagrams, the one with the earliest end first.
    known: List,
    buckets: Box<[u16]>,
    free: u16,
    /// Seeded at random, so that a sender cannot choose keys that share a bucket.
    hasher: RandomState,
    /// The number of datagrams of each share.
    shares: Ranking,
    /// The datagrams of each share, the one without a fragment for longest first.
    by_use: Box<[List]>,
    use_links: Links,
    /// The datagrams of each share with held fragments, the one that has held one for longest first.
    holding: Box<[List]>,
    holding_links: Links,
    held: HeldPackets,
    totals: FragmentTotals,
    /// True if the totals have not changed since they were read.
    reported: bool,
}

impl Datagrams {
    /// Makes an empty table for ports with numbers below `ports`. Only this function allocates.
    pub(crate) fn new(config: FragmentConfig, ports: u16) -> Self {
        let count = config.datagrams.min(NONE - 1);
        let datagrams = (1..=count).map(|next| Datagram::unused(if next == count { NONE } else { next }));
        Self {
            datagrams: datagrams.collect(),
            links: Links::new(count),
            waiting: List::EMPTY,
            known: List::EMPTY,
            buckets: vec![NONE; usize::from(count).next_power_of_two() * 2].into(),
            free: if count == 0 { NONE } else { 0 },
            hasher: RandomState::new(),
            shares: Ranking::new(ports, config.datagrams_of_share()),
            by_use: vec![List::EMPTY; usize::from(ports)].into(),
            use_links: Links::new(count),
            holding: vec![List::EMPTY; usize::from(ports)].into(),
            holding_links: Links::new(count),
            // A burst may add packets while those that were released or given up before are not taken yet.
            held: HeldPackets::new(
                config.held_frames.min(NONE - 1 - BURST as u16) + BURST as u16,
                ports,
                config.held_frames_of_share(),
            ),
            totals: FragmentTotals::default(),
            reported: true,
            config,
        }
    }

    /// Returns the totals if they have changed since the last call.
    #[inline]
    pub(crate) fn changed_totals(&mut self) -> Option<FragmentTotals> {
        if std::mem::replace(&mut self.reported, true) {
            return None;
        }
        self.totals.held_frames = u64::from(self.held.frames());
        Some(self.totals)
    }

    fn bucket(&self, key: &DatagramKey) -> usize {
        self.hasher.hash_one(key) as usize & (self.buckets.len() - 1)
    }

    fn find(&self, key: &DatagramKey) -> Option<u16> {
        let mut place = *self.buckets.get(self.bucket(key))?;
        while let Some(datagram) = self.datagrams.get(usize::from(place)) {
            if datagram.key == *key {
                return Some(place);
            }
            place = datagram.next;
        }
        None
    }

    fn by_ticket(&self, ticket: Ticket) -> Option<&Datagram> {
        let datagram = self.datagrams.get(usize::from(ticket.place))?;
        (datagram.used && datagram.serial == ticket.serial).then_some(datagram)
    }

    /// Returns the index of a datagram's entry, and makes one in the state `Waiting` if there is none. Makes room first, at the
    /// cost of the same share if that is at its limit, else of the share with the most datagrams. Returns `None` if the table has
    /// no entries.
    fn find_or_add(&mut self, key: &DatagramKey, ingress: Ingress, now: Millis) -> Option<u16> {
        if let Some(place) = self.find(key) {
            return Some(place);
        }
        let PortId(share) = ingress.port;
        if self.shares.used(share) >= self.config.datagrams_of_share() {
            self.displace(share);
        } else if self.free == NONE {
            self.displace(self.shares.largest().unwrap_or(share));
        }
        let place = self.free;
        let bucket = self.bucket(key);
        let (datagram, head, by_use) = (
            self.datagrams.get_mut(usize::from(place))?,
            self.buckets.get_mut(bucket)?,
            self.by_use.get_mut(usize::from(share))?,
        );
        self.free = datagram.next;
        datagram.key = *key;
        datagram.state = State::Waiting;
        datagram.spans.clear();
        datagram.share = share;
        datagram.due = now.plus(u64::from(self.config.wait_ms));
        datagram.seen = now;
        datagram.serial = datagram.serial.wrapping_add(1);
        datagram.used = true;
        datagram.next = std::mem::replace(head, place);
        self.waiting.push(&mut self.links, place);
        by_use.push(&mut self.use_links, place);
        self.shares.add(share, 1);
        self.totals.datagrams += 1;
        self.reported = false;
        Some(place)
    }

    /// Removes the datagram of a share that received no fragment for longest.
    fn displace(&mut self, share: u16) {
        if let Some(by_use) = self.by_use.get(usize::from(share)) {
            self.remove(by_use.first(), DropReason::FragmentNoRoom);
        }
    }

    /// Notes that a datagram has received a fragment.
    fn touch(&mut self, place: u16, now: Millis) {
        let Some(datagram) = self.datagrams.get_mut(usize::from(place)) else {
            return;
        };
        datagram.seen = now;
        if let Some(by_use) = self.by_use.get_mut(usize::from(datagram.share))
            && by_use.last() != place
        {
            by_use.remove(&mut self.use_links, place);
            by_use.push(&mut self.use_links, place);
        }
    }

    /// Takes the held fragments of a datagram.
    fn take_held(&mut self, place: u16) -> HeldQueue {
        let Some(datagram) = self.datagrams.get_mut(usize::from(place)) else {
            return HeldQueue::EMPTY;
        };
        let held = std::mem::replace(&mut datagram.held, HeldQueue::EMPTY);
        if !held.is_empty()
            && let Some(holding) = self.holding.get_mut(usize::from(datagram.share))
        {
            holding.remove(&mut self.holding_links, place);
        }
        held
    }

    /// Removes a datagram's entry. Its held fragments are given up with `reason`.
    fn remove(&mut self, place: u16, reason: DropReason) {
        let held = self.take_held(place);
        let Some(datagram) = self.datagrams.get_mut(usize::from(place)) else {
            return;
        };
        let (key, share, next) = (datagram.key, datagram.share, datagram.next);
        let list = if matches!(datagram.state, State::Waiting) {
            &mut self.waiting
        } else {
            &mut self.known
        };
        list.remove(&mut self.links, place);
        datagram.used = false;
        datagram.next = std::mem::replace(&mut self.free, place);
        self.held.give_up(held, share, reason);
        if let Some(by_use) = self.by_use.get_mut(usize::from(share)) {
            by_use.remove(&mut self.use_links, place);
        }
        self.shares.subtract(share, 1);
        self.totals.datagrams -= 1;
        self.reported = false;
        self.unlink(&key, place, next);
    }

    /// Unlinks an entry from its bucket. `next` is the entry that follows it there.
    fn unlink(&mut self, key: &DatagramKey, place: u16, next: u16) {
        let bucket = self.bucket(key);
        let Some(head) = self.buckets.get_mut(bucket) else {
            return;
        };
        if *head == place {
            *head = next;
            return;
        }
        let mut before = *head;
        while let Some(datagram) = self.datagrams.get_mut(usize::from(before)) {
            if datagram.next == place {
                datagram.next = next;
                return;
            }
            before = datagram.next;
        }
    }

    /// Sets a state other than `Waiting`: the entry moves to the end of `known`, and its time begins again.
    fn set_state(&mut self, place: u16, state: State, now: Millis) {
        let Some(datagram) = self.datagrams.get_mut(usize::from(place)) else {
            return;
        };
        let list = if matches!(datagram.state, State::Waiting) {
            &mut self.waiting
        } else {
            &mut self.known
        };
        list.remove(&mut self.links, place);
        datagram.state = state;
        datagram.due = now.plus(u64::from(self.config.remember_ms));
        self.known.push(&mut self.links, place);
    }

    /// Marks a datagram in which two fragments overlap, and gives its held fragments up. Returns the reason for the drop.
    fn mark_overlapped(&mut self, place: u16, now: Millis) -> DropReason {
        let reason = DropReason::FragmentOverlap;
        self.set_state(place, State::Overlapped, now);
        let held = self.take_held(place);
        if let Some(datagram) = self.datagrams.get_mut(usize::from(place)) {
            datagram.spans.clear();
            self.held.give_up(held, datagram.share, reason);
            self.reported = false;
        }
        reason
    }

    /// Registers a first fragment with the flow key `flow`, and releases the fragments that were held for it. The caller then
    /// records the verdict by [`Self::record_first`]. Returns `None` if the table has no entries.
    ///
    /// # Errors
    /// The fragment overlaps another one of its datagram and must be dropped.
    pub(crate) fn first(
        &mut self,
        key: &DatagramKey,
        flow: FlowKey,
        part: Part,
        ingress: Ingress,
        now: Millis,
    ) -> Result<Option<Ticket>, DropReason> {
        let Some(place) = self.find_or_add(key, ingress, now) else {
            return Ok(None);
        };
        let Some(datagram) = self.datagrams.get(usize::from(place)) else {
            return Ok(None);
        };
        // IPv4 has few identifications. After a silence, a first fragment begins another datagram with the same one.
        let reused = now.since(datagram.seen) >= u64::from(self.config.wait_ms);
        self.touch(place, now);
        let Some(datagram) = self.datagrams.get_mut(usize::from(place)) else {
            return Ok(None);
        };
        // A first fragment is either new in a waiting datagram, or an exact duplicate of the known one.
        let fits = datagram.spans.add(part.start, part.end, part.last);
        let same = match datagram.state {
            State::Waiting => fits == Fits::New,
            State::Passes(known) | State::Refused(known) => fits == Fits::Again && known == flow,
            State::Overlapped => return Err(DropReason::FragmentOverlap),
        };
        if !same && !reused {
            return Err(self.mark_overlapped(place, now));
        }
        let ticket = Ticket {
            place,
            serial: datagram.serial,
            part,
        };
        if matches!(datagram.state, State::Waiting) || reused {
            // The held fragments re-enter one by one and are added to the spans then.
            datagram.spans.clear();
            datagram.spans.add(part.start, part.end, part.last);
            let share = datagram.share;
            let held = self.take_held(place);
            self.held.release(held, share);
            self.set_state(place, State::Passes(flow), now);
        }
        self.totals.first += 1;
        self.reported = false;
        Ok(Some(ticket))
    }

    /// Records the verdict on a first fragment: `passes` is true if it is forwarded.
    pub(crate) fn record_first(&mut self, ticket: Ticket, flow: FlowKey, passes: bool) {
        if self.by_ticket(ticket).is_some()
            && let Some(datagram) = self.datagrams.get_mut(usize::from(ticket.place))
            && !matches!(datagram.state, State::Waiting | State::Overlapped)
        {
            datagram.state = if passes {
                State::Passes(flow)
            } else {
                State::Refused(flow)
            };
        }
    }

    /// Registers a later fragment and returns its next step. Makes the datagram's entry if this is its first received fragment.
    pub(crate) fn later(&mut self, key: &DatagramKey, part: Part, ingress: Ingress, now: Millis) -> Later {
        let no_room = Later::Drop(DropReason::FragmentNoRoom);
        let Some(place) = self.find_or_add(key, ingress, now) else {
            return no_room;
        };
        let entry = self.datagrams.get(usize::from(place));
        if entry.is_some_and(|datagram| matches!(datagram.state, State::Overlapped)) {
            return Later::Drop(DropReason::FragmentOverlap);
        }
        self.touch(place, now);
        let Some(datagram) = self.datagrams.get_mut(usize::from(place)) else {
            return no_room;
        };
        let again = match datagram.spans.add(part.start, part.end, part.last) {
            Fits::New => false,
            Fits::Again => true,
            Fits::Overlaps => return Later::Drop(self.mark_overlapped(place, now)),
            Fits::TooMany => return Later::Drop(DropReason::FragmentTooMany),
        };
        let step = match datagram.state {
            State::Waiting if again => return Later::Drop(DropReason::FragmentDuplicate),
            State::Waiting => {
                return Later::Wait(Ticket {
                    place,
                    serial: datagram.serial,
                    part,
                });
            }
            State::Passes(flow) => {
                self.totals.followed += 1;
                self.reported = false;
                Later::Follow(flow)
            }
            State::Refused(_) | State::Overlapped => Later::Drop(DropReason::FragmentFirstRefused),
        };
        if datagram.spans.are_all() {
            // Only a waiting datagram has held fragments, so the reason is not used.
            self.remove(place, DropReason::FragmentNoRoom);
        }
        step
    }

    /// Holds a later fragment until its first one arrives. If that has arrived since [`Self::later`], as with a first fragment
    /// later in the same burst, the packet is ready at once.
    ///
    /// # Errors
    /// The packet, and the reason for which it must be dropped.
    pub(crate) fn hold(
        &mut self,
        packet: Packet,
        ingress: Ingress,
        ticket: Ticket,
    ) -> Result<(), (Packet, DropReason)> {
        let no_room = DropReason::FragmentNoRoom;
        let Some(datagram) = self.by_ticket(ticket) else {
            return Err((packet, no_room));
        };
        match datagram.state {
            State::Waiting => {}
            State::Overlapped => return Err((packet, DropReason::FragmentOverlap)),
            State::Passes(_) | State::Refused(_) => {
                return self
                    .held
                    .make_ready(packet, ingress)
                    .map_err(|packet| (packet, no_room));
            }
        }
        let share = datagram.share;
        let has_room = self.make_room(u32::from(packet.frames()), share, ticket.place);
        let Some(datagram) = self.datagrams.get_mut(usize::from(ticket.place)) else {
            return Err((packet, no_room));
        };
        let held_before = !datagram.held.is_empty();
        let held = if has_room {
            self.held.wait(&mut datagram.held, packet, ingress, share)
        } else {
            Err(packet)
        };
        if let Err(packet) = held {
            // No copy is held, so a retransmission must be no duplicate.
            let Part { start, end, last } = ticket.part;
            datagram.spans.remove(start, end, last);
            return Err((packet, no_room));
        }
        if !held_before && let Some(holding) = self.holding.get_mut(usize::from(share)) {
            holding.push(&mut self.holding_links, ticket.place);
        }
        self.totals.waited += 1;
        self.reported = false;
        Ok(())
    }

    /// Makes room for `frames` held frames of a share by removing waiting datagrams other than the one at `place`: of the same
    /// share if that is at its limit, else of the share with the most held frames. Returns false if that is not possible. Each
    /// removal frees a frame at least, so there are no more than the packet has frames.
    fn make_room(&mut self, frames: u32, share: u16, place: u16) -> bool {
        let most = u32::from(self.config.held_frames);
        let most_of_share = u32::from(self.config.held_frames_of_share());
        loop {
            let from = if self.held.frames_of(share) + frames > most_of_share {
                share
            } else if self.held.frames() + frames > most {
                self.held.largest_share().unwrap_or(share)
            } else {
                return true;
            };
            let oldest = self.holding.get(usize::from(from)).map_or(NONE, List::first);
            let victim = if oldest == place {
                self.holding_links.next(oldest)
            } else {
                oldest
            };
            if victim == NONE {
                return false;
            }
            self.remove(victim, DropReason::FragmentNoRoom);
        }
    }

    /// Removes the datagrams whose time is over. Called once a turn.
    pub(crate) fn expire(&mut self, now: Millis) {
        for (waiting, reason) in [
            (true, DropReason::FragmentFirstMissing),
            (false, DropReason::FragmentNoRoom),
        ] {
            loop {
                let place = if waiting {
                    self.waiting.first()
                } else {
                    self.known.first()
                };
                match self.datagrams.get(usize::from(place)) {
                    Some(datagram) if datagram.due <= now => self.remove(place, reason),
                    _ => break,
                }
            }
        }
    }

    /// Removes the datagrams that came in by a port, because it is about to be closed.
    pub(crate) fn close(&mut self, port: PortId) {
        while let Some(place) = self.by_use.get(usize::from(port.0)).map(List::first)
            && place != NONE
        {
            self.remove(place, DropReason::PortClosed);
        }
    }

    /// Returns true if a held packet is ready or given up.
    #[inline]
    pub(crate) const fn has_finished(&self) -> bool {
        self.held.has_finished()
    }

    /// Takes the next packet that was given up, with its ingress and the drop reason.
    pub(crate) fn take_given_up(&mut self) -> Option<(Packet, Ingress, DropReason)> {
        self.held.take_given_up()
    }

    /// Takes the next packet whose first fragment has arrived, with its ingress.
    pub(crate) fn take_ready(&mut self) -> Option<(Packet, Ingress)> {
        self.held.take_ready()
    }
}

#[cfg(test)]
mod check;
