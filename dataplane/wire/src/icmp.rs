//! The message types of ICMP (RFC 792) and ICMPv6 (RFC 4443). `parse::quoted` reads quoted packets, and `build` writes messages.

use crate::bytes;
use crate::parse::{L3, Parsed};
use crate::proto::Proto;

/// The length of the header of all messages: type, code, checksum, and four octets that depend on the type.
pub const HEADER: usize = 8;

/// Message types of ICMP for IPv4.
pub mod v4 {
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Source quench (RFC 6633: obsolete, still an error message).
    pub const SOURCE_QUENCH: u8 = 4;
    /// Redirect.
    pub const REDIRECT: u8 = 5;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
    /// Code of destination unreachable: no route to the network.
    pub const CODE_NET: u8 = 0;
    /// Code of destination unreachable: the host does not answer.
    pub const CODE_HOST: u8 = 1;
    /// Code of destination unreachable: no process listens at the port.
    pub const CODE_PORT: u8 = 3;
    /// Code of destination unreachable: fragmentation needed and DF set (RFC 1191).
    pub const CODE_FRAGMENTATION_NEEDED: u8 = 4;
    /// Code of destination unreachable: administratively prohibited (RFC 1812 section 5.2.7.1).
    pub const CODE_PROHIBITED: u8 = 13;
}

/// Message types of ICMPv6.
pub mod v6 {
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 1;
    /// Packet too big.
    pub const TOO_BIG: u8 = 2;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 3;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 128;
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 129;
    /// Multicast listener query (RFC 2710, RFC 9777).
    pub const MLD_QUERY: u8 = 130;
    /// Multicast listener report, version 1.
    pub const MLD_REPORT: u8 = 131;
    /// Multicast listener done.
    pub const MLD_DONE: u8 = 132;
    /// Router solicitation (RFC 4861).
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Router advertisement.
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    /// Neighbor solicitation.
    pub const NEIGHBOR_SOLICITATION: u8 = 135;
    /// Neighbor advertisement.
    pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;
    /// Redirect.
    pub const REDIRECT: u8 = 137;
    /// Multicast listener report, version 2.
    pub const MLD2_REPORT: u8 = 143;
    /// Code of destination unreachable: no route.
    pub const CODE_NO_ROUTE: u8 = 0;
    /// Code of destination unreachable: administratively prohibited.
    pub const CODE_PROHIBITED: u8 = 1;
    /// Code of destination unreachable: the address cannot be reached.
    pub const CODE_ADDRESS: u8 = 3;
    /// Code of destination unreachable: no process listens at the port.
    pub const CODE_PORT: u8 = 4;
}

/// The kind of an ICMP or ICMPv6 message, as far as the dataplane distinguishes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum IcmpMessage {
    /// An echo request; its identifier is the source port of the flow key.
    EchoRequest,
    /// An echo reply; its identifier is the destination port of the flow key.
    EchoReply,
    /// An error message that quotes a packet.
    Error,
    /// ICMPv6 neighbor solicitation.
    NeighborSolicitation,
    /// ICMPv6 neighbor advertisement.
    NeighborAdvertisement,
    /// ICMPv6 router solicitation.
    RouterSolicitation,
    /// ICMPv6 router advertisement.
    RouterAdvertisement,
    /// ICMPv6 redirect. IPv4 redirect and source quench are `Other`: they quote a packet as errors do, but no router forwards
    /// them (RFC 1812 section 5.2.7.2, RFC 6633).
    Redirect,
    /// Multicast listener discovery, versions 1 and 2.
    Mld,
    /// Anything else.
    Other,
}

impl IcmpMessage {
    /// Returns the kind of an ICMP message for IPv4 by its type.
    #[must_use]
    pub const fn of_v4(kind: u8) -> Self {
        match kind {
            v4::ECHO_REQUEST => Self::EchoRequest,
            v4::ECHO_REPLY => Self::EchoReply,
            v4::UNREACHABLE | v4::TIME_EXCEEDED | v4::PARAMETER_PROBLEM => Self::Error,
            _ => Self::Other,
        }
    }

    /// Returns the kind of an ICMPv6 message by its type. Unknown types below 128 are errors (RFC 4443 section 2.1).
    #[must_use]
    pub const fn of_v6(kind: u8) -> Self {
        match kind {
            0..=127 => Self::Error,
            v6::ECHO_REQUEST => Self::EchoRequest,
            v6::ECHO_REPLY => Self::EchoReply,
            v6::NEIGHBOR_SOLICITATION => Self::NeighborSolicitation,
            v6::NEIGHBOR_ADVERTISEMENT => Self::NeighborAdvertisement,
            v6::ROUTER_SOLICITATION => Self::RouterSolicitation,
            v6::ROUTER_ADVERTISEMENT => Self::RouterAdvertisement,
            v6::REDIRECT => Self::Redirect,
            v6::MLD_QUERY | v6::MLD_REPORT | v6::MLD_DONE | v6::MLD2_REPORT => Self::Mld,
            _ => Self::Other,
        }
    }

    pub(crate) const fn of(l3: L3, kind: u8) -> Self {
        match l3 {
            L3::V6 => Self::of_v6(kind),
            L3::V4 | L3::Arp => Self::of_v4(kind),
        }
    }
}

/// Returns the ports of an echo message for the flow key. A request has (id, 0) and a reply (0, id), so that one is the reverse of
/// the other.
pub(crate) const fn echo_ports(message: IcmpMessage, id: u16) -> (u16, u16) {
    match message {
        IcmpMessage::EchoRequest => (id, 0),
        IcmpMessage::EchoReply => (0, id),
        _ => (0, 0),
    }
}

impl Parsed {
    /// Returns the kind of the message, if the packet is ICMP or ICMPv6 and no later fragment.
    #[must_use]
    #[inline]
    pub fn icmp(&self) -> Option<IcmpMessage> {
        if (self.proto == Proto::ICMP || self.proto == Proto::ICMPV6) && !self.is_later_fragment() {
            Some(IcmpMessage::of(self.l3, self.icmp_type))
        } else {
            None
        }
    }
}

/// Returns the MTU in an error about a packet that is too big for its path: fragmentation needed (RFC 1191 section 4) or packet too big
/// (RFC 4443 section 3.2). Returns `None` for another message.
#[must_use]
pub fn too_big_mtu(head: &[u8], p: &Parsed) -> Option<u32> {
    match (p.l3, p.icmp_type, p.icmp_code) {
        _ if p.icmp() != Some(IcmpMessage::Error) => None,
        (L3::V4, v4::UNREACHABLE, v4::CODE_FRAGMENTATION_NEEDED) => bytes::be16(head, p.l4() + 6).map(u32::from),
        (L3::V6, v6::TOO_BIG, _) => bytes::be32(head, p.l4() + 4),
        _ => None,
    }
}
