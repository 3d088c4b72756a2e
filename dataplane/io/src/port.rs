//! An AF_XDP port: a socket, its rings, and the frames in them. It belongs to one worker at a time.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use heddle_port::{
    Capabilities, FillShare, Frame, FrameStore, Holder, KernelStats, Packet, PacketVec, Port, PortId, PortStats,
    WorkerPool,
};

use crate::assemble::{Assembler, Part};
use crate::ring::{Consumer, Desc, Producer, Which};
use crate::segment_socket::{SegmentCounters, SegmentSocket, Sending};
use crate::socket::{RX_SLOTS, Socket, TX_SLOTS};

/// `XDP_PKT_CONTD`: the packet continues in the next descriptor.
const CONTINUED: u32 = libc::XDP_PKT_CONTD;
/// Attempts to send without progress after which the rest is left for the next turn.
const FUTILE_SENDS: u32 = 3;
/// Bursts after which a grown fill ring is halved if none of them used more than a quarter of it.
const CALM_BURSTS: u32 = 1024;

/// An AF_XDP port. [`XdpContext`](crate::XdpContext) opens and closes it on the control thread.
pub struct XdpPort {
    number: PortId,
    ifname: String,
    ifindex: u32,
    queue: u32,
    capabilities: Capabilities,
    store: Arc<FrameStore>,
    /// `frame_size - 1`, and its number of bits: frames start at multiples of their size, which is a power of two.
    frame_mask: u64,
    frame_shift: u32,
    rx: Consumer<Desc>,
    fill: Producer<u64>,
    tx: Producer<Desc>,
    completion: Consumer<u64>,
    share: Option<FillShare>,
    /// Frames in the fill ring, or in the RX ring and not taken yet.
    level: u32,
    /// The size of the fill ring that fits the recent bursts.
    wanted: u32,
    /// The most frames in one burst since `wanted` was last considered.
    peak: u32,
    /// Bursts since `wanted` was last considered.
    bursts: u32,
    /// Frames in the TX ring or in the kernel, whose completion has not come yet.
    in_flight: u32,
    /// True if the kernel sends nothing, because the device is down or gone.
    refused: bool,
    assembler: Assembler,
    stats: PortStats,
    /// Sends packets with a segment size, if the port does.
    segments: Option<SegmentSocket>,
    /// The last field, so that the rings are unmapped before the socket is closed.
    socket: Socket,
}

impl XdpPort {
    pub(crate) fn new(
        number: PortId,
        device: (String, u32, u32),
        capabilities: Capabilities,
        store: Arc<FrameStore>,
        share: FillShare,
        socket: Socket,
        segments: Option<SegmentSocket>,
    ) -> io::Result<Self> {
        let (ifname, ifindex, queue) = device;
        let frame_size = store.frame_size();
        Ok(Self {
            number,
            ifname,
            ifindex,
            queue,
            capabilities,
            frame_mask: u64::from(frame_size - 1),
            frame_shift: frame_size.trailing_zeros(),
            rx: Consumer::map(socket.fd(), Which::Rx, RX_SLOTS)?,
            fill: Producer::map(socket.fd(), Which::Fill, RX_SLOTS)?,
            tx: Producer::map(socket.fd(), Which::Tx, TX_SLOTS)?,
            completion: Consumer::map(socket.fd(), Which::Completion, TX_SLOTS)?,
            level: 0,
            wanted: share.target(),
            share: Some(share),
            peak: 0,
            bursts: 0,
            in_flight: 0,
            refused: false,
            assembler: Assembler::default(),
            stats: PortStats::default(),
            store,
            segments,
            socket,
        })
    }

    /// Returns the device's name when the port was opened.
    #[must_use]
    pub fn ifname(&self) -> &str {
        &self.ifname
    }

    /// Returns the device's index.
    #[must_use]
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Returns the device's queue.
    #[must_use]
    pub fn queue(&self) -> u32 {
        self.queue
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.fd()
    }

    /// Returns the counters of large segments, if the port sends them.
    pub(crate) fn segment_counters(&self) -> Option<&Arc<SegmentCounters>> {
        self.segments.as_ref().map(SegmentSocket::counters)
    }

    /// Fills the fill ring for the first time. Returns the frames that do not fit.
    pub(crate) fn prime(&mut self, frames: Vec<Frame>) -> Vec<Frame> {
        let mut left = Vec::new();
        for frame in frames {
            if self.fill.room(1) == 0 {
                left.push(frame);
            } else {
                self.push_fill(frame);
            }
        }
        self.fill.submit();
        left
    }

    /// Removes the incomplete packet and the share of the fill budget. The caller gives both back after the socket was closed.
    pub(crate) fn take_remains(&mut self) -> (Option<Packet>, Option<FillShare>) {
        (self.assembler.take_incomplete(), self.share.take())
    }

