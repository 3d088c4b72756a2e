//! The IPv4 header (RFC 791).

use super::error::ParseError;
use super::fragment::Fragmented;
use super::parsed::{L3, Parsed};
use super::transport::{At, transport};
use crate::addr::Ip;
use crate::bytes;
use crate::checksum;
use crate::ether;
use crate::proto::Proto;

pub(super) const HEADER: usize = 20;
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// Parses an IPv4 packet.
///
/// Plan: check version and lengths, then the header checksum and the addresses, read the fragment fields, read the transport
/// header.
#[inline(always)]
pub(super) fn parse(head: &[u8], packet_len: usize, l2_multicast: bool) -> Result<Parsed, ParseError> {
    let Some(ip) = bytes::read::<HEADER>(head, ether::HEADER) else {
        return Err(short(packet_len));
    };
    if ip[0] >> 4 != 4 {
        return Err(ParseError::Ipv4Version);
    }
    let header = usize::from(ip[0] & 0x0f) * 4;
    if header < HEADER {
        return Err(ParseError::Ipv4HeaderLength);
    }
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    if total < header {
        return Err(ParseError::Ipv4TotalLength);
    }
    if ether::HEADER + total > packet_len {
        return Err(ParseError::Ipv4LengthExceedsFrame);
    }
    // The usual header without options is summed at a fixed length.
    let l4 = ether::HEADER + header;
    let sum = if header == HEADER {
        checksum::sum(ip)
    } else {
        checksum::sum(head.get(ether::HEADER..l4).ok_or(ParseError::HeadersSplit)?)
    };
    if sum.fold() != 0xffff {
        return Err(ParseError::Ipv4Checksum);
    }
    if header > HEADER && is_source_routed(head.get(ether::HEADER + HEADER..l4).unwrap_or_default()) {
        return Err(ParseError::Ipv4SourceRoute);
    }
    let src = [ip[12], ip[13], ip[14], ip[15]];
    let dst = [ip[16], ip[17], ip[18], ip[19]];
    addresses(src, dst)?;
    // Flags and offset: nearly all packets are whole.
    let word = u16::from_be_bytes([ip[6], ip[7]]);
    let mut fragment = Fragmented::WHOLE;
    if word & (MORE_FRAGMENTS | OFFSET) != 0 {
        fragment.set(
            usize::from(word & OFFSET) * 8,
            word & MORE_FRAGMENTS != 0,
            total - header,
        )?;
    }
    let at = At {
        l3: L3::V4,
        proto: Proto(ip[9]),
        l4,
        end: ether::HEADER + total,
        fragment,
    };
    let t = transport(head, &at)?;
    Ok(Parsed {
        src: Ip::from_v4(src),
        dst: Ip::from_v4(dst),
        l3_len: total as u32,
        fragment_id: u32::from(u16::from_be_bytes([ip[4], ip[5]])),
        fragment_offset: fragment.offset,
        sport: t.sport,
        dport: t.dport,
        l4_offset: l4 as u16,
        payload_offset: t.payload,
        l3: L3::V4,
        proto: at.proto,
        ttl: ip[8],
        fragment: fragment.kind,
        more_fragments: fragment.more,
        dont_fragment: word & DONT_FRAGMENT != 0,
        tcp_flags: t.flags,
        opens: t.opens,
        icmp_type: t.icmp_type,
        icmp_code: t.icmp_code,
        echo_reply: t.echo_reply,
        l2_multicast,
    })
}

/// Refuses addresses that no packet on a wire may have (RFC 1122 section 3.2.1.3).
#[inline]
fn addresses(src: [u8; 4], dst: [u8; 4]) -> Result<(), ParseError> {
    if src[0] >> 4 == 0xe || src == [0xff; 4] {
        return Err(ParseError::SourceMulticast);
    }
    if src[0] == 127 {
        return Err(ParseError::SourceLoopback);
    }
    if dst[0] == 127 {
        return Err(ParseError::DestinationLoopback);
    }
    if dst == [0; 4] {
        return Err(ParseError::DestinationUnspecified);
    }
    Ok(())
}

/// Returns true if the options have a loose or strict source route (RFC 791 section 3.1). Such a packet would reach another
/// destination than the one that policy judges.
#[cold]
fn is_source_routed(mut options: &[u8]) -> bool {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;
    while let Some((&kind, rest)) = options.split_first() {
        match kind {
            END => return false,
            NO_OPERATION => options = rest,
            LOOSE | STRICT => return true,
            // The length counts kind and length.
            _ => match rest.first() {
                Some(&length) if length >= 2 => options = options.get(usize::from(length)..).unwrap_or_default(),
                _ => return false,
            },
        }
    }
    false
}

/// Returns the error for a head frame without a whole header.
#[cold]
fn short(packet_len: usize) -> ParseError {
    if packet_len < ether::HEADER + HEADER {
        ParseError::Ipv4Truncated
    } else {
        ParseError::HeadersSplit
    }
}
