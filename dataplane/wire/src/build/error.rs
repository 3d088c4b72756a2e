//! ICMP and ICMPv6 errors about a packet (RFC 792, RFC 1122, RFC 1812, RFC 4443), and the rules for sending them.

use super::{BuildError, Envelope};
use crate::addr::{Ip, MacAddr};
use crate::bytes;
use crate::ether;
use crate::icmp::{self, IcmpMessage, v4, v6};
use crate::parse::{L3, Parsed};
use crate::proto::Proto;
use crate::vxlan::QuotedInner;

/// The longest datagram of an error, in octets (RFC 1812 section 4.3.2.3).
const V4_LIMIT: usize = 576;
/// The longest packet of an error: the minimum IPv6 MTU (RFC 4443 section 2.4(c)).
const V6_LIMIT: usize = 1280;
/// The TOS of an error: precedence 6, internetwork control (RFC 1812 section 4.3.2.5).
const V4_CLASS: u8 = 0xc0;

/// The reason for which a destination cannot be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Unreachable {
    /// No route: code 0 in either family.
    NoRoute,
    /// The host does not answer: code 1, in IPv6 code 3.
    Host,
    /// No process listens: code 3, in IPv6 code 4. kube-proxy's reject rule sends the same.
    Port,
    /// Policy forbids it: code 13, in IPv6 code 1.
    Prohibited,
    /// A code as a number, in either family.
    Code(u8),
}

/// An ICMP error, of either family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum IcmpError {
    /// TTL or hop limit ran out in transit.
    TimeExceeded,
    /// The destination cannot be reached.
    Unreachable(Unreachable),
    /// The packet is larger than the path's MTU: fragmentation needed (RFC 1191), or packet too big.
    TooBig {
        /// The MTU of the path, in octets.
        mtu: u32,
    },
}

impl IcmpError {
    /// Returns the type, the code and the second word of the header.
    fn header(self, l3: L3) -> (u8, u8, u32) {
        match (l3, self) {
            (L3::V6, Self::TimeExceeded) => (v6::TIME_EXCEEDED, 0, 0),
            (L3::V6, Self::TooBig { mtu }) => (v6::TOO_BIG, 0, mtu),
            (L3::V6, Self::Unreachable(why)) => {
                let code = match why {
                    Unreachable::NoRoute => v6::CODE_NO_ROUTE,
                    Unreachable::Host => v6::CODE_ADDRESS,
                    Unreachable::Port => v6::CODE_PORT,
                    Unreachable::Prohibited => v6::CODE_PROHIBITED,
                    Unreachable::Code(code) => code,
                };
                (v6::UNREACHABLE, code, 0)
            }
            (_, Self::TimeExceeded) => (v4::TIME_EXCEEDED, 0, 0),
            (_, Self::TooBig { mtu }) => (v4::UNREACHABLE, v4::CODE_FRAGMENTATION_NEEDED, mtu.min(0xffff)),
            (_, Self::Unreachable(why)) => {
                let code = match why {
                    Unreachable::NoRoute => v4::CODE_NET,
                    Unreachable::Host => v4::CODE_HOST,
                    Unreachable::Port => v4::CODE_PORT,
                    Unreachable::Prohibited => v4::CODE_PROHIBITED,
                    Unreachable::Code(code) => code,
                };
                (v4::UNREACHABLE, code, 0)
            }
        }
    }
}

