//! The datagrams of which a fragment has come: found by what names them, forgotten by time or for want of room.

use std::hash::{BuildHasher, RandomState};

use heddle_flow::{FlowKey, Millis};
use heddle_port::{BURST, Packet, PortId};

use super::held::{Chain, Held};
use super::list::{Links, List, NONE};
use super::part::{DatagramKey, Part};
use super::spans::{Fits, Spans};
use super::{FragmentConfig, FragmentTotals};
use crate::ingress::Ingress;
use crate::reason::DropReason;

/// The name of a datagram for as long as it is remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ticket {
    place: u16,
    serial: u32,
}

/// The next step for a later fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Later {
    /// To follow the flow of its first.
    Follow(FlowKey),
    /// To wait for its first: [`Datagrams::hold`].
    Wait(Ticket),
    /// To be dropped.
    Drop(DropReason),
}

/// How far a datagram has come.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Its first fragment has not come.
    Waiting,
    /// It has, with this key, and goes its way.
    Passes(FlowKey),
    /// It has, with this key, and was not forwarded.
    Refused(FlowKey),
    /// Two of its fragments overlap.
    Overlapped,
}

#[derive(Debug)]
struct Datagram {
    key: DatagramKey,
    state: State,
    spans: Spans,
    held: Chain,
    port: PortId,
    share: u8,
    /// When it is forgotten.
    due: Millis,
    /// When a fragment of it was last seen.
    seen: Millis,
    serial: u32,
    /// The next one in its bucket, or in the list of free places.
    next: u16,
    used: bool,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Datagrams {
    config: FragmentConfig,
    datagrams: Box<[Datagram]>,
    links: Links,
    /// Those without their first fragment, and all others; each in the order in which they run out of time.
    waiting: List,
    known: List,
    buckets: Box<[u16]>,
    free: u16,
    hasher: RandomState,
    shares: Box<[u16; 256]>,
    held: Held,
    totals: FragmentTotals,
    /// Totals were asked for since the last change.
    reported: bool,
}

/// An endpoint may have this part of everything.
const SHARE: u16 = 4;

/// The share that an endpoint has in the table: those whose numbers differ by 256 have one together.
const fn share_of(ingress: Ingress) -> u8 {
    ingress.role.endpoint().0 as u8
}

impl Datagrams {
    /// An empty table; the only place where it allocates.
    pub(crate) fn new(config: FragmentConfig) -> Self {
        let count = config.datagrams.min(NONE - 1);
        let datagrams = (1..=count).map(|next| Datagram {
            key: DatagramKey::NOBODY,
            state: State::Waiting,
            spans: Spans::new(),
            held: Chain::EMPTY,
            port: PortId(0),
            share: 0,
            due: Millis(0),
            seen: Millis(0),
            serial: 0,
            next: if next == count { NONE } else { next },
            used: false,
        });
        Self {
            datagrams: datagrams.collect(),
            links: Links::new(count),
            waiting: List::EMPTY,
            known: List::EMPTY,
            buckets: vec![NONE; usize::from(count).next_power_of_two() * 2].into(),
            free: if count == 0 { NONE } else { 0 },
            hasher: RandomState::new(),
            shares: Box::new([0; 256]),
            // A burst may add to what there is before any of that has been given back.
            held: Held::new(config.held_frames.min(NONE - 1 - BURST as u16) + BURST as u16),
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

    /// The place of a datagram, a new one if need be, which waits for its first. `None` if there is no room at all.
    fn find_or_add(&mut self, key: &DatagramKey, ingress: Ingress, now: Millis) -> Option<u16> {
        if let Some(place) = self.find(key) {
            return Some(place);
        }
        let share = share_of(ingress);
        let most = (self.config.datagrams / SHARE).max(1);
        if self.shares[usize::from(share)] >= most {
            self.displace(share);
        } else if self.free == NONE {
            let greediest = (0_u8..=255).max_by_key(|s| self.shares[usize::from(*s)]);
            self.displace(greediest.unwrap_or(share));
        }
        let place = self.free;
        let bucket = self.bucket(key);
        let (datagram, head) = (
            self.datagrams.get_mut(usize::from(place))?,
            self.buckets.get_mut(bucket)?,
        );
        self.free = datagram.next;
        datagram.key = *key;
        datagram.state = State::Waiting;
        datagram.spans.clear();
        datagram.port = ingress.port;
        datagram.share = share;
        datagram.due = now.plus(u64::from(self.config.wait_ms));
        datagram.seen = now;
        datagram.serial = datagram.serial.wrapping_add(1);
        datagram.used = true;
        datagram.next = std::mem::replace(head, place);
        self.waiting.push(&mut self.links, place);
        self.shares[usize::from(share)] += 1;
        self.totals.datagrams += 1;
        self.reported = false;
        Some(place)
    }

    /// Forgets the oldest datagram of a share: of those with and those without their first fragment the one of which nothing
    /// has come for longer.
    fn displace(&mut self, share: u8) {
        let datagrams = &self.datagrams;
        let of_share = |place: u16| datagrams.get(usize::from(place)).is_some_and(|d| d.share == share);
        let oldest = [&self.waiting, &self.known]
            .into_iter()
            .filter_map(|list| list.find(&self.links, of_share))
            .min_by_key(|place| datagrams.get(usize::from(*place)).map(|d| d.seen));
        if let Some(place) = oldest {
            self.remove(place, DropReason::FragmentNoRoom);
        }
    }

    /// Forgets a datagram; what waits for its first is given up.
    fn remove(&mut self, place: u16, reason: DropReason) {
        let Some(datagram) = self.datagrams.get_mut(usize::from(place)) else {
            return;
        };
        let held = std::mem::replace(&mut datagram.held, Chain::EMPTY);
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
        self.shares[usize::from(share)] -= 1;
        self.totals.datagrams -= 1;
        self.reported = false;
        self.unlink(&key, place, next);
    }

    /// Takes a place, which `next` follows, out of its bucket.
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

    /// A datagram is settled one way or the other: its time begins again, among the known ones.
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

    /// Two fragments overlap: none of the datagram passes any more.
    fn mark_overlapped(&mut self, place: u16, now: Millis) -> DropReason {
        let reason = DropReason::FragmentOverlap;
        self.set_state(place, State::Overlapped, now);
        if let Some(datagram) = self.datagrams.get_mut(usize::from(place)) {
            datagram.spans.clear();
            let held = std::mem::replace(&mut datagram.held, Chain::EMPTY);
            self.held.give_up(held, datagram.share, reason);
            self.reported = false;
        }
        reason
    }

    /// A first fragment has come, which belongs to the flow of `flow`: what becomes of it is to be told by [`Self::record_first`].
    /// What waited for it is ready.
    ///
    /// # Errors
    /// It is to be dropped: it overlaps another one of its datagram.
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
        let Some(datagram) = self.datagrams.get_mut(usize::from(place)) else {
            return Ok(None);
        };
        // After a while without a fragment the identification is another datagram's.
        let reused = now.since(datagram.seen) >= u64::from(self.config.wait_ms);
        datagram.seen = now;
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
        };
        if matches!(datagram.state, State::Waiting) || reused {
            // Fragments that waited re-enter one by one and are recorded then.
            datagram.spans.clear();
            datagram.spans.add(part.start, part.end, part.last);
            let held = std::mem::replace(&mut datagram.held, Chain::EMPTY);
            self.held.release(held, datagram.share);
            self.set_state(place, State::Passes(flow), now);
        }
        self.totals.first += 1;
        self.reported = false;
        Ok(Some(ticket))
    }

