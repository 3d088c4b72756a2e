//! From the bytes of a packet to offsets and what a flow key needs.
//!
//! [`parse`] looks at the head frame only and copies nothing but addresses and ports. It refuses what could not be
//! forwarded rightly (each with its own [`ParseError`]) and never panics, whatever the bytes. It verifies the IPv4 header
//! checksum; transport checksums are `checksum`'s. It keeps no state: fragments are reported, not followed.

mod arp;
mod error;
mod fragment;
mod ipv4;
mod ipv6;
mod quoted;
mod transport;

pub(crate) use arp::PREFIX as ARP_PREFIX;
pub use arp::{ArpOperation, ArpPacket, arp};
pub use error::ParseError;
pub use ipv6::MAX_EXTENSIONS;
pub use quoted::{Inner, quoted};

use crate::addr::Ip;
use crate::bytes;
use crate::ether;
use crate::proto::Proto;
use crate::tcp::TcpFlags;

/// What stands behind the Ethernet header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum L3 {
    /// ARP (RFC 826).
    Arp,
    /// IPv4 (RFC 791).
    V4,
    /// IPv6 (RFC 8200).
    V6,
}

/// Whether a packet is a fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Fragment {
    /// No fragment, or an atomic one of IPv6 (RFC 6946).
    Whole,
    /// The first of several: it has the transport header.
    First,
    /// A later one: it has no ports.
    Later,
}

/// A packet that was parsed: plain data, valid as long as the bytes stay as they are.
///
/// Offsets count from the first byte of the frame. For ARP `src` and `dst` are the sender's and the target's protocol
/// addresses, `proto` is 0 and `ttl` means nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parsed {
    /// Source address.
    pub src: Ip,
    /// Destination address.
    pub dst: Ip,
    /// Length of the packet from the network header to its end, without Ethernet padding.
    pub l3_len: u32,
    /// The identification of the datagram: IPv4 always has one, IPv6 only in a fragment header (else 0).
    pub fragment_id: u32,
    /// Where the payload of a fragment belongs, in octets.
    pub fragment_offset: u16,
    /// Source port (TCP, UDP, SCTP); for an ICMP echo request its identifier, else 0.
    pub sport: u16,
    /// Destination port (TCP, UDP, SCTP); for an ICMP echo reply its identifier, else 0.
    pub dport: u16,
    /// Where the transport header starts (of a later fragment: its payload).
    pub l4_offset: u16,
    /// Where the transport payload starts; equals `l4_offset` where the protocol is not known or the fragment a later one.
    pub payload_offset: u16,
    /// The network protocol.
    pub l3: L3,
    /// The transport protocol, behind all extension headers.
    pub proto: Proto,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Whether the packet is a fragment.
    pub fragment: Fragment,
    /// More fragments follow.
    pub more_fragments: bool,
    /// Routers must not fragment the packet: the DF flag of IPv4, always in IPv6.
    pub dont_fragment: bool,
    /// The flags of a TCP segment.
    pub tcp_flags: TcpFlags,
    /// The type of an ICMP or ICMPv6 message; for ARP the low octet of the operation.
    pub icmp_type: u8,
    /// The code of an ICMP or ICMPv6 message.
    pub icmp_code: u8,
    /// The frame was sent to an Ethernet multicast or the broadcast address.
    pub l2_multicast: bool,
}

const _: () = assert!(size_of::<Parsed>() <= 64, "a parsed packet is one cache line");

impl Parsed {
    /// Where the network header starts.
    pub const L3_OFFSET: usize = ether::HEADER;

    /// Where the transport header starts.
    #[must_use]
    #[inline]
    pub const fn l4(&self) -> usize {
        self.l4_offset as usize
    }

    /// Where the transport payload starts.
    #[must_use]
    #[inline]
    pub const fn payload(&self) -> usize {
        self.payload_offset as usize
    }

    /// Where the packet ends, without Ethernet padding; beyond the head frame if the packet is a chain.
    #[must_use]
    #[inline]
    pub const fn end(&self) -> usize {
        Self::L3_OFFSET + self.l3_len as usize
    }

    /// The length of transport header and payload.
    #[must_use]
    #[inline]
    pub const fn l4_len(&self) -> usize {
        self.end().saturating_sub(self.l4())
    }

    /// The length of the transport payload.
    #[must_use]
    #[inline]
    pub const fn payload_len(&self) -> usize {
        self.end().saturating_sub(self.payload())
    }

    /// Whether this is a fragment, first or later.
    #[must_use]
    #[inline]
    pub const fn is_fragment(&self) -> bool {
        !matches!(self.fragment, Fragment::Whole)
    }

    /// Whether this is a fragment without a transport header.
    #[must_use]
    #[inline]
    pub const fn is_later_fragment(&self) -> bool {
        matches!(self.fragment, Fragment::Later)
    }

    /// Whether this is a TCP segment with its header.
    #[must_use]
    #[inline]
    pub fn is_tcp(&self) -> bool {
        self.proto == Proto::TCP && !self.is_later_fragment()
    }

    /// Whether the destination is a multicast address or the limited broadcast.
    #[must_use]
    #[inline]
    pub fn to_multicast(&self) -> bool {
        is_group(self.l3, self.dst)
    }
}

pub(crate) fn is_group(l3: L3, ip: Ip) -> bool {
    match l3 {
        L3::V6 => ip.octets()[0] == 0xff,
        L3::V4 | L3::Arp => ip.v4_octets()[0] >> 4 == 0xe || ip.v4_octets() == [0xff; 4],
    }
}

/// Parses a packet, the first frame of which is `head`; `packet_len` is the length of all its frames.
///
/// # Errors
///
/// A [`ParseError`] says why the packet cannot be forwarded.
#[inline]
pub fn parse(head: &[u8], packet_len: usize) -> Result<Parsed, ParseError> {
    let head = head.get(..packet_len).unwrap_or(head);
    let Some(eth) = bytes::read::<{ ether::HEADER }>(head, 0) else {
        return Err(ParseError::EthernetTruncated);
    };
    let l2_multicast = eth[0] & 1 == 1;
    match u16::from_be_bytes([eth[12], eth[13]]) {
        ether::IPV4 => ipv4::parse(head, packet_len, l2_multicast),
        ether::IPV6 => ipv6::parse(head, packet_len, l2_multicast),
        ether::ARP => arp::parse(head, packet_len, l2_multicast),
        tag if ether::is_vlan(tag) => Err(ParseError::VlanTagged),
        _ => Err(ParseError::UnknownEtherType),
    }
}

#[cfg(test)]
mod tests;
