//! Changes a parsed packet in place: addresses, ports, TTL and MAC addresses, with all checksums (RFC 1624).
//!
//! Functions take the head frame's bytes and the [`Parsed`] that was made from them. They return false, without a panic, if the
//! two do not belong together. A partial transport checksum must be computed afterwards
//! (`checksum::compute`). The `Parsed` is not changed: [`Parsed::translated`] returns the one of the changed packet.

mod echo;
mod error;
mod mss;

pub use echo::echo_reply_in_place;
pub use error::translate_error;
pub use mss::clamp_mss;

use crate::addr::{Ip, MacAddr};
use crate::bytes;
use crate::checksum::{self, Crc32c, Delta};
use crate::icmp::IcmpMessage;
use crate::parse::{Inner, L3, Parsed};
use crate::proto::Proto;

const L3: usize = Parsed::L3_OFFSET;
const V4_CHECKSUM: usize = L3 + 10;

/// The addresses and ports of a packet, which identify its flow and which a translation changes. Ports are as in [`Parsed`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Tuple {
    /// Source address.
    pub src: Ip,
    /// Destination address.
    pub dst: Ip,
    /// Source port, or the identifier of an echo request.
    pub sport: u16,
    /// Destination port, or the identifier of an echo reply.
    pub dport: u16,
}

impl Tuple {
    /// Returns the tuple of the replies.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            sport: self.dport,
            dport: self.sport,
        }
    }
}

impl Parsed {
    /// Returns the packet's tuple.
    #[must_use]
    #[inline]
    pub const fn tuple(&self) -> Tuple {
        Tuple {
            src: self.src,
            dst: self.dst,
            sport: self.sport,
            dport: self.dport,
        }
    }

    /// Returns the parsed headers of the packet after [`forward`] with the tuple `new`, but with the TTL from before.
    #[must_use]
    pub const fn translated(mut self, new: &Tuple) -> Self {
        self.src = new.src;
        self.dst = new.dst;
        if !self.is_later_fragment() {
            self.sport = new.sport;
            self.dport = new.dport;
        }
        self
    }
}

impl Inner {
    /// Returns the quoted packet's tuple.
    #[must_use]
    pub const fn tuple(&self) -> Tuple {
        Tuple {
            src: self.src,
            dst: self.dst,
            sport: self.sport,
            dport: self.dport,
        }
    }
}

/// The changes that a translation makes to the checksums, computed once for a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Deltas {
    /// The change to the checksum of the IPv4 header.
    pub l3: Delta,
    /// The change to the transport checksum.
    pub l4: Delta,
}

impl Deltas {
    /// Returns the changes for packets that are translated from `old` to `new`.
    #[must_use]
    pub fn between(proto: Proto, old: &Tuple, new: &Tuple) -> Self {
        let addresses = Delta::address(old.src, new.src).and(Delta::address(old.dst, new.dst));
        let ports = Delta::word(old.sport, new.sport).and(Delta::word(old.dport, new.dport));
        let l4 = match proto {
            Proto::TCP | Proto::UDP | Proto::ICMPV6 => addresses.and(ports),
            // ICMP has no pseudo header.
            Proto::ICMP => ports,
            // The CRC32c of SCTP covers no address, and its change depends on the packet's length.
            _ => Delta::NONE,
        };
        Self { l3: addresses, l4 }
    }
}

/// Sets both Ethernet addresses. Returns false if the frame is too short.
#[inline]
pub fn set_macs(frame: &mut [u8], dst: MacAddr, src: MacAddr) -> bool {
    let Some(macs) = bytes::read_mut::<12>(frame, 0) else {
        return false;
    };
    macs[..6].copy_from_slice(&dst.0);
    macs[6..].copy_from_slice(&src.0);
    true
}

/// The change of the header's checksum when the TTL is decremented: `~m + m'` for the word whose upper half is the TTL. It does not
/// depend on the word.
const ONE_HOP: u32 = 0xfeff;

