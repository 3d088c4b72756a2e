//! The ports of a worker: found by number, each with the packets that wait to leave by it.

use arrayvec::ArrayVec;
use heddle_port::{BURST, Packet, PacketVec, Port, PortId, WorkerPool};

use super::dispatch::discard;
use crate::counters::WorkerCounters;
use crate::decide::Denial;
use crate::ingress::Ingress;
use crate::ingress::PortRole;
use crate::reason::{AnswerKind, DropReason};

/// The outcome of a packet that leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Forwarded,
    /// A fragment other than the first.
    Fragment,
    Answered(AnswerKind),
}

/// The record of a packet that waits to leave.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    ingress: PortId,
    outcome: Outcome,
    len: u32,
}

/// A port and its queue of one burst.
#[derive(Debug)]
pub(super) struct Slot<P> {
    pub(super) port: P,
    pub(super) role: PortRole,
    /// True if a packet that comes ends its worker's sleep.
    pub(super) wakes: bool,
    number: PortId,
    packets: PacketVec,
    leaving: ArrayVec<Leaving, BURST>,
}

impl<P: Port> Slot<P> {
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

    pub(super) fn ingress(&self) -> Ingress {
        Ingress {
            port: self.number,
            role: self.role,
            capabilities: self.port.capabilities(),
        }
    }

    /// Puts a packet into the queue; a full one is sent first, so this one always fits.
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

    /// Gives the queue to the port. What its ring has no room for, even after the ring was drained, is dropped.
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

    fn transmit(&mut self, pool: &mut WorkerPool, counters: &WorkerCounters) {
        let before = self.packets.len();
        self.port.tx(pool, &mut self.packets);
        let taken = before - self.packets.len();
        let mut bytes = 0;
        // Neighbours in the queue mostly came in at one port: count them together.
        let (mut at, mut run) = (None, 0);
        for Leaving { ingress, outcome, len } in self.leaving.drain(..taken) {
            bytes += u64::from(len);
            match outcome {
                Outcome::Forwarded if at == Some(ingress) => run += 1,
                Outcome::Forwarded => {
                    forwarded(counters, at.replace(ingress), run);
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
        forwarded(counters, at, run);
        if let Some(c) = counters.port(self.number) {
            c.tx_packets.add(taken as u64);
            c.tx_bytes.add(bytes);
        }
    }
}

fn forwarded(counters: &WorkerCounters, port: Option<PortId>, packets: u64) {
    if let Some(c) = port.and_then(|p| counters.port(p)) {
        c.forwarded.add(packets);
    }
}

/// All ports of a worker.
#[derive(Debug)]
pub(super) struct PortTable<P> {
    slots: Vec<Slot<P>>,
    by_number: Box<[Option<u16>]>,
    /// This worker's queue of the host port.
    host: Option<usize>,
}

impl<P: Port> PortTable<P> {
    /// For port numbers below `numbers`.
    pub(super) fn new(numbers: usize) -> Self {
        Self {
            slots: Vec::with_capacity(numbers),
            by_number: vec![None; numbers].into(),
            host: None,
        }
    }

    /// How many numbers there are room for.
    pub(super) fn numbers(&self) -> usize {
        self.by_number.len()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn slots(&self) -> &[Slot<P>] {
        &self.slots
    }

    pub(super) fn slots_mut(&mut self) -> &mut [Slot<P>] {
        &mut self.slots
    }

    #[inline]
    pub(super) fn slot_mut(&mut self, at: usize) -> Option<&mut Slot<P>> {
        self.slots.get_mut(at)
    }

    /// The place of a port.
    #[inline]
    pub(super) fn find(&self, number: PortId) -> Option<usize> {
        self.by_number
            .get(usize::from(number.0))
            .copied()
            .flatten()
            .map(usize::from)
    }

    /// The place of this worker's queue of the host port.
    #[inline]
    pub(super) fn host(&self) -> Option<usize> {
        self.host
    }

    /// Adds a port, whose number is free and has room. `wakes`: whether it can end its worker's sleep.
    pub(super) fn add(&mut self, port: P, role: PortRole, wakes: bool) {
        self.slots.push(Slot::new(port, role, wakes));
        self.index();
    }

    /// Takes a port out, its queue empty.
    pub(super) fn remove(
        &mut self,
        number: PortId,
        pool: &mut WorkerPool,
        counters: &WorkerCounters,
    ) -> Option<(P, PortRole)> {
        let at = self.find(number)?;
        let mut slot = self.slots.swap_remove(at);
        self.index();
        slot.send(pool, counters);
        slot.port.flush(pool);
        Some((slot.port, slot.role))
    }

    fn index(&mut self) {
        self.by_number.fill(None);
        self.host = None;
        for (at, slot) in self.slots.iter().enumerate() {
            if let Some(entry) = self.by_number.get_mut(usize::from(slot.number.0)) {
                *entry = Some(at as u16);
            }
            if slot.role == PortRole::Host {
                self.host = Some(at);
            }
        }
    }
}
