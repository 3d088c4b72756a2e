//! Packets that are kept back: fragments that wait for their first, those whose first has come, and those that are given up.

use heddle_port::Packet;

use super::list::NONE;
use crate::ingress::Ingress;
use crate::reason::DropReason;

/// A packet that is kept back.
#[derive(Debug)]
struct Kept {
    packet: Packet,
    ingress: Ingress,
    reason: DropReason,
}

/// Packets in the order in which they came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    first: u16,
    last: u16,
}

impl Chain {
    pub(super) const EMPTY: Self = Self {
        first: NONE,
        last: NONE,
    };

    pub(super) const fn is_empty(&self) -> bool {
        self.first == NONE
    }
}

/// All packets that are kept back, and the frames of those that wait, by share.
#[derive(Debug)]
pub(super) struct Held {
    places: Box<[(Option<Kept>, u16)]>,
    free: u16,
    ready: Chain,
    given_up: Chain,
    frames: u32,
    shares: Box<[u32; 256]>,
}

impl Held {
    /// With so many places.
    pub(super) fn new(places: u16) -> Self {
        let places: Box<[_]> = (1..=places)
            .map(|next| (None, if next == places { NONE } else { next }))
            .collect();
        Self {
            free: if places.is_empty() { NONE } else { 0 },
            places,
            ready: Chain::EMPTY,
            given_up: Chain::EMPTY,
            frames: 0,
            shares: Box::new([0; 256]),
        }
    }

    /// Frames that wait, all of them.
    pub(super) const fn frames(&self) -> u32 {
        self.frames
    }

    /// Those of a share.
    pub(super) fn frames_of(&self, share: u8) -> u32 {
        self.shares[usize::from(share)]
    }

    /// The share that has most.
    pub(super) fn greediest(&self) -> u8 {
        let most = (0_u8..=255).max_by_key(|share| self.frames_of(*share));
        most.unwrap_or(0)
    }

    /// Puts a packet at the end of a chain, where it waits. Gives it back if there is no place.
    pub(super) fn wait(
        &mut self,
        chain: &mut Chain,
        packet: Packet,
        ingress: Ingress,
        share: u8,
    ) -> Result<(), Packet> {
        let frames = u32::from(packet.frames());
        let place = self.keep(packet, ingress)?;
        self.append(
            chain,
            Chain {
                first: place,
                last: place,
            },
        );
        self.frames += frames;
        self.shares[usize::from(share)] += frames;
        Ok(())
    }

    /// Puts a packet to those whose first has come. Gives it back if there is no place.
    pub(super) fn make_ready(&mut self, packet: Packet, ingress: Ingress) -> Result<(), Packet> {
        let place = self.keep(packet, ingress)?;
        let mut ready = self.ready;
        self.append(
            &mut ready,
            Chain {
                first: place,
                last: place,
            },
        );
        self.ready = ready;
        Ok(())
    }

    fn keep(&mut self, packet: Packet, ingress: Ingress) -> Result<u16, Packet> {
        let place = self.free;
        let Some((kept, next)) = self.places.get_mut(usize::from(place)) else {
            return Err(packet);
        };
        self.free = std::mem::replace(next, NONE);
        *kept = Some(Kept {
            packet,
            ingress,
            // Until there is another one.
            reason: DropReason::FragmentNoRoom,
        });
        Ok(place)
    }

    fn append(&mut self, to: &mut Chain, chain: Chain) {
        if chain.is_empty() {
            return;
        }
        match self.places.get_mut(usize::from(to.last)) {
            Some((_, next)) => *next = chain.first,
            None => to.first = chain.first,
        }
        to.last = chain.last;
    }

    /// The first of a datagram has come: what waited for it is ready.
    pub(super) fn release(&mut self, chain: Chain, share: u8) {
        self.uncount(chain, share);
        let mut ready = self.ready;
        self.append(&mut ready, chain);
        self.ready = ready;
    }

    /// Gives up the packets that wait in a chain.
    pub(super) fn give_up(&mut self, chain: Chain, share: u8, reason: DropReason) {
        self.uncount(chain, share);
        let mut place = chain.first;
        while let Some((kept, next)) = self.places.get_mut(usize::from(place)) {
            if let Some(kept) = kept {
                kept.reason = reason;
            }
            place = *next;
        }
        let mut given_up = self.given_up;
        self.append(&mut given_up, chain);
        self.given_up = given_up;
    }

    fn uncount(&mut self, chain: Chain, share: u8) {
        let mut place = chain.first;
        while let Some((kept, next)) = self.places.get(usize::from(place)) {
            let frames = kept.as_ref().map_or(0, |kept| u32::from(kept.packet.frames()));
            self.frames -= frames;
            self.shares[usize::from(share)] -= frames;
            place = *next;
        }
    }

    fn take(&mut self, chain: &mut Chain) -> Option<Kept> {
        let place = chain.first;
        let (kept, next) = self.places.get_mut(usize::from(place))?;
        let kept = kept.take();
        chain.first = std::mem::replace(next, self.free);
        if chain.first == NONE {
            chain.last = NONE;
        }
        self.free = place;
        kept
    }

    /// Returns true if a packet is ready or given up.
    #[inline]
    pub(super) const fn has_finished(&self) -> bool {
        !self.ready.is_empty() || !self.given_up.is_empty()
    }

    /// Takes the next packet whose first has come, and the port where it came in.
    pub(super) fn take_ready(&mut self) -> Option<(Packet, Ingress)> {
        let mut ready = self.ready;
        let kept = self.take(&mut ready);
        self.ready = ready;
        kept.map(|kept| (kept.packet, kept.ingress))
    }

    /// Takes the next packet that is given up, the port where it came in, and the reason.
    pub(super) fn take_given_up(&mut self) -> Option<(Packet, Ingress, DropReason)> {
        let mut given_up = self.given_up;
        let kept = self.take(&mut given_up);
        self.given_up = given_up;
        kept.map(|kept| (kept.packet, kept.ingress, kept.reason))
    }
}
