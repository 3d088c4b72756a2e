//! The way of a packet out of its worker, as its verdict says: a port's queue, a lane to another worker, or the pool.

use heddle_port::{Packet, Port, PortNo, WorkerPool};
use heddle_tables::{EndpointNo, Snapshot, WorkerNo};

use super::port_table::{Outcome, PortTable};
use crate::context::Ingress;
use crate::counters::WorkerCounters;
use crate::handover::{Outbox, Parcel, Refused};
use crate::reason::DropReason;
use crate::stage::split::{Fragments, split};
use crate::verdict::Verdict;

/// As what a packet leaves that is forwarded; `further`: it is a fragment other than the first.
pub(super) const fn forwarded(further: bool) -> Outcome {
    if further { Outcome::Fragment } else { Outcome::Forwarded }
}

/// Drops a packet and counts that where it came in.
pub(super) fn discard(
    packet: Packet,
    ingress: PortNo,
    further: bool,
    reason: DropReason,
    pool: &mut WorkerPool,
    counters: &WorkerCounters,
) {
    pool.free_packet(packet);
    if let Some(c) = counters.port(ingress) {
        c.lose(further, reason);
    }
}

/// What it takes to bring the packets of one burst on their way.
pub(super) struct Way<'a, P> {
    pub(super) pool: &'a mut WorkerPool,
    pub(super) counters: &'a WorkerCounters,
    pub(super) ports: &'a mut PortTable<P>,
    pub(super) outbox: &'a mut Outbox,
    pub(super) snapshot: &'a Snapshot,
    pub(super) me: WorkerNo,
    pub(super) ingress: Ingress,
    /// The place of the port where the burst came in.
    pub(super) at: usize,
}

impl<P: Port> Way<'_, P> {
    #[inline]
    pub(super) fn take(&mut self, packet: Packet, verdict: Verdict) {
        match verdict {
            Verdict::Forward(to) => self.forward(packet, to, false),
            Verdict::Fragment { to, mtu } => self.fragment(packet, to, mtu),
            Verdict::Answer(kind) => self.enqueue(self.at, packet, Outcome::Answered(kind)),
            Verdict::Absorb(reason) => {
                self.pool.free_packet(packet);
                if let Some(c) = self.counters.port(self.ingress.port) {
                    c.absorb(reason);
                }
            }
            // The rule is for the ring of recent drops, which is filled here.
            Verdict::Drop(reason, _) => self.drop(packet, reason),
        }
    }

    /// Sends a packet in fragments, the first of which counts as the packet.
    #[cold]
    fn fragment(&mut self, packet: Packet, to: EndpointNo, mtu: u16) {
        let mut fragments = Fragments::new();
        match split(self.pool, &packet, mtu, &mut fragments) {
            Ok(()) => self.pool.free_packet(packet),
            Err(reason) => return self.drop(packet, reason),
        }
        for (n, fragment) in fragments.into_iter().enumerate() {
            self.forward(fragment, to, n > 0);
        }
    }

    #[inline]
    fn forward(&mut self, packet: Packet, to: EndpointNo, further: bool) {
        if to == EndpointNo::HOST
            && let Some(host) = self.ports.host()
        {
            return self.enqueue(host, packet, forwarded(further));
        }
        let Some(exit) = self.snapshot.exit(to) else {
            return self.lose(packet, further, DropReason::PortClosed);
        };
        if exit.worker != self.me {
            return self.hand_over(packet, to, further, exit.worker, exit.port);
        }
        match self.ports.find(exit.port) {
            Some(at) => self.enqueue(at, packet, forwarded(further)),
            None => self.lose(packet, further, DropReason::PortClosed),
        }
    }

    fn hand_over(&mut self, packet: Packet, to: EndpointNo, further: bool, worker: WorkerNo, egress: PortNo) {
        let parcel = Parcel {
            packet,
            ingress: self.ingress.port,
            egress,
            to,
            further,
        };
        match self.outbox.give(worker, parcel) {
            Ok(()) => self.counters.handed_over.add(1),
            Err(Refused::Full(parcel)) => self.lose(parcel.packet, further, DropReason::HandoverQueueFull),
            Err(Refused::Closed(parcel)) => self.lose(parcel.packet, further, DropReason::PortClosed),
        }
    }

    #[inline]
    fn enqueue(&mut self, at: usize, packet: Packet, outcome: Outcome) {
        match self.ports.slot_mut(at) {
            Some(slot) => slot.enqueue(packet, self.ingress.port, outcome, self.pool, self.counters),
            None => self.lose(packet, outcome == Outcome::Fragment, DropReason::PortClosed),
        }
    }

    #[inline]
    fn drop(&mut self, packet: Packet, reason: DropReason) {
        self.lose(packet, false, reason);
    }

    #[inline]
    fn lose(&mut self, packet: Packet, further: bool, reason: DropReason) {
        discard(packet, self.ingress.port, further, reason, self.pool, self.counters);
    }
}
