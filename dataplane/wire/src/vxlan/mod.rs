//! VXLAN (RFC 7348): an Ethernet frame in a UDP datagram, over IPv4 or IPv6.
//!
//! [`OuterHeader`] has the bytes before the inner frame, built once for each peer and completed for each packet. [`open`] reads the
//! header of a received packet, and [`SeenHeader`] recognizes the next one of the same sender. [`ecn`] combines the congestion marks of both headers, and [`inner_sum`] finds the sum of the
//! inner frame, which a UDP checksum over IPv6 needs, without reading the payload where it can. [`quoted_inner`] finds the inner
//! packet in an ICMP error about a packet of the tunnel.

pub mod ecn;
mod inner;
mod outer;
mod quote;
mod seen;

pub use inner::inner_sum;
pub use outer::OuterHeader;
pub use quote::{QuotedInner, quoted_inner};
pub use seen::SeenHeader;

use thiserror::Error;

use crate::bytes;
use crate::ether;
use crate::parse::Parsed;
use crate::proto::Proto;

/// The UDP port that IANA assigned to VXLAN.
pub const PORT: u16 = 4789;
/// The length of the VXLAN header.
pub const HEADER: usize = 8;
/// The largest VXLAN network identifier: it has 24 bits.
pub const MAX_VNI: u32 = 0xff_ffff;
/// The octets that the outer IP, UDP and VXLAN headers and the inner Ethernet header add to a packet over IPv4.
pub const OVERHEAD_V4: u16 = 20 + UDP as u16 + HEADER as u16 + ether::HEADER as u16;
/// The octets that the outer headers add to a packet over IPv6.
pub const OVERHEAD_V6: u16 = OVERHEAD_V4 + 20;

const UDP: usize = 8;
/// The flag that says that the header has a VNI (RFC 7348 section 5).
const HAS_VNI: u8 = 0x08;

/// The reason for which a datagram at the tunnel's port is no VXLAN packet that heddle takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Error)]
pub enum VxlanError {
    /// The datagram ends before the inner Ethernet header does, is a fragment, or has its headers behind the first frame.
    #[error("VXLAN packet is truncated or fragmented")]
    Truncated,
    /// The flag for a VNI is not set, or reserved bits are. RFC 7348 has receivers ignore those, but extensions use them to
    /// change the format, so Linux refuses them, and so does heddle.
    #[error("VXLAN header has no VNI, or reserved bits are set")]
    Flags,
    /// The VNI is another one.
    #[error("VXLAN network identifier is not the configured one")]
    Vni,
}

/// Reads the VXLAN header of a parsed UDP datagram, and returns the offset of the inner Ethernet frame. `head` is the packet's
/// first frame.
///
/// # Errors
/// The datagram is no VXLAN packet of the network `vni`.
#[inline]
pub fn open(head: &[u8], outer: &Parsed, vni: u32) -> Result<usize, VxlanError> {
    if outer.proto != Proto::UDP || outer.is_fragment() {
        return Err(VxlanError::Truncated);
    }
    let at = outer.payload();
    let inner = at + HEADER;
    let covered = bytes::be16(head, outer.l4() + 4).map_or(0, usize::from);
    if HEADER + UDP + ether::HEADER > covered || inner + ether::HEADER > head.len() {
        return Err(VxlanError::Truncated);
    }
    let header = bytes::read::<HEADER>(head, at).ok_or(VxlanError::Truncated)?;
    let [flags, r1, r2, r3, a, b, c, r4] = *header;
    if (flags, r1, r2, r3, r4) != (HAS_VNI, 0, 0, 0, 0) {
        return Err(VxlanError::Flags);
    }
    if u32::from_be_bytes([0, a, b, c]) != vni {
        return Err(VxlanError::Vni);
    }
    Ok(inner)
}

#[cfg(test)]
mod tests;
