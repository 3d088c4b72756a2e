//! The way of a packet out of its worker, as its verdict says: a port's queue, a lane to another worker, or the pool.

use heddle_port::{Packet, Port, PortId, WorkerPool};
use heddle_tables::{EndpointId, Snapshot, WorkerId};
use heddle_wire::{Parsed, parse};

use super::port_table::{Outcome, PortTable};
use crate::batch::Seen;
use crate::context::Ingress;
use crate::counters::WorkerCounters;
use crate::decide::Denial;
use crate::drops::Dropped;
use crate::handover::{Outbox, Parcel, Refused};
use crate::reason::DropReason;
use crate::stage::split::{Fragments, split};
use crate::verdict::Verdict;

/// As what a packet leaves that is forwarded; `further`: it is a fragment other than the first.
pub(super) const fn forwarded(further: bool) -> Outcome {
    if further { Outcome::Fragment } else { Outcome::Forwarded }
}

/// Drops a packet of which nothing is known any more, and counts that where it came in; `further`: it is a fragment of one
/// that is counted by its first.
#[cold]
pub(super) fn discard(
    packet: Packet,
    ingress: PortId,
    further: bool,
    denial: Denial,
    pool: &mut WorkerPool,
    counters: &WorkerCounters,
) {
    if further {
        if let Some(c) = counters.port(ingress) {
            c.lose_fragment();
        }
    } else {
        let parsed = parse(packet.bytes(pool.store()), packet.len() as usize);
        note(&packet, parsed.ok().as_ref(), ingress, denial, counters);
    }
    pool.free_packet(packet);
}

/// Counts and remembers a drop.
#[inline]
fn note(packet: &Packet, parsed: Option<&Parsed>, ingress: PortId, denial: Denial, counters: &WorkerCounters) {
    counters.drop_packet(&Dropped {
        reason: denial.reason,
        rule: denial.rule,
        pod: denial.pod,
        ingress,
        len: packet.len(),
        packet: parsed.and_then(Dropped::of),
    });
}

/// What it takes to bring the packets of one burst on their way.
pub(super) struct Way<'a, P> {
    pub(super) pool: &'a mut WorkerPool,
    pub(super) counters: &'a WorkerCounters,
    pub(super) ports: &'a mut PortTable<P>,
    pub(super) outbox: &'a mut Outbox,
    pub(super) snapshot: &'a Snapshot,
    pub(super) me: WorkerId,
    pub(super) ingress: Ingress,
    /// The place of the port where the burst came in.
    pub(super) at: usize,
    /// What the parser said of the packets of the burst.
    pub(super) seen: Seen<'a>,
}

impl<P: Port> Way<'_, P> {
    #[inline]
    pub(super) fn take(&mut self, place: usize, packet: Packet, verdict: Verdict) {
        match verdict {
            Verdict::Forward(to) => self.forward(place, packet, to, false),
            Verdict::Fragment { to, mtu } => self.fragment(place, packet, to, mtu),
            Verdict::Answer(kind) => self.enqueue(place, self.at, packet, Outcome::Answered(kind)),
            Verdict::Absorb(reason) => {
                self.pool.free_packet(packet);
                if let Some(c) = self.counters.port(self.ingress.port) {
                    c.absorb(reason);
                }
            }
            Verdict::Drop(denial) => self.drop(place, packet, denial),
        }
    }

    /// Sends a packet in fragments, the first of which counts as the packet.
    #[cold]
    fn fragment(&mut self, place: usize, packet: Packet, to: EndpointId, mtu: u16) {
        let mut fragments = Fragments::new();
        match split(self.pool, &packet, mtu, &mut fragments) {
            Ok(()) => self.pool.free_packet(packet),
            Err(reason) => return self.drop(place, packet, Denial::new(reason)),
        }
        for (n, fragment) in fragments.into_iter().enumerate() {
            self.forward(place, fragment, to, n > 0);
        }
    }

    #[inline]
    fn forward(&mut self, place: usize, packet: Packet, to: EndpointId, further: bool) {
        if to == EndpointId::HOST
            && let Some(host) = self.ports.host()
        {
            return self.enqueue(place, host, packet, forwarded(further));
        }
        let Some(exit) = self.snapshot.exit(to) else {
            return self.lose(place, packet, further, DropReason::PortClosed);
        };
        if exit.worker != self.me {
            return self.hand_over(place, packet, to, further, (exit.worker, exit.port));
        }
        match self.ports.find(exit.port) {
            Some(at) => self.enqueue(place, at, packet, forwarded(further)),
            None => self.lose(place, packet, further, DropReason::PortClosed),
        }
    }

    fn hand_over(
        &mut self,
        place: usize,
        packet: Packet,
        to: EndpointId,
        further: bool,
        (worker, egress): (WorkerId, PortId),
    ) {
        let parcel = Parcel {
            packet,
            ingress: self.ingress.port,
            egress,
            to,
            further,
        };
        match self.outbox.give(worker, parcel) {
            Ok(()) => self.counters.handed_over.add(1),
            Err(Refused::Full(parcel)) => self.lose(place, parcel.packet, further, DropReason::HandoverQueueFull),
            Err(Refused::Closed(parcel)) => self.lose(place, parcel.packet, further, DropReason::PortClosed),
        }
    }

    #[inline]
    fn enqueue(&mut self, place: usize, at: usize, packet: Packet, outcome: Outcome) {
        match self.ports.slot_mut(at) {
            Some(slot) => slot.enqueue(packet, self.ingress.port, outcome, self.pool, self.counters),
            None => self.lose(place, packet, outcome == Outcome::Fragment, DropReason::PortClosed),
        }
    }

    /// Drops a packet that was allowed, or a fragment of one.
    #[cold]
    fn lose(&mut self, place: usize, packet: Packet, further: bool, reason: DropReason) {
        if further {
            let ingress = self.ingress.port;
            discard(packet, ingress, true, Denial::new(reason), self.pool, self.counters);
        } else {
            self.drop(place, packet, Denial::new(reason));
        }
    }

    /// Drops the packet at a place of the burst.
    fn drop(&mut self, place: usize, packet: Packet, denial: Denial) {
        let ingress = self.ingress.port;
        if let Some(parsed) = self.seen.parsed(place) {
            note(&packet, Some(parsed), ingress, denial, self.counters);
            self.pool.free_packet(packet);
        } else {
            discard(packet, ingress, false, denial, self.pool, self.counters);
        }
    }
}
