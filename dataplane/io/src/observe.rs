//! Observes a port from the control thread while a worker owns it: the kernel's statistics and the levels of the rings.
//!
//! The rings are mapped once more and only their indices are read, which costs the worker nothing.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use heddle_port::{KernelStats, PortId};

use crate::ring::{Desc, Gauge, Which};
use crate::segment_socket::{SegmentCounters, SegmentCounts};
use crate::socket::{RX_SLOTS, TX_SLOTS};

/// The levels of a port's rings: entries that the other side has not taken yet.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RingLevels {
    /// Packets, or parts of them, that the worker has not taken yet.
    pub rx: u32,
    /// Frames that the kernel can receive into.
    pub fill: u32,
    /// Packets, or parts of them, that the kernel has not sent yet.
    pub tx: u32,
    /// Frames of sent packets that the worker has not taken back yet.
    pub completion: u32,
}

/// The kernel's counters and the ring levels of a port, at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortView {
    /// The kernel's counters.
    pub kernel: Option<KernelStats>,
    /// The ring levels.
    pub rings: RingLevels,
    /// The large segments that the port sent, if it does so.
    pub segments: Option<SegmentCounts>,
}

/// The observers of all open ports, shared with threads that read them. The lock is held for one port at a time.
#[derive(Debug, Clone, Default)]
pub struct PortObservers(Arc<Mutex<BTreeMap<PortId, Observer>>>);

impl PortObservers {
    /// Reads the kernel's counters and the rings of an open port.
    #[must_use]
    pub fn view(&self, port: PortId) -> Option<PortView> {
        let observers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        observers.get(&port).map(Observer::view)
    }

    pub(crate) fn insert(&self, port: PortId, observer: Observer) {
        let mut observers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        observers.insert(port, observer);
    }

    /// Removes a port's observer, which keeps the socket open. Called before the port is closed.
    pub(crate) fn remove(&self, port: PortId) {
        let mut observers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        observers.remove(&port);
    }
}

/// The observer of one port. It keeps the socket open, so it must be dropped before the port is closed.
#[derive(Debug)]
pub(crate) struct Observer {
    rx: Gauge<Desc>,
    fill: Gauge<u64>,
    tx: Gauge<Desc>,
    completion: Gauge<u64>,
    segments: Option<Arc<SegmentCounters>>,
    socket: OwnedFd,
}

impl Observer {
    pub(crate) fn new(socket: BorrowedFd<'_>, segments: Option<Arc<SegmentCounters>>) -> io::Result<Self> {
        Ok(Self {
            rx: Gauge::map(socket, Which::Rx, RX_SLOTS)?,
            fill: Gauge::map(socket, Which::Fill, RX_SLOTS)?,
            tx: Gauge::map(socket, Which::Tx, TX_SLOTS)?,
            completion: Gauge::map(socket, Which::Completion, TX_SLOTS)?,
            segments,
            socket: socket.try_clone_to_owned()?,
        })
    }

    pub(crate) fn view(&self) -> PortView {
        PortView {
            kernel: self.statistics(),
            rings: RingLevels {
                rx: self.rx.level(),
                fill: self.fill.level(),
                tx: self.tx.level(),
                completion: self.completion.level(),
            },
            segments: self.segments.as_deref().map(SegmentCounters::read),
        }
    }

    fn statistics(&self) -> Option<KernelStats> {
        // SAFETY: a plain C struct of integers, for which zeros are a value.
        let mut counted: libc::xdp_statistics = unsafe { std::mem::zeroed() };
        let mut len = libc::socklen_t::try_from(size_of::<libc::xdp_statistics>()).ok()?;
        // SAFETY: the buffer is valid for `len` bytes, which the kernel does not exceed.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_XDP,
                libc::XDP_STATISTICS,
                (&raw mut counted).cast(),
                &raw mut len,
            )
        };
        (result == 0).then_some(KernelStats {
            rx_dropped: counted.rx_dropped,
            rx_invalid_descs: counted.rx_invalid_descs,
            tx_invalid_descs: counted.tx_invalid_descs,
            rx_ring_full: counted.rx_ring_full,
            rx_fill_ring_empty_descs: counted.rx_fill_ring_empty_descs,
            tx_ring_empty_descs: counted.tx_ring_empty_descs,
        })
    }
}
