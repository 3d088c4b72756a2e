//! The AF_XDP ports of heddle: the XDP program, the UMEM, sockets and their rings.
//!
//! An [`XdpContext`] contains the state that all ports of a network namespace share: the XDP program and its maps, one UMEM with
//! the pools of its frames, and the anchor, a socket on a device of its own through which libxdp binds all others. It opens and
//! closes [`XdpPort`]s on the control thread. A port belongs to one worker at a time.
//!
//! An [`uplink::Uplink`] is the program on the node's NIC, whose ports share the context's UMEM. The engine processes packets, and the
//! agent assigns ports to workers.

mod anchor;
mod assemble;
mod context;
mod error;
mod kernel;
mod mode;
mod mode_change;
mod observe;
pub mod pktgen;
mod port;
mod preflight;
mod probe;
mod program;
mod ring;
mod segment_header;
mod segment_socket;
mod socket;
pub mod uplink;

pub use context::{OpenPort, XdpConfig, XdpContext};
pub use error::XdpError;
pub use kernel::{KernelFitness, kernel_release};
pub use mode::XdpMode;
pub use observe::{PortObservers, PortView, RingLevels};
pub use port::XdpPort;
pub use preflight::check as preflight;
pub use probe::{ProbeError, Probed, probe};
pub use segment_socket::SegmentCounts;