    /// Lends a frame to the fill ring, which must have room.
    fn push_fill(&mut self, frame: Frame) {
        let index = self.store.lend(frame, self.number);
        let pushed = self.fill.push(u64::from(index) << self.frame_shift);
        debug_assert!(pushed, "the caller has checked the room");
        self.level += 1;
    }

    /// Takes back the frame at an address, if the port is recorded as its holder.
    fn take_back(&self, addr: u64, to: Holder) -> Option<Frame> {
        let index = u32::try_from(addr >> self.frame_shift).ok()?;
        // SAFETY: the rings belong to `self`, which all callers borrow mutably. The descriptor comes from the RX or completion
        // ring, so the kernel does not access the frame any more.
        unsafe { self.store.take_back(index, self.number, to) }
    }

    /// Returns the frame of a descriptor of the RX ring, or `None` if the descriptor is invalid.
    fn part(&self, desc: Desc, pool: &mut WorkerPool) -> Option<Frame> {
        let mut frame = self.take_back(desc.addr, pool.holder())?;
        let offset = u32::try_from(desc.addr & self.frame_mask).unwrap_or(0);
        if desc.len > self.store.frame_size() - offset {
            pool.free(frame);
            return None;
        }
        self.store.set_range(&mut frame, offset, desc.len);
        Some(frame)
    }

    /// Adapts the size of the fill ring after a burst that used `received` of its frames, and returns the new target.
    ///
    /// The size doubles if a burst took half of it, and is halved if none of [`CALM_BURSTS`] bursts took more than a quarter. The
    /// kernel returns a frame only by receiving into it, so the share shrinks by the frames that are not refilled.
    fn adapt(&mut self, received: u32) -> u32 {
        let Some(share) = &mut self.share else { return 0 };
        if received > 0 {
            self.peak = self.peak.max(received);
            self.bursts += 1;
            if received * 2 >= share.target() {
                self.wanted = share.grow(share.target());
                (self.peak, self.bursts) = (0, 0);
            } else if self.bursts >= CALM_BURSTS {
                if self.peak * 4 <= self.wanted {
                    self.wanted /= 2;
                }
                (self.peak, self.bursts) = (0, 0);
            }
        }
        let surplus = share.target().saturating_sub(self.wanted.max(self.level));
        if surplus > 0 {
            share.shrink(surplus)
        } else {
            share.target()
        }
    }

    /// Fills the fill ring up to `target` frames, and wakes the kernel if it waits for frames.
    fn refill(&mut self, target: u32, pool: &mut WorkerPool) {
        let missing = target.saturating_sub(self.level);
        let mut room = self.fill.room(missing).min(missing);
        while room > 0 {
            let Some(frame) = pool.alloc() else { break };
            self.push_fill(frame);
            room -= 1;
        }
        self.fill.submit();
        if self.fill.needs_wakeup() {
            self.socket.wake_receiver();
        }
    }

    /// Frees the frames of sent packets.
    fn reap(&mut self, pool: &mut WorkerPool) {
        while let Some(addr) = self.completion.pop() {
            if let Some(frame) = self.take_back(addr, pool.holder()) {
                self.in_flight = self.in_flight.saturating_sub(1);
                pool.free(frame);
            }
        }
        self.completion.release();
    }

    /// Takes packets from the front into the TX ring, as many as fit.
    fn fill_tx(&mut self, packets: &mut PacketVec) {
        let mut count = 0;
        let frames: u32 = packets.iter().map(|packet| u32::from(packet.frames())).sum();
        let mut room = self.tx.room(frames);
        for packet in packets.iter() {
            let Some(left) = room.checked_sub(u32::from(packet.frames())) else {
                break;
            };
            room = left;
            count += 1;
        }
        for packet in packets.drain(..count) {
            self.stats.tx_packets += 1;
            self.stats.tx_bytes += u64::from(packet.len());
            let mut left = u32::from(packet.frames());
            for frame in packet.into_frames(&self.store) {
                left -= 1;
                let (offset, len) = self.store.range(&frame);
                let options = if left > 0 { CONTINUED } else { 0 };
                let index = self.store.lend(frame, self.number);
                let addr = (u64::from(index) << self.frame_shift) + u64::from(offset);
                let pushed = self.tx.push(Desc { addr, len, options });
                debug_assert!(pushed, "the room was counted");
                self.in_flight += 1;
            }
        }
        self.tx.submit();
    }

