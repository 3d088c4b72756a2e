//! A port in memory and the wire at its other end: the engine runs on it in tests, benches and replays.
//!
//! It behaves as a real port does: packets longer than a frame come as chains, what is taken by `tx` leaves at `flush`,
//! and a full TX ring takes nothing.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::frame::Holder;
use crate::packet::Packet;
use crate::port::{PacketVec, Port, PortNo, PortStats};
use crate::store::FrameStore;
use crate::worker::WorkerPool;

#[derive(Debug, Default)]
struct Wire {
    /// Towards the port: each packet as the parts that its frames will hold.
    incoming: VecDeque<Vec<Vec<u8>>>,
    /// From the port.
    outgoing: VecDeque<Vec<u8>>,
    /// Frames that the TX ring has room for.
    tx_room: usize,
}

/// A port in memory. Dropping it closes it: what its TX ring still holds is lost and counts as outstanding, so that a test
/// notices; [`MemPort::close`] gives it back.
#[derive(Debug)]
pub struct MemPort {
    number: PortNo,
    store: Arc<FrameStore>,
    wire: Arc<Mutex<Wire>>,
    /// Packets taken and not flushed.
    ring: VecDeque<Packet>,
    stats: PortStats,
}

/// The other end of a [`MemPort`].
#[derive(Clone, Debug)]
pub struct MemWire(Arc<Mutex<Wire>>);

fn lock(wire: &Mutex<Wire>) -> MutexGuard<'_, Wire> {
    wire.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemPort {
    /// A port over the frames of `store`, and the wire at its other end.
    ///
    /// # Panics
    /// If a port of that number is open on the store.
    #[must_use]
    pub fn new(number: PortNo, store: &Arc<FrameStore>) -> (Self, MemWire) {
        assert!(store.port_opened(number), "port {number} is open already");
        let wire = Arc::new(Mutex::new(Wire {
            tx_room: usize::MAX,
            ..Wire::default()
        }));
        let port = Self {
            number,
            store: Arc::clone(store),
            wire: Arc::clone(&wire),
            ring: VecDeque::new(),
            stats: PortStats::default(),
        };
        (port, MemWire(wire))
    }

    /// Closes the port; what was taken and not flushed is freed without being sent.
    pub fn close(mut self, pool: &mut WorkerPool) {
        while let Some(packet) = self.ring.pop_front() {
            pool.free_packet(packet);
        }
    }

    fn mark(&self, packet: &Packet, holder: Holder) {
        let mut index = packet.head().index();
        while index != crate::store::NIL {
            self.store.set_holder_of(index, holder);
            index = self.store.next_of(index);
        }
    }

    fn receive(&self, pool: &mut WorkerPool, parts: &[Vec<u8>]) -> Option<Packet> {
        let mut packet: Option<Packet> = None;
        for part in parts {
            let frame = pool.alloc();
            let appended = frame.and_then(|mut frame| {
                self.store.fill(&mut frame, part);
                match &mut packet {
                    None => packet = Some(Packet::new(&self.store, frame)),
                    Some(packet) => {
                        if let Err(frame) = packet.append(&self.store, frame) {
                            pool.free(frame);
                            return None;
                        }
                    }
                }
                Some(())
            });
            if appended.is_none() {
                if let Some(packet) = packet {
                    pool.free_packet(packet);
                }
                return None;
            }
        }
        packet
    }
}

impl Port for MemPort {
    fn number(&self) -> PortNo {
        self.number
    }

    fn rx(&mut self, pool: &mut WorkerPool, out: &mut PacketVec) -> usize {
        let before = out.len();
        let wire = Arc::clone(&self.wire);
        let mut wire = lock(&wire);
        while !out.is_full() {
            let Some(parts) = wire.incoming.front() else { break };
            if parts.len() > usize::from(Packet::MAX_FRAMES) {
                wire.incoming.pop_front();
                self.stats.rx_errors += 1;
                continue;
            }
            let Some(packet) = self.receive(pool, parts) else { break };
            wire.incoming.pop_front();
            self.stats.rx_packets += 1;
            self.stats.rx_bytes += u64::from(packet.len());
            out.push(packet);
        }
        out.len() - before
    }

    fn tx(&mut self, _pool: &mut WorkerPool, packets: &mut PacketVec) {
        let mut room = lock(&self.wire).tx_room.saturating_sub(self.stats.tx_pending as usize);
        let mut count = 0;
        for packet in packets.iter() {
            let Some(left) = room.checked_sub(usize::from(packet.frames())) else {
                break;
            };
            room = left;
            count += 1;
        }
        for packet in packets.drain(..count) {
            self.mark(&packet, Holder::Port(self.number.0));
            self.stats.tx_pending += u32::from(packet.frames());
            self.ring.push_back(packet);
        }
        self.stats.held = self.stats.tx_pending;
    }

    fn flush(&mut self, pool: &mut WorkerPool) {
        let wire = Arc::clone(&self.wire);
        let mut wire = lock(&wire);
        while let Some(packet) = self.ring.pop_front() {
            self.stats.tx_packets += 1;
            self.stats.tx_bytes += u64::from(packet.len());
            wire.outgoing.push_back(packet.to_vec(&self.store));
            pool.free_packet(packet);
        }
        (self.stats.tx_pending, self.stats.held) = (0, 0);
    }

    fn unsent(&self) -> bool {
        !self.ring.is_empty()
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn stats(&self) -> PortStats {
        self.stats
    }
}

impl Drop for MemPort {
    fn drop(&mut self) {
        self.store.port_closed(self.number);
    }
}

impl MemWire {
    /// Sends a packet to the port. It is split over as many frames as it takes when it is received.
    pub fn push(&self, bytes: &[u8]) {
        self.push_split(bytes, 4096 - crate::HEADROOM as usize);
    }

    /// Sends a packet to the port in frames of at most `chunk` bytes each; no more than a frame of the store takes.
    pub fn push_split(&self, bytes: &[u8], chunk: usize) {
        let parts = if bytes.is_empty() {
            vec![Vec::new()]
        } else {
            bytes.chunks(chunk).map(<[u8]>::to_vec).collect()
        };
        lock(&self.0).incoming.push_back(parts);
    }

    /// Sends a packet to the port whose frames are these parts.
    pub fn push_parts(&self, parts: &[&[u8]]) {
        lock(&self.0)
            .incoming
            .push_back(parts.iter().map(|part| part.to_vec()).collect());
    }

    /// The next packet that the port sent, whole.
    #[must_use]
    pub fn pop(&self) -> Option<Vec<u8>> {
        lock(&self.0).outgoing.pop_front()
    }

    /// Packets sent to the port and not received yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        lock(&self.0).incoming.len()
    }

    /// How many frames the port's TX ring has room for; what was taken and not flushed counts.
    pub fn set_tx_room(&self, frames: usize) {
        lock(&self.0).tx_room = frames;
    }
}
