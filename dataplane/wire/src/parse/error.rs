//! The reasons for which the parser refuses a packet.

use thiserror::Error;

/// The reason for which the parser refused a packet. The engine maps each variant to a drop reason of the same name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Error)]
#[repr(u8)]
pub enum ParseError {
    /// Shorter than an Ethernet header.
    #[error("frame is shorter than an Ethernet header")]
    EthernetTruncated,
    /// Carries a VLAN tag.
    #[error("frame carries a VLAN tag")]
    VlanTagged,
    /// Neither ARP nor IPv4 nor IPv6.
    #[error("EtherType is neither ARP nor IPv4 nor IPv6")]
    UnknownEtherType,
    /// The headers do not fit the head frame of the packet.
    #[error("headers do not fit the first frame of the packet")]
    HeadersSplit,
    /// Shorter than an ARP packet.
    #[error("ARP packet is truncated")]
    ArpTruncated,
    /// Not an Ethernet/IPv4 request or reply.
    #[error("ARP packet is not an Ethernet/IPv4 request or reply")]
    ArpMalformed,
    /// Shorter than an IPv4 header.
    #[error("IPv4 header is truncated")]
    Ipv4Truncated,
    /// The version field is not 4.
    #[error("version field of an IPv4 header is not 4")]
    Ipv4Version,
    /// The header length is below 20.
    #[error("IPv4 header length is below 20")]
    Ipv4HeaderLength,
    /// The total length is below the header length.
    #[error("IPv4 total length is below the header length")]
    Ipv4TotalLength,
    /// The total length is more than the frame holds.
    #[error("IPv4 total length is more than the frame holds")]
    Ipv4LengthExceedsFrame,
    /// The header checksum is wrong.
    #[error("IPv4 header checksum is wrong")]
    Ipv4Checksum,
    /// An IPv4 header with a source route.
    #[error("IPv4 header has a source route")]
    Ipv4SourceRoute,
    /// Shorter than an IPv6 header.
    #[error("IPv6 header is truncated")]
    Ipv6Truncated,
    /// The version field is not 6.
    #[error("version field of an IPv6 header is not 6")]
    Ipv6Version,
    /// The payload length is more than the frame holds.
    #[error("IPv6 payload length is more than the frame holds")]
    Ipv6LengthExceedsFrame,
    /// An extension header ends beyond the packet's end.
    #[error("IPv6 extension header is truncated")]
    Ipv6ExtensionTruncated,
    /// More extension headers than `ipv6::MAX_EXTENSIONS`.
    #[error("too many IPv6 extension headers")]
    Ipv6TooManyExtensions,
    /// Hop-by-hop options that are not first, or a second fragment header.
    #[error("IPv6 extension headers are in a forbidden order")]
    Ipv6ExtensionOrder,
    /// A type 0 routing header (RFC 5095).
    #[error("IPv6 routing header of type 0")]
    Ipv6RoutingType0,
    /// A routing header with segments left: the destination is not the one that the checksum covers.
    #[error("IPv6 routing header with segments left")]
    Ipv6RoutingSegmentsLeft,
    /// An IPv4-mapped address in an IPv6 header.
    #[error("IPv4-mapped address in an IPv6 header")]
    Ipv4MappedAddress,
    /// The source is a multicast or the broadcast address.
    #[error("source address is multicast or broadcast")]
    SourceMulticast,
    /// The source is a loopback address.
    #[error("source address is a loopback address")]
    SourceLoopback,
    /// The destination is a loopback address.
    #[error("destination address is a loopback address")]
    DestinationLoopback,
    /// The destination is the unspecified address.
    #[error("destination address is unspecified")]
    DestinationUnspecified,
    /// ICMP in IPv6 or ICMPv6 in IPv4.
    #[error("ICMP of the other address family")]
    ProtocolFamily,
    /// A fragment that ends beyond 65,535 octets.
    #[error("fragment ends beyond the largest datagram")]
    FragmentOverflow,
    /// An empty fragment, or one that is not the last and no multiple of 8 octets.
    #[error("fragment is empty, or not the last and no multiple of 8 octets")]
    FragmentLength,
    /// A first fragment without the whole transport header, or a later one that overlays it (RFC 1858, RFC 7112).
    #[error("fragment splits or overlays the transport header")]
    FragmentTiny,
    /// Shorter than a TCP header.
    #[error("TCP header is truncated")]
    TcpTruncated,
    /// The data offset is below 5 or beyond the segment.
    #[error("TCP data offset is below 5 or beyond the segment")]
    TcpHeaderLength,
    /// Shorter than a UDP header.
    #[error("UDP header is truncated")]
    UdpTruncated,
    /// The length field is below 8 or more than the packet holds.
    #[error("UDP length is below 8 or more than the packet holds")]
    UdpLength,
    /// Shorter than an SCTP common header.
    #[error("SCTP header is truncated")]
    SctpTruncated,
    /// Shorter than an ICMP or ICMPv6 header.
    #[error("ICMP header is truncated")]
    IcmpTruncated,
    /// The packet quoted in an ICMP error is too short to name a flow.
    #[error("packet quoted in an ICMP error is truncated")]
    QuoteTruncated,
    /// No host can have sent the packet that is quoted in an ICMP error.
    #[error("packet quoted in an ICMP error is malformed")]
    QuoteMalformed,
    /// An ICMP error about an ICMP error.
    #[error("ICMP error quotes an ICMP error")]
    QuoteOfError,
    /// A neighbor discovery message that must be discarded (RFC 4861 section 7.1).
    #[error("neighbor discovery message is invalid")]
    NeighborInvalid,
}

