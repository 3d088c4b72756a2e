//! A parsed packet.

use crate::addr::Ip;
use crate::ether;
use crate::proto::Proto;
use crate::tcp_flags::TcpFlags;

/// The protocol behind the Ethernet header.
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

/// The part of a datagram that a packet carries.
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

/// A parsed packet: plain data, valid as long as the bytes do not change.
///
/// Offsets count from the first byte of the frame. For ARP, `src` and `dst` are the sender's and the target's protocol
/// addresses, and `proto` and `ttl` are 0.
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
    /// The offset of a fragment's payload in the datagram, in octets.
    pub fragment_offset: u16,
    /// Source port (TCP, UDP, SCTP); for an ICMP echo request its identifier, else 0.
    pub sport: u16,
    /// Destination port (TCP, UDP, SCTP); for an ICMP echo reply its identifier, else 0.
    pub dport: u16,
    /// The offset of the transport header. In a later fragment, which has none, the offset of the payload.
    pub l4_offset: u16,
    /// The offset of the transport payload; equals `l4_offset` for an unknown protocol and for a later fragment.
    pub payload_offset: u16,
    /// The network protocol.
    pub l3: L3,
    /// The transport protocol, behind all extension headers.
    pub proto: Proto,
    /// TTL or hop limit.
    pub ttl: u8,
    /// The part of a datagram that the packet carries.
    pub fragment: Fragment,
    /// More fragments follow.
    pub more_fragments: bool,
    /// Routers must not fragment the packet: the DF flag of IPv4, always in IPv6.
    pub dont_fragment: bool,
    /// The flags of a TCP segment.
    pub tcp_flags: TcpFlags,
    /// The header opens a connection: a TCP segment with SYN and without ACK, RST and FIN, or an SCTP packet with an INIT chunk.
    pub opens: bool,
    /// The type of an ICMP or ICMPv6 message; for ARP the low octet of the operation.
    pub icmp_type: u8,
    /// The code of an ICMP or ICMPv6 message.
    pub icmp_code: u8,
    /// The message is an ICMP or ICMPv6 echo reply.
    pub echo_reply: bool,
    /// The frame was sent to an Ethernet multicast or the broadcast address.
    pub l2_multicast: bool,
}

const _: () = assert!(size_of::<Parsed>() <= 64, "a parsed packet is one cache line");

impl Parsed {
    /// The offset of the network header.
    pub const L3_OFFSET: usize = ether::HEADER;

    /// Returns the offset of the transport header.
    #[must_use]
    #[inline]
    pub const fn l4(&self) -> usize {
        self.l4_offset as usize
    }

    /// Returns the offset of the transport payload.
    #[must_use]
    #[inline]
    pub const fn payload(&self) -> usize {
        self.payload_offset as usize
    }

    /// Returns the offset behind the packet, without Ethernet padding; it lies beyond the head frame if the packet is a chain.
    #[must_use]
    #[inline]
    pub const fn end(&self) -> usize {
        Self::L3_OFFSET + self.l3_len as usize
    }

    /// Returns the length of transport header and payload.
    #[must_use]
    #[inline]
    pub const fn l4_len(&self) -> usize {
        self.end().saturating_sub(self.l4())
    }

    /// Returns the length of the transport payload.
    #[must_use]
    #[inline]
    pub const fn payload_len(&self) -> usize {
        self.end().saturating_sub(self.payload())
    }

    /// Returns true if this is a fragment, first or later.
    #[must_use]
    #[inline]
    pub const fn is_fragment(&self) -> bool {
        !matches!(self.fragment, Fragment::Whole)
    }

    /// Returns true if this is a fragment without a transport header.
    #[must_use]
    #[inline]
    pub const fn is_later_fragment(&self) -> bool {
        matches!(self.fragment, Fragment::Later)
    }

    /// Returns true if this is a TCP segment with its header.
    #[must_use]
    #[inline]
    pub fn is_tcp(&self) -> bool {
        self.proto == Proto::TCP && !self.is_later_fragment()
    }

    /// Returns true if the destination is a multicast address or the limited broadcast.
    #[must_use]
    #[inline]
    pub fn to_multicast(&self) -> bool {
        is_group(self.l3, self.dst)
    }
}

/// Returns true if an address is a multicast address or the limited broadcast.
pub(crate) fn is_group(l3: L3, ip: Ip) -> bool {
    match l3 {
        L3::V6 => ip.octets()[0] == 0xff,
        L3::V4 | L3::Arp => ip.v4_octets()[0] >> 4 == 0xe || ip.v4_octets() == [0xff; 4],
    }
}
