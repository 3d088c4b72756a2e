//! The IPv4 header (RFC 791).

use super::{Fragment, L3, ParseError, Parsed, transport};
use crate::addr::Ip;
use crate::bytes;
use crate::checksum;
use crate::ether;
use crate::proto::Proto;

pub(super) const HEADER: usize = 20;
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

#[inline]
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
    let l4 = ether::HEADER + header;
    let sum = if header == HEADER {
        checksum::sum(ip)
    } else {
        checksum::sum(head.get(ether::HEADER..l4).ok_or(ParseError::HeadersSplit)?)
    };
    if sum.fold() != 0xffff {
        return Err(ParseError::Ipv4Checksum);
    }
    let src = [ip[12], ip[13], ip[14], ip[15]];
    let dst = [ip[16], ip[17], ip[18], ip[19]];
    addresses(src, dst)?;
    let word = u16::from_be_bytes([ip[6], ip[7]]);
    let mut p = Parsed {
        src: Ip::from_v4(src),
        dst: Ip::from_v4(dst),
        l3_len: total as u32,
        fragment_id: u32::from(u16::from_be_bytes([ip[4], ip[5]])),
        fragment_offset: 0,
        sport: 0,
        dport: 0,
        l4_offset: l4 as u16,
        payload_offset: l4 as u16,
        fragment_field: 0,
        l3: L3::V4,
        proto: Proto(ip[9]),
        ttl: ip[8],
        fragment: Fragment::Whole,
        more_fragments: false,
        dont_fragment: word & DONT_FRAGMENT != 0,
        tcp_flags: crate::tcp::TcpFlags::NONE,
        icmp_type: 0,
        icmp_code: 0,
        l2_multicast,
    };
    if word & (MORE_FRAGMENTS | OFFSET) != 0 {
        fragment(&mut p, word, total - header)?;
    }
    transport(head, &mut p)?;
    Ok(p)
}

/// Addresses that never stand on a wire (RFC 1122 section 3.2.1.3).
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

#[cold]
fn fragment(p: &mut Parsed, word: u16, payload: usize) -> Result<(), ParseError> {
    let offset = usize::from(word & OFFSET) * 8;
    p.set_fragment(offset, word & MORE_FRAGMENTS != 0, payload)?;
    p.fragment_field = (ether::HEADER + 6) as u16;
    Ok(())
}

#[cold]
fn short(packet_len: usize) -> ParseError {
    if packet_len < ether::HEADER + HEADER {
        ParseError::Ipv4Truncated
    } else {
        ParseError::HeadersSplit
    }
}
