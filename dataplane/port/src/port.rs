//! The port trait: the engine's interface to ports of every kind.

use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;
use heddle_ids::PortId;

use crate::packet::Packet;
use crate::store::HEADROOM;
use crate::worker::WorkerPool;

/// The most packets that are received from a port at once.
pub const BURST: usize = 64;

/// A burst of packets.
pub type PacketVec = ArrayVec<Packet, BURST>;

/// A port, where packets come in and leave. One worker owns it at a time.
pub trait Port {
    /// Returns the port's number.
    fn id(&self) -> PortId;

    /// Returns the port's capabilities. They do not change while the port is open.
    fn capabilities(&self) -> Capabilities;

    /// Receives packets into the free places of `out`, and refills the port's fill ring. Returns the number of received packets.
    /// A packet of several frames stays in the port until all of them have arrived.
    fn rx(&mut self, pool: &mut WorkerPool, out: &mut PacketVec) -> usize;

    /// Takes packets from the front of `packets` into the TX ring, as many as fit; the others stay in `packets`. They are sent by
    /// [`Port::flush`] at the latest.
    fn tx(&mut self, pool: &mut WorkerPool, packets: &mut PacketVec);

    /// Sends the packets in the TX ring, and frees the frames of sent packets. The worker calls it once a turn, even without new
    /// packets.
    fn flush(&mut self, pool: &mut WorkerPool);

    /// Returns true if the TX ring has packets that the kernel did not send. A worker with such a port must not sleep for long,
    /// because no event wakes it when the kernel can send again. False if the device is down or gone.
    fn unsent(&self) -> bool;

    /// Returns the descriptor that a sleeping worker waits on; `None` if the port has none.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Returns the port's counters and levels. May cost a system call: do not call it for each burst.
    fn stats(&self) -> PortStats;
}

/// The capabilities of a port. The stages depend on these and not on the kind of port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Capabilities {
    /// Received packets may have an unfinished transport checksum: the sum of the pseudo header alone, which the sender's kernel
    /// left to the hardware.
    pub unfinished_checksums: bool,
    /// Octets before a received packet and before a packet to be sent: room for an outer header.
    pub headroom: u32,
    /// Received TCP packets may be larger than their path: the sender's kernel leaves it to the device to cut them into segments
    /// (TSO).
    pub rx_large_segments: bool,
    /// The port can send a TCP packet that is larger than its segments, and keeps their size
    /// ([`Packet::segment_size`](crate::Packet::segment_size)).
    pub tx_large_segments: bool,
}

impl Capabilities {
    /// One end of a veth pair. At its other end is a kernel's network stack on the same machine.
    pub const VETH: Self = Self {
        unfinished_checksums: true,
        headroom: HEADROOM,
        rx_large_segments: false,
        tx_large_segments: false,
    };
    /// A NIC. Its packets were on a wire, so their checksums are finished.
    pub const NIC: Self = Self {
        unfinished_checksums: false,
        ..Self::VETH
    };
}

/// Counters and levels of a port.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PortStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received, counted from the Ethernet header on.
    pub rx_bytes: u64,
    /// Received packets that the port dropped because of an invalid descriptor or too many frames.
    pub rx_errors: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Flushes that stopped before the TX ring was empty, because the kernel sent no more.
    pub tx_stalls: u64,
    /// Frames in the fill ring, or received and not taken yet.
    pub fill: u32,
    /// Frames that the fill ring should have.
    pub fill_target: u32,
    /// Frames in the TX ring or in the kernel, whose completion has not come yet.
    pub tx_pending: u32,
    /// All frames that the port holds, by its own count.
    pub held: u32,
    /// The kernel's counters, if the port is an AF_XDP socket.
    pub kernel: Option<KernelStats>,
}

/// The kernel's statistics of an AF_XDP socket (`XDP_STATISTICS`, Documentation/networking/af_xdp.rst).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct KernelStats {
    /// Packets dropped for other reasons than invalid descriptors.
    pub rx_dropped: u64,
    /// Packets dropped because of an invalid descriptor in the fill ring.
    pub rx_invalid_descs: u64,
    /// Packets dropped because of an invalid descriptor in the TX ring.
    pub tx_invalid_descs: u64,
    /// Packets dropped because the RX ring was full.
    pub rx_ring_full: u64,
    /// Packets for which the fill ring was empty.
    pub rx_fill_ring_empty_descs: u64,
    /// Attempts to send with an empty TX ring.
    pub tx_ring_empty_descs: u64,
}
