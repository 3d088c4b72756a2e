//! The congestion marks of a tunnel (RFC 6040), and the traffic class that the outer header takes from the inner one.

use crate::bytes;
use crate::checksum::Delta;
use crate::ether;
use crate::parse::{L3, Parsed};

const AT: usize = Parsed::L3_OFFSET;
/// The two bits of the ECN field (RFC 3168 section 5).
const MASK: u8 = 0b11;
/// Not ECN-capable.
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
/// Congestion experienced.
const CE: u8 = 0b11;

/// Returns the TOS octet (IPv4) or the traffic class (IPv6) of a frame: DSCP and ECN.
#[must_use]
#[inline]
pub fn traffic_class(head: &[u8], l3: L3) -> u8 {
    match (l3, bytes::be16(head, AT)) {
        (_, None) | (L3::Arp, _) => 0,
        (L3::V4, Some(word)) => word as u8,
        (L3::V6, Some(word)) => (word >> 4) as u8,
    }
}

/// Returns the inner ECN field after decapsulation (RFC 6040 section 4.2), or `None` if the packet must be dropped: the network
/// is congested, and the sender of the inner packet does not understand marks.
#[must_use]
#[inline]
pub const fn combine(outer: u8, inner: u8) -> Option<u8> {
    Some(match (outer & MASK, inner & MASK) {
        (CE, NOT_ECT) => return None,
        (CE, _) => CE,
        (ECT_1, ECT_0) => ECT_1,
        (_, inner) => inner,
    })
}

/// Writes the combined mark into the inner frame, which `inner` starts with, with its checksum. Returns false if the packet must
/// be dropped. A frame that is neither IPv4 nor IPv6 stays as it is.
#[must_use]
#[inline]
pub fn decapsulate(outer_class: u8, inner: &mut [u8]) -> bool {
    // Without marks in the outer header nothing changes, whatever the inner one has: the common case.
    if outer_class & MASK == NOT_ECT {
        return true;
    }
    let l3 = match bytes::be16(inner, 12) {
        Some(ether::IPV4) => L3::V4,
        Some(ether::IPV6) => L3::V6,
        _ => return true,
    };
    let before = traffic_class(inner, l3) & MASK;
    let Some(after) = combine(outer_class, before) else {
        return false;
    };
    if after == before {
        return true;
    }
    let Some(old) = bytes::be16(inner, AT) else {
        return true;
    };
    let shift = if l3 == L3::V6 { 4 } else { 0 };
    let new = old & !(u16::from(MASK) << shift) | u16::from(after) << shift;
    bytes::put16(inner, AT, new);
    if l3 == L3::V4
        && let Some(sum) = bytes::be16(inner, AT + 10)
    {
        bytes::put16(inner, AT + 10, Delta::word(old, new).apply(sum));
    }
    true
}