impl ParseError {
    /// Every variant, in the order of its number.
    pub const ALL: [Self; 40] = [
        Self::EthernetTruncated,
        Self::VlanTagged,
        Self::UnknownEtherType,
        Self::HeadersSplit,
        Self::ArpTruncated,
        Self::ArpMalformed,
        Self::Ipv4Truncated,
        Self::Ipv4Version,
        Self::Ipv4HeaderLength,
        Self::Ipv4TotalLength,
        Self::Ipv4LengthExceedsFrame,
        Self::Ipv4Checksum,
        Self::Ipv4SourceRoute,
        Self::Ipv6Truncated,
        Self::Ipv6Version,
        Self::Ipv6LengthExceedsFrame,
        Self::Ipv6ExtensionTruncated,
        Self::Ipv6TooManyExtensions,
        Self::Ipv6ExtensionOrder,
        Self::Ipv6RoutingType0,
        Self::Ipv6RoutingSegmentsLeft,
        Self::Ipv4MappedAddress,
        Self::SourceMulticast,
        Self::SourceLoopback,
        Self::DestinationLoopback,
        Self::DestinationUnspecified,
        Self::ProtocolFamily,
        Self::FragmentOverflow,
        Self::FragmentLength,
        Self::FragmentTiny,
        Self::TcpTruncated,
        Self::TcpHeaderLength,
        Self::UdpTruncated,
        Self::UdpLength,
        Self::SctpTruncated,
        Self::IcmpTruncated,
        Self::QuoteTruncated,
        Self::QuoteMalformed,
        Self::QuoteOfError,
        Self::NeighborInvalid,
    ];

    /// Returns the reason's name in counters, in kebab case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EthernetTruncated => "ethernet-truncated",
            Self::VlanTagged => "vlan-tagged",
            Self::UnknownEtherType => "unknown-ethertype",
            Self::HeadersSplit => "headers-split",
            Self::ArpTruncated => "arp-truncated",
            Self::ArpMalformed => "arp-malformed",
            Self::Ipv4Truncated => "ipv4-truncated",
            Self::Ipv4Version => "ipv4-version",
            Self::Ipv4HeaderLength => "ipv4-header-length",
            Self::Ipv4TotalLength => "ipv4-total-length",
            Self::Ipv4LengthExceedsFrame => "ipv4-length-exceeds-frame",
            Self::Ipv4Checksum => "ipv4-checksum",
            Self::Ipv4SourceRoute => "ipv4-source-route",
            Self::Ipv6Truncated => "ipv6-truncated",
            Self::Ipv6Version => "ipv6-version",
            Self::Ipv6LengthExceedsFrame => "ipv6-length-exceeds-frame",
            Self::Ipv6ExtensionTruncated => "ipv6-extension-truncated",
            Self::Ipv6TooManyExtensions => "ipv6-too-many-extensions",
            Self::Ipv6ExtensionOrder => "ipv6-extension-order",
            Self::Ipv6RoutingType0 => "ipv6-routing-type0",
            Self::Ipv6RoutingSegmentsLeft => "ipv6-routing-segments-left",
            Self::Ipv4MappedAddress => "ipv4-mapped-address",
            Self::SourceMulticast => "source-multicast",
            Self::SourceLoopback => "source-loopback",
            Self::DestinationLoopback => "destination-loopback",
            Self::DestinationUnspecified => "destination-unspecified",
            Self::ProtocolFamily => "protocol-family",
            Self::FragmentOverflow => "fragment-overflow",
            Self::FragmentLength => "fragment-length",
            Self::FragmentTiny => "fragment-tiny",
            Self::TcpTruncated => "tcp-truncated",
            Self::TcpHeaderLength => "tcp-header-length",
            Self::UdpTruncated => "udp-truncated",
            Self::UdpLength => "udp-length",
            Self::SctpTruncated => "sctp-truncated",
            Self::IcmpTruncated => "icmp-truncated",
            Self::QuoteTruncated => "icmp-quote-truncated",
            Self::QuoteMalformed => "icmp-quote-malformed",
            Self::QuoteOfError => "icmp-quote-of-error",
            Self::NeighborInvalid => "neighbor-invalid",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lists_each_reason_once_in_order() {
        for (n, e) in ParseError::ALL.iter().enumerate() {
            assert_eq!(*e as usize, n);
        }
        assert_eq!(ParseError::NeighborInvalid as usize + 1, ParseError::ALL.len());
        let mut names: Vec<_> = ParseError::ALL.iter().map(|e| e.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ParseError::ALL.len());
    }
}