    /// Takes packets from the front in their order: the ones without a segment size into the TX ring, and the others to the segment
    /// socket once the ring is empty. Stops at the first packet that the kernel does not take.
    fn send_mixed(&mut self, pool: &mut WorkerPool, packets: &mut PacketVec) {
        let mut rest = std::mem::take(packets).into_iter().peekable();
        while let Some(packet) = rest.peek() {
            if packet.segment_size() == 0 {
                // A run of small packets.
                let mut run = PacketVec::new();
                while let Some(packet) = rest.next_if(|packet| packet.segment_size() == 0) {
                    run.push(packet);
                }
                self.fill_tx(&mut run);
                if !run.is_empty() {
                    packets.extend(run);
                    break;
                }
            } else {
                // Earlier packets first.
                if self.tx.waiting_now() > 0 {
                    self.kick(pool);
                    if self.tx.waiting_now() > 0 {
                        break;
                    }
                }
                let Some(packet) = rest.next() else { break };
                if let Some(packet) = self.send_segments(packet, pool) {
                    packets.push(packet);
                    break;
                }
            }
        }
        packets.extend(rest);
    }

    /// Sends a packet with its segment size. Returns it if the kernel does not take it now.
    fn send_segments(&mut self, mut packet: Packet, pool: &mut WorkerPool) -> Option<Packet> {
        let sending = self.segments.as_mut()?.send(&self.store, &mut packet);
        match sending {
            Sending::Sent => {
                self.stats.tx_packets += 1;
                self.stats.tx_bytes += u64::from(packet.len());
            }
            // It can never be sent, so it must not stand in the way of others.
            Sending::Invalid => {}
            Sending::Refused | Sending::Down => {
                self.stats.tx_stalls += 1;
                self.refused |= sending == Sending::Down;
                return Some(packet);
            }
        }
        pool.free_packet(packet);
        None
    }

    /// Lets the kernel send until the TX ring is empty or there is no more progress.
    fn kick(&mut self, pool: &mut WorkerPool) {
        let mut futile = 0;
        let mut waiting = self.tx.waiting();
        self.refused = false;
        while waiting > 0 {
            let result = self.socket.send();
            let left = self.tx.waiting();
            if left < waiting {
                futile = 0;
            } else {
                // EAGAIN: there are more packets than one call sends, or too many are under way. EBUSY, ENOBUFS: no room in
                // the completion ring, or no memory. ENETDOWN, ENXIO: the device is down or gone.
                futile += 1;
                self.refused =
                    result.is_err_and(|error| matches!(error.raw_os_error(), Some(libc::ENETDOWN | libc::ENXIO)));
                if self.refused || futile >= FUTILE_SENDS {
                    self.stats.tx_stalls += 1;
                    return;
                }
                self.reap(pool);
            }
            waiting = left;
        }
    }
}

impl Port for XdpPort {
    fn id(&self) -> PortId {
        self.number
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn rx(&mut self, pool: &mut WorkerPool, out: &mut PacketVec) -> usize {
        let before = out.len();
        let mut received = 0;
        while !out.is_full() {
            let Some(desc) = self.rx.pop() else { break };
            received += 1;
            let part = self.part(desc, pool);
            match self.assembler.push(part, desc.options & CONTINUED != 0, pool) {
                Part::Whole(packet) => {
                    self.stats.rx_packets += 1;
                    self.stats.rx_bytes += u64::from(packet.len());
                    out.push(packet);
                }
                Part::Taken => {}
                Part::Spoilt => self.stats.rx_errors += 1,
            }
        }
        self.rx.release();
        self.level = self.level.saturating_sub(received);
        let target = self.adapt(received);
        self.refill(target, pool);
        out.len() - before
    }

    fn tx(&mut self, pool: &mut WorkerPool, packets: &mut PacketVec) {
        self.reap(pool);
        if self.segments.is_some() && packets.iter().any(|packet| packet.segment_size() > 0) {
            self.send_mixed(pool, packets);
        } else {
            self.fill_tx(packets);
        }
    }

    fn flush(&mut self, pool: &mut WorkerPool) {
        self.kick(pool);
        self.reap(pool);
    }

    fn unsent(&self) -> bool {
        !self.refused && self.tx.waiting_now() > 0
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.fd())
    }

    fn stats(&self) -> PortStats {
        PortStats {
            fill: self.level,
            fill_target: self.share.as_ref().map_or(0, FillShare::target),
            tx_pending: self.in_flight,
            held: self.level + self.in_flight,
            kernel: self.socket.statistics().map(|counted| KernelStats {
                rx_dropped: counted.rx_dropped(),
                rx_invalid_descs: counted.rx_invalid_descs(),
                tx_invalid_descs: counted.tx_invalid_descs(),
                rx_ring_full: counted.rx_ring_full(),
                rx_fill_ring_empty_descs: counted.rx_fill_ring_empty_descs(),
                tx_ring_empty_descs: counted.tx_ring_empty_descs(),
            }),
            ..self.stats
        }
    }
}

impl fmt::Debug for XdpPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XdpPort")
            .field("number", &self.number)
            .field("ifname", &self.ifname)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

impl Drop for XdpPort {
    /// From now on the port's frames count as outstanding, until the context reclaims them.
    fn drop(&mut self) {
        self.store.port_closed(self.number);
    }
}
