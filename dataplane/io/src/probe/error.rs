//! The error of the probe.

use std::io;
use std::time::Duration;

use crate::error::XdpError;

/// The time limit for a packet to pass the veth in one direction.
pub(super) const PACKET_WITHIN: Duration = Duration::from_secs(1);

/// The reason for which AF_XDP does not work here.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The network namespace for the test cannot be made.
    #[error("cannot make a network namespace to test AF_XDP in: {0} (this needs CAP_SYS_ADMIN)")]
    Namespace(io::Error),
    /// A system call of the test failed that is not AF_XDP's.
    #[error("trying AF_XDP: cannot {what}: {source}")]
    System {
        /// The step.
        what: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// The port cannot be opened.
    #[error(transparent)]
    Xdp(#[from] XdpError),
    /// All calls succeeded, but the packet did not arrive.
    #[error(
        "trying AF_XDP: a packet {way} did not arrive within {} ms: this kernel's AF_XDP on veth does not work",
        PACKET_WITHIN.as_millis()
    )]
    Lost {
        /// The direction of the packet, in words.
        way: &'static str,
    },
    /// The kernel has no multi-buffer XDP in generic mode.
    #[error("kernel {release} has no multi-buffer XDP in generic mode, which came with 6.9")]
    NoGenericMultiBuffer {
        /// The kernel's release.
        release: String,
    },
    /// The test did not end in time.
    #[error("trying AF_XDP did not end within {} s: look at the kernel's log (dmesg)", .0.as_secs_f32())]
    Late(Duration),
}