    /// Says whether the first fragment of a datagram was forwarded.
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

    /// The next step for a later fragment.
    pub(crate) fn later(&mut self, key: &DatagramKey, part: Part, ingress: Ingress, now: Millis) -> Later {
        let place = self.find_or_add(key, ingress, now);
        let Some((place, datagram)) = place.and_then(|p| Some((p, self.datagrams.get_mut(usize::from(p))?))) else {
            return Later::Drop(DropReason::FragmentNoRoom);
        };
        if matches!(datagram.state, State::Overlapped) {
            return Later::Drop(DropReason::FragmentOverlap);
        }
        datagram.seen = now;
        let again = match datagram.spans.add(part.start, part.end, part.last) {
            Fits::New => false,
            Fits::Again => true,
            Fits::Overlaps => return Later::Drop(self.mark_overlapped(place, now)),
            Fits::TooMany => return Later::Drop(DropReason::FragmentTooMany),
        };
        let does = match datagram.state {
            State::Waiting if again => return Later::Drop(DropReason::FragmentDuplicate),
            State::Waiting => {
                return Later::Wait(Ticket {
                    place,
                    serial: datagram.serial,
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
            self.remove(place, DropReason::FragmentNoRoom);
        }
        does
    }

    /// Keeps a later fragment until its first comes; if that has come since, it is ready.
    ///
    /// # Errors
    /// The packet, and why it is to be dropped.
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
        if !self.make_room(u32::from(packet.frames()), share, ticket.place) {
            return Err((packet, no_room));
        }
        let Some(datagram) = self.datagrams.get_mut(usize::from(ticket.place)) else {
            return Err((packet, no_room));
        };
        self.held
            .wait(&mut datagram.held, packet, ingress, share)
            .map_err(|packet| (packet, no_room))?;
        self.totals.waited += 1;
        self.reported = false;
        Ok(())
    }

    /// Makes room for so many frames of a share, whose datagram at `place` stays.
    fn make_room(&mut self, frames: u32, share: u8, place: u16) -> bool {
        let most = u32::from(self.config.held_frames);
        let most_of_share = most / u32::from(SHARE);
        loop {
            let from = if self.held.frames_of(share) + frames > most_of_share {
                share
            } else if self.held.frames() + frames > most {
                self.held.greediest()
            } else {
                return true;
            };
            let datagrams = &self.datagrams;
            let victim = self.waiting.find(&self.links, |other| {
                let holds = |d: &Datagram| d.share == from && !d.held.is_empty();
                other != place && datagrams.get(usize::from(other)).is_some_and(holds)
            });
            let Some(victim) = victim else { return false };
            self.remove(victim, DropReason::FragmentNoRoom);
        }
    }

    /// Forgets what has run out of time.
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

    /// Forgets what came in by a port, which is closed.
    pub(crate) fn close(&mut self, port: PortId) {
        for place in 0..self.datagrams.len() as u16 {
            let here = |d: &Datagram| d.used && d.port == port;
            if self.datagrams.get(usize::from(place)).is_some_and(here) {
                self.remove(place, DropReason::PortClosed);
            }
        }
    }

    /// Returns true if a held packet is ready or given up.
    #[inline]
    pub(crate) const fn has_finished(&self) -> bool {
        self.held.has_finished()
    }

    /// Takes the next packet that is given up, the port where it came in, and the reason.
    pub(crate) fn take_given_up(&mut self) -> Option<(Packet, Ingress, DropReason)> {
        self.held.take_given_up()
    }

    /// Takes the next packet whose first fragment has come, and the port where it came in.
    pub(crate) fn take_ready(&mut self) -> Option<(Packet, Ingress)> {
        self.held.take_ready()
    }
}

#[cfg(test)]
mod check;
