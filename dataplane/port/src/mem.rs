//! A port in memory and the wire at its other end, for tests, benches and replays.
//!
//! It behaves like a real port: packets longer than a frame are received as chains, packets in the TX ring leave at `flush`, and a
//! full TX ring takes no packet.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use heddle_ids::PortId;
use heddle_wire::{checksum, parse};

use crate::frame::Holder;
use crate::packet::Packet;
use crate::port::{Capabilities, PacketVec, Port, PortStats};
use crate::store::FrameStore;
use crate::worker::WorkerPool;

/// The packets between a port and its other end.
#[derive(Debug, Default)]
struct Wire {
    /// Packets to the port, each as the contents of its frames.
    incoming: VecDeque<Vec<Vec<u8>>>,
    /// Packets from the port.
    outgoing: VecDeque<Vec<u8>>,
    /// The segment sizes of large segments from the port.
    segment_sizes: Vec<u16>,
    /// The size of the TX ring in frames.
    tx_room: usize,
}

/// A port in memory. Dropping it closes it: the frames in its TX ring are lost and count as outstanding, so that a test detects
/// it. [`MemPort::close`] frees them.
#[derive(Debug)]
pub struct MemPort {
    number: PortId,
    capabilities: Capabilities,
    store: Arc<FrameStore>,
    wire: Arc<Mutex<Wire>>,
    /// The TX ring: packets that were taken and not flushed.
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
    /// Opens a port over the frames of `store`. Returns it and the wire at its other end.
    ///
    /// # Panics
    /// If a port of that number is open on the store.
    #[must_use]
    pub fn new(number: PortId, store: &Arc<FrameStore>) -> (Self, MemWire) {
        Self::with_capabilities(number, store, Capabilities::VETH)
    }

    /// Opens a port with other capabilities than a veth's.
    ///
    /// # Panics
    /// If a port of that number is open on the store.
    #[must_use]
    pub fn with_capabilities(number: PortId, store: &Arc<FrameStore>, capabilities: Capabilities) -> (Self, MemWire) {
        assert!(store.port_opened(number), "port {number} is open already");
        let wire = Arc::new(Mutex::new(Wire {
            tx_room: usize::MAX,
            ..Wire::default()
        }));
        let port = Self {
            number,
            capabilities,
            store: Arc::clone(store),
            wire: Arc::clone(&wire),
            ring: VecDeque::new(),
            stats: PortStats::default(),
        };
        (port, MemWire(wire))
    }

    /// Closes the port. Packets in its TX ring are freed and not sent.
    pub fn close(mut self, pool: &mut WorkerPool) {
        while let Some(packet) = self.ring.pop_front() {
            pool.free_packet(packet);
        }
    }

    /// Records the holder of all frames of a packet.
    fn set_holder(&self, packet: &Packet, holder: Holder) {
        let mut index = packet.head().index();
        while index != crate::store::NIL {
            self.store.set_holder_of(index, holder);
            index = self.store.next_of(index);
        }
    }

