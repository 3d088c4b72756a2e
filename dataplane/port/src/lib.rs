//! Frames, packets, frame pools and the port trait, with ports in memory behind the same trait. No C and no system calls.
//!
//! A [`FrameStore`] is the memory: frames of one size, and for each frame its range, next frame and holder. A [`Frame`] is the
//! unique handle of one frame. Free frames are in the [`SharedPool`] and in each worker's [`WorkerPool`]. A [`Packet`] is a head
//! frame and, rarely, a chain of further frames. A [`Port`] receives and sends packets. The store records the port as the
//! [`Holder`] of the frames in its rings, so that they are found again when the port is closed.
//!
//! `heddle-io` implements the trait with AF_XDP sockets, and [`MemPort`] implements it in memory. `heddle-engine` is generic
//! over it.

mod budget;
mod frame;
mod mem;
mod packet;
mod pcap;
mod port;
mod shared;
mod store;
mod sync;
mod worker;

pub use budget::{FillBudget, FillShare, PortRefused, TooFewFrames};
pub use frame::{AreaId, Frame, Holder};
pub use heddle_ids::{PortId, WorkerId};
pub use mem::{MemPort, MemWire};
pub use packet::{Frames, Packet};
pub use pcap::{Capture, CaptureError, Captured, Record};
pub use port::{BURST, Capabilities, KernelStats, PacketVec, Port, PortStats};
pub use shared::{BATCH, SharedPool};
pub use store::{FrameStore, HEADROOM};
pub use worker::WorkerPool;
