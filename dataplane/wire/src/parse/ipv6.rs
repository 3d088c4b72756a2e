//! The IPv6 header and its extension headers (RFC 8200).

use super::{Fragment, L3, ParseError, Parsed, transport};
use crate::addr::Ip;
use crate::bytes;
use crate::ether;
use crate::proto::Proto;

pub(super) const HEADER: usize = 40;
/// The most extension headers that the parser walks over before it refuses the packet.
pub const MAX_EXTENSIONS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

#[inline]
pub(super) fn parse(head: &[u8], packet_len: usize, l2_multicast: bool) -> Result<Parsed, ParseError> {
    let Some(ip) = bytes::read::<HEADER>(head, ether::HEADER) else {
        return Err(short(packet_len));
    };
    if ip[0] >> 4 != 6 {
        return Err(ParseError::Ipv6Version);
    }
    let total = HEADER + usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    if ether::HEADER + total > packet_len {
        return Err(ParseError::Ipv6LengthExceedsFrame);
    }
    let (src, dst) = addresses(ip)?;
    let mut p = Parsed {
        src,
        dst,
        l3_len: total as u32,
        fragment_id: 0,
        fragment_offset: 0,
        sport: 0,
        dport: 0,
        l4_offset: (ether::HEADER + HEADER) as u16,
        payload_offset: (ether::HEADER + HEADER) as u16,
        fragment_field: 0,
        l3: L3::V6,
        proto: Proto(ip[6]),
        ttl: ip[7],
        fragment: Fragment::Whole,
        more_fragments: false,
        dont_fragment: true,
        tcp_flags: crate::tcp::TcpFlags::NONE,
        icmp_type: 0,
        icmp_code: 0,
        l2_multicast,
    };
    if is_extension(ip[6]) {
        extensions(head, &mut p, true)?;
    }
    transport(head, &mut p)?;
    Ok(p)
}

/// The addresses, unless one of them never stands on a wire (RFC 4291 sections 2.5.2, 2.5.3, 2.5.5.2 and 2.7).
#[inline]
pub(super) fn addresses(ip: &[u8; HEADER]) -> Result<(Ip, Ip), ParseError> {
    let (mut s, mut d) = ([0; 16], [0; 16]);
    s.copy_from_slice(&ip[8..24]);
    d.copy_from_slice(&ip[24..40]);
    let (src, dst) = (Ip::from_v6(s), Ip::from_v6(d));
    const LOOPBACK: Ip = Ip::from_v6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    if src.is_v4() || dst.is_v4() {
        return Err(ParseError::Ipv4MappedAddress);
    }
    if s[0] == 0xff {
        return Err(ParseError::SourceMulticast);
    }
    if src == LOOPBACK {
        return Err(ParseError::SourceLoopback);
    }
    if dst == LOOPBACK {
        return Err(ParseError::DestinationLoopback);
    }
    if dst == Ip::UNSPECIFIED {
        return Err(ParseError::DestinationUnspecified);
    }
    Ok((src, dst))
}

#[inline]
pub(super) const fn is_extension(next: u8) -> bool {
    matches!(
        next,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS
    )
}

/// Walks the extension headers; leaves protocol, transport offset and fragment fields in `p`.
///
/// It stops at a fragment header of a later fragment: what follows is payload. The length of a fragment is judged only where
/// the packet is `complete` and no quote.
#[cold]
pub(super) fn extensions(head: &[u8], p: &mut Parsed, complete: bool) -> Result<(), ParseError> {
    let end = p.end();
    let mut at = p.l4();
    let mut next = p.proto.0;
    let mut seen_fragment = false;
    let mut count = 0;
    while is_extension(next) {
        if count == MAX_EXTENSIONS {
            return Err(ParseError::Ipv6TooManyExtensions);
        }
        if at + 8 > end {
            return Err(ParseError::Ipv6ExtensionTruncated);
        }
        let h = bytes::read::<8>(head, at).ok_or(ParseError::HeadersSplit)?;
        let len = match next {
            FRAGMENT => 8,
            // RFC 4302 section 2.2: in units of four octets, minus two.
            AUTHENTICATION => (usize::from(h[1]) + 2) * 4,
            _ => (usize::from(h[1]) + 1) * 8,
        };
        if at + len > end || len < 8 {
            return Err(ParseError::Ipv6ExtensionTruncated);
        }
        match next {
            // RFC 8200 section 4.1: directly behind the IPv6 header and nowhere else.
            HOP_BY_HOP if count > 0 => return Err(ParseError::Ipv6ExtensionOrder),
            ROUTING if h[2] == 0 => return Err(ParseError::Ipv6RoutingType0),
            ROUTING if h[3] != 0 => return Err(ParseError::Ipv6RoutingSegmentsLeft),
            FRAGMENT => {
                if seen_fragment {
                    return Err(ParseError::Ipv6ExtensionOrder);
                }
                seen_fragment = true;
                let word = u16::from_be_bytes([h[2], h[3]]);
                p.fragment_id = u32::from_be_bytes([h[4], h[5], h[6], h[7]]);
                p.fragment_field = (at + 2) as u16;
                // Offset 0 and none to follow: an atomic fragment, a whole packet (RFC 6946).
                if word & 0xfff9 != 0 {
                    let payload = if complete { end - at - len } else { 8 };
                    p.set_fragment(usize::from(word & 0xfff8), word & 1 != 0, payload)?;
                }
            }
            _ => {}
        }
        next = h[0];
        at += len;
        count += 1;
        if p.is_later_fragment() {
            break;
        }
    }
    if at > head.len() {
        return Err(ParseError::HeadersSplit);
    }
    p.proto = Proto(next);
    p.l4_offset = u16::try_from(at).map_err(|_| ParseError::Ipv6TooManyExtensions)?;
    p.payload_offset = p.l4_offset;
    Ok(())
}

#[cold]
fn short(packet_len: usize) -> ParseError {
    if packet_len < ether::HEADER + HEADER {
        ParseError::Ipv6Truncated
    } else {
        ParseError::HeadersSplit
    }
}