/// Returns true if an ICMP error about a packet may be sent (RFC 1122 section 3.2.2, RFC 4443 section 2.4(e)).
///
/// No error may be sent about an ICMP error or redirect, a later fragment, a packet to a multicast or broadcast address of the
/// network or link layer (except packet too big in IPv6), or a packet whose source is not the address of one host. Subnet
/// broadcasts are not recognized here.
#[must_use]
pub fn may_answer_with_error(p: &Parsed, error: IcmpError) -> bool {
    if p.l3 == L3::Arp || p.is_later_fragment() {
        return false;
    }
    if matches!(p.icmp(), Some(IcmpMessage::Error | IcmpMessage::Redirect)) {
        return false;
    }
    let group_allowed = p.l3 == L3::V6 && matches!(error, IcmpError::TooBig { .. });
    if (p.to_multicast() || p.l2_multicast) && !group_allowed {
        return false;
    }
    match p.l3 {
        // 0/8, loopback, group, broadcast and class E; the parser refuses most of them.
        L3::V4 => !matches!(p.src.v4_octets()[0], 0 | 127 | 224..=255),
        _ => p.src != Ip::UNSPECIFIED && p.src.octets()[0] != 0xff,
    }
}

/// Builds an ICMP error to the source of a packet, from the address `from` at `mac`. It quotes as much of the packet as the
/// family's limit and the head frame allow.
///
/// # Errors
///
/// `NotAnswerable` if [`may_answer_with_error`] returns false or `from` is of the other family; `NoRoom`.
pub fn icmp_error(
    head: &[u8],
    p: &Parsed,
    error: IcmpError,
    mac: MacAddr,
    from: Ip,
    out: &mut [u8],
) -> Result<usize, BuildError> {
    if !may_answer_with_error(p, error) || from.is_v4() != (p.l3 == L3::V4) {
        return Err(BuildError::NotAnswerable);
    }
    let packet = head
        .get(..p.end())
        .unwrap_or(head)
        .get(Parsed::L3_OFFSET..)
        .ok_or(BuildError::NotAnswerable)?;
    let dst_mac = ether::source(head).ok_or(BuildError::NotAnswerable)?;
    write(packet, error, (dst_mac, mac), (from, p.src), out)
}

/// Builds the ICMP error about the inner packet of a tunnel that follows from an error about the outer one; `head` is the frame
/// with the error, and `macs` are the destination and the source. The error goes to the sender of the inner packet. Its source is
/// that packet's destination: the router may have no address of this family, and none that the sender could know.
///
/// # Errors
///
/// `NotAnswerable` if the quote does not lie in the frame; `NoRoom`.
pub fn icmp_error_inside(
    head: &[u8],
    inner: &QuotedInner,
    error: IcmpError,
    macs: (MacAddr, MacAddr),
    out: &mut [u8],
) -> Result<usize, BuildError> {
    let packet = inner.bytes(head).ok_or(BuildError::NotAnswerable)?;
    write(packet, error, macs, (inner.dst, inner.src), out)
}

/// Writes an error that quotes as much of `packet` as the family's limit allows. `macs` are the destination and the source, `ends`
/// the source and the destination.
fn write(
    packet: &[u8],
    error: IcmpError,
    macs: (MacAddr, MacAddr),
    ends: (Ip, Ip),
    out: &mut [u8],
) -> Result<usize, BuildError> {
    let (l3, proto, class, limit) = if ends.1.is_v4() {
        let limit = V4_LIMIT - super::IPV4_HEADER - icmp::HEADER;
        (L3::V4, Proto::ICMP, V4_CLASS, limit)
    } else {
        let limit = V6_LIMIT - super::IPV6_HEADER - icmp::HEADER;
        (L3::V6, Proto::ICMPV6, 0, limit)
    };
    let quote = packet.get(..limit).unwrap_or(packet);
    let (kind, code, word) = error.header(l3);
    let envelope = Envelope {
        src_mac: macs.1,
        dst_mac: macs.0,
        src: ends.0,
        dst: ends.1,
        proto,
        class,
        ttl: super::TTL,
    };
    envelope.write(out, icmp::HEADER + quote.len(), 2, |m| {
        bytes::put(m, 0, [kind, code]);
        bytes::put(m, 4, word.to_be_bytes());
        if let Some(room) = m.get_mut(icmp::HEADER..) {
            room.copy_from_slice(quote);
        }
    })
}
