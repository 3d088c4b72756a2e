//! The port trait: what the engine needs of a port, wherever its packets come from.

use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;
use heddle_ids::PortId;

use crate::packet::Packet;
use crate::store::HEADROOM;
use crate::worker::WorkerPool;

/// Packets taken from a port at once.
pub const BURST: usize = 64;

/// A burst of packets.
pub type PacketVec = ArrayVec<Packet, BURST>;

/// One end where packets come in and go out, with one owner: the worker that has it.
pub trait Port {
    /// The port's number.
    fn id(&self) -> PortId;

    /// The port's capabilities. They do not change while the port is open.
    fn capabilities(&self) -> Capabilities;

    /// Receives packets into the free places of `out`, and gives the port new frames to receive into. Returns how many
    /// packets were received. A packet of several frames of which some have not come yet stays in the port until they
    /// have.
    fn rx(&mut self, pool: &mut WorkerPool, out: &mut PacketVec) -> usize;

    /// Takes packets from the front of `packets`, as many as there is room for; the others stay there. Nothing is sent
    /// for sure before [`Port::flush`].
    fn tx(&mut self, pool: &mut WorkerPool, packets: &mut PacketVec);

    /// Sends what was taken, and takes back the frames of what has been sent. To be called once a turn, also when there
    /// is nothing new.
    fn flush(&mut self, pool: &mut WorkerPool);

    /// Returns whether packets that were taken have not been sent yet, because the kernel would not take it. A worker with such a
    /// port must not sleep for long: nothing wakes it when there is room again. False when the device is down or gone.
    fn unsent(&self) -> bool;

    /// Returns the descriptor that a sleeping worker waits on; `None` if the port has none.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Returns the port's counters and levels. May cost a system call: do not call it for each burst.
    fn stats(&self) -> PortStats;
}

/// What the stages may expect of a port, instead of asking for its kind.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Capabilities {
    /// Received packets may carry an unfinished transport checksum: the pseudo header's sum alone, which the sender's kernel
    /// left to the hardware.
    pub unfinished_checksums: bool,
    /// Octets before a received packet, and before one that is written to be sent by this port: room for an outer header.
    pub headroom: u32,
}

impl Capabilities {
    /// One end of a veth pair: its other end is a kernel's stack in the same machine.
    pub const VETH: Self = Self {
        unfinished_checksums: true,
        headroom: HEADROOM,
    };
    /// A NIC: everything was on a wire, so nothing is taken as unfinished.
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
    /// Bytes received, by the packets' own lengths from the Ethernet header on.
    pub rx_bytes: u64,
    /// Packets received whose frames made no sense or that had too many of them, dropped by the port.
    pub rx_errors: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Times that sending stopped before the ring was empty, because the kernel would not take more.
    pub tx_stalls: u64,
    /// Frames in the fill ring, to be received into.
    pub fill: u32,
    /// Frames that the fill ring is meant to have.
    pub fill_target: u32,
    /// Frames given to be sent and not taken back yet.
    pub tx_pending: u32,
    /// Frames that the port holds in all, by its own count.
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
    /// Times that the fill ring was empty.
    pub rx_fill_ring_empty_descs: u64,
    /// Times that the TX ring was empty.
    pub tx_ring_empty_descs: u64,
}
