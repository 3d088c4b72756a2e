//! The ports of a worker, found by number, each with a queue of the packets that will leave by it.

use arrayvec::ArrayVec;
use heddle_port::{BURST, Packet, PacketVec, Port, PortId, WorkerPool};

use super::accounting::{Outcome, discard};
use crate::counters::WorkerCounters;
use crate::decide::Denial;
use crate::ingress::{Ingress, PortRole};
use crate::reason::DropReason;

/// The data that is counted when a queued packet has left. The port takes the packet itself.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    ingress: PortId,
    outcome: Outcome,
    len: u32,
}

/// A port of this worker and its queue of at most one burst.
#[derive(Debug)]
pub(super) struct QueuedPort<P> {
    pub(super) port: P,
    pub(super) role: PortRole,
    /// True if a packet that arrives at the port ends the worker's sleep.
    pub(super) wakes: bool,
    number: PortId,
    packets: PacketVec,
    /// One element for each element of `packets`.
    leaving: ArrayVec<Leaving, BURST>,
}

impl<P: Port> QueuedPort<P> {
    fn new(port: P, role: PortRole, wakes: bool) -> Self {
        Self {
            number: port.id(),
            port,
            role,
            wakes,
            packets: PacketVec::new(),
            leaving: ArrayVec::new(),
        }
    }

    /// Returns the ingress of the packets that the port receives.
    pub(super) fn ingress(&self) -> Ingress {
        Ingress::new(self.number, self.role, self.port.capabilities())
    }

    /// Appends a packet to the queue. A full queue is sent first, so the packet always fits.
    #[inline]
    pub(super) fn enqueue(
        &mut self,
        packet: Packet,
        ingress: PortId,
        outcome: Outcome,
        pool: &mut WorkerPool,
        counters: &WorkerCounters,
    ) {
        if self.packets.is_full() {
            self.send(pool, counters);
        }
        self.leaving.push(Leaving {
            ingress,
            outcome,
            len: packet.len(),
        });
        self.packets.push(packet);
    }

    /// Sends the queue by the port. Packets that do not fit the port's ring even after a flush are dropped.
    pub(super) fn send(&mut self, pool: &mut WorkerPool, counters: &WorkerCounters) {
        if self.packets.is_empty() {
            return;
        }
        self.transmit(pool, counters);
        if self.packets.is_empty() {
            return;
        }
        self.port.flush(pool);
        self.transmit(pool, counters);
        for (packet, leaving) in self.packets.drain(..).zip(self.leaving.drain(..)) {
            let later_fragment = leaving.outcome == Outcome::Fragment;
            discard(
                packet,
                leaving.ingress,
                later_fragment,
                Denial::new(DropReason::TxRingFull),
                pool,
                counters,
            );
        }
    }

    /// Gives the port as many packets of the queue as its ring has room for, and counts those.
    fn transmit(&mut self, pool: &mut WorkerPool, counters: &WorkerCounters) {
        let before = self.packets.len();
        self.port.tx(pool, &mut self.packets);
        let taken = before - self.packets.len();
        let mut bytes = 0;
        // Most neighbors in the queue came in at one port, so a run of them is counted with one addition.
        let (mut at, mut run) = (None, 0);
        for Leaving { ingress, outcome, len } in self.leaving.drain(..taken) {
            bytes += u64::from(len);
            match outcome {
                Outcome::Forwarded if at == Some(ingress) => run += 1,
                Outcome::Forwarded => {
                    add_forwarded(counters, at.replace(ingress), run);
                    run = 1;
                }
                Outcome::Fragment => {
                    if let Some(c) = counters.port(ingress) {
                        c.fragments.add(1);
                    }
                }
                Outcome::Answered(kind) => {
                    if let Some(c) = counters.port(ingress) {
                        c.answer(kind);
                    }
                }
            }
        }
        add_forwarded(counters, at, run);
        if let Some(c) = counters.port(self.number) {
            c.tx_packets.add(taken as u64);
            c.tx_bytes.add(bytes);
        }
    }
}

/// Counts packets that came in at a port and were forwarded.
fn add_forwarded(counters: &WorkerCounters, port: Option<PortId>, packets: u64) {
    if let Some(c) = port.and_then(|p| counters.port(p)) {
        c.forwarded.add(packets);
    }
}

/// All ports of a worker.
#[derive(Debug)]
pub(super) struct PortTable<P> {
    ports: Vec<QueuedPort<P>>,
    /// The index in `ports`, by port number.
    by_number: Box<[Option<u16>]>,
    /// The index of this worker's queue of the host port.
    host: Option<usize>,
    /// The index of this worker's first queue of the uplink.
    uplink: Option<usize>,
}

impl<P: Port> PortTable<P> {
    /// Makes an empty table for port numbers below `numbers`.
    pub(super) fn new(numbers: usize) -> Self {
        Self {
            ports: Vec::with_capacity(numbers),
            by_number: vec![None; numbers].into(),
            host: None,
            uplink: None,
        }
    }

    /// Returns the limit of the port numbers.
    pub(super) fn numbers(&self) -> usize {
        self.by_number.len()
    }

    pub(super) fn len(&self) -> usize {
        self.ports.len()
    }

    pub(super) fn ports(&self) -> &[QueuedPort<P>] {
        &self.ports
    }

    pub(super) fn ports_mut(&mut self) -> &mut [QueuedPort<P>] {
        &mut self.ports
    }

    #[inline]
    pub(super) fn port_mut(&mut self, at: usize) -> Option<&mut QueuedPort<P>> {
        self.ports.get_mut(at)
    }

    /// Returns the index of a port.
    #[inline]
    pub(super) fn find(&self, number: PortId) -> Option<usize> {
        self.by_number
            .get(usize::from(number.0))
            .copied()
            .flatten()
            .map(usize::from)
    }

    /// Returns the index of this worker's queue of the host port.
    #[inline]
    pub(super) fn host(&self) -> Option<usize> {
        self.host
    }

    /// Returns the index of this worker's first queue of the uplink.
    #[inline]
    pub(super) fn uplink(&self) -> Option<usize> {
        self.uplink
    }

    /// Adds a port, whose number must be free and below the limit. `wakes` is true if the port can end the worker's sleep.
    pub(super) fn add(&mut self, port: P, role: PortRole, wakes: bool) {
        self.ports.push(QueuedPort::new(port, role, wakes));
        self.index();
    }

    /// Sends the queue of a port and removes the port.
    pub(super) fn remove(
        &mut self,
        number: PortId,
        pool: &mut WorkerPool,
        counters: &WorkerCounters,
    ) -> Option<(P, PortRole)> {
        let at = self.find(number)?;
        let mut removed = self.ports.swap_remove(at);
        self.index();
        removed.send(pool, counters);
        removed.port.flush(pool);
        Some((removed.port, removed.role))
    }

    /// Computes the indices again.
    fn index(&mut self) {
        self.by_number.fill(None);
        (self.host, self.uplink) = (None, None);
        for (at, port) in self.ports.iter().enumerate() {
            if let Some(entry) = self.by_number.get_mut(usize::from(port.number.0)) {
                *entry = Some(at as u16);
            }
            match port.role {
                PortRole::Host => self.host = Some(at),
                PortRole::Uplink => self.uplink = self.uplink.or(Some(at)),
                PortRole::Pod(_) => {}
            }
        }
    }
}
