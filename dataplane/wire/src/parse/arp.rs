//! ARP for Ethernet and IPv4 (RFC 826).

use super::error::ParseError;
use super::parsed::{Fragment, L3, Parsed, is_group};
use crate::addr::{Ip, MacAddr};
use crate::bytes;
use crate::ether;
use crate::proto::Proto;
use crate::tcp_flags::TcpFlags;

/// The length of an ARP packet for Ethernet and IPv4.
const LEN: usize = 28;
/// Hardware type 1, protocol type IPv4, lengths 6 and 4.
pub(crate) const PREFIX: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];

/// The operation of an ARP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum ArpOperation {
    /// A request for the hardware address of the target.
    Request,
    /// The sender's hardware address.
    Reply,
}

/// The fields of an ARP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArpPacket {
    /// Request or reply.
    pub operation: ArpOperation,
    /// The sender's hardware address.
    pub sender_mac: MacAddr,
    /// The sender's protocol address; 0.0.0.0 in a probe (RFC 5227).
    pub sender: Ip,
    /// The target's hardware address; without a meaning in a request.
    pub target_mac: MacAddr,
    /// The target's protocol address.
    pub target: Ip,
}

/// Returns the fields of a packet that was parsed as ARP.
#[must_use]
pub fn arp(head: &[u8], p: &Parsed) -> Option<ArpPacket> {
    if p.l3 != L3::Arp {
        return None;
    }
    let a = bytes::read::<LEN>(head, ether::HEADER)?;
    Some(ArpPacket {
        operation: match a[7] {
            1 => ArpOperation::Request,
            2 => ArpOperation::Reply,
            _ => return None,
        },
        sender_mac: MacAddr(*bytes::read::<6>(a, 8)?),
        sender: p.src,
        target_mac: MacAddr(*bytes::read::<6>(a, 18)?),
        target: p.dst,
    })
}

/// Parses an ARP packet.
#[cold]
pub(super) fn parse(head: &[u8], packet_len: usize, l2_multicast: bool) -> Result<Parsed, ParseError> {
    let Some(a) = bytes::read::<LEN>(head, ether::HEADER) else {
        let short = packet_len < ether::HEADER + LEN;
        return Err(if short {
            ParseError::ArpTruncated
        } else {
            ParseError::HeadersSplit
        });
    };
    if a[..6] != PREFIX || a[6] != 0 || !matches!(a[7], 1 | 2) {
        return Err(ParseError::ArpMalformed);
    }
    let src = Ip::from_v4([a[14], a[15], a[16], a[17]]);
    if is_group(L3::Arp, src) {
        return Err(ParseError::SourceMulticast);
    }
    if a[14] == 127 {
        return Err(ParseError::SourceLoopback);
    }
    Ok(Parsed {
        src,
        dst: Ip::from_v4([a[24], a[25], a[26], a[27]]),
        l3_len: LEN as u32,
        fragment_id: 0,
        fragment_offset: 0,
        sport: 0,
        dport: 0,
        l4_offset: (ether::HEADER + LEN) as u16,
        payload_offset: (ether::HEADER + LEN) as u16,
        l3: L3::Arp,
        proto: Proto(0),
        ttl: 0,
        fragment: Fragment::Whole,
        more_fragments: false,
        dont_fragment: false,
        tcp_flags: TcpFlags::NONE,
        opens: false,
        icmp_type: a[7],
        icmp_code: 0,
        echo_reply: false,
        l2_multicast,
    })
}