    /// Makes a packet of these frame contents. Returns `None` if the pool is empty.
    fn receive<'a>(&self, pool: &mut WorkerPool, parts: &'a [Vec<u8>]) -> Option<Packet> {
        let mut packet: Option<Packet> = None;
        let room = self.store.room() as usize;
        let pieces = |part: &'a Vec<u8>| {
            // An empty part becomes an empty frame.
            std::iter::once(&part[..part.len().min(room)]).chain(part.get(room..).unwrap_or_default().chunks(room))
        };
        for part in parts.iter().flat_map(pieces) {
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
    fn id(&self) -> PortId {
        self.number
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn rx(&mut self, pool: &mut WorkerPool, out: &mut PacketVec) -> usize {
        let before = out.len();
        let wire = Arc::clone(&self.wire);
        let mut wire = lock(&wire);
        while !out.is_full() {
            let Some(parts) = wire.incoming.front() else { break };
            let room = self.store.room() as usize;
            let frames: usize = parts.iter().map(|part| part.len().div_ceil(room).max(1)).sum();
            if frames > usize::from(Packet::MAX_FRAMES) {
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
            self.set_holder(&packet, Holder::Port(self.number));
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
            let mut bytes = packet.to_vec(&self.store);
            if packet.segment_size() > 0 {
                finish_checksum(&mut bytes);
                wire.segment_sizes.push(packet.segment_size());
            }
            wire.outgoing.push_back(bytes);
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

/// Finishes the checksum of a large segment, which the device of a real port does.
fn finish_checksum(frame: &mut [u8]) {
    if let Ok(parsed) = parse(frame, frame.len())
        && let Some(sum) = checksum::compute(&parsed, [&*frame])
    {
        sum.store(frame);
    }
}

impl Drop for MemPort {
    fn drop(&mut self) {
        self.store.port_closed(self.number);
    }
}

impl MemWire {
    /// Sends a packet to the port. It is received in as many frames as it needs.
    pub fn push(&self, bytes: &[u8]) {
        self.push_parts(&[bytes]);
    }

    /// Sends a packet to the port in frames of at most `chunk` bytes each.
    pub fn push_split(&self, bytes: &[u8], chunk: usize) {
        let parts = if bytes.is_empty() {
            vec![Vec::new()]
        } else {
            bytes.chunks(chunk).map(<[u8]>::to_vec).collect()
        };
        lock(&self.0).incoming.push_back(parts);
    }

    /// Sends a packet to the port, whose frames have these contents.
    pub fn push_parts(&self, parts: &[&[u8]]) {
        lock(&self.0)
            .incoming
            .push_back(parts.iter().map(|part| part.to_vec()).collect());
    }

    /// Takes the next packet that the port sent.
    #[must_use]
    pub fn pop(&self) -> Option<Vec<u8>> {
        lock(&self.0).outgoing.pop_front()
    }

    /// Takes the segment sizes of the large segments that the port sent since the last call, in order.
    #[must_use]
    pub fn take_segment_sizes(&self) -> Vec<u16> {
        std::mem::take(&mut lock(&self.0).segment_sizes)
    }

    /// Returns the number of packets that were sent to the port and not received yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        lock(&self.0).incoming.len()
    }

    /// Sets the size of the port's TX ring in frames.
    pub fn set_tx_room(&self, frames: usize) {
        lock(&self.0).tx_room = frames;
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use heddle_ids::WorkerId;

    use super::*;
    use crate::{BURST, SharedPool};

    fn port(frames: u32) -> (WorkerPool, MemPort, MemWire) {
        let shared = SharedPool::heap(frames, 512);
        let pool = WorkerPool::new(WorkerId(0), shared.clone());
        let (port, wire) = MemPort::new(PortId(4), shared.store());
        (pool, port, wire)
    }

    #[test]
    fn packets_pass_and_their_frames_come_back() {
        let (mut pool, mut port, wire) = port(8);
        wire.push(b"one");
        wire.push_split(&[5; 700], 256);
        wire.push_parts(&[b"a", b"", b"bc"]);
        let mut packets = PacketVec::new();
        assert_eq!(port.rx(&mut pool, &mut packets), 3);
        assert_eq!(packets.iter().map(Packet::frames).collect::<Vec<_>>(), [1, 3, 3]);
        assert_eq!(pool.store().outstanding(), 7);
        port.tx(&mut pool, &mut packets);
        assert!(packets.is_empty() && port.unsent());
        assert_eq!(
            (wire.pop(), pool.store().outstanding(), port.stats().held),
            (None, 0, 7)
        );
        port.flush(&mut pool);
        assert!(!port.unsent());
        assert_eq!(wire.pop().unwrap(), b"one");
        assert_eq!(wire.pop().unwrap(), [5; 700]);
        assert_eq!(wire.pop().unwrap(), b"abc");
        let stats = port.stats();
        assert_eq!(
            (stats.rx_packets, stats.rx_bytes, stats.tx_packets, stats.tx_bytes),
            (3, 706, 3, 706)
        );
        assert_eq!((stats.rx_errors, stats.held), (0, 0));
        port.close(&mut pool);
        drop(pool);
    }

    #[test]
    fn a_full_ring_takes_whole_packets_only() {
        let (mut pool, mut port, wire) = port(8);
        wire.set_tx_room(3);
        let mut packets = PacketVec::new();
        packets.push(pool.packet(&[1; 300]).unwrap());
        packets.push(pool.packet(&[2; 300]).unwrap());
        port.tx(&mut pool, &mut packets);
        assert_eq!((packets.len(), port.stats().tx_pending), (1, 2));
        assert_eq!(packets[0].bytes(pool.store())[0], 2);
        port.flush(&mut pool);
        port.tx(&mut pool, &mut packets);
        assert!(packets.is_empty());
        port.close(&mut pool);
        assert_eq!((wire.pop().unwrap(), wire.pop()), (vec![1; 300], None));
        assert_eq!(pool.store().outstanding(), 0);
    }

    #[test]
    fn packets_without_frames_or_room_wait() {
        let (mut pool, mut port, wire) = port(70);
        for i in 0..100u8 {
            wire.push(&[i]);
        }
        let mut packets = PacketVec::new();
        assert_eq!(port.rx(&mut pool, &mut packets), BURST);
        assert_eq!((port.rx(&mut pool, &mut packets), wire.waiting()), (0, 36));
        let mut more = PacketVec::new();
        assert_eq!((port.rx(&mut pool, &mut more), wire.waiting()), (6, 30));
        packets
            .drain(..)
            .chain(more.drain(..))
            .for_each(|packet| pool.free_packet(packet));
        assert_eq!(
            (port.rx(&mut pool, &mut packets), packets[0].bytes(pool.store())[0]),
            (30, 70)
        );
        packets.drain(..).for_each(|packet| pool.free_packet(packet));
        assert_eq!(pool.store().outstanding(), 0);
    }

    #[test]
    fn a_long_packet_takes_the_frames_it_needs() {
        let (mut pool, mut port, wire) = port(8);
        let bytes: Vec<u8> = (0..1500).map(|i| (i % 251) as u8).collect();
        wire.push(&bytes);
        let mut packets = PacketVec::new();
        port.rx(&mut pool, &mut packets);
        assert_eq!((packets[0].frames(), packets[0].to_vec(pool.store())), (6, bytes));
        packets.drain(..).for_each(|packet| pool.free_packet(packet));
    }

    #[test]
    fn too_many_frames_are_an_error() {
        let (mut pool, mut port, wire) = port(30);
        wire.push_split(&[0; 19], 1);
        wire.push(b"next");
        let mut packets = PacketVec::new();
        assert_eq!((port.rx(&mut pool, &mut packets), port.stats().rx_errors), (1, 1));
        packets.drain(..).for_each(|packet| pool.free_packet(packet));
        assert_eq!(pool.store().outstanding(), 0);
    }

    #[test]
    fn a_dropped_port_shows_what_it_lost() {
        let (mut pool, mut port, _wire) = port(2);
        let mut packets = PacketVec::from_iter(pool.packet(b"x"));
        port.tx(&mut pool, &mut packets);
        let store = Arc::clone(pool.store_arc());
        assert_eq!(store.outstanding(), 0);
        drop(port);
        assert_eq!(store.outstanding(), 1);
    }
}
