//! The IPv6 header and its extension headers (RFC 8200).

use super::error::ParseError;
use super::fragment::Fragmented;
use super::parsed::{Fragment, L3, Parsed};
use super::transport::{At, transport};
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

/// Parses an IPv6 packet.
///
/// Plan: check version, length and addresses, walk over the extension headers, read the transport header.
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
    // Most packets have no extension header, and the walk is out of line.
    let (src, dst) = addresses(ip)?;
    let end = ether::HEADER + total;
    let mut walk = Walk {
        proto: Proto(ip[6]),
        l4: ether::HEADER + HEADER,
        fragment: Fragmented::WHOLE,
    };
    if is_extension(ip[6]) {
        walk = extensions(head, walk, end, true)?;
    }
    let Walk { proto, l4, fragment } = walk;
    let t = transport(
        head,
        &At {
            l3: L3::V6,
            proto,
            l4,
            end,
            fragment,
        },
    )?;
    Ok(Parsed {
        src,
        dst,
        l3_len: total as u32,
        fragment_id: fragment.id,
        fragment_offset: fragment.offset,
        sport: t.sport,
        dport: t.dport,
        l4_offset: l4 as u16,
        payload_offset: t.payload,
        l3: L3::V6,
        proto,
        ttl: ip[7],
        fragment: fragment.kind,
        more_fragments: fragment.more,
        dont_fragment: true,
        tcp_flags: t.flags,
        opens: t.opens,
        icmp_type: t.icmp_type,
        icmp_code: t.icmp_code,
        echo_reply: t.echo_reply,
        l2_multicast,
    })
}

/// The position of a walk over extension headers, and the fragment header that it found.
#[derive(Clone, Copy)]
pub(super) struct Walk {
    /// The next header's protocol.
    pub(super) proto: Proto,
    /// The next header's offset in the frame.
    pub(super) l4: usize,
    /// The fields of the fragment header.
    pub(super) fragment: Fragmented,
}

/// Returns the addresses. Refuses addresses that no packet on a wire may have (RFC 4291 sections 2.5.2, 2.5.3, 2.5.5.2 and 2.7).
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

/// Returns true for the number of an extension header that the parser walks over.
#[inline]
pub(super) const fn is_extension(next: u8) -> bool {
    matches!(
        next,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS
    )
}

/// Walks over the extension headers from `from` to the transport header. `end` is the end of the packet.
///
/// The walk ends behind the fragment header of a later fragment, because payload follows it. `complete` is false for a quoted
/// packet, whose fragment length cannot be checked.
///
/// Plan: for each header, check that it is whole, check its order and type, and go to the next one. At the end, check that
/// the transport header's offset is in the head frame.
#[cold]
pub(super) fn extensions(head: &[u8], from: Walk, end: usize, complete: bool) -> Result<Walk, ParseError> {
    let Walk {
        proto: Proto(mut next),
        l4: mut at,
        mut fragment,
    } = from;
    let mut seen_fragment = false;
    let mut count = 0;
    while is_extension(next) {
        if count == MAX_EXTENSIONS {
            return Err(ParseError::Ipv6TooManyExtensions);
        }
        if at + 8 > end {
            return Err(ParseError::Ipv6ExtensionTruncated);
        }
        // The header's length, whose unit depends on its type.
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
            // RFC 8200 section 4.1: only directly behind the IPv6 header.
            HOP_BY_HOP if count > 0 => return Err(ParseError::Ipv6ExtensionOrder),
            ROUTING if h[2] == 0 => return Err(ParseError::Ipv6RoutingType0),
            ROUTING if h[3] != 0 => return Err(ParseError::Ipv6RoutingSegmentsLeft),
            FRAGMENT => {
                if seen_fragment {
                    return Err(ParseError::Ipv6ExtensionOrder);
                }
                seen_fragment = true;
                let word = u16::from_be_bytes([h[2], h[3]]);
                fragment.id = u32::from_be_bytes([h[4], h[5], h[6], h[7]]);
                // Offset 0 and no more fragments: an atomic fragment, which is a whole packet (RFC 6946).
                if word & 0xfff9 != 0 {
                    let payload = if complete { end - at - len } else { 8 };
                    fragment.set(usize::from(word & 0xfff8), word & 1 != 0, payload)?;
                }
            }
            _ => {}
        }
        next = h[0];
        at += len;
        count += 1;
        if fragment.kind == Fragment::Later {
            break;
        }
    }
    if at > head.len() {
        return Err(ParseError::HeadersSplit);
    }
    if at > usize::from(u16::MAX) {
        return Err(ParseError::Ipv6TooManyExtensions);
    }
    Ok(Walk {
        proto: Proto(next),
        l4: at,
        fragment,
    })
}

/// Returns the error for a head frame without a whole header.
#[cold]
fn short(packet_len: usize) -> ParseError {
    if packet_len < ether::HEADER + HEADER {
        ParseError::Ipv6Truncated
    } else {
        ParseError::HeadersSplit
    }
}
