//! Held packets: fragments that wait for their first one, fragments whose first one has arrived (ready), and fragments that
//! are given up. All of them are in one array, linked into queues.

use heddle_port::Packet;

use super::list::NONE;
use super::ranking::Ranking;
use crate::ingress::Ingress;
use crate::reason::DropReason;

/// A held packet.
#[derive(Debug)]
struct HeldPacket {
    packet: Packet,
    ingress: Ingress,
    /// The drop reason, once the packet is given up.
    reason: DropReason,
}

/// A queue of held packets, in the order of their arrival.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldQueue {
    first: u16,
    last: u16,
}

impl HeldQueue {
    pub(super) const EMPTY: Self = Self {
        first: NONE,
        last: NONE,
    };

    pub(super) const fn is_empty(&self) -> bool {
        self.first == NONE
    }
}

/// All held packets of a worker.
#[derive(Debug)]
pub(super) struct HeldPackets {
    /// Each place has a packet or is free, and the index of the next place in its queue or in the list of free places.
    places: Box<[(Option<HeldPacket>, u16)]>,
    free: u16,
    ready: HeldQueue,
    given_up: HeldQueue,
    /// Frames of the waiting packets.
    frames: u32,
    /// The same by share.
    shares: Ranking,
}

impl HeldPackets {
    /// Allocates room for `places` packets of `shares` shares. Each share may have `frames_of_share` frames waiting.
    pub(super) fn new(places: u16, shares: u16, frames_of_share: u16) -> Self {
        let places: Box<[_]> = (1..=places)
            .map(|next| (None, if next == places { NONE } else { next }))
            .collect();
        Self {
            free: if places.is_empty() { NONE } else { 0 },
            places,
            ready: HeldQueue::EMPTY,
            given_up: HeldQueue::EMPTY,
            frames: 0,
            shares: Ranking::new(shares, frames_of_share),
        }
    }

    /// Returns the frames of all waiting packets.
    pub(super) const fn frames(&self) -> u32 {
        self.frames
    }

    /// Returns the frames of a share's waiting packets.
    pub(super) fn frames_of(&self, share: u16) -> u32 {
        self.shares.used(share).into()
    }

    /// Returns the share with the most frames.
    pub(super) fn largest_share(&self) -> Option<u16> {
        self.shares.largest()
    }

    /// Appends a packet to a datagram's queue. Returns the packet as an error if there is no place.
    pub(super) fn wait(
        &mut self,
        queue: &mut HeldQueue,
        packet: Packet,
        ingress: Ingress,
        share: u16,
    ) -> Result<(), Packet> {
        let frames = u16::from(packet.frames());
        let place = self.insert(packet, ingress)?;
        self.append(
            queue,
            HeldQueue {
                first: place,
                last: place,
            },
        );
        self.frames += u32::from(frames);
        self.shares.add(share, frames);
        Ok(())
    }

    /// Appends a packet to the ready ones. Returns the packet as an error if there is no place.
    pub(super) fn make_ready(&mut self, packet: Packet, ingress: Ingress) -> Result<(), Packet> {
        let place = self.insert(packet, ingress)?;
        let mut ready = self.ready;
        self.append(
            &mut ready,
            HeldQueue {
                first: place,
                last: place,
            },
        );
        self.ready = ready;
        Ok(())
    }

    /// Stores a packet in a free place and returns its index, in no queue yet.
    fn insert(&mut self, packet: Packet, ingress: Ingress) -> Result<u16, Packet> {
        let place = self.free;
        let Some((kept, next)) = self.places.get_mut(usize::from(place)) else {
            return Err(packet);
        };
        self.free = std::mem::replace(next, NONE);
        *kept = Some(HeldPacket {
            packet,
            ingress,
            // `give_up` sets the real one.
            reason: DropReason::FragmentNoRoom,
        });
        Ok(place)
    }

    /// Appends one queue to another.
    fn append(&mut self, to: &mut HeldQueue, queue: HeldQueue) {
        if queue.is_empty() {
            return;
        }
        match self.places.get_mut(usize::from(to.last)) {
            Some((_, next)) => *next = queue.first,
            None => to.first = queue.first,
        }
        to.last = queue.last;
    }

    /// Makes the waiting packets of a queue ready, because the first fragment of their datagram has arrived.
    pub(super) fn release(&mut self, queue: HeldQueue, share: u16) {
        self.uncount(queue, share);
        let mut ready = self.ready;
        self.append(&mut ready, queue);
        self.ready = ready;
    }

    /// Gives up the waiting packets of a queue: they will be dropped for `reason`.
    pub(super) fn give_up(&mut self, queue: HeldQueue, share: u16, reason: DropReason) {
        self.uncount(queue, share);
        let mut place = queue.first;
        while let Some((kept, next)) = self.places.get_mut(usize::from(place)) {
            if let Some(kept) = kept {
                kept.reason = reason;
            }
            place = *next;
        }
        let mut given_up = self.given_up;
        self.append(&mut given_up, queue);
        self.given_up = given_up;
    }

    /// Subtracts a queue's packets from the waiting frames.
    fn uncount(&mut self, queue: HeldQueue, share: u16) {
        let (mut place, mut sum) = (queue.first, 0);
        while let Some((kept, next)) = self.places.get(usize::from(place)) {
            sum += kept.as_ref().map_or(0, |kept| u16::from(kept.packet.frames()));
            place = *next;
        }
        if sum > 0 {
            self.frames -= u32::from(sum);
            self.shares.subtract(share, sum);
        }
    }

    /// Removes the first packet of a queue and frees its place.
    fn pop(&mut self, queue: &mut HeldQueue) -> Option<HeldPacket> {
        let place = queue.first;
        let (kept, next) = self.places.get_mut(usize::from(place))?;
        let kept = kept.take();
        queue.first = std::mem::replace(next, self.free);
        if queue.first == NONE {
            queue.last = NONE;
        }
        self.free = place;
        kept
    }

    /// Returns true if a packet is ready or given up.
    #[inline]
    pub(super) const fn has_finished(&self) -> bool {
        !self.ready.is_empty() || !self.given_up.is_empty()
    }

    /// Takes the next ready packet, with its ingress.
    pub(super) fn take_ready(&mut self) -> Option<(Packet, Ingress)> {
        let mut ready = self.ready;
        let kept = self.pop(&mut ready);
        self.ready = ready;
        kept.map(|kept| (kept.packet, kept.ingress))
    }

    /// Takes the next packet that was given up, with its ingress and the drop reason.
    pub(super) fn take_given_up(&mut self) -> Option<(Packet, Ingress, DropReason)> {
        let mut given_up = self.given_up;
        let kept = self.pop(&mut given_up);
        self.given_up = given_up;
        kept.map(|kept| (kept.packet, kept.ingress, kept.reason))
    }
}