/// Rewrites a packet's headers for forwarding: sets the Ethernet addresses `macs` (destination, source), decrements TTL or hop
/// limit, and applies the translation `to` (the new tuple and the changes of the checksums), all in one pass over the headers.
///
/// In a later fragment the ports are not changed. Returns false if the TTL is used up, if the new tuple is of the other family, or
/// if the ports of a fragmented SCTP packet would change, because its CRC32c covers the other fragments. The packet may then be
/// changed in part and must be dropped.
#[inline(always)]
pub fn forward(frame: &mut [u8], p: &Parsed, macs: (MacAddr, MacAddr), to: Option<(&Tuple, Deltas)>) -> bool {
    let sent = match p.l3 {
        L3::V4 => forward_v4(frame, macs, to),
        L3::V6 => forward_v6(frame, macs, to),
        L3::Arp => false,
    };
    sent && to.is_none_or(|(new, deltas)| p.is_later_fragment() || set_ports(frame, p, new, deltas.l4))
}

/// Does the work of [`forward`] for the Ethernet and IPv4 headers.
#[inline(always)]
fn forward_v4(frame: &mut [u8], (dst, src): (MacAddr, MacAddr), to: Option<(&Tuple, Deltas)>) -> bool {
    let Some(head) = bytes::read_mut::<{ L3 + 20 }>(frame, 0) else {
        return false;
    };
    if head[L3 + 8] <= 1 {
        return false;
    }
    head[..6].copy_from_slice(&dst.0);
    head[6..12].copy_from_slice(&src.0);
    head[L3 + 8] -= 1;
    let mut sum = u32::from(!u16::from_be_bytes([head[L3 + 10], head[L3 + 11]])) + ONE_HOP;
    if let Some((new, deltas)) = to {
        if !(new.src.is_v4() && new.dst.is_v4()) {
            return false;
        }
        sum += u32::from(deltas.l3.to_raw());
        head[L3 + 12..L3 + 16].copy_from_slice(&new.src.v4_octets());
        head[L3 + 16..L3 + 20].copy_from_slice(&new.dst.v4_octets());
    }
    // The sum of three words may have two carries.
    let sum = (sum & 0xffff) + (sum >> 16);
    let field = !((sum + (sum >> 16)) as u16);
    head[L3 + 10..L3 + 12].copy_from_slice(&field.to_be_bytes());
    true
}

/// Does the work of [`forward`] for the Ethernet and IPv6 headers.
#[inline(always)]
fn forward_v6(frame: &mut [u8], (dst, src): (MacAddr, MacAddr), to: Option<(&Tuple, Deltas)>) -> bool {
    let Some(head) = bytes::read_mut::<{ L3 + 40 }>(frame, 0) else {
        return false;
    };
    if head[L3 + 7] <= 1 {
        return false;
    }
    head[..6].copy_from_slice(&dst.0);
    head[6..12].copy_from_slice(&src.0);
    head[L3 + 7] -= 1;
    if let Some((new, _)) = to {
        if new.src.is_v4() || new.dst.is_v4() {
            return false;
        }
        head[L3 + 8..L3 + 24].copy_from_slice(&new.src.octets());
        head[L3 + 24..L3 + 40].copy_from_slice(&new.dst.octets());
    }
    true
}

/// Sets the addresses and applies the change to the checksum of an IPv4 header.
#[inline]
fn set_addresses(frame: &mut [u8], p: &Parsed, src: Ip, dst: Ip, delta: Delta) -> bool {
    let v4 = p.l3 == L3::V4;
    if src.is_v4() != v4 || dst.is_v4() != v4 || p.l3 == L3::Arp {
        return false;
    }
    if v4 {
        let Some(ip) = bytes::read_mut::<20>(frame, L3) else {
            return false;
        };
        let field = delta.apply(u16::from_be_bytes([ip[10], ip[11]]));
        ip[10..12].copy_from_slice(&field.to_be_bytes());
        ip[12..16].copy_from_slice(&src.v4_octets());
        ip[16..20].copy_from_slice(&dst.v4_octets());
    } else {
        let Some(ip) = bytes::read_mut::<40>(frame, L3) else {
            return false;
        };
        ip[8..24].copy_from_slice(&src.octets());
        ip[24..40].copy_from_slice(&dst.octets());
    }
    true
}

