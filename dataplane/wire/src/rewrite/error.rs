//! Translates an ICMP error: its own addresses and the packet that it quotes.

use super::{Deltas, Tuple, apply, apply_udp, put_ports, set_addresses};
use crate::addr::Ip;
use crate::bytes;
use crate::checksum::{self, Delta};
use crate::icmp::IcmpMessage;
use crate::parse::{Fragment, Inner, L3, Parsed};
use crate::proto::Proto;

/// The octets of a quoted transport header that a translation may change: up to the checksum of TCP.
const TRANSPORT: usize = 20;

/// Sets the addresses of an ICMP error to `src` and `dst` and the tuple of its quoted packet to `quoted`. Updates all checksums:
/// of the outer header, of the quoted header, of the quoted transport header if it is quoted, and of the message.
///
/// The CRC32c of a quoted SCTP packet is not updated, because the receiver of the error checks the verification tag (RFC 9260
/// appendix B). Returns false if the families do not match.
pub fn translate_error(frame: &mut [u8], p: &Parsed, inner: &Inner, src: Ip, dst: Ip, quoted: &Tuple) -> bool {
    let v4 = p.l3 == L3::V4;
    if [src, dst, quoted.src, quoted.dst].iter().any(|ip| ip.is_v4() != v4)
        || inner.l3 != p.l3
        || p.icmp() != Some(IcmpMessage::Error)
    {
        return false;
    }
    let start = usize::from(inner.l3_offset);
    let end = (usize::from(inner.l4_offset) + TRANSPORT).min(p.end()).min(frame.len());
    let Some(before) = frame.get(start..end).map(checksum::sum) else {
        return false;
    };
    if !set_quoted(frame, inner, end, quoted) {
        return false;
    }
    let Some(after) = frame.get(start..end).map(checksum::sum) else {
        return false;
    };
    let outer = Delta::address(p.src, src).and(Delta::address(p.dst, dst));
    let quote = Delta::between(before, after);
    let message = if v4 { quote } else { quote.and(outer) };
    set_addresses(frame, p, src, dst, outer) && apply(frame, p.l4() + 2, message)
}

/// Changes the addresses and ports of the quoted packet. Octets from `end` on are not changed.
fn set_quoted(frame: &mut [u8], inner: &Inner, end: usize, new: &Tuple) -> bool {
    let (l3, l4) = (usize::from(inner.l3_offset), usize::from(inner.l4_offset));
    let deltas = Deltas::between(inner.proto, &inner.tuple(), new);
    let addresses = if inner.l3 == L3::V4 {
        bytes::put(frame, l3 + 12, new.src.v4_octets())
            && bytes::put(frame, l3 + 16, new.dst.v4_octets())
            && apply(frame, l3 + 10, deltas.l3)
    } else {
        bytes::put(frame, l3 + 8, new.src.octets()) && bytes::put(frame, l3 + 24, new.dst.octets())
    };
    if !addresses || inner.fragment == Fragment::Later {
        return addresses;
    }
    match inner.proto {
        Proto::TCP => put_ports(frame, l4, new) && (l4 + 18 > end || apply(frame, l4 + 16, deltas.l4)),
        Proto::UDP => put_ports(frame, l4, new) && apply_udp(frame, l4 + 6, deltas.l4),
        Proto::SCTP => put_ports(frame, l4, new),
        Proto::ICMP | Proto::ICMPV6 => {
            let id = match IcmpMessage::of(inner.l3, inner.icmp_type) {
                IcmpMessage::EchoRequest => Some(new.sport),
                IcmpMessage::EchoReply => Some(new.dport),
                _ => None,
            };
            id.is_none_or(|id| bytes::put16(frame, l4 + 4, id)) && apply(frame, l4 + 2, deltas.l4)
        }
        _ => true,
    }
}
