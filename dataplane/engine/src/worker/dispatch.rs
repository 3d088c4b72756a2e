//! Dispatches packets by their verdicts: to a port's queue, to another worker's lane, or back to the pool. Each packet that ends
//! here is counted at the port where it came in.

use heddle_flow::Egress;
use heddle_port::{Packet, Port, PortId, WorkerPool};
use heddle_tables::{EndpointId, Exit, NodeId, NodePath, Snapshot, WorkerId};
use heddle_wire::ether;

use super::accounting::{Outcome, discard, record_drop};
use super::port_table::PortTable;
use crate::batch::ParsedPackets;
use crate::counters::WorkerCounters;
use crate::decide::Denial;
use crate::handover::{HandoverItem, Outbox, Refused};
use crate::ingress::Ingress;
use crate::reason::DropReason;
use crate::stage::fragment_out::{Fragments, split};
use crate::stage::segment_out::{Segments, segment};
use crate::stage::tunnel;
use crate::verdict::Verdict;

/// The state with which the packets of one burst are dispatched.
pub(super) struct Dispatcher<'a, P> {
    pub(super) pool: &'a mut WorkerPool,
    pub(super) counters: &'a WorkerCounters,
    pub(super) ports: &'a mut PortTable<P>,
    pub(super) outbox: &'a mut Outbox,
    pub(super) snapshot: &'a Snapshot,
    pub(super) me: WorkerId,
    pub(super) ingress: Ingress,
    /// The index of the port where the burst came in.
    pub(super) at: usize,
    /// The parsed headers of the burst's packets.
    pub(super) parsed: ParsedPackets<'a>,
}

