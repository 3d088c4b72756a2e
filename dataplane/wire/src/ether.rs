//! Ethernet II: the constants and the two address fields. The parser refuses tagged frames.

use crate::addr::MacAddr;
use crate::bytes;

/// The length of an untagged header.
pub const HEADER: usize = 14;
/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;

/// Returns true if an EtherType announces a VLAN tag (IEEE 802.1Q, 802.1ad, and the old 0x9100 of stacked tags).
#[must_use]
pub const fn is_vlan(ethertype: u16) -> bool {
    matches!(ethertype, 0x8100 | 0x88a8 | 0x9100)
}

/// Returns true if an untagged frame has an IPv6 packet.
#[must_use]
#[inline]
pub fn is_ipv6(head: &[u8]) -> bool {
    bytes::read::<2>(head, 12).is_some_and(|kind| u16::from_be_bytes(*kind) == IPV6)
}

/// Returns the destination address of a frame; `None` if the frame is too short.
#[must_use]
#[inline]
pub fn destination(head: &[u8]) -> Option<MacAddr> {
    bytes::read::<6>(head, 0).map(|m| MacAddr(*m))
}

/// Returns the source address of a frame; `None` if the frame is too short.
#[must_use]
#[inline]
pub fn source(head: &[u8]) -> Option<MacAddr> {
    bytes::read::<6>(head, 6).map(|m| MacAddr(*m))
}