/// Sets the ports or the echo identifier and applies the change to the transport checksum.
#[inline(always)]
fn set_ports(frame: &mut [u8], p: &Parsed, new: &Tuple, delta: Delta) -> bool {
    let at = p.l4();
    match p.proto {
        Proto::TCP => put_ports(frame, at, new) && apply(frame, at + 16, delta),
        Proto::UDP => put_ports(frame, at, new) && apply_udp(frame, at + 6, delta),
        Proto::SCTP => set_sctp_ports(frame, p, new),
        Proto::ICMP | Proto::ICMPV6 => {
            let id = match p.icmp() {
                Some(IcmpMessage::EchoRequest) => Some(new.sport),
                Some(IcmpMessage::EchoReply) => Some(new.dport),
                _ => None,
            };
            id.is_none_or(|id| bytes::put16(frame, at + 4, id)) && apply_icmp(frame, p, delta)
        }
        _ => true,
    }
}

/// Sets the ports of an SCTP packet. Its CRC32c is linear, so it is updated from the ports' difference without reading the payload.
#[inline(never)]
fn set_sctp_ports(frame: &mut [u8], p: &Parsed, new: &Tuple) -> bool {
    let at = p.l4();
    if (new.sport, new.dport) == (p.sport, p.dport) {
        return true;
    }
    // The update needs the length that the CRC covers, which a first fragment does not contain.
    if p.is_fragment() {
        return false;
    }
    let (Some(old), Some(field)) = (
        bytes::read::<4>(frame, at).copied(),
        bytes::read::<4>(frame, at + 8).copied(),
    ) else {
        return false;
    };
    put_ports(frame, at, new);
    let Some(ports) = bytes::read::<4>(frame, at).copied() else {
        return false;
    };
    bytes::put(frame, at + 8, Crc32c::update(field, old, ports, p.l4_len() - 4))
}

#[inline(always)]
fn put_ports(frame: &mut [u8], at: usize, new: &Tuple) -> bool {
    let ([a, b], [c, d]) = (new.sport.to_be_bytes(), new.dport.to_be_bytes());
    bytes::put(frame, at, [a, b, c, d])
}

#[inline(always)]
fn apply(frame: &mut [u8], at: usize, delta: Delta) -> bool {
    match bytes::be16(frame, at) {
        Some(field) => bytes::put16(frame, at, delta.apply(field)),
        None => false,
    }
}

/// Applies the change of an ICMP checksum. Without a pseudo header an ICMP message can be all zeros, such as an echo reply. Its
/// checksum is ffff, and the incremental update would give 0.
#[inline(never)]
fn apply_icmp(frame: &mut [u8], p: &Parsed, delta: Delta) -> bool {
    let at = p.l4() + 2;
    if delta == Delta::NONE {
        return true;
    }
    if !apply(frame, at, delta) {
        return false;
    }
    let message = frame.get(p.l4()..p.end()).or_else(|| frame.get(p.l4()..));
    if p.proto == Proto::ICMP && bytes::be16(frame, at) == Some(0) && message.is_some_and(|m| m.iter().all(|b| *b == 0))
    {
        return bytes::put16(frame, at, 0xffff);
    }
    true
}

#[inline(always)]
fn apply_udp(frame: &mut [u8], at: usize, delta: Delta) -> bool {
    match bytes::be16(frame, at) {
        Some(field) => bytes::put16(frame, at, delta.apply_udp(field)),
        None => false,
    }
}

/// Sets TTL or hop limit, for local replies.
pub(crate) fn set_ttl(frame: &mut [u8], p: &Parsed, ttl: u8) -> bool {
    match p.l3 {
        L3::V4 => {
            let Some(word) = bytes::read::<2>(frame, L3 + 8).copied() else {
                return false;
            };
            let delta = Delta::word(u16::from_be_bytes(word), u16::from_be_bytes([ttl, word[1]]));
            bytes::put(frame, L3 + 8, [ttl]) && apply(frame, V4_CHECKSUM, delta)
        }
        L3::V6 => bytes::put(frame, L3 + 7, [ttl]),
        L3::Arp => false,
    }
}

/// Computes the checksum of the IPv4 header at the offset `at`.
pub(crate) fn finish_ipv4_header(frame: &mut [u8], at: usize) -> bool {
    let Some(ip) = bytes::read_mut::<20>(frame, at) else {
        return false;
    };
    ip[10] = 0;
    ip[11] = 0;
    let sum = checksum::sum(ip).checksum();
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    true
}

#[cfg(test)]
mod tests;