impl<P: Port> Dispatcher<'_, P> {
    /// Dispatches the packet at an index of the burst.
    #[inline]
    pub(super) fn dispatch(&mut self, place: usize, packet: Packet, verdict: Verdict) {
        match verdict {
            Verdict::Forward(to) => self.forward(place, packet, to, false),
            Verdict::Fragment { to, mtu } => self.fragment(place, packet, to, mtu),
            Verdict::Segment { to, size } => self.segment(place, packet, to, size),
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

    /// Sends a packet in fragments. The first fragment counts as the packet.
    #[cold]
    fn fragment(&mut self, place: usize, packet: Packet, to: Egress, mtu: u16) {
        let mut fragments = Fragments::new();
        match split(self.pool, &packet, mtu, &mut fragments) {
            Ok(()) => self.pool.free_packet(packet),
            Err(reason) => return self.drop(place, packet, Denial::new(reason)),
        }
        self.forward_parts(place, fragments, to);
    }

    /// Sends a large segment: whole to a port that keeps the size of its segments, in segments by the uplink. The first segment counts as
    /// the packet.
    #[cold]
    fn segment(&mut self, place: usize, mut packet: Packet, to: Egress, size: u16) {
        if self.ingress.capabilities.tx_large_segments && !self.leaves_node(to, &packet) {
            packet.set_segment_size(size);
            return self.forward(place, packet, to, false);
        }
        let mut segments = Segments::new();
        match segment(self.pool, &packet, size, &mut segments) {
            Ok(()) => self.pool.free_packet(packet),
            Err(reason) => return self.drop(place, packet, Denial::new(reason)),
        }
        self.forward_parts(place, segments, to);
    }

    /// Returns true if a packet leaves by the uplink's ports. All other ports of a node are alike: what the ingress port can, the egress
    /// port can too.
    fn leaves_node(&self, to: Egress, packet: &Packet) -> bool {
        match to {
            Egress::Endpoint(_) => false,
            Egress::Node(_) | Egress::Uplink(_) => !matches!(self.exit(to, packet), Ok(Exit::Kernel)),
        }
    }

    /// Sends the parts of a packet that has been cut.
    fn forward_parts(&mut self, place: usize, parts: impl IntoIterator<Item = Packet>, to: Egress) {
        for (n, mut part) in parts.into_iter().enumerate() {
            match self.encapsulate(&mut part, to) {
                Ok(()) => self.forward(place, part, to, n > 0),
                Err(reason) => self.drop_accepted(place, part, n > 0, reason),
            }
        }
    }

    /// Puts the outer headers before a part of a packet that leaves by a tunnel.
    fn encapsulate(&self, fragment: &mut Packet, to: Egress) -> Result<(), DropReason> {
        let Egress::Node(node) = to else {
            return Ok(());
        };
        let path = self.node_path(node, fragment).ok_or(DropReason::NodeUnreachable)?;
        match &path.outer {
            Some(outer) => tunnel::encapsulate_whole(self.pool.store(), fragment, outer)
                .inspect(|()| self.counters.encapsulated.add(1)),
            None => Ok(()),
        }
    }

    /// Sends a packet by an egress. Its port is this worker's or another one's, or there is none, and then the packet is dropped.
    #[inline]
    fn forward(&mut self, place: usize, packet: Packet, egress: Egress, later_fragment: bool) {
        let to = match egress {
            Egress::Endpoint(to) => to,
            Egress::Node(_) | Egress::Uplink(_) => match self.exit(egress, &packet) {
                Ok(Exit::Uplink) => return self.leave_by_uplink(place, packet, later_fragment),
                Ok(Exit::Kernel) => EndpointId::HOST,
                Err(reason) => return self.drop_accepted(place, packet, later_fragment, reason),
            },
        };
        // Each worker has its own queue of the host port, so no packet to the host is handed over.
        if to == EndpointId::HOST
            && let Some(host) = self.ports.host()
        {
            return self.enqueue(place, host, packet, Outcome::of_forwarded(later_fragment));
        }
        let Some(exit) = self.snapshot.egress_port(to) else {
            return self.drop_accepted(place, packet, later_fragment, DropReason::PortClosed);
        };
        if exit.worker != self.me {
            return self.hand_over(place, packet, to, later_fragment, (exit.worker, exit.port));
        }
        match self.ports.find(exit.port) {
            Some(at) => self.enqueue(place, at, packet, Outcome::of_forwarded(later_fragment)),
            None => self.drop_accepted(place, packet, later_fragment, DropReason::PortClosed),
        }
    }

    /// Returns the way of a packet to another node. The family of an outer packet is the one of the inner packet, if the node has a
    /// way for each.
    fn node_path(&self, id: NodeId, packet: &Packet) -> Option<&NodePath> {
        let is_v4 = !ether::is_ipv6(packet.bytes(self.pool.store()));
        self.snapshot.node_path_for(id, is_v4)
    }

    /// Returns the interface that a packet to another node or a next hop leaves by.
    fn exit(&self, egress: Egress, packet: &Packet) -> Result<Exit, DropReason> {
        match egress {
            Egress::Node(id) => {
                let path = self.node_path(id, packet);
                path.map(|path| path.next_hop.exit).ok_or(DropReason::NodeUnreachable)
            }
            Egress::Uplink(id) => self
                .snapshot
                .next_hop(id)
                .map(|hop| hop.exit)
                .ok_or(DropReason::NoRoute),
            Egress::Endpoint(_) => Ok(Exit::Kernel),
        }
    }

    /// Sends a packet by the uplink: by this worker's queue, or by another worker's if it has none.
    fn leave_by_uplink(&mut self, place: usize, packet: Packet, later_fragment: bool) {
        if let Some(own) = self.ports.uplink() {
            return self.enqueue(place, own, packet, Outcome::of_forwarded(later_fragment));
        }
        let queues = &self.snapshot.node().uplink.ports;
        let queue = queues.get(self.me.index() % queues.len().max(1)).copied();
        match queue.filter(|queue| queue.worker != self.me) {
            Some(queue) => {
                let exit = (queue.worker, queue.port);
                self.hand_over(place, packet, EndpointId::UPLINK, later_fragment, exit);
            }
            None => self.drop_accepted(place, packet, later_fragment, DropReason::PortClosed),
        }
    }

    /// Pushes a packet into the lane to the worker that owns its egress port.
    fn hand_over(
        &mut self,
        place: usize,
        packet: Packet,
        to: EndpointId,
        later_fragment: bool,
        (worker, egress): (WorkerId, PortId),
    ) {
        let item = HandoverItem {
            packet,
            ingress: self.ingress.port,
            egress,
            to,
            later_fragment,
        };
        match self.outbox.push(worker, item) {
            Ok(()) => self.counters.handed_over.add(1),
            Err(Refused::Full(item)) => {
                self.drop_accepted(place, item.packet, later_fragment, DropReason::HandoverQueueFull);
            }
            Err(Refused::Closed(item)) => {
                self.drop_accepted(place, item.packet, later_fragment, DropReason::PortClosed);
            }
        }
    }

    /// Appends a packet to the queue of the port at the index `at`.
    #[inline]
    fn enqueue(&mut self, place: usize, at: usize, packet: Packet, outcome: Outcome) {
        match self.ports.port_mut(at) {
            Some(queued) => queued.enqueue(packet, self.ingress.port, outcome, self.pool, self.counters),
            None => self.drop_accepted(place, packet, outcome == Outcome::Fragment, DropReason::PortClosed),
        }
    }

    /// Drops a packet that was allowed, or a fragment of one.
    #[cold]
    fn drop_accepted(&mut self, place: usize, packet: Packet, later_fragment: bool, reason: DropReason) {
        if later_fragment {
            let ingress = self.ingress.port;
            discard(packet, ingress, true, Denial::new(reason), self.pool, self.counters);
        } else {
            self.drop(place, packet, Denial::new(reason));
        }
    }

    /// Drops the packet at an index of the burst.
    fn drop(&mut self, place: usize, packet: Packet, denial: Denial) {
        let ingress = self.ingress.port;
        if let Some(parsed) = self.parsed.get(place) {
            record_drop(&packet, Some(parsed), ingress, denial, self.counters);
            self.pool.free_packet(packet);
        } else {
            discard(packet, ingress, false, denial, self.pool, self.counters);
        }
    }
}
